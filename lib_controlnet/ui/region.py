"""Where a unit acts: the choice of a region, its soft border, and the mask drawn or uploaded.

The radio "Region" is the truth. The checkbox that users and other extensions know as "Effective
Region Mask" is a second handle on one of its choices, "Own mask"; each follows the other in the
page. The own mask is the uploaded file and the drawing together, white where either is. What the
drawing lies on is only shown: the control picture, with the file's white in the brush colour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from lib_controlnet.enums import ActingRegion
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import HAS_DRAWING, for_uploads
from lib_controlnet.ui.messages import message_line
from lib_controlnet.ui.sketch import build_sketch
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.words import word

if TYPE_CHECKING:
    from lib_controlnet.ui.unit_widgets import UnitWidgets

REGION_COLOUR: Final = "#14b8a6"
REGION_OPACITY: Final = 0.6
PANEL_MAX_FEATHER: Final = 256
_HEIGHT: Final = 260
_BRUSH: Final = 50
"""Width of the brush in pixels of the backdrop, whose long side has at most 768."""
_CHOICES: Final = {
    "own": ActingRegion.OWN.value,
    "whole": ActingRegion.WHOLE.value,
    "inpaint": [ActingRegion.INSIDE.value, ActingRegion.OUTSIDE.value],
}
"""The regions as the page's functions tell them apart."""


def build_region(
    name: str, is_img2img: bool, own_canvas: Callable[..., Any] | None
) -> dict[str, Any]:
    """The choice of the region and, while it is the unit's own, canvas and file side by side.

    Args:
        name: the unit's element id.
        is_img2img: whether the tab has an inpaint mask of its own.
        own_canvas: makes the host's own canvas; None where it has none.
    """
    made: dict[str, Any] = {}
    with gr.Row(elem_classes=["controlnet_region", "controlnet_row"]):
        made["region"] = gr.Radio(
            FIELDS["region"].choices,
            label=word("region"),
            value=FIELDS["region"].initial,
            elem_id=f"{name}_controlnet_region_radio",
        )
        made["region_feather"] = gr.Slider(
            0,
            PANEL_MAX_FEATHER,
            FIELDS["region_feather"].initial,
            step=1,
            label=word("region_feather"),
            visible=False,
            elem_id=f"{name}_controlnet_region_feather_slider",
        )
    made["region_hint"] = gr.HTML(
        word("mask_of_tab" if is_img2img else "mask_of_unit"),
        visible=False,
        elem_classes=["cnet-region-hint"],
    )
    with gr.Group(visible=False, elem_classes=["cnet-mask-image-group"]) as made["mask_group"]:
        with gr.Row(elem_classes=["cnet-image-row"], equal_height=True):
            made |= _mask_pictures(name, own_canvas)
        made["region_status"] = message_line(name, "region_status")
    made["backdrop"] = gr.Button(visible=False, elem_classes=["cnet-region-backdrop"])
    made["backdrop"].do_not_save_to_config = True
    return made


def _mask_pictures(name: str, own_canvas: Callable[..., Any] | None) -> dict[str, Any]:
    with gr.Group(elem_classes=["cnet-region-canvas-group"]):
        sketch = build_sketch(
            own_canvas,
            is_backdrop=True,
            label=word("region_canvas"),
            height=_HEIGHT,
            brush_radius=_BRUSH,
            brush_color=REGION_COLOUR,
            mask_opacity=REGION_OPACITY,
            elem_id=f"{name}_region_canvas",
            elem_classes=["cnet-image", "cnet-region-canvas"],
        )
    with gr.Group(elem_classes=["cnet-region-file-group"]):
        mask = for_uploads(
            gr.Image,
            label=word("region_file"),
            type="numpy",
            height=_HEIGHT,
            elem_id=f"{name}_mask_image",
            elem_classes=["cnet-effective-region-mask-image"],
        )
    return {"region_sketch": sketch, "effective_region_mask": mask}


def connect_region(widgets: UnitWidgets, tab: str) -> None:
    """Keep radio, checkbox and pictures of one unit together, all in the page."""
    view = {
        "inputs": [widgets.region],
        "outputs": [
            *(widgets.mask_group, widgets.region_feather, widgets.region_hint, widgets.use_region),
        ],
    }
    in_page(widgets.region.change, page_function("showRegion", _CHOICES), **view)
    in_page(widgets.restore.click, page_function("restoreRegion", widgets.name, _CHOICES), **view)
    in_page(
        widgets.use_region.change,
        page_function("chooseRegion", _CHOICES),
        [widgets.use_region, widgets.region],
        [widgets.region],
    )
    in_page(
        widgets.backdrop.click,
        page_function("drawBackdrop", widgets.name, tab, REGION_COLOUR, REGION_OPACITY),
        [],
        [widgets.region_sketch.picture, widgets.effective_region_mask, widgets.region_status],
    )
    if drawn := widgets.region_sketch.drawn:
        in_page(drawn, page_function("closeOnceDrawn", widgets.name), [], [widgets.region_status])
    # gradio 4 reports what is written into a radio as if the user had chosen it.
    hide = page_function("hideByHand", widgets.region.elem_id)
    hide = page_function("show", False) if HAS_DRAWING else hide
    in_page(widgets.region.input, hide, [], [widgets.region_status])
    in_page(
        widgets.effective_region_mask.upload,
        page_function("checkUpload", widgets.name, False),
        [widgets.effective_region_mask],
        [widgets.effective_region_mask, widgets.region_status],
    )
