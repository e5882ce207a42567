"""Loading of pickled weights through a list of allowed names."""

from __future__ import annotations

import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from modules import errors

unsafe_torch_load = torch.load
global_extra_handler: Callable[[str, str], Any] | None = None

_ALLOWED_ZIP_NAME = re.compile(
    r"^([^/]+)/((data/\d+)|version|byteorder|\.data/serialization_id|"
    r"\.format_version|\.storage_alignment|(data\.pkl))$"
)
_DATA_PKL = re.compile(r"^([^/]+)/data\.pkl$")
_TORCH_NAMES = (
    "FloatStorage", "HalfStorage", "IntStorage", "LongStorage", "DoubleStorage", "ByteStorage",
    "BFloat16Storage", "ShortStorage", "CharStorage", "BoolStorage", "float32", "float16",
    "float64", "bfloat16", "int64", "int32", "uint8", "Size", "device", "Tensor",
)  # fmt: skip
_REBUILDERS = (
    "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_device_tensor_from_numpy",
)  # fmt: skip
_ALLOWED = {
    "collections": ("OrderedDict",),
    "torch._utils": _REBUILDERS,
    "torch": _TORCH_NAMES,
    "torch.nn.modules.container": ("ParameterDict", "ParameterList"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "numpy": ("dtype", "ndarray"),
    "_codecs": ("encode",),
    "__builtin__": ("set",),
    "builtins": ("set",),
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that knows tensors, arrays and plain containers only."""

    extra_handler: Callable[[str, str], Any] | None = None

    def persistent_load(self, saved_id: Any) -> Any:
        """Stand in for tensor storage; only the names matter here."""
        if saved_id[0] != "storage":
            msg = f"expected a storage in the pickle, got {saved_id[0]!r}"
            raise pickle.UnpicklingError(msg)
        try:
            return torch.storage.TypedStorage(_internal=True)
        except TypeError:
            return torch.storage._TypedStorage()

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class or function; refuse the rest."""
        if self.extra_handler is not None:
            found = self.extra_handler(module, name)
            if found is not None:
                return found
        if name in _ALLOWED.get(module, ()):
            return super().find_class(module, name)
        msg = f"global '{module}/{name}' is forbidden"
        raise pickle.UnpicklingError(msg)


def check_zip_filenames(filename: str, names: list[str]) -> None:
    """Refuse archives with unexpected entries."""
    for name in names:
        if not _ALLOWED_ZIP_NAME.match(name):
            msg = f"bad file inside {filename}: {name}"
            raise pickle.UnpicklingError(msg)


def check_pt(filename: str, extra_handler: Callable | None) -> None:
    """Walk through the pickles of a file with the restricted unpickler."""
    try:
        with zipfile.ZipFile(filename) as archive:
            check_zip_filenames(filename, archive.namelist())
            pickles = [f for f in archive.namelist() if _DATA_PKL.match(f)]
            if len(pickles) != 1:
                msg = f"expected one data.pkl inside {filename}, got {len(pickles)}"
                raise pickle.UnpicklingError(msg)
            with archive.open(pickles[0]) as file:
                _walk(file, extra_handler)
    except zipfile.BadZipfile:
        with open(filename, "rb") as file:  # noqa: PTH123 (file objects of both kinds)
            for _ in range(5):
                _walk(file, extra_handler)


def _walk(file: Any, extra_handler: Callable | None) -> None:
    unpickler = RestrictedUnpickler(file)
    unpickler.extra_handler = extra_handler
    unpickler.load()


def load(filename: Any, *args: Any, **kwargs: Any) -> Any:
    """`torch.load` after the check; on refusal a message is printed and None returned."""
    return load_with_extra(filename, *args, extra_handler=global_extra_handler, **kwargs)


def load_with_extra(
    filename: Any, extra_handler: Callable | None = None, *args: Any, **kwargs: Any
) -> Any:
    """`load` with a function `(module, name)` that may allow further names."""
    try:
        check_pt(filename, extra_handler)
    except Exception as e:
        kind = (
            "is malicious or damaged" if isinstance(e, pickle.UnpicklingError) else "is unreadable"
        )
        errors.report(
            f"Error verifying pickled file from {filename}: it {kind} and will not be read.",
            exc_info=True,
        )
        return None
    return unsafe_torch_load(filename, *args, **kwargs)


class Extra:
    """Context in which `load` also allows what `handler(module, name)` returns."""

    def __init__(self, handler: Callable[[str, str], Any]) -> None:
        self.handler = handler

    def __enter__(self) -> None:
        module = sys.modules[__name__]
        if module.global_extra_handler is not None:
            msg = "safe.Extra is already in use"
            raise RuntimeError(msg)
        module.global_extra_handler = self.handler

    def __exit__(self, *exc: object) -> None:
        sys.modules[__name__].global_extra_handler = None


torch.load = load
