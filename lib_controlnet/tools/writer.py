"""Writes `.safetensors` files one tensor at a time; a file is there whole, or not at all.

The format: 8 bytes of header length, a JSON header with dtype, shape and place of every tensor,
then the tensors without gaps (https://github.com/huggingface/safetensors). The header is written
first, so names, shapes and dtypes have to be known before the first tensor is read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import torch
from torch import Tensor

from lib_controlnet.files.containers import HEADER_LIMIT, SAFETENSORS_DTYPES
from lib_controlnet.tools.errors import ToolError

CODES: Final = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}

LENGTH_BYTES: Final = 8
ALIGNMENT: Final = 8
"""The header is padded so that tensors begin at a multiple of this."""

Entry = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor to be written."""

Plan = Mapping[str, Entry]
"""Every tensor to be written, by name."""


def nbytes(plan: Plan) -> int:
    """Bytes of all tensors of a plan."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in plan.values())


def refuse_to_overwrite(path: Path, force: bool) -> None:
    """Check, before any work is done, that a file may be written.

    Raises:
        ToolError: it is there already and `force` is off, it has another extension than
            `.safetensors`, or there is no such folder.
    """
    if path.suffix.lower() != ".safetensors":
        msg = f"{path} is not written: only .safetensors files are; choose such a name"
        raise ToolError(msg)
    if path.is_dir() or not path.parent.is_dir():
        what = f"{path} is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        msg = f"{path.name} cannot be written: {what}"
        raise ToolError(msg)
    if path.exists() and not force:
        msg = f"{path} is there already; add --force to replace it, or choose another name"
        raise ToolError(msg)


@contextlib.contextmanager
def whole_file(path: Path, needed: int = 0) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of `path` at the end, if nothing went wrong.

    It goes to a hidden file in the same folder first. That one is removed whatever ends the work:
    an error, a full disk, Ctrl-C.

    Args:
        path: the file to write or replace.
        needed: bytes that will be written; refused at once where the disk has less.

    Raises:
        ToolError: the disk is full, or the folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            msg = (
                f"{path.name} needs {needed / 1e6:.1f} MB, {path.parent} has "
                f"{free / 1e6:.1f} MB free; nothing was written"
            )
            raise ToolError(msg)
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}; nothing was left behind"
        raise ToolError(msg) from error
    finally:
        part.unlink(missing_ok=True)


def write_safetensors(
    path: Path,
    plan: Plan,
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
    final: Callable[[], Mapping[str, str]] | None = None,
) -> None:
    """Write a file from tensors that arrive one by one, in any order.

    Args:
        path: the file to write or replace.
        plan: what will arrive.
        tensors: each name of the plan once, with a tensor of the shape and dtype announced.
        metadata: text for the header.
        final: text that is known at the end only; no longer than `metadata`, which keeps its
            place until then.

    Raises:
        ToolError: the disk is full.
        ValueError: the tensors are not those of the plan.
    """
    header, places = _header(plan, metadata)
    missing = set(plan)
    with whole_file(path, len(header) + nbytes(plan)) as stream:
        stream.write(header)
        for name, tensor in tensors:
            if name not in missing or (tuple(tensor.shape), tensor.dtype) != plan[name]:
                msg = f"{name} {tuple(tensor.shape)} {tensor.dtype} was not announced"
                raise ValueError(msg)
            missing.remove(name)
            stream.seek(len(header) + places[name])
            if tensor.nelement():
                flat = tensor.detach().cpu().contiguous().view(-1)
                stream.write(flat.view(torch.uint8).numpy().data)
        if missing:
            msg = f"{len(missing)} tensors did not arrive ({min(missing)}, ...)"
            raise ValueError(msg)
        if final is not None:
            stream.seek(0)
            stream.write(_header(plan, final(), len(header))[0])


def _header(plan: Plan, metadata: Mapping[str, str], size: int = 0) -> tuple[bytes, dict[str, int]]:
    """The file's start, length included, and where each tensor begins behind it.

    Padded to `size` bytes if one is given.

    Wide dtypes come first, so that every tensor begins at a multiple of its own width.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    places, begin = {}, 0
    for name in sorted(plan, key=lambda name: -plan[name][1].itemsize):
        shape, dtype = plan[name]
        end = begin + math.prod(shape) * dtype.itemsize
        code = CODES[dtype]
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [begin, end]}
        places[name], begin = begin, end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * ((size - LENGTH_BYTES - len(text)) if size else -len(text) % ALIGNMENT)
    if size and len(text) + LENGTH_BYTES != size:
        msg = f"the header takes {len(text)} bytes, {size - LENGTH_BYTES} were kept for it"
        raise ValueError(msg)
    if len(text) > HEADER_LIMIT:
        msg = f"the header would take {len(text) / 1e6:.0f} MB, readers allow 100 MB"
        raise ToolError(msg)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, places
