"""A picture that can be drawn on, whoever draws: gradio 3 itself, or a canvas of the host's own.

A host on gradio 4, which has no drawing on pictures, may bring a canvas: a block of HTML with two
hidden texts beside it, which hold the picture and the drawing as data URLs, or as names of pictures
that the canvas has sent to the host before. Where there is none, a picture can only be uploaded,
and a sentence says so.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr
import numpy as np
from gradio.components import Component
from PIL import Image

from lib_controlnet.pictures.decode import is_foreign_address
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import HAS_DRAWING, for_uploads
from lib_controlnet.ui.page_value import PageValue
from lib_controlnet.ui.pictures import as_data_url, read_sketch
from lib_controlnet.words import word

log = logging.getLogger(__name__)

_WIDTH_STEP: Final = 20
"""Pixels of a brush for each step of a host's canvas."""


@dataclass(frozen=True)
class Sketch:
    """What was built.

    Attributes:
        picture: its value is the picture, where gradio draws with the drawing.
        drawing: its value is the drawing alone, None where `picture` has both or none is drawn.
    """

    picture: Component
    drawing: Component | None = None

    @property
    def uploaded(self) -> Callable:
        """The event of another picture that the user put in; of a canvas also of none."""
        return self.picture.upload if self.drawing is None else self.picture.input

    @property
    def drawn(self) -> list[Callable]:
        """The events of strokes."""
        if self.drawing is not None:
            return [self.drawing.change]
        return [self.picture.edit] if HAS_DRAWING else []

    @property
    def changed(self) -> list[Callable]:
        """The events of whatever the user does to it."""
        if self.drawing is not None:
            return [*self.drawn, self.picture.change]
        return [*self.drawn, self.picture.upload, self.picture.clear]


def build_sketch(
    canvas: Callable[..., Any] | None, is_backdrop: bool = False, **settings: Any
) -> Sketch:
    """Build a picture that can be drawn on, its drawing being a mask.

    Args:
        canvas: makes the host's own canvas; None where it has none.
        is_backdrop: the page alone puts the picture in.
        settings: of `gr.Image`, as gradio 3 has them.
    """
    if HAS_DRAWING:
        return Sketch(for_uploads(gr.Image, tool="sketch", type="numpy", **settings))
    if canvas is None:
        picture = for_uploads(gr.Image, type="numpy", **settings)
        gr.HTML(word("no_canvas"), elem_classes=["cnet-no-canvas"])
        return Sketch(picture)
    gr.HTML(settings["label"], elem_classes=["cnet-canvas-label"])
    made = canvas(**_canvas_settings(canvas, {"no_upload": is_backdrop, **settings}))
    for part in (made.background, made.foreground):
        part.do_not_save_to_config = True
    return Sketch(made.background, made.foreground)


def resolve(text: Component | None, value: Any) -> Any:
    """A value of a canvas's text, with the picture itself in the place of its name.

    Args:
        text: the hidden text of the host's, which knows the pictures that its canvas has sent.
        value: what the page posted.

    Returns:
        A data URL; the value as it is if it is no name, or if the host knows no such picture.
    """
    if not isinstance(text, gr.Textbox) or not is_foreign_address(value):
        return value
    try:
        found = text.preprocess(value)
    except Exception:  # the host's
        log.warning("the WebUI cannot read what its canvas holds", exc_info=True)
        return value
    return as_data_url(found) if isinstance(found, (np.ndarray, Image.Image)) else value


class SketchValue(PageValue):
    """Picture and drawing of a host's canvas as one argument of a script."""

    texts: Sequence[Component] = ()

    def preprocess(self, x: Any) -> dict[str, Any] | None:
        """Arrays `image` and `mask`, as gradio 3's drawing gives them; None without a picture."""
        if isinstance(x, Mapping):
            parts = zip(("image", "mask"), self.texts, strict=False)
            x = {**x} | {name: resolve(text, x.get(name)) for name, text in parts}
        return read_sketch(x)


def build_value(sketch: Sketch) -> Component:
    """The component that a script takes both the picture and the drawing from."""
    if sketch.drawing is None:
        return sketch.picture
    value, parts = SketchValue(value=None), [sketch.picture, sketch.drawing]
    value.texts = parts
    in_page([part.change for part in parts], page_function("joinDrawing"), parts, [value])
    return value


def _canvas_settings(canvas: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a picture as the host's canvas calls them, as far as it has them.

    Its brush is opaque, as a mask needs it.
    """
    asked = {**settings} | {
        "numpy": True,
        "scribble_width": max(1, round(settings.get("brush_radius", 0) / _WIDTH_STEP)),
        "scribble_color_fixed": True,
        "scribble_alpha": 100,
        "scribble_alpha_fixed": True,
        "scribble_softness": 0,
        "scribble_softness_fixed": True,
    }
    if "brush_color" in settings:
        asked["scribble_color"] = settings["brush_color"]
    known = inspect.signature(canvas).parameters
    return {name: value for name, value in asked.items() if name in known}
