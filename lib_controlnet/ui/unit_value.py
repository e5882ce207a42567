"""The one component per unit that the panel gives to the host.

The host posts the value of every script component when Generate is clicked. This component keeps
its value in the browser: any edit of a unit's widgets copies the widgets' values into it at once,
without a round trip to the server, so whatever is on the screen at the click is what the click
sends. `preprocess` then turns those values into a `ControlNetUnit`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import gradio as gr

from lib_controlnet.detect import listing
from lib_controlnet.enums import ActingRegion
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.ui.batch import read_input
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.editors import stamp
from lib_controlnet.ui.page_value import PageValue
from lib_controlnet.ui.pictures import read_region, read_sketch
from lib_controlnet.ui.sketch import resolve
from lib_controlnet.units.field_values import number
from lib_controlnet.units.unit import SLIDERS
from lib_controlnet.units.weight_curve import SHAPES
from lib_controlnet.units.weight_types import WeightType
from lib_controlnet.words import PAGE

# Values beside the unit's fields: whether its own picture counts, what is drawn on it where that is
# a value of its own, and what its region is drawn on, or where that is, the drawing alone.
INDEPENDENT = "independent"
DRAWING = "drawing"
REGION_CANVAS = "region_canvas"
REGION_DRAWING = "region_drawing"
DRAWN: Final = ("image", DRAWING, REGION_DRAWING)
"""Values that may be those of a host's canvas."""
PREVIEW_DEPENDS_ON: Final = (
    *("image", DRAWING, "module", "pixel_perfect", *SLIDERS),
    *("independent", "input_mode", "batch_images", "merge_images"),
)
"""Values whose change makes a shown preview out of date."""
PREVIEW_FOLLOWS: Final = (*SLIDERS, "pixel_perfect")
"""Those of them that the preview of a quick preprocessor follows."""


class UnitValue(PageValue):
    """A hidden component whose browser value is a dict: field name -> raw widget value.

    `value` on the server is the default disabled unit; the host copies it as the default
    argument of API requests and shows it in its script information.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(value=ControlNetUnit(), **settings)
        self.widgets: dict[str, gr.components.Component] = {}
        self.unit_widgets: Any = None  # the panel's `UnitWidgets`, for pasting

    def follow(
        self,
        name: str,
        widgets: Mapping[str, gr.components.Component],
        preview: Sequence[gr.components.Component],
    ) -> None:
        """Copy the widgets' values on every change of one of them.

        Args:
            name: the unit's element id.
            widgets: field name -> widget; besides the unit's fields those values that no field
                has.
            preview: the preview, its group, and the line that says what came of it; put away
                when a value changes that they depend on.
        """
        self.widgets = dict(widgets)
        inputs, outputs = [*widgets.values()], [self, *preview]
        sliders = [widget for widget in inputs if isinstance(widget, gr.Slider)]
        others = [widget.change for widget in inputs if widget not in sliders]
        triggers = [*others, *(slider.release for slider in sliders)]
        in_page(triggers, page_function("collect", name, True), inputs, outputs)
        dragged = [slider.change for slider in sliders]
        in_page(dragged, page_function("collect", name, False), inputs, outputs)

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
        drawn = {name: resolve(self.widgets.get(name), values.get(name)) for name in DRAWN}
        values.update({name: value for name, value in drawn.items() if name in values})
        return build_unit(values)


def tell_fields(units: Sequence[UnitValue], name: str) -> None:
    """Tell the page, once for all units, what it collects and knows of previews, and its texts.

    Args:
        units: of one panel; all have the same fields.
        name: the panel's element id.
    """
    told = {
        "names": [*units[0].widgets],
        "previewed": PREVIEW_DEPENDS_ON,
        "followed": PREVIEW_FOLLOWS,
        "quick": listing.quick_modules(),
        "sized": listing.modules_with_resolution(),
        "sizes": listing.module_sizes(),
        "curves": {name: list(points) for name, points in SHAPES.items()},
        "weight_types": [str(kind.value) for kind in WeightType],
        "types": listing.control_types(),
        "words": dict(PAGE),
        "editors": stamp(),
    }
    gr.HTML(html.escape(json.dumps(told), quote=False), visible=False, elem_id=f"{name}_fields")


def build_unit(values: Mapping[str, Any]) -> ControlNetUnit:
    """A unit of the raw values of its widgets.

    Args:
        values: field name -> value; pictures as the browser keeps them: None, a data URL, an
            upload, or a dict of data URLs `image` and `mask`, the mask's alpha being the drawing.
    """
    independent = bool(values.get(INDEPENDENT, True))
    fields = read_input(dict(values), independent)
    fields.pop(INDEPENDENT, None)
    drawing, canvas = fields.pop(DRAWING, None), fields.pop(REGION_CANVAS, None)
    if region_drawing := fields.pop(REGION_DRAWING, None):
        canvas = {"image": region_drawing, "mask": region_drawing}  # its size is the picture's
    image = {"image": fields.get("image"), "mask": drawing} if drawing else fields.get("image")
    fields["image"] = read_sketch(image) if independent else None
    region = fields.get("region", ActingRegion.WHOLE.value)
    file = fields.pop("effective_region_mask", None)
    if region == ActingRegion.OWN.value:
        fields["effective_region_mask"] = read_region(file, canvas)
    if region == ActingRegion.WHOLE.value:
        fields.pop("region_feather", None)
    fields["advanced_weighting"] = read_weights(fields.get("advanced_weighting"))
    fields["weight_curve"] = fields.get("weight_curve") or None
    return ControlNetUnit(is_ui=True, **fields)


def read_weights(text: Any) -> list[float] | str | None:
    """Numbers of a text, separated by commas or spaces, in brackets or not; None for no text.

    Text that holds something else comes back as it is, to be reported with the unit's number.
    """
    if not isinstance(text, str):
        return text
    parts = text.strip().strip("[]").replace(",", " ").split()
    try:
        return [number(part) for part in parts] or None
    except ValueError:
        return text
