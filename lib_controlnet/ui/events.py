"""What happens when a unit's widgets are used.

Whatever the page can do alone (show, hide, clear, a new canvas) never reaches the server. Errors
raised on purpose end here, as a sentence in the unit's status line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from lib_controlnet.detect import listing
from lib_controlnet.enums import InputMode
from lib_controlnet.ui import choices
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import HAS_DRAWING, SCRIPT
from lib_controlnet.ui.host_tab import HostTab
from lib_controlnet.ui.preview import connect_preview
from lib_controlnet.ui.region import connect_region
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.ui.unit_widgets import UnitWidgets
from lib_controlnet.ui.widgets import BRUSH_COLOUR
from lib_controlnet.units.unit import SLIDERS


def connect(
    widgets: UnitWidgets, value: UnitValue, tab: str, runtime: Any, host_tab: HostTab | None
) -> None:
    """Attach every event of one unit.

    Args:
        widgets: the unit's widgets.
        value: the unit's value, already following the widgets.
        tab: "txt2img" or "img2img".
        runtime: the extension's services.
        host_tab: the widgets that hold the tab's own picture, if it has one.
    """
    _connect_pictures(widgets, tab, runtime)
    _connect_choices(widgets, runtime)
    connect_preview(widgets, value, tab, runtime, host_tab)
    connect_region(widgets, tab)
    if tab == "img2img":
        groups = [
            widgets.image_group,
            widgets.upload_group,
            widgets.allow_preview,
            widgets.resize_mode,
        ]
        in_page(
            widgets.independent.change,
            page_function("showTogether", len(groups)),
            [widgets.independent],
            groups,
        )


def _connect_pictures(widgets: UnitWidgets, tab: str, runtime: Any) -> None:
    image = widgets.image
    in_page(
        widgets.sketch.uploaded,
        page_function("checkUpload", widgets.name, True),
        [image],
        [image, widgets.picture_note, widgets.enabled],
    )
    if widgets.sketch.drawing is not None:
        refused = page_function("refusePicture")
        in_page(widgets.refuse.click, refused, [], [widgets.picture_note])
    in_page(widgets.canvas_open.click, page_function("show", True), [], [widgets.canvas_group])
    in_page(widgets.canvas_cancel.click, page_function("show", False), [], [widgets.canvas_group])
    in_page(
        widgets.canvas_create.click,
        page_function("newCanvas", widgets.name, runtime.option(BRUSH_COLOUR)),
        [widgets.canvas_width, widgets.canvas_height],
        [image, widgets.canvas_group, widgets.picture_note, widgets.enabled],
    )
    send = page_function("sendDimensions", widgets.name, tab)
    in_page(widgets.send_size.click, send, [image], [])
    masked = [detector.title for detector in listing.detectors() if detector.uses_mask]
    drawn = page_function("noteDrawing", widgets.name, masked, InputMode.SIMPLE.value)
    deciding = [widgets.module, widgets.independent, widgets.input_mode]
    triggers = [*widgets.sketch.changed, *(widget.change for widget in deciding)]
    in_page(triggers, drawn, deciding, [widgets.drawing_note])


def _connect_choices(widgets: UnitWidgets, runtime: Any) -> None:
    quiet: dict[str, Any] = {"show_progress": False, "queue": False}
    sliders = [getattr(widgets, name) for name in SLIDERS]
    lines = [widgets.about, widgets.notes]
    follow_module = [*sliders, widgets.model, widgets.refresh, widgets.control_mode, *lines]
    of_families = [getattr(widgets, name) for name in choices.OF_FAMILIES]
    chosen = [widgets.control_type, widgets.module, widgets.model]
    offers = [widgets.show_all, widgets.offers]

    def choose_type(kind: str, pixel_perfect: bool, shows_all: bool) -> list[Any]:
        chosen = choices.on_control_type(kind, pixel_perfect, runtime, shows_all)
        enables = kind != listing.ALL and runtime.option("controlnet_type_enables")
        return [*chosen, gr.update(value=True) if enables else gr.update()]

    asked = [widgets.control_type, widgets.pixel_perfect, widgets.show_all]
    guard: dict[str, Any] = {}
    if not HAS_DRAWING and isinstance(widgets.control_type, gr.Radio):
        guard = {SCRIPT: page_function("byHand", widgets.control_type.elem_id, len(asked))}
    widgets.control_type.input(
        fn=choose_type,
        inputs=asked,
        outputs=[widgets.module, *follow_module, *of_families, *offers, widgets.enabled],
        **guard,
        **quiet,
    )
    for trigger in (widgets.module.input, widgets.restore.click):
        trigger(
            fn=partial(choices.on_module, runtime=runtime),
            inputs=[*chosen, widgets.pixel_perfect],
            outputs=[*follow_module, *of_families],
            **quiet,
        )
    widgets.model.input(
        fn=partial(choices.on_model, runtime=runtime),
        inputs=chosen,
        outputs=[*lines, *of_families],
        **quiet,
    )
    widgets.pixel_perfect.change(
        fn=choices.on_pixel_perfect,
        inputs=[widgets.module, widgets.pixel_perfect],
        outputs=[widgets.processor_res],
        **quiet,
    )
    for trigger, answer in (
        (widgets.refresh.click, choices.on_refresh),
        (widgets.offer.click, choices.on_offer),
        (widgets.show_all.input, choices.on_offer),
    ):
        answered = trigger(
            fn=_answer(answer, runtime),
            **{SCRIPT: page_function("noteChoices", widgets.name)},
            inputs=[*chosen, widgets.show_all],
            outputs=[widgets.model, *lines, *of_families, *offers],
            **quiet,
        )
        again = [*chosen, widgets.show_all]
        in_page(answered.then, page_function("askAgain", widgets.name), again, [])


def _answer(answer: Callable[..., list[Any]], runtime: Any) -> Callable[..., list[Any]]:
    def list_models(kind: str, module: str, model: str, shows_all: bool) -> list[Any]:
        return answer(kind, module, model, runtime, shows_all)

    return list_models
