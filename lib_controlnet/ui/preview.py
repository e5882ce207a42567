"""The preview of a unit's preprocessor: what it runs on, and what the page shows of it.

The answer of a run goes into a hidden component. The page then compares the settings that it was
made for with those of the moment, so that a map never lands under other settings.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from lib_controlnet.detect import listing, preprocess
from lib_controlnet.detect.stopping import IsStopped, check_stopped, stoppable
from lib_controlnet.errors import ControlNetError, ImageError
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.inputs import choose_all
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.choices import model_problem
from lib_controlnet.ui.gradios import SCRIPT
from lib_controlnet.ui.host_tab import HostTab, tab_request
from lib_controlnet.ui.messages import Fault, Misfit, as_html, cut
from lib_controlnet.ui.pictures import as_data_url
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.ui.unit_widgets import UnitWidgets
from lib_controlnet.units.plan import plan
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import NO_MODEL, parse_unit
from lib_controlnet.words import word

if TYPE_CHECKING:
    from lib_controlnet.detect.preprocess import Detection

log = logging.getLogger(__name__)

Report = Callable[[str, float], None]


def connect_preview(
    widgets: UnitWidgets, value: UnitValue, tab: str, runtime: Any, host_tab: HostTab | None
) -> None:
    """Attach the run button, and what puts the preview away.

    Args:
        widgets: the unit's widgets.
        value: the unit's value.
        tab: "txt2img" or "img2img".
        runtime: the extension's services.
        host_tab: the widgets that hold the tab's own picture, if it has one.
    """
    in_page(
        widgets.allow_preview.input,
        page_function("togglePreview", widgets.name),
        [widgets.allow_preview, widgets.preview],
        [widgets.preview_group, widgets.preview],
    )
    parts = [widgets.preview, widgets.preview_group, widgets.allow_preview, widgets.status]
    in_page(widgets.close_preview.click, page_function("closePreview", widgets.name), [], parts)
    # The frame is opened first, because the progress of the run is shown in it.
    opened = [widgets.preview, widgets.preview_group, widgets.status, widgets.answer]
    in_page(widgets.run.click, page_function("openPreview", widgets.name), [], opened)
    inputs = [value, widgets.edition, widgets.target]
    script = page_function("askPreview", widgets.name, tab)
    if host_tab is not None:
        count = len(host_tab.inputs) - len(host_tab.pictures)
        numbers = list(host_tab.numbers)
        script = page_function("askImg2imgPreview", widgets.name, numbers, count)
        inputs += host_tab.inputs

    done = widgets.run.click(
        fn=_runner(runtime, host_tab),
        **{SCRIPT: script},
        inputs=inputs,
        outputs=[widgets.preview, widgets.answer],
        show_progress=True,
    )
    shown = [widgets.preview, widgets.preview_group, widgets.allow_preview]
    shown += [widgets.status, widgets.pose]
    in_page(done.then, page_function("showAnswer", widgets.name), [widgets.answer], shown)


def _runner(runtime: Any, host_tab: HostTab | None) -> Callable[..., list[Any]]:
    """What the server does for a click: (unit, edition, what the page adds...) -> an answer."""

    def make(unit: ControlNetUnit, edition: float, asked: Any, report: Report | None) -> list[Any]:
        target, *values = asked
        background = runtime.option("img2img_background_color")
        shown = None if host_tab is None else values
        has_canvases = host_tab is not None and host_tab.has_canvases
        request = target_request(target, shown, background, has_canvases)
        number = (target or {}).get("run")
        made = on_run(unit, request, runtime, report, lambda: number in runtime.stopped_previews)
        return [gr.update(), {**made, "edition": edition}]

    def run(
        unit: ControlNetUnit,
        edition: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it by its default
        *asked: Any,
    ) -> list[Any]:
        return make(unit, edition, asked, lambda line, part: progress(part, desc=line))

    def run_silently(unit: ControlNetUnit, edition: float, *asked: Any) -> list[Any]:
        return make(unit, edition, asked, None)

    # gradio does not start with a function that reports progress while its queue is off.
    return run if runtime.has_queue() else run_silently


def target_request(
    target: Mapping[str, Any] | None,
    tab_values: Sequence[Any] | None = None,
    background: str = "#ffffff",
    has_canvases: bool = False,
) -> GenerationRequest:
    """What Generate would ask for, as far as previews need it.

    Args:
        target: the page's `width`, `height`, `seed` and `hires`, in img2img `tab` and `scale`.
        tab_values: of the widgets of `HostTab.inputs`; None in txt2img.
        background: what the host lays under a transparent picture.
        has_canvases: see `HostTab`.
    """
    target = target or {}
    size = float(target.get("width") or 512), float(target.get("height") or 512)
    if tab_values is None:
        request = GenerationRequest(Size(int(size[0]), int(size[1])))
    else:
        shown = target.get("tab") or 0, target.get("scale") or 0
        request = tab_request(*size, *shown, tab_values, background, has_canvases)
    return dataclasses.replace(
        request, seed=_seed(target.get("seed")), has_hires=bool(target.get("hires"))
    )


def _seed(text: Any) -> int:
    """The seed in the tab's field; a random one, which nobody can know before, counts as 0."""
    try:
        return max(int(float(text)), 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def connect_stop(prefix: str, runtime: Any) -> None:
    """A button that the page presses to stop a preview of a panel, whose number it has noted on it.

    Args:
        prefix: the panel's element id.
        runtime: the extension's services.
    """
    name = f"{prefix}_stop_preview"
    number, button = gr.Number(0, visible=False), gr.Button(visible=False, elem_id=name)
    for widget in (number, button):
        widget.do_not_save_to_config = True
    button.click(
        fn=lambda asked: runtime.stopped_previews.stop(int(asked)),
        **{SCRIPT: page_function("stopPreview", name)},
        inputs=[number],
        outputs=[],
        show_progress=False,
        queue=False,
    )


def on_run(
    unit: ControlNetUnit,
    request: GenerationRequest,
    runtime: Any,
    report: Report | None = None,
    is_stopped: IsStopped = bool,
) -> dict[str, str | None]:
    """Run a unit's preprocessor on its picture.

    Args:
        unit: the unit as it would be sent to the host.
        request: what would be generated.
        runtime: the extension's services.
        report: is told about downloads of its files: a line, and how much is there, 0 to 1.
        is_stopped: whether the user wants no more of it.

    Returns:
        `picture`: data URL of the map, None without one; `said`: HTML for the status line, "" for
        nothing to say; `pose`: HTML of the link to the pose, "" without one.
    """
    try:
        with runtime.report_to(report, is_stopped), _end_when_stopped(unit.module, is_stopped):
            found = detect(unit, request, runtime)
        check_stopped(is_stopped)
    except ControlNetError as error:
        return _no_map(word("preview_stopped") if is_stopped() else cut(error))
    except Exception as error:  # boundary: a broken preprocessor must not leave the page waiting
        log.exception("preview with %s failed", unit.module)
        sentence = Fault(word("preview_failed", preprocessor=unit.module))
        sentence.detail = f"{type(error).__name__}: {error}"
        return _no_map(sentence)
    missing = model_notice(unit, runtime)
    said = as_html(cut(missing, Misfit)) if missing else ""
    return {"picture": as_data_url(found.display), "said": said, "pose": pose_link(found.pose)}


def _no_map(sentence: str) -> dict[str, str | None]:
    return {"picture": None, "said": as_html(sentence), "pose": ""}


def _end_when_stopped(module: str, is_stopped: IsStopped) -> AbstractContextManager[None]:
    """What ends a preprocessor's network once it is stopped; nothing for one without."""
    detector = preprocess.find(module)
    return nullcontext() if detector is None or not detector.files else stoppable(is_stopped)


def pose_link(pose: dict[str, Any] | None) -> str:
    """A link that saves what the preprocessor found as a file, for pose editors; "" for none."""
    if pose is None:
        return ""
    data = base64.b64encode(json.dumps(pose).encode()).decode()
    return f'<a href="data:application/json;base64,{data}" download="pose.json">JSON</a>'


def model_notice(unit: ControlNetUnit, runtime: Any) -> str | None:
    """What would stop a generation with this unit's model, None if nothing."""
    if not listing.needs_model(unit.module):
        return None
    if unit.model == NO_MODEL:
        return word("model_not_chosen")
    return model_problem(unit.model, runtime)


def preview(unit: ControlNetUnit, request: GenerationRequest, runtime: Any) -> np.ndarray:
    """The map that a unit's preprocessor makes, as it is shown to people; see `detect`."""
    return np.array(detect(unit, request, runtime).display)


def detect(unit: ControlNetUnit, request: GenerationRequest, runtime: Any) -> Detection:
    """What a unit's preprocessor makes of its picture, of a batch or several the first one.

    It goes the way of a generation, so what is shown is what would be used.

    Raises:
        ControlNetError: there is no picture, it cannot be decoded, or the preprocessor is
            unavailable.
    """
    asked = parse_unit(unit)
    several = listing.takes_several(asked.module)
    first = plan([asked], runtime.batch_source(), takes_several=lambda _unit: several).at(0)[0]
    choice = choose_all(first, request, several)[0]
    if choice.is_missing:
        raise ImageError(word("nothing_to_preview"))
    return runtime.detect_unit(choice)
