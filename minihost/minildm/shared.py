"""Blocks that host and extension have in common: `cldm.py` and what it needs in `nets/`.

Taken by path, under a name of this package: `lib_controlnet` itself is the extension's, which may
be another copy in the same process, or not there at all.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).resolve().parents[2] / "lib_controlnet" / "nets"


def _take(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"minildm.{name}", _FOLDER / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_take("layout")
_take("strips")
_take("read_text")
cldm = _take("cldm")
