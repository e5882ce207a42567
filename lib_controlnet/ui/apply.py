"""Values that the page writes into whole units: copied, moved and cleared ones, presets.

One hidden button of a panel is pressed by `controlnetPanel.edit` of
`javascript/controlnet_apply.js`. Its first event reads all units and writes pictures, in the page;
its second has the server write all else, with what depends on it, as a paste does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import gradio as gr
from gradio.components import Component

from lib_controlnet.detect import listing
from lib_controlnet.ui.batch import MERGE_IMAGES, read_paths
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import SCRIPT
from lib_controlnet.ui.messages import notice
from lib_controlnet.ui.unit_value import (
    DRAWING,
    REGION_CANVAS,
    REGION_DRAWING,
    UnitValue,
    read_weights,
)
from lib_controlnet.ui.unit_widgets import UnitWidgets
from lib_controlnet.ui.uploads import upload
from lib_controlnet.ui.widgets import value_fields
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.words import word

Made = Callable[[dict[str, Any], Any], Any]
"""Of a unit's values by name and the runtime: what is written into a widget."""
Writes = Mapping[Component, Made]

CONTROL_TYPE: Final = "control_type"
"""Value of a unit beside its fields: the chosen control type, under which the lists are offered."""
PICTURES: Final = ("image", DRAWING, "effective_region_mask", REGION_CANVAS, REGION_DRAWING)
"""Values that the page writes by itself."""


@dataclass(frozen=True)
class _Target:
    """A unit that is written.

    Attributes:
        writes: its widgets that depend on several values, or are chosen in a list.
        plain: name of a value -> widget that holds just that.
    """

    widgets: UnitWidgets
    writes: Writes
    plain: Mapping[str, Component]

    @property
    def outputs(self) -> list[Component]:
        beside = [self.widgets.merge_gallery, self.widgets.picture_note]
        return [*self.writes, *self.plain.values(), *beside]


def connect_apply(
    values: Sequence[UnitValue], writes: Sequence[Writes], name: str, runtime: Any
) -> None:
    """Let the page write values into the units of a panel.

    Args:
        values: the panel's units.
        writes: for each unit what a paste writes.
        name: the panel's element id.
        runtime: the extension's services.
    """
    targets = [
        _target(value.unit_widgets, made) for value, made in zip(values, writes, strict=True)
    ]
    button = gr.Button(visible=False, elem_id=f"{name}_apply")
    asked = gr.JSON(visible=False)
    for widget in (button, asked):
        widget.do_not_save_to_config = True
    types = [target.widgets.control_type for target in targets]
    pictures = [
        picture
        for target in targets
        for picture in (target.widgets.image, target.widgets.effective_region_mask)
    ]
    read = page_function("readUnits", name, len(targets))
    in_page(button.click, read, [*values, *types], pictures)
    done = button.click(
        fn=partial(write_units, targets=targets, runtime=runtime),
        **{SCRIPT: page_function("askEdit", name)},
        inputs=[asked],
        outputs=[output for target in targets for output in target.outputs],
        show_progress=False,
        queue=False,
    )
    in_page(done.then, page_function("finishEdit", name), [], [])


def _target(widgets: UnitWidgets, writes: Writes) -> _Target:
    kept = {widget: made for widget, made in writes.items() if widget is not widgets.region_status}
    plain = {
        name: widget
        for name, widget in value_fields(widgets).items()
        if widget not in kept and name not in PICTURES
    }
    return _Target(widgets, kept, plain)


def write_units(asked: Any, targets: Sequence[_Target], runtime: Any) -> list[Any]:
    """Updates that write what the page asks for; units that it does not name stay as they are.

    Args:
        asked: a list of objects: the number of a `unit`, and its `values` by name, as widgets hold
            them. What is missing goes back to what the unit starts with.
        targets: the units.
        runtime: the extension's services.
    """
    entries = (
        [entry for entry in asked if isinstance(entry, dict)] if isinstance(asked, list) else []
    )
    found = {str(entry.get("unit")): entry.get("values") for entry in entries}
    updates: list[Any] = []
    for number, target in enumerate(targets):
        values = found.get(str(number))
        if isinstance(values, dict):
            updates += _fill(target, values, runtime)
        else:
            updates += [gr.update() for _ in target.outputs]
    return updates


def _fill(target: _Target, values: Mapping[str, Any], runtime: Any) -> list[Any]:
    """What is written into one unit's widgets, in the order of `outputs`."""
    starting = {name: widget.value for name, widget in value_fields(target.widgets).items()}
    typed, faults = _read_values(starting, values)
    made = [make(typed, runtime) for make in target.writes.values()]
    plain = [typed[name] for name in target.plain]
    files = [path for path in read_paths(typed[MERGE_IMAGES]) if upload(path)]
    made += [str(value) if isinstance(value, str) else value for value in plain]  # of a choice
    return [*map(_as_update, made), _as_update(files), notice(*faults)]


def _as_update(value: Any) -> Any:
    """An update as it is, a value as one; None, which a paste leaves alone, changes nothing."""
    if value is None:
        return gr.update()
    return value if isinstance(value, dict) else gr.update(value=value)


def _read_values(
    starting: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Values in the types of their fields, and a sentence for each that has no meaning."""
    typed, faults = {}, []
    for name, start in starting.items():
        raw = values.get(name)
        try:
            typed[name] = _read(name, start if raw is None else raw)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            typed[name] = _read(name, start)
            faults.append(word("value_left", name=name, error=error))
    kind = values.get(CONTROL_TYPE)
    if kind in listing.control_types():
        typed[CONTROL_TYPE] = kind
    return typed, faults


def _read(name: str, raw: Any) -> Any:
    if name == "advanced_weighting":
        numbers = read_weights(raw)
        return FIELDS[name].parse(numbers, []) if numbers else None
    if name == MERGE_IMAGES:
        read_paths(raw)
        return raw
    if name in PICTURES or name not in FIELDS or raw is None:
        return raw
    return FIELDS[name].parse(raw, [])
