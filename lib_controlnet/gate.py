"""The way to our package `annotator`, which knows nothing of this one; nobody else imports it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

log = logging.getLogger(__name__)

_ANNOTATOR: Final = Path(__file__).resolve().parents[1] / "annotator"
_OTHER_NAME: Final = "controlnet_annotator"


def _name() -> str:
    """Under which name our `annotator` is imported, even if another extension owns its own.

    Several extensions ship a top-level package of that name and the first import wins for the
    whole process. Ours then loads under another name, which its relative imports allow.
    """
    package = importlib.import_module("annotator")
    if _ANNOTATOR in (Path(folder).resolve() for folder in package.__path__):
        return package.__name__
    log.warning(
        'the package name "annotator" is taken by %s, so ours is loaded as "%s"; other extensions '
        "that expect ControlNet's annotator may fail",
        next(iter(package.__path__), "an unknown folder"),
        _OTHER_NAME,
    )
    spec = importlib.util.spec_from_file_location(
        _OTHER_NAME, _ANNOTATOR / "__init__.py", submodule_search_locations=[str(_ANNOTATOR)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_OTHER_NAME] = module
    spec.loader.exec_module(module)
    return _OTHER_NAME


# Here and not at first use: the extension's folder is on sys.path only while scripts load.
_NAME: Final = _name()


def own_module(name: str) -> Any:
    """A module of our `annotator`."""
    return importlib.import_module(f"{_NAME}.{name}")


if TYPE_CHECKING:
    from annotator.bounded import Bounded
else:
    Bounded = own_module("bounded").Bounded
