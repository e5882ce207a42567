"""What happens when a unit's widgets are used.

Whatever the page can do alone (show, hide, clear, a new canvas) never reaches the server. Errors
raised on purpose end here, as a sentence in the unit's status line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import gradio as gr

from lib_controlnet.detect import listing
from lib_controlnet.enums import InputMode
from lib_controlnet.ui import choices
from lib_controlnet.ui.answers import (
    CHOSEN,
    Of,
    Output,
    Question,
    connect_questions,
    connect_trigger,
)
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import HAS_DRAWING
from lib_controlnet.ui.host_tab import HostTab
from lib_controlnet.ui.preview import connect_preview
from lib_controlnet.ui.region import connect_region
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.ui.unit_widgets import UnitWidgets
from lib_controlnet.ui.widgets import BRUSH_COLOUR
from lib_controlnet.units.unit import SLIDERS

NOTHING: Final = Of(0)


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
    def outputs(names: Sequence[str], follows: Of, shown_by: Of = NOTHING) -> list[Output]:
        return [Output(getattr(widgets, name), follows, shown_by) for name in names]

    resolution, *others = SLIDERS
    of_module = Of.KIND | Of.MODULE
    sliders = outputs([resolution], of_module, Of.PIXEL_PERFECT) + outputs(others, of_module)
    model = outputs(["model"], Of.KIND, Of.MODULE)
    beside = outputs(["refresh", "control_mode"], of_module)
    lines = outputs(["about", "notes"], CHOSEN)
    of_families = outputs(choices.OF_FAMILIES, CHOSEN)
    offers = outputs(["show_all", "offers"], Of.KIND | Of.SHOW_ALL)
    follow_module = [*sliders, *model, *beside, *lines, *of_families]

    def choose_type(kind: str, _module: str, _model: str, shows_all: bool, perfect: bool) -> Any:
        chosen = choices.on_control_type(kind, perfect, runtime, shows_all)
        enables = kind != listing.ALL and runtime.option("controlnet_type_enables")
        return [*chosen, gr.update(value=True) if enables else gr.update()]

    def choose_module(kind: str, module: str, model: str, _all: bool, perfect: bool) -> Any:
        return choices.on_module(kind, module, model, perfect, runtime)

    def choose_model(kind: str, module: str, model: str, *_more: Any) -> Any:
        return choices.on_model(kind, module, model, runtime)

    typed = [*outputs(["module"], Of.KIND), *follow_module, *offers]
    typed += outputs(["enabled"], Of.KIND)
    offered = [*outputs(["model"], Of.KIND | Of.SHOW_ALL), *lines, *of_families, *offers]
    questions = {
        "type": Question(choose_type, typed),
        "module": Question(choose_module, follow_module),
        "model": Question(choose_model, [*lines, *of_families]),
        "offer": Question(_answer(choices.on_offer, runtime), offered),
        "refresh": Question(_answer(choices.on_refresh, runtime), offered),
    }
    connect_questions(widgets, questions, "offer")
    is_told_of_all = not HAS_DRAWING and isinstance(widgets.control_type, gr.Radio)
    by_hand = [widgets.control_type.elem_id] if is_told_of_all else []
    for trigger, *words in (
        (widgets.control_type.input, "type", *by_hand),
        (widgets.module.input, "module"),
        (widgets.restore.click, "module"),
        (widgets.model.input, "model"),
        (widgets.show_all.input, "offer"),
        (widgets.refresh.click, "refresh"),
    ):
        connect_trigger(trigger, widgets, questions, *words)
    see = page_function("showResolution", widgets.name)
    perfect = [widgets.module, widgets.pixel_perfect]
    in_page(widgets.pixel_perfect.change, see, perfect, [widgets.processor_res])


def _answer(answer: Callable[..., list[Any]], runtime: Any) -> Callable[..., list[Any]]:
    def list_models(kind: str, module: str, model: str, shows_all: bool, *_more: Any) -> list[Any]:
        return answer(kind, module, model, runtime, shows_all)

    return list_models
