"""The Python API under the path of its file, for extensions that import it before ours is loaded.

Later imports never come here: `interop/aliases.py` has put the API itself under this name.
"""

import importlib
import runpy
import sys
from pathlib import Path

_root = Path(__file__).resolve().parents[1]
_other = runpy.run_path(str(_root / "lib_controlnet" / "standing.py"))["claim"]()
if _other is None:
    _api = importlib.import_module("lib_controlnet.interop.api")
    globals().update({name: getattr(_api, name) for name in _api.__all__})
    if __name__ in sys.modules:  # imported, not executed as a script: whoever imports gets the API
        sys.modules[__name__] = _api
elif __name__ in sys.modules:
    msg = f"this ControlNet is off: {_other} has the name of its package"
    raise ImportError(msg)
