"""Files of named tensors: their names and shapes first, their contents one tensor at a time.

A `.safetensors` file is read by its published format (8 bytes of header length, a JSON header,
raw tensors) instead of through a memory map: a mapped file counts twice while it is converted,
and on Windows cannot be replaced while a network uses it. Everything else goes through
`torch.load`, tensors only.
"""

from __future__ import annotations

import json
import logging
import math
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final, Protocol

import torch
from torch import Tensor

from lib_controlnet.errors import (
    BrokenCheckpointError,
    ModelNotFoundError,
    is_out_of_memory,
    quote,
)
from lib_controlnet.files.layouts import MARKERS
from lib_controlnet.files.pickles import UnsoundError, is_torch, look_over

log = logging.getLogger(__name__)

Device = torch.device | str

HEADER_LIMIT: Final = 16 * 2**20
"""Longest header that is read, in bytes; the format allows more, control models have 1 MB."""

SCRATCH_BYTES: Final = 2 * 2**20
"""Memory for tensors on their way to another precision or device."""

LONGEST_AXIS: Final = 2**40
MOST_AXES: Final = 16
LONGEST_PREFIX: Final = 1000

MOST_PARTS: Final = 8
"""Tensors and numbers that one tensor is kept as."""
"""Characters that nested dictionaries may put before a tensor's name."""

DIGITS_LIMIT: Final = 20
"""Digits of a whole number in a header; Python takes quadratic time to read more of them."""


def _torch_dtypes() -> dict[str, torch.dtype]:
    names = {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
        "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    }  # fmt: skip
    return {code: getattr(torch, name) for code, name in names.items() if hasattr(torch, name)}


SAFETENSORS_DTYPES: Final = _torch_dtypes()


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it; `begin` orders a file's tensors."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    begin: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


class TensorFile(Protocol):
    """A container of named tensors."""

    infos: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def read(
        self, names: Iterable[str], dtype: torch.dtype | None, device: Device
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield fresh tensors in the order of the file; `dtype` is for floating point ones."""
        ...


def _final_dtype(info: TensorInfo, dtype: torch.dtype | None) -> torch.dtype:
    return info.dtype if dtype is None or not info.dtype.is_floating_point else dtype


class SafetensorsFile:
    """Reads `.safetensors`: one tensor at a time, straight into its own memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            header, self._start = _read_header(path, stream)
        size = path.stat().st_size - self._start
        self.metadata: Mapping[str, str] = _free_text(header.pop("__metadata__", None))
        self.infos: Mapping[str, TensorInfo] = {
            name: _read_entry(path, name, entry) for name, entry in header.items()
        }
        _check_places(path, self.infos, size)

    def read(
        self, names: Iterable[str], dtype: torch.dtype | None, device: Device
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield fresh tensors in the order of the file."""
        scratch: Tensor | None = None
        with self.path.open("rb", buffering=0) as stream:
            for name in sorted(names, key=lambda name: self.infos[name].begin):
                info = self.infos[name]
                tensor = torch.empty(info.shape, dtype=_final_dtype(info, dtype), device=device)
                stream.seek(self._start + info.begin)
                if tensor.dtype is info.dtype and tensor.device.type == "cpu":
                    _fill(self.path, stream, tensor)
                else:
                    if scratch is None:
                        scratch = torch.empty(SCRATCH_BYTES, dtype=torch.uint8)
                    _convert(self.path, stream, info, tensor, scratch)
                yield name, tensor


def _read_header(path: Path, stream: IO[bytes]) -> tuple[dict, int]:
    """The JSON header of a safetensors file, and where the tensors begin."""
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(HEADER_LIMIT, path.stat().st_size):
        raise BrokenCheckpointError(_not_a_checkpoint(path, start + stream.read(64)))
    raw = stream.read(length)
    try:
        header = json.loads(raw, parse_int=_whole_number)
    except (ValueError, RecursionError):
        header = None
    if len(raw) < length or not isinstance(header, dict):
        raise BrokenCheckpointError(_not_a_checkpoint(path, start + raw[:64]))
    return header, 8 + length


def read_head(path: Path) -> tuple[list[str], dict[str, str]]:
    """Names of a safetensors file's tensors, and its free text; nothing else is looked at.

    Raises:
        BrokenCheckpointError: it is no such file.
        ModelNotFoundError: it is no file at all.
    """
    _require_file(path)
    with path.open("rb") as stream:
        header, _start = _read_header(path, stream)
    text = _free_text(header.pop("__metadata__", None))
    return list(header), text


def _require_file(path: Path) -> None:
    """Opening a pipe or a device could take for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        msg = f"control model {path.name} cannot be opened: it is no file"
        raise ModelNotFoundError(msg)


def _whole_number(text: str) -> int:
    return int(text) if len(text) <= DIGITS_LIMIT else -1


def _free_text(found: object) -> dict[str, str]:
    """The entries of a header's `__metadata__` that are texts, or as good as one."""
    entries = found.items() if isinstance(found, dict) else ()
    return {key: str(value) for key, value in entries if isinstance(value, (str, int, float))}


def _read_entry(path: Path, name: str, entry: Any) -> TensorInfo:
    try:
        dtype = SAFETENSORS_DTYPES[entry["dtype"]]
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
        fits = (
            all(type(n) is int and 0 <= n <= LONGEST_AXIS for n in numbers)
            and len(shape) <= MOST_AXES
            and end - begin == math.prod(shape) * dtype.itemsize
        )
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        msg = (
            f"{path.name} is damaged: its header describes {quote(name)[1:-1]} as {quote(entry)}; "
            "download it again"
        )
        raise BrokenCheckpointError(msg)
    return TensorInfo(shape, dtype, begin)


def _check_places(path: Path, infos: Mapping[str, TensorInfo], size: int) -> None:
    """The tensors lie one behind the other in the file.

    Raises:
        BrokenCheckpointError: the file is too short for them, or two share a place.
    """
    places = sorted((info.begin, info.begin + info.nbytes) for info in infos.values())
    announced = places[-1][1] if places else 0
    if announced > size:
        msg = (
            f"{path.name} is damaged or incomplete: its header announces "
            f"{_megabytes(announced)} of tensors, the file holds {_megabytes(size)}; download "
            "it again"
        )
        raise BrokenCheckpointError(msg)
    if any(begin < end for (_, end), (begin, _) in pairwise(places)):
        msg = f"{path.name} is damaged: its header puts two tensors in one place; download it again"
        raise BrokenCheckpointError(msg)


def _fill(path: Path, stream: FileIO, tensor: Tensor) -> None:
    """Read the tensor's bytes into its memory; it lies on the CPU, in one piece."""
    if not tensor.nelement():
        return
    view = tensor.view(-1).view(torch.uint8).numpy().data
    while view:
        count = stream.readinto(view)
        if not count:
            msg = f"{path.name} ended while it was read; download it again"
            raise BrokenCheckpointError(msg)
        view = view[count:]


def _convert(path: Path, stream: FileIO, info: TensorInfo, tensor: Tensor, scratch: Tensor) -> None:
    """Read a tensor that is kept in another precision or elsewhere, a piece at a time.

    Through one small piece of memory: a copy of each tensor would leave holes behind, which add
    up to nearly half of the network.
    """
    size, flat = info.dtype.itemsize, tensor.view(-1)
    step = len(scratch) // size
    for begin in range(0, len(flat), step):
        target = flat[begin : begin + step]
        piece = scratch[: len(target) * size]
        _fill(path, stream, piece)
        target.copy_(piece.view(info.dtype))


class TorchFile:
    """Reads `.pth`, `.pt`, `.bin` and `.ckpt`, with tensors only: no code of the file runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: Mapping[str, str] = {}
        self._tensors = _load_torch(path)
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(tuple(tensor.shape), tensor.dtype, position)
            for position, (name, tensor) in enumerate(self._tensors.items())
        }

    def read(
        self, names: Iterable[str], dtype: torch.dtype | None, device: Device
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield fresh tensors in the order of the file; each is let go of once it is read."""
        for name in sorted(names, key=lambda name: self.infos[name].begin):
            if name not in self._tensors:
                self._tensors = _load_torch(self.path)
            tensor = _plain(self.path, name, self._tensors.pop(name))
            final = _final_dtype(self.infos[name], dtype)
            # Copied, as it may lie in the file, or be the memory of another name.
            yield name, tensor.to(device, final, copy=True).contiguous()


def _plain(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor, which holds every number that its shape promises.

    Raises:
        BrokenCheckpointError: it is sparse or quantised, or repeats a few numbers up to any size.
    """
    is_plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    needed = tensor.nelement() * tensor.element_size()
    if is_plain and needed <= tensor.untyped_storage().nbytes():
        return tensor
    msg = (
        f"{path.name} cannot be used: it holds {quote(name)[1:-1]} of shape "
        f"{tuple(tensor.shape)} in another form than number by number; get the .safetensors "
        "version of this model"
    )
    raise BrokenCheckpointError(msg)


def _loaders(path: Path) -> list[tuple[Callable[..., object], bool]]:
    """Functions that load tensors only, to be tried in turn, and whether they get a stream.

    None from one is a refusal. The host puts its own in the place of `torch.load`. That one also
    refuses every archive that a recent torch has written, for its members' names. Torch's own may
    then decide, from the version on whose tensors-only mode has no known hole (CVE-2025-32434).
    Those versions of torch believe an ending ".safetensors", so they get a stream; the host's
    check would leave that at its end.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    is_safe = version >= (2, 6)
    if is_safe and path.suffix.lower() == ".safetensors":
        return [(torch.serialization.load, True)]
    replaced = torch.load is not torch.serialization.load
    own = [(torch.serialization.load, False)] if replaced and is_safe else []
    return [(torch.load, False), *own]


def _load_torch(path: Path) -> dict[str, Tensor]:
    """All tensors by dotted name, mapped from the file if that can be."""
    with path.open("rb") as stream:
        start = stream.read(64)
        try:
            mappable = look_over(path)
        except UnsoundError as error:
            log.debug("%s is not loaded: %s", path, error)
            raise BrokenCheckpointError(_not_a_checkpoint(path, start)) from None
        content = None
        for load, as_stream in _loaders(path):
            options = {"map_location": "cpu", "weights_only": True}
            options |= {"mmap": True} if mappable and not as_stream else {}
            stream.seek(0)
            try:
                content = load(stream if as_stream else str(path), **options)
            except Exception as error:  # torch's many kinds for what is damaged or foreign
                if is_out_of_memory(error, most=path.stat().st_size):
                    raise
                log.debug("loading %s failed", path, exc_info=True)
                unsafe = re.search(r"(?i)unsupported (global|class)|blocked", str(error))
                message = _describe_refusal(path) if unsafe else _not_a_checkpoint(path, start)
                raise BrokenCheckpointError(message) from None
            if content is not None:
                break
            log.info("%s was refused by the host's loader", path.name)
    if content is None:
        raise BrokenCheckpointError(_describe_refusal(path))
    for outer in ("state_dict", "controlnet"):
        if isinstance(content, dict) and isinstance(content.get(outer), dict):
            beside = {name: content[name] for name in MARKERS if name in content}
            content = beside | content[outer]
    return dict(_flatten(content))


def _flatten(content: object) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries with dotted names; other values are dropped.

    Each dictionary counts once: one may contain itself, or fill many places of another.
    """
    seen: set[int] = set()
    waiting = [("", content)]
    while waiting:
        prefix, inner = waiting.pop()
        if not isinstance(inner, Mapping) or id(inner) in seen or len(prefix) > LONGEST_PREFIX:
            continue
        seen.add(id(inner))
        names = [key for key in inner if isinstance(key, str) or _is_index(key)]
        for key in names:
            if isinstance(inner[key], Tensor):
                yield f"{prefix}{key}", inner[key].detach()
            elif isinstance(inner[key], (tuple, list)):
                yield from _number(f"{prefix}{key}", inner[key])
        waiting += [(f"{prefix}{key}.", inner[key]) for key in reversed(names)]


def _number(name: str, parts: Sequence[object]) -> Iterator[tuple[str, Tensor]]:
    """What a tensor is kept as in several parts, by their numbers; other lists give nothing."""
    if len(parts) <= MOST_PARTS and any(isinstance(part, Tensor) for part in parts):
        for number, part in enumerate(parts):
            if isinstance(part, Tensor):
                yield f"{name}.{number}", part.detach()
            elif isinstance(part, (int, float)):
                yield f"{name}.{number}", torch.tensor(float(part))


def _is_index(key: object) -> bool:
    return isinstance(key, int) and abs(key) < LONGEST_AXIS


def _describe_refusal(path: Path) -> str:
    return (
        f"{path.name} was refused: it holds more than tensors, and could run code when loaded; "
        "get the .safetensors version of this model"
    )


def _not_a_checkpoint(path: Path, start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the model itself"
    elif start.lstrip()[:1] == b"<":
        what = "a web page that was saved under a model's name"
    elif not start:
        what = "empty"
    else:
        what = "damaged, incomplete, or no model file"
    return f"{path.name} is {what} ({_megabytes(path.stat().st_size)}); download it again"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count} bytes"


def has_header(path: Path) -> bool:
    """Whether names and shapes can be read without reading every tensor.

    Not so for torch's first format; an archive is mapped. A file that cannot be read has none.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError:
        return False
    return start[:2] == b"PK" or not start.startswith(b"\x80") or start[8:9] == b"{"


def open_container(path: Path) -> TensorFile:
    """Open a file of tensors; the content, not the extension, tells which container it is.

    Raises:
        ModelNotFoundError: there is no such file.
        BrokenCheckpointError: it is damaged, empty, not a model file, or unsafe to load.
    """
    try:
        _require_file(path)
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        msg = f"control model {path.name} cannot be opened: {error.strerror or error}"
        raise ModelNotFoundError(msg) from error
    # A safetensors header may be 0x80 or 0x4B50 ("PK") bytes long: look for its brace first.
    return TorchFile(path) if is_torch(start) and start[8:9] != b"{" else SafetensorsFile(path)
