"""The Python API under the path of its file, for extensions that import it before ours is loaded.

Later imports never come here: `interop/aliases.py` has put the API itself under this name.
"""

import importlib
import sys
from pathlib import Path

_root = str(Path(__file__).resolve().parents[1])
sys.path.insert(0, _root)
try:
    _api = importlib.import_module("lib_controlnet.interop.api")
finally:
    sys.path.remove(_root)
globals().update({name: getattr(_api, name) for name in _api.__all__})
if __name__ in sys.modules:  # imported, not executed as a script: whoever imports gets the API
    sys.modules[__name__] = _api
