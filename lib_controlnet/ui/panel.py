"""The panel of one tab: an accordion with one tab per unit.

The script calls `build_panel` from its `ui()` and returns the result to the host, and hands
`paste_fields(units)` over as its `infotext_fields`. Every call builds a complete, independent
panel inside whatever Blocks is open: the host builds throw-away copies for its API.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gradio as gr

from lib_controlnet import __version__, infotext, listing
from lib_controlnet.ui.events import SLIDERS, connect, slider_updates
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.ui.widgets import UnitWidgets, build_unit

PasteField = tuple[gr.components.Component, Callable[[dict[str, Any]], Any]]


def build_panel(is_img2img: bool, tab: str, runtime: Any) -> list[UnitValue]:
    """Build the accordion "ControlNet" of one tab.

    Args:
        is_img2img: whether the tab works on a picture of its own.
        tab: "txt2img" or "img2img", the prefix of the tab's element ids.
        runtime: the extension's services (`lib_controlnet.host.a1111.Runtime`).

    Returns:
        One component per unit slot; each gives the host a `ControlNetUnit`.
    """
    prefix = f"{tab}_controlnet"
    count = runtime.unit_count()
    with (
        gr.Group(elem_id=prefix),
        gr.Accordion(f"ControlNet v{__version__}", open=False, elem_id="controlnet"),
    ):
        if count == 1:
            return [_unit(f"{prefix}_ControlNet", tab, is_img2img, runtime)]
        units = []
        with gr.Tabs(elem_id=f"{prefix}_tabs"):
            for index in range(count):
                with gr.Tab(f"ControlNet Unit {index}", elem_classes=["cnet-unit-tab"]):
                    name = f"{prefix}_ControlNet-{index}"
                    units.append(_unit(name, tab, is_img2img, runtime))
        return units


def _unit(name: str, tab: str, is_img2img: bool, runtime: Any) -> UnitValue:
    widgets = build_unit(name, is_img2img, runtime)
    value = UnitValue()
    value.follow(widgets.fields(), widgets.preview, widgets.status)
    value.unit_widgets = widgets
    connect(widgets, value, tab, runtime)
    return value


def paste_fields(units: Sequence[UnitValue], runtime: Any) -> list[PasteField]:
    """What "read generation parameters" writes into the panel.

    Enable, the control type and the pictures stay as they are. Empty when the setting
    `control_net_sync_field_args` is off.

    Args:
        units: the components that `build_panel` returned.
        runtime: the extension's services.
    """
    if not runtime.option("control_net_sync_field_args", True):
        return []
    fields: list[PasteField] = []
    for index, unit in enumerate(units):
        widgets: UnitWidgets = unit.unit_widgets
        for name in infotext.FIELDS:
            read = partial(_pasted, index=index, name=name, runtime=runtime)
            fields.append((getattr(widgets, name), read))
    return fields


def _pasted(params: dict[str, Any], index: int, name: str, runtime: Any) -> Any:
    """The pasted value of one field of one unit; None leaves the widget alone."""
    pasted = infotext.parse_all(params).get(index)
    if pasted is None or name not in pasted:
        return None
    value = pasted[name]
    if name == "module":
        return _choose(listing.label(value), listing.labels_for(listing.ALL))
    if name == "model":
        models = listing.models_for(runtime.catalog, listing.ALL)
        return _choose(listing.offered_model(runtime.catalog, value), models)
    if name in SLIDERS:
        updates = slider_updates(pasted.get("module", "none"), pasted.get("pixel_perfect", False))
        return dict(updates[name], value=value) if updates[name]["visible"] else updates[name]
    return value.value if hasattr(value, "value") else value


def _choose(value: str | None, choices: list[str]) -> dict[str, Any] | None:
    """Offer everything and choose one; None (nothing happens) if there is no such choice."""
    return None if value is None else gr.update(choices=choices, value=value)
