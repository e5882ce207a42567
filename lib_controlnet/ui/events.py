"""What happens when a unit's widgets are used.

Whatever the page can do alone (show, hide, clear, a new canvas) never reaches the server. Errors
raised on purpose end here, as a sentence in the unit's status line.
"""

from __future__ import annotations

import base64
import html
import json
import logging
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
import numpy as np

from lib_controlnet import listing
from lib_controlnet.enums import LATENT_SCALE, ControlNetUnionControlType
from lib_controlnet.errors import ControlNetError, ImageError
from lib_controlnet.image import Size, pixel_perfect_resolution
from lib_controlnet.inputs import PictureSource, control_picture
from lib_controlnet.request import GenerationRequest
from lib_controlnet.ui import browser
from lib_controlnet.ui.browser import in_page
from lib_controlnet.ui.host_tab import PICTURES, HostTab, tab_request
from lib_controlnet.ui.region import connect_region
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.ui.widgets import UnitWidgets
from lib_controlnet.unit import NO_MODEL, parse_unit
from lib_controlnet.unit_object import ControlNetUnit

if TYPE_CHECKING:
    from lib_controlnet.preprocess import Detection

log = logging.getLogger(__name__)

Update = dict[str, Any]

SLIDERS: Final = ("processor_res", "threshold_a", "threshold_b")


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
    _connect_pictures(widgets, tab)
    _connect_choices(widgets, runtime)
    _connect_preview(widgets)
    _connect_run(widgets, value, tab, runtime, host_tab)
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
            browser.shown_together(len(groups)),
            [widgets.independent],
            groups,
        )


def _connect_pictures(widgets: UnitWidgets, tab: str) -> None:
    in_page(widgets.image.upload, browser.TICK, [], [widgets.enabled])
    in_page(widgets.canvas_open.click, browser.OPEN, [], [widgets.canvas_group])
    in_page(widgets.canvas_cancel.click, browser.CLOSE, [], [widgets.canvas_group])
    in_page(
        widgets.canvas_create.click,
        browser.NEW_CANVAS,
        [widgets.canvas_width, widgets.canvas_height],
        [widgets.image, widgets.canvas_group],
    )
    in_page(widgets.send_size.click, browser.send_dimensions(tab), [widgets.image], [])


def _connect_choices(widgets: UnitWidgets, runtime: Any) -> None:
    sliders = [getattr(widgets, name) for name in SLIDERS]
    follow_module = [*sliders, widgets.model, widgets.refresh, widgets.control_mode]
    follow_module.append(widgets.status)
    widgets.control_type.input(
        fn=lambda kind, perfect: on_control_type(kind, perfect, runtime),
        inputs=[widgets.control_type, widgets.pixel_perfect],
        outputs=[widgets.module, widgets.union_type, *follow_module],
        show_progress=False,
        queue=False,
    )
    for trigger in (widgets.module.input, widgets.restore.click):
        trigger(
            fn=on_module,
            inputs=[widgets.module, widgets.pixel_perfect],
            outputs=follow_module,
            show_progress=False,
            queue=False,
        )
    widgets.pixel_perfect.change(
        fn=on_pixel_perfect,
        inputs=[widgets.module, widgets.pixel_perfect],
        outputs=[widgets.processor_res],
        show_progress=False,
        queue=False,
    )
    widgets.refresh.click(
        fn=lambda chosen: on_refresh(chosen, runtime),
        inputs=[widgets.model],
        outputs=[widgets.model],
        show_progress=False,
        queue=False,
    )


def _connect_preview(widgets: UnitWidgets) -> None:
    in_page(
        widgets.allow_preview.input,
        browser.PREVIEW_TOGGLE,
        [widgets.allow_preview, widgets.preview],
        [widgets.preview_group, widgets.preview],
    )
    parts = [widgets.preview, widgets.preview_group, widgets.allow_preview, widgets.status]
    in_page(widgets.close_preview.click, browser.CLOSE_PREVIEW, [], parts)


def _connect_run(
    widgets: UnitWidgets, value: UnitValue, tab: str, runtime: Any, host_tab: HostTab | None
) -> None:
    size = [widgets.target_width, widgets.target_height]
    outputs = [widgets.preview, widgets.preview_group, widgets.allow_preview]
    outputs += [widgets.status, widgets.pose]
    if host_tab is None:
        widgets.run.click(
            fn=lambda unit, *size: on_run(unit, plain_request(*size), runtime),
            _js=browser.with_picture_size(tab),
            inputs=[value, *size],
            outputs=outputs,
            show_progress=True,
        )
        return
    count = len(host_tab.inputs) - len(host_tab.pictures)

    def run(unit: ControlNetUnit, *asked: Any) -> list[Any]:
        background = str(runtime.option("img2img_background_color", "#ffffff"))
        return on_run(unit, tab_request(*asked[:4], asked[4:], background), runtime)

    widgets.run.click(
        fn=run,
        _js=browser.with_tab_picture(list(PICTURES.values()), count),
        inputs=[value, *size, widgets.target_tab, widgets.target_scale, *host_tab.inputs],
        outputs=outputs,
        show_progress=True,
    )


def plain_request(width: float, height: float) -> GenerationRequest:
    """A generation without a picture of its own."""
    return GenerationRequest(size=Size(int(width), int(height)))


def slider_updates(module: str, pixel_perfect: bool) -> dict[str, Update]:
    """What a preprocessor makes of the three sliders: label, range, default, visibility.

    Args:
        module: name or label of the preprocessor.
        pixel_perfect: hides the resolution, which then follows from the pictures' sizes.
    """
    updates = {}
    for name, slider in zip(SLIDERS, listing.sliders(module), strict=True):
        if slider is None:
            updates[name] = gr.update(visible=False, value=-1)
            continue
        updates[name] = gr.update(
            label=slider.label,
            minimum=slider.minimum,
            maximum=slider.maximum,
            step=slider.step,
            value=slider.default,
            visible=not (pixel_perfect and name == "processor_res"),
            interactive=True,
        )
    return updates


def on_module(module: str, pixel_perfect: bool) -> list[Update]:
    """Sliders, model, refresh button, control mode and status line for a chosen preprocessor."""
    needs_model, control_mode = listing.needs_model(module), listing.has_control_mode(module)
    remark = listing.remark(module)
    return [
        *slider_updates(module, pixel_perfect).values(),
        gr.update(visible=needs_model),
        gr.update(visible=needs_model),
        gr.update(visible=control_mode),
        notice(remark) if remark else gr.update(value="", visible=False),
    ]


def on_control_type(kind: str, pixel_perfect: bool, runtime: Any) -> list[Any]:
    """Filter preprocessors and models by control type and choose the type's defaults."""
    module = listing.default_module(kind)
    models = listing.models_for(runtime.catalog, kind)
    chosen = listing.default_model(kind, models)
    updates = on_module(module, pixel_perfect)
    updates[3] = dict(updates[3], choices=models, value=chosen)
    return [
        gr.update(choices=listing.labels_for(kind), value=module),
        union_type(kind).value,
        *updates,
    ]


def union_type(kind: str) -> ControlNetUnionControlType:
    """What a union model is asked to follow for a control type of the panel."""
    return _UNION_TYPES.get(kind.lower(), ControlNetUnionControlType.UNKNOWN)


_UNION_TYPES = {
    "openpose": ControlNetUnionControlType.OPENPOSE,
    "depth": ControlNetUnionControlType.DEPTH,
    "scribble": ControlNetUnionControlType.SOFT_EDGE,
    "softedge": ControlNetUnionControlType.SOFT_EDGE,
    "canny": ControlNetUnionControlType.HARD_EDGE,
    "lineart": ControlNetUnionControlType.HARD_EDGE,
    "mlsd": ControlNetUnionControlType.HARD_EDGE,
    "normalmap": ControlNetUnionControlType.NORMAL_MAP,
    "segmentation": ControlNetUnionControlType.SEGMENTATION,
    "tile": ControlNetUnionControlType.TILE,
    "blur": ControlNetUnionControlType.TILE,
    "inpaint": ControlNetUnionControlType.INPAINT,
}


def on_pixel_perfect(module: str, pixel_perfect: bool) -> Update:
    """Hide the resolution slider while its value follows from the pictures' sizes."""
    shown = listing.sliders(module)[0] is not None and not pixel_perfect
    return gr.update(visible=shown)


def on_refresh(chosen: str, runtime: Any) -> Update:
    """Scan the model folders again; the selection stays if the model is still there."""
    runtime.refresh_models()
    models = listing.models_for(runtime.catalog, listing.ALL)
    return gr.update(choices=models, value=chosen if chosen in models else "None")


def on_run(unit: ControlNetUnit, request: GenerationRequest, runtime: Any) -> list[Any]:
    """Run a unit's preprocessor on its picture and show the map.

    Args:
        unit: the unit as it would be sent to the host.
        request: what would be generated.
        runtime: the extension's services.

    Returns:
        Preview, its group, the "Allow Preview" box, the status line, the link to the pose.
    """
    try:
        found = detected(unit, request, runtime)
    except ControlNetError as error:
        return [None, gr.update(), gr.update(), notice(str(error)), pose_link(None)]
    except Exception as error:  # boundary: a broken preprocessor must not leave the page waiting
        log.exception("preview with %s failed", unit.module)
        sentence = f"{unit.module} failed: {type(error).__name__}: {error}"
        return [None, gr.update(), gr.update(), notice(sentence), pose_link(None)]
    missing = model_notice(unit, runtime)
    status = notice(missing) if missing else gr.update(value="", visible=False)
    shown = np.array(found.display)
    return [shown, gr.update(visible=True), True, status, pose_link(found.pose)]


def pose_link(pose: dict[str, Any] | None) -> Update:
    """A link that saves what the preprocessor found as a file, for pose editors."""
    if pose is None:
        return gr.update(value="", visible=False)
    data = base64.b64encode(json.dumps(pose).encode()).decode()
    address = f"data:application/json;base64,{data}"
    return gr.update(value=f'<a href="{address}" download="pose.json">JSON</a>', visible=True)


def model_notice(unit: ControlNetUnit, runtime: Any) -> str | None:
    """What would stop a generation with this unit's model, None if nothing."""
    if not listing.needs_model(unit.module):
        return None
    if unit.model == NO_MODEL:
        return "No control model is chosen yet: pick one under Model before you generate."
    try:
        runtime.catalog.find(unit.model)
    except ControlNetError as error:
        return str(error)
    return None


def notice(sentence: str) -> Update:
    """A sentence in the unit's status line."""
    return gr.update(value=html.escape(sentence), visible=True)


def preview(unit: ControlNetUnit, request: GenerationRequest, runtime: Any) -> np.ndarray:
    """The map that a unit's preprocessor makes, as it is shown to people; see `detected`."""
    return np.array(detected(unit, request, runtime).display)


def detected(unit: ControlNetUnit, request: GenerationRequest, runtime: Any) -> Detection:
    """What a unit's preprocessor makes of its picture.

    The picture is found by the rules of a generation, so what is shown is what would be used.

    Raises:
        ControlNetError: there is no picture, it cannot be decoded, or the preprocessor is
            unavailable.
    """
    if unit.image is None and request.init_image is None:
        msg = "There is no picture to preview: put one into this unit first."
        raise ImageError(msg)
    asked = parse_unit(unit)
    ignore = bool(runtime.option("controlnet_ignore_noninpaint_mask", False))
    picture = control_picture(
        *(asked, request, listing.uses_mask(asked.module), PictureSource(ignore_masks=ignore)),
        listing.is_identity(asked.module),
    )
    resolution = asked.processor_res
    if asked.pixel_perfect:
        size, target = Size.from_array(picture.image), request.size.multiple_of_down(LATENT_SCALE)
        resolution = pixel_perfect_resolution(size, target, picture.resize_mode)
    return runtime.detect(
        *(asked.module, picture.image, resolution, asked.threshold_a, asked.threshold_b),
        pixel_perfect=asked.pixel_perfect,
    )
