"""Models and preprocessors as module variables, the way `scripts.global_state` had them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lib_controlnet.detect import listing, preprocess
from lib_controlnet.interop.services import services
from lib_controlnet.units.unit import NO_MODEL


def update_cn_models() -> None:
    """Scan the model folders again."""
    services().refresh_models()


def get_module_basename(module: str | None) -> str:
    """Name of a preprocessor given by name or label."""
    found = preprocess.find(module)
    return str(module) if found is None else found.name


def lookup(name: str) -> Any:
    """A variable's present value; the module's `__getattr__`."""
    maker = _VARIABLES.get(name)
    if maker is None:
        msg = f"module 'scripts.global_state' has no attribute {name!r}"
        raise AttributeError(msg)
    return maker()


def _models() -> dict[str, str | None]:
    """Display name -> path; "None" comes first."""
    files = services().catalog.files
    return {NO_MODEL: None} | {name: str(entry.path) for name, entry in files.items()}


def _names() -> dict[str, str]:
    """Lower-case file stem -> display name."""
    return {name.rpartition(" [")[0].lower() or name.lower(): name for name in _models()}


def _aliases() -> dict[str, str]:
    """Name -> label of the preprocessors whose label differs."""
    return {d.name: d.title for d in listing.detectors() if d.title != d.name}


def _runner(name: str) -> Callable[..., tuple[np.ndarray, bool]]:
    def run(
        img: np.ndarray, res: float = -1, thr_a: float = -1, thr_b: float = -1, **_ignored: Any
    ) -> tuple[np.ndarray, bool]:
        return preprocess.run_preprocessor(name, img, res, (thr_a, thr_b)).image.copy(), True

    return run


_VARIABLES: dict[str, Callable[[], Any]] = {
    "cn_models": _models,
    "cn_models_names": _names,
    "cn_preprocessor_modules": lambda: {d.name: _runner(d.name) for d in listing.detectors()},
    "preprocessor_aliases": _aliases,
    "reverse_preprocessor_aliases": lambda: {label: name for name, label in _aliases().items()},
    "ui_preprocessor_keys": lambda: listing.module_names(labels=True),
}
