"""The way to our package `annotator`, which knows nothing of this one; nobody else imports it."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet import standing

log = logging.getLogger(__name__)

ANNOTATOR: Final = standing.stand("annotator")
"""Under which name our `annotator` stands in this process."""
if ANNOTATOR != "annotator":
    log.info(
        'the package name "annotator" is taken by %s, so ours is "%s"; extensions that expect '
        "ControlNet's annotator under its own name may fail",
        next(standing.find_others("annotator"), "another extension"),
        ANNOTATOR,
    )


def own_module(name: str) -> Any:
    """A module of our `annotator`."""
    return importlib.import_module(f"{ANNOTATOR}.{name}")


if TYPE_CHECKING:
    from annotator.bounded import Bounded
else:
    Bounded = own_module("bounded").Bounded
