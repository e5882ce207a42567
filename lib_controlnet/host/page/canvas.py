"""The canvas that a host on gradio 4 brings for drawing on pictures."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Final

log = logging.getLogger(__name__)

_HOME: Final = "modules_forge.forge_canvas.canvas"
_NAME: Final = "ForgeCanvas"


def find_canvas() -> Callable[..., Any] | None:
    """What makes one, None where the host has none."""
    try:
        return getattr(importlib.import_module(_HOME), _NAME, None)
    except ModuleNotFoundError:
        return None
    except Exception as error:  # another program's file: without it pictures are uploaded
        log.warning("%s cannot be used: %s: %s", _HOME, type(error).__name__, error)
        return None
