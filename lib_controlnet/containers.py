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
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import torch
from torch import Tensor

from lib_controlnet.errors import BrokenCheckpointError, ModelNotFoundError

log = logging.getLogger(__name__)

Device = torch.device | str

HEADER_LIMIT: Final = 100_000_000
"""Longest header the safetensors format allows, in bytes."""

SCRATCH_BYTES: Final = 2 * 2**20
"""Memory for tensors on their way to another precision or device."""

TORCH_ERRORS: Final = (
    OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError,
    pickle.UnpicklingError,
)  # fmt: skip
"""What `torch.load` raises for files that are damaged, foreign or not tensors only."""


def _torch_dtypes() -> dict[str, torch.dtype]:
    names = {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
        "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
        "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    }  # fmt: skip
    return {code: getattr(torch, name) for code, name in names.items() if hasattr(torch, name)}


SAFETENSORS_DTYPES: Final = _torch_dtypes()


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor without reading it; `begin` orders a file's tensors."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    begin: int = 0


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
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.infos: dict[str, TensorInfo] = {}
        for name, entry in header.items():
            self.infos[name] = _read_entry(path, name, entry)
            end = entry["data_offsets"][1]
            if end > size:
                msg = (
                    f"{path.name} is damaged or incomplete: its header announces "
                    f"{_megabytes(max(e['data_offsets'][1] for e in header.values()))} of "
                    f"tensors, the file holds {_megabytes(size)}; download it again"
                )
                raise BrokenCheckpointError(msg)

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


def _read_header(path: Path, stream: BinaryIO) -> tuple[dict, int]:
    """The JSON header of a safetensors file, and where the tensors begin."""
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(HEADER_LIMIT, path.stat().st_size):
        raise BrokenCheckpointError(_not_a_checkpoint(path, start + stream.read(64)))
    raw = stream.read(length)
    try:
        header = json.loads(raw)
    except ValueError:
        header = None
    if len(raw) < length or not isinstance(header, dict):
        raise BrokenCheckpointError(_not_a_checkpoint(path, start + raw[:64]))
    return header, 8 + length


def read_metadata(path: Path) -> dict[str, str]:
    """Free text in the header of a safetensors file; nothing else is read.

    Raises:
        BrokenCheckpointError: it is no such file.
    """
    with path.open("rb") as stream:
        found = _read_header(path, stream)[0].get("__metadata__")
    return found if isinstance(found, dict) else {}


def _read_entry(path: Path, name: str, entry: object) -> TensorInfo:
    try:
        dtype = SAFETENSORS_DTYPES[entry["dtype"]]
        shape = tuple(int(n) for n in entry["shape"])
        begin, end = entry["data_offsets"]
        fits = end - begin == math.prod(shape) * dtype.itemsize and begin >= 0
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        msg = f"{path.name} is damaged: its header describes {name} as {entry!r}; download it again"
        raise BrokenCheckpointError(msg)
    return TensorInfo(shape, dtype, begin)


def _fill(path: Path, stream: BinaryIO, tensor: Tensor) -> None:
    """Read the tensor's bytes into its memory; it lies on the CPU, in one piece."""
    if not tensor.nelement():
        return
    view = memoryview(tensor.view(-1).view(torch.uint8).numpy())
    while view:
        count = stream.readinto(view)
        if not count:
            msg = f"{path.name} ended while it was read; download it again"
            raise BrokenCheckpointError(msg)
        view = view[count:]


def _convert(
    path: Path, stream: BinaryIO, info: TensorInfo, tensor: Tensor, scratch: Tensor
) -> None:
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
        self.metadata: dict[str, str] = {}
        self._tensors, self._mapped = _load_torch(path)
        self.infos = {
            name: TensorInfo(tuple(tensor.shape), tensor.dtype, position)
            for position, (name, tensor) in enumerate(self._tensors.items())
        }

    def read(
        self, names: Iterable[str], dtype: torch.dtype | None, device: Device
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield fresh tensors in the order of the file; each is let go of once it is read."""
        for name in sorted(names, key=lambda name: self.infos[name].begin):
            if name not in self._tensors:
                self._tensors, self._mapped = _load_torch(self.path)
            tensor = self._tensors.pop(name)
            shared = tensor.untyped_storage().nbytes() != tensor.nelement() * tensor.element_size()
            final = _final_dtype(self.infos[name], dtype)
            yield name, tensor.to(device, final, copy=self._mapped or shared).contiguous()


def _loaders() -> list[Callable[..., object]]:
    """Functions that load tensors only, to be tried in turn; None is a refusal.

    The host puts its own in the place of `torch.load`. That one also refuses every archive that a
    recent torch has written, for its members' names. Torch's own may then decide, from the
    version on whose tensors-only mode has no known hole (CVE-2025-32434).
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    replaced = torch.load is not torch.serialization.load
    own = [torch.serialization.load] if replaced and version >= (2, 6) else []
    return [torch.load, *own]


def _load_torch(path: Path) -> tuple[dict[str, Tensor], bool]:
    """All tensors by dotted name, and whether they are mapped from the file."""
    with path.open("rb") as stream:
        start = stream.read(64)
        # A misnamed file goes in as a stream: recent versions of torch believe the extension.
        misnamed = path.suffix.lower() == ".safetensors"
        mapped = start[:2] == b"PK" and not misnamed
        options = {"map_location": "cpu", "weights_only": True}
        options |= {"mmap": True} if mapped else {}
        content = None
        for load in _loaders():
            stream.seek(0)
            try:
                content = load(stream if misnamed else str(path), **options)
            except TORCH_ERRORS as error:
                log.debug("loading %s failed", path, exc_info=True)
                unsafe = re.search(r"(?i)unsupported (global|class)|blocked", str(error))
                message = _refused(path) if unsafe else _not_a_checkpoint(path, start)
                raise BrokenCheckpointError(message) from None
            if content is not None:
                break
            log.info("%s was refused by the host's loader", path.name)
    if content is None:
        raise BrokenCheckpointError(_refused(path))
    for outer in ("state_dict", "controlnet"):
        if isinstance(content, dict) and isinstance(content.get(outer), dict):
            content = content[outer]
    return dict(_flatten(content)), mapped


def _flatten(content: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries with dotted names; other values are dropped."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value.detach()
        else:
            yield from _flatten(value, f"{prefix}{key}.")


def _refused(path: Path) -> str:
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


def open_container(path: Path) -> TensorFile:
    """Open a file of tensors; the content, not the extension, tells which container it is.

    Raises:
        ModelNotFoundError: there is no such file.
        BrokenCheckpointError: it is damaged, empty, not a model file, or unsafe to load.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError as error:
        msg = f"control model {path} cannot be opened: {error.strerror or error}"
        raise ModelNotFoundError(msg) from error
    # A safetensors header may be 0x80 or 0x4B50 ("PK") bytes long: look for its brace first.
    is_torch = start[8:9] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80")
    return TorchFile(path) if is_torch else SafetensorsFile(path)
