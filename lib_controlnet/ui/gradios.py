"""What gradio 3 and 4 call differently. They are told apart by what they have, here alone.

In gradio 3 a picture can be drawn on; in gradio 4 it cannot, and its value is a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from gradio import events

from lib_controlnet.ui.uploads import only_uploads

HAS_DRAWING: Final = hasattr(events, "Editable")
"""Whether `gr.Image` can be drawn on."""

SCRIPT: Final = "_js" if HAS_DRAWING else "js"
"""The argument of an event that takes a function of the page."""

_DRAWING: Final = ("tool", "brush_radius", "brush_color", "mask_opacity")

Built = TypeVar("Built")


def for_uploads(kind: Callable[..., Built], **settings: Any) -> Built:
    """A component that takes an upload, `gr.Image` or `gr.Video`.

    Args:
        kind: its class.
        settings: as gradio 3 has them; those of drawing are left out where there is none.
    """
    if HAS_DRAWING:
        return kind(source="upload", **settings)
    kept = {name: value for name, value in settings.items() if name not in _DRAWING}
    component = kind(sources=["upload"], **kept)
    only_uploads(component)
    return component
