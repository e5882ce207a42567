"""Blocks that host and extension have in common: `lib_controlnet/nets/cldm.py`.

Taken by path, under a name of this package: `lib_controlnet` itself is the extension's, which may
be another copy in the same process, or not there at all.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_FILE = Path(__file__).resolve().parents[2] / "lib_controlnet" / "nets" / "cldm.py"
_spec = importlib.util.spec_from_file_location("minildm.cldm", _FILE)
cldm = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cldm)
