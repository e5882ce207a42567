"""The panel of one tab: an accordion with one tab per unit.

The script calls `build_panel` from its `ui()` and returns the result to the host, and hands
`paste_fields(units)` over as its `infotext_fields`. Every call builds a complete, independent
panel inside whatever Blocks is open: the host builds throw-away copies for its API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from lib_controlnet import __version__
from lib_controlnet.detect import listing
from lib_controlnet.enums import ActingRegion, Speed, union_type
from lib_controlnet.ui.apply import CONTROL_TYPE, Made, Writes, connect_apply
from lib_controlnet.ui.batch import connect_batch, host_boxes
from lib_controlnet.ui.choices import (
    OF_FAMILIES,
    about,
    family_updates,
    offer,
    remarks,
    slider_updates,
)
from lib_controlnet.ui.editors import connect_editors
from lib_controlnet.ui.events import connect
from lib_controlnet.ui.gradios import shorten_examples
from lib_controlnet.ui.host_tab import HostTab
from lib_controlnet.ui.messages import notice
from lib_controlnet.ui.presets import connect_presets
from lib_controlnet.ui.preview import connect_stop
from lib_controlnet.ui.unit_value import UnitValue, tell_fields
from lib_controlnet.ui.unit_widgets import UnitWidgets
from lib_controlnet.ui.widgets import build_unit, value_fields
from lib_controlnet.units import infotext
from lib_controlnet.units.fields import Field, Written
from lib_controlnet.units.unit import FIELDS, NO_MODEL, NO_MODULE, SLIDERS
from lib_controlnet.units.weight_types import BOTH, LayerCurve, WeightType
from lib_controlnet.words import word

PasteField = tuple[gr.components.Component, Callable[[dict[str, Any]], Any]]


def build_panel(is_img2img: bool, tab: str, runtime: Any) -> list[UnitValue]:
    """Build the accordion "ControlNet" of one tab.

    Args:
        is_img2img: whether the tab works on a picture of its own.
        tab: "txt2img" or "img2img", the prefix of the tab's element ids.
        runtime: the extension's services (`lib_controlnet.host.runtime.Runtime`).

    Returns:
        One component per unit slot; each gives the host a `ControlNetUnit`.
    """
    prefix = f"{tab}_controlnet"
    count = runtime.unit_count()
    with (
        gr.Group(elem_id=prefix) as panel,
        gr.Accordion(f"ControlNet v{__version__}", open=False, elem_id="controlnet"),
    ):
        if count == 1:
            units = [build_unit(f"{prefix}_ControlNet", is_img2img, runtime)]
        else:
            units = []
            with gr.Tabs(elem_id=f"{prefix}_tabs"):
                for index in range(count):
                    with gr.Tab(word("unit_tab", number=index), elem_classes=["cnet-unit-tab"]):
                        name = f"{prefix}_ControlNet-{index}"
                        units.append(build_unit(name, is_img2img, runtime))
        # Filled by javascript/controlnet_timeline.js.
        gr.HTML(elem_id=f"{prefix}_timeline", elem_classes=["cnet-timeline"])
        shared = _batch_options(prefix)
        connect_batch(units)
        host_tab = HostTab.find() if is_img2img else None
        values = [_value(unit, shared, tab, runtime, host_tab) for unit in units]
        tell_fields(values, prefix)
        connect_apply(values, [_writes(unit) for unit in units], prefix, runtime)
        connect_presets(values, prefix, runtime)
        connect_editors(prefix, runtime)
        connect_stop(prefix, runtime)
    shorten_examples(_blocks_in(panel))
    return values


def _blocks_in(block: Any) -> Iterator[Any]:
    """A block and all that was built in it."""
    yield block
    for child in getattr(block, "children", ()):
        yield from _blocks_in(child)


def _batch_options(prefix: str) -> dict[str, gr.components.Component]:
    """What is chosen once for all units, by field; it travels in each of them."""
    with gr.Accordion(word("batch_options"), open=False, elem_id="controlnet_batch_options"):
        return {
            "batch_option": gr.Radio(
                FIELDS["batch_option"].choices,
                label=word("batch_option"),
                value=FIELDS["batch_option"].initial,
                elem_id=f"{prefix}_controlnet_batch_option_radio",
            ),
            "style_align": gr.Checkbox(
                label=word("style_align"),
                value=FIELDS["style_align"].initial,
                elem_id=f"{prefix}_controlnet_style_align_checkbox",
            ),
        }


def _value(
    widgets: UnitWidgets,
    shared: Mapping[str, gr.components.Component],
    tab: str,
    runtime: Any,
    host_tab: HostTab | None,
) -> UnitValue:
    value = UnitValue()
    fields = {**value_fields(widgets), **shared}
    fields |= host_boxes() if tab == "img2img" else {}
    value.follow(widgets.name, fields, [widgets.preview, widgets.preview_group, widgets.status])
    value.unit_widgets = widgets
    connect(widgets, value, tab, runtime, host_tab)
    return value


def paste_fields(units: Sequence[UnitValue], runtime: Any) -> list[PasteField]:
    """What "read generation parameters" writes into the panel.

    Units that the parameters name are switched on, with their control type; others are switched
    off. Parameters without any unit change nothing. Pictures cannot be restored; where a unit was
    limited to a mask of its own, a line says that the mask is missing. A preprocessor or a model
    that is not there is chosen all the same, and said. Empty when the setting
    `control_net_sync_field_args` is off.

    Args:
        units: the components that `build_panel` returned.
        runtime: the extension's services.
    """
    if not runtime.option("control_net_sync_field_args"):
        return []
    fields: list[PasteField] = []
    for index, unit in enumerate(units):
        widgets: UnitWidgets = unit.unit_widgets
        fields += [
            (widget, partial(_read, index=index, made=made, runtime=runtime))
            for widget, made in _writes(widgets).items()
        ]
        fields.append((widgets.enabled, partial(_read_enabled, index=index)))
        fields.append((widgets.picture_note, partial(_note_left_out, index=index, runtime=runtime)))
    shared = (unit.widgets.get("style_align") for unit in units[:1])
    fields += [(widget, _read_aligned) for widget in shared if widget is not None]
    return fields


def _writes(widgets: UnitWidgets) -> Writes:
    """What becomes of a unit's values in its widgets, by a paste or from the page."""
    made = {
        getattr(widgets, field.name, None): partial(_value_of, field)
        for field in infotext.fields(Written.ALWAYS, *infotext.IF_SET)
    }
    made |= {
        widgets.control_type: _type_of,
        widgets.refresh: _show_with_model,
        **{getattr(widgets, name): partial(_of_family, name) for name in OF_FAMILIES},
        widgets.region_status: _note_missing_mask,
        widgets.notes: _remarks,
        widgets.about: _about,
    }
    return {widget: make for widget, make in made.items() if widget is not None}


def _read(params: dict[str, Any], index: int, made: Made, runtime: Any) -> Any:
    """What is made of one pasted unit; None, which leaves a widget alone, where it is missing."""
    pasted = infotext.parse_all(params, {}).get(index)  # `_note_left_out` says what is not
    return None if pasted is None else made(pasted, runtime)


def _value_of(field: Field, pasted: dict[str, Any], runtime: Any) -> Any:
    """The pasted value of one field; None leaves the widget alone.

    A field that is only written if it differs from its default goes back to it when it is absent.
    """
    name = field.name
    if name not in pasted and field.written not in infotext.IF_SET:
        return None
    value = pasted.get(name, field.default)
    if name == "module":
        return _choose(listing.label(value) or value, listing.labels_for, pasted, runtime)
    if name == "model":
        chosen = listing.find_offered(runtime.catalog, value) or value
        names = _choose(chosen, lambda kind: offer(kind, runtime).names, pasted, runtime)
        return names | _show_with_model(pasted, runtime)
    if name == "control_mode":
        module = pasted.get("module", NO_MODULE)
        return gr.update(value=str(value), visible=listing.has_control_mode(module))
    if name in SLIDERS:
        module, pixel_perfect = pasted.get("module", NO_MODULE), pasted.get("pixel_perfect", False)
        update = slider_updates(module, pixel_perfect)[name]
        has_slider = listing.sliders(module)[SLIDERS.index(name)] is not None
        return dict(update, value=value) if has_slider and value != field.default else update
    if name == "advanced_weighting" and not isinstance(value, LayerCurve):
        return " ".join(f"{weight:g}" for weight in value or ())
    return str(value or "") if field.kind or field.default is None else value


def _note_missing_mask(pasted: dict[str, Any], _runtime: Any) -> dict[str, Any]:
    """The line about a mask that generation parameters do not hold, shown or put away."""
    missing = pasted.get("region") is ActingRegion.OWN
    return gr.update(value=word("mask_not_pasted") if missing else "", visible=missing)


def _read_enabled(params: dict[str, Any], index: int) -> bool | None:
    """Whether the unit took part in the pasted picture; None where nothing tells."""
    units = infotext.parse_all(params, {})
    unreadable = index not in units and f"{infotext.KEY} {index}" in params
    return index in units if units and not unreadable else None


def _read_aligned(params: dict[str, Any]) -> bool | None:
    """Whether the pasted pictures shared their style; None where nothing of ours is pasted."""
    asked = params.get(infotext.STYLE_ALIGN)
    return None if asked is None and not infotext.parse_all(params, {}) else asked == str(True)


def _type_of(pasted: dict[str, Any], runtime: Any) -> str:
    """The control type that was chosen or, where only parameters are known, theirs."""
    if chosen := pasted.get(CONTROL_TYPE):
        return str(chosen)
    module = pasted.get("module", NO_MODULE)
    return listing.control_type_of(runtime.catalog, module, _model_of(pasted, runtime))


def _of_family(name: str, pasted: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """What is shown of `OF_FAMILIES`, with the pasted value."""
    # Parameters of other programs do not hold the type for a Union.
    kind = pasted.get("union_control_type") or union_type(_type_of(pasted, runtime))
    module, model = pasted.get("module", NO_MODULE), _model_of(pasted, runtime)
    shown = family_updates(module, model, runtime, kind)[name]
    if name == "union_control_type" or shown.get("visible") is False:
        return shown
    if name in FIELDS:
        value = pasted.get(name, FIELDS[name].default)
        is_exact = runtime.option("controlnet_speed") == Speed.EXACT.value
        if name not in pasted and value is Speed.DEFAULT and not is_exact:
            value = Speed.EXACT  # any other would have been written
        return dict(shown, value=str(value) if FIELDS[name].kind else value)
    curve = pasted.get("advanced_weighting")
    curve = curve if isinstance(curve, LayerCurve) else LayerCurve(WeightType.NORMAL)
    if name == "composition":
        return dict(shown, value=curve.composition, visible=curve.kind in BOTH)
    return dict(shown, value=str(curve.kind.value))


def _model_of(pasted: dict[str, Any], runtime: Any) -> str:
    """The listed name of a pasted unit's model; none where there is no such model."""
    return listing.find_offered(runtime.catalog, pasted.get("model", NO_MODEL)) or NO_MODEL


def _choose(
    value: str, choices_for: Callable[[str], list[str]], pasted: dict[str, Any], runtime: Any
) -> dict[str, Any]:
    """Offer the choices of a unit's control type, or all if need be, and choose one.

    One that is not among them is chosen all the same, so that nothing else stands in its place.
    """
    offered = choices_for(_type_of(pasted, runtime))
    names = offered if value in offered else choices_for(listing.ALL)
    return gr.update(choices=names, value=value)


def _show_with_model(pasted: dict[str, Any], _runtime: Any) -> dict[str, Any]:
    """Whether the list of models and its button are shown: some preprocessors need none."""
    return gr.update(visible=listing.needs_model(pasted.get("module", NO_MODULE)))


def _remarks(pasted: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """The line about a pasted unit's preprocessor and model."""
    module, model = pasted.get("module", NO_MODULE), pasted.get("model", NO_MODEL)
    model = listing.find_offered(runtime.catalog, model) or model
    return notice(*remarks(_type_of(pasted, runtime), module, model, runtime))


def _about(pasted: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """The line about what a pasted unit's model is."""
    module, model = pasted.get("module", NO_MODULE), pasted.get("model", NO_MODEL)
    model = listing.find_offered(runtime.catalog, model) or model
    return about(model if listing.needs_model(module) else NO_MODEL, runtime)


def _note_left_out(params: dict[str, Any], index: int, runtime: Any) -> dict[str, Any] | None:
    """The line about what came in, where pasted units cannot be read or have no place."""
    unread = dict[int, dict[str, str]]()
    units = infotext.parse_all(params, unread)
    faults = unread.get(index, {}) if index in units else {}
    said = [word("value_not_pasted", name=name, error=fault) for name, fault in faults.items()]
    if index not in units and f"{infotext.KEY} {index}" in params:
        said.append(word("not_pasted"))
    beyond = sorted(number for number in units if number >= runtime.unit_count())
    if index == 0 and beyond:
        said.append(word("too_many_pasted", numbers=", ".join(map(str, beyond))))
    return notice(*said) if said or index in units else None
