"""The one component per unit that the panel gives to the host.

The host posts the value of every script component when Generate is clicked. This component keeps
its value in the browser: any edit of a unit's widgets copies the widgets' values into it at once,
without a round trip to the server, so whatever is on the screen at the click is what the click
sends. `preprocess` then turns those values into a `ControlNetUnit`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import State

from lib_controlnet.errors import ImageError
from lib_controlnet.external_code import ControlNetUnit
from lib_controlnet.image import decode_image
from lib_controlnet.ui import browser

log = logging.getLogger(__name__)

# Values beside the unit's fields that decide whether a picture counts.
INDEPENDENT = "independent"
USE_REGION = "use_region"


class UnitValue(State):
    """A hidden component whose browser value is a dict: field name -> raw widget value.

    `value` on the server is the default disabled unit; the host copies it as the default
    argument of API requests and shows it in its script information.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(value=ControlNetUnit(), **settings)
        self.stateful = False  # kept by the browser, not by the session
        self.widgets: dict[str, gr.components.Component] = {}
        self.unit_widgets: Any = None  # the panel's `UnitWidgets`, for pasting

    def get_block_name(self) -> str:
        """The browser draws nothing for a "state"."""
        return "state"

    def follow(
        self,
        widgets: Mapping[str, gr.components.Component],
        preview: gr.components.Component,
        status: gr.components.Component,
    ) -> None:
        """Copy the widgets' values on every change of one of them.

        Args:
            widgets: field name -> widget; besides the unit's fields `INDEPENDENT` and
                `USE_REGION`.
            preview: cleared when a value changes that it depends on.
            status: the line of messages, closed on every change.
        """
        self.widgets = dict(widgets)
        names = list(widgets)
        for widget in widgets.values():
            is_slider = isinstance(widget, gr.Slider)
            triggers = {widget.change: browser.collect(names, while_dragging=not is_slider)}
            if is_slider:
                triggers[widget.release] = browser.collect(names)
            for trigger, script in triggers.items():
                trigger(
                    fn=None,
                    _js=script,
                    inputs=list(widgets.values()),
                    outputs=[self, preview, status],
                    show_progress=False,
                )

    def preprocess(self, x: Any) -> Any:
        """Build the unit.

        Args:
            x: what the browser sent: None as long as nothing was edited (then the widgets'
                initial values count, which the host may have taken from the user's saved
                defaults), a dict of raw values, or a unit already.
        """
        if isinstance(x, ControlNetUnit):
            return x
        values = {name: widget.value for name, widget in self.widgets.items()}
        if isinstance(x, Mapping):
            values.update(x)
        return build_unit(values)


def build_unit(values: Mapping[str, Any]) -> ControlNetUnit:
    """A unit of the raw values of its widgets.

    Args:
        values: field name -> value; pictures as the browser keeps them: None, a data URL, or a
            dict of data URLs `image` and `mask`, the mask's alpha being the drawing.
    """
    fields = dict(values)
    independent = fields.pop(INDEPENDENT, True)
    use_region = fields.pop(USE_REGION, False)
    fields["image"] = read_sketch(fields.get("image")) if independent else None
    fields["effective_region_mask"] = (
        _read_picture(fields.get("effective_region_mask")) if use_region else None
    )
    return ControlNetUnit(is_ui=True, **fields)


def read_sketch(value: Any) -> dict[str, Any] | None:
    """Decode the value of a picture with a drawing layer.

    Returns:
        `image`: uint8 (H, W, 3); `mask`: uint8 (H, W, 3), white where something is drawn; or
        None without a picture. What cannot be decoded stays text, to be reported with the
        unit's number when it is used.
    """
    if isinstance(value, str):
        value = {"image": value, "mask": None}
    if not isinstance(value, Mapping) or not value.get("image"):
        return None
    image = _read_picture(value["image"])
    if not isinstance(image, np.ndarray):
        return {"image": image, "mask": None}
    return {"image": image, "mask": _read_drawing(value.get("mask"), image.shape[:2])}


def _read_picture(value: Any) -> Any:
    """Decode a data URL to uint8 (H, W, 3); anything unreadable comes back as it is."""
    if not isinstance(value, str) or not value:
        return value or None
    try:
        return decode_image(value, "picture of the panel")
    except ImageError as error:
        log.warning("%s", error)
        return value


def _read_drawing(value: Any, shape: tuple[int, int]) -> np.ndarray:
    """The drawing layer as uint8 (H, W, 3), black where nothing is drawn.

    The browser sends a layer of another size than the picture when it is asked before its
    canvas has been laid out; nothing is drawn on such a layer, and it counts as blank.
    """
    blank = np.zeros((*shape, 3), np.uint8)
    if not isinstance(value, str) or not value:
        return blank
    try:
        layer = decode_image(value, "drawing of the panel", keep_alpha=True)
    except ImageError as error:
        log.warning("%s", error)
        return blank
    if layer.shape[:2] != tuple(shape):
        return blank
    # A layer without transparency is drawn all over, in whatever colour the brush has.
    drawn = layer[..., 3] if layer.shape[-1] == 4 else np.full(shape, 255, np.uint8)
    return np.repeat(drawn[..., None], 3, axis=2)
