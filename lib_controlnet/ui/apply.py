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
MASK_LOST: Final = "mask_lost"
"""Value of a unit beside its fields: whether it acts in a mask of its own that nobody has."""
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
        own = self.widgets
        beside = [own.merge_gallery, own.region_status, own.picture_note]
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
    shared = {name: values[0].widgets[name] for name in FIELDS if name in values[0].widgets}
    shared = {name: w for name, w in shared.items() if not hasattr(targets[0].widgets, name)}
    types = [target.widgets.control_type for target in targets]
    pictures = [
        picture
        for target in targets
        for picture in (target.widgets.image, target.widgets.effective_region_mask)
    ]
    read = page_function("readUnits", name, len(targets))
    in_page(button.click, read, [*values, *types], pictures)
    done = button.click(
        fn=partial(write_units, targets=targets, shared=shared, runtime=runtime),
        **{SCRIPT: page_function("askEdit", name)},
        inputs=[asked],
        outputs=[*shared.values(), *(output for one in targets for output in one.outputs)],
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


def write_units(
    asked: Any, targets: Sequence[_Target], shared: Mapping[str, Component], runtime: Any
) -> list[Any]:
    """Updates that write what the page asks for; units that it does not name stay as they are.

    Args:
        asked: a list of objects: the number of a `unit`, and its `values` by name, as widgets hold
            them. What is missing goes back to what the unit starts with. With `shared` the values
            that all units have in common are written, too.
        targets: the units.
        shared: name of a value that all units have in common -> its widget.
        runtime: the extension's services.
    """
    entries = (
        [entry for entry in asked if isinstance(entry, dict)] if isinstance(asked, list) else []
    )
    found = {str(entry.get("unit")): entry.get("values") for entry in entries}
    common = next((entry.get("values") for entry in entries if entry.get("shared")), None)
    updates: list[Any] = [gr.update() for _ in shared]
    if isinstance(common, dict):
        starting = {name: widget.value for name, widget in shared.items()}
        typed = _read_values(starting, common)[0]
        updates = [_as_update(_as_raw(typed[name])) for name in shared]
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
    made += [_as_raw(typed[name]) for name in target.plain]
    files = [path for path in read_paths(typed[MERGE_IMAGES]) if upload(path)]
    lost = [word("preset_mask_not_kept")] if values.get(MASK_LOST) is True else []
    return [*map(_as_update, made), _as_update(files), notice(*lost), notice(*faults)]


def _as_raw(value: Any) -> Any:
    """A choice as its widget holds it, all else as it is."""
    return str(value) if isinstance(value, str) else value


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
