"""Presets in the panel: the dialog of the page's script asks, and gets an answer and the widgets.

One hidden button of a panel carries everything. What the page asks for travels in a hidden
component, together with the units' values where a preset is saved; back come an answer for the
dialog, and what is written into the widgets where one is loaded, as a paste writes it. Pictures
come with the answer, and the page puts them in as it does with a preview.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import cv2
import gradio as gr
import numpy as np

from lib_controlnet.detect import listing
from lib_controlnet.enums import ActingRegion, InputMode
from lib_controlnet.errors import ControlNetError, PresetError, UnitError
from lib_controlnet.presets.form import encode_png, is_picture
from lib_controlnet.presets.names import LAST_USED
from lib_controlnet.presets.store import TAKEN, Presets
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import SCRIPT
from lib_controlnet.ui.messages import notice
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.units.fields import Field
from lib_controlnet.units.unit import FIELDS, SLIDERS, ControlUnit, parse_unit
from lib_controlnet.words import word

log = logging.getLogger(__name__)

Writers = Mapping[Any, Callable[[dict[str, Any], Any], Any]]
"""Widget -> what is written into it, made of a unit's fields and the runtime."""
Ask = Mapping[str, Any]
Answer = dict[str, Any]

_WITHOUT_WIDGET: Final = ("mask",)
"""Fields that are shown in another one's widget."""


def connect_presets(
    units: Sequence[UnitValue],
    writers: Sequence[Writers],
    write_field: Callable[[Field, dict[str, Any], Any], Any],
    prefix: str,
    runtime: Any,
) -> None:
    """Build what carries questions and answers in the open Blocks, and connect it.

    Args:
        units: of the panel.
        writers: for each of them what a paste writes.
        write_field: gives the value of the widget of a field.
        prefix: the panel's element id.
        runtime: the extension's services.
    """
    button = gr.Button(visible=False, elem_id=f"{prefix}_presets")
    box = gr.JSON(visible=False)
    for hidden in (button, box):
        hidden.do_not_save_to_config = True
    slots = [
        _slot_writers(unit, known, write_field) for unit, known in zip(units, writers, strict=True)
    ]
    shared = {name: units[0].widgets[name] for name in _find_shared(units[0])}
    loader = _Loader(runtime, units, slots, shared)

    def answer(ask: Ask, *values: Any) -> list[Any]:
        asked = ask if isinstance(ask, Mapping) else {}
        said, loaded = answer_page(asked, values, shown, runtime.presets)
        return [{**said, "serial": asked.get("serial")}, *loader.updates(loaded, said)]

    names = [unit.unit_widgets.name for unit in units]
    shown = [name for name in FIELDS if name in units[0].widgets]
    answered = button.click(
        fn=answer,
        **{SCRIPT: page_function("askPresets", prefix, len(units))},
        inputs=[box, *units],
        outputs=[box, *loader.outputs],
        show_progress=False,
        queue=False,
    )
    widgets = [unit.unit_widgets for unit in units]
    pictures = [one for w in widgets for one in (w.sketch.picture, w.effective_region_mask)]
    drawings = [w.sketch.drawing for w in widgets if w.sketch.drawing is not None]
    take = page_function("takePresets", prefix, names, bool(drawings))
    in_page(answered.then, take, [box], pictures)
    if drawings:
        in_page(answered.then, page_function("takeDrawings", prefix, names), [], drawings)


def _find_shared(unit: UnitValue) -> list[str]:
    """Fields whose widgets are those of the panel, not of a unit."""
    own = vars(unit.unit_widgets)
    return [name for name in FIELDS if name in unit.widgets and name not in own]


def _slot_writers(
    unit: UnitValue, known: Writers, write_field: Callable[[Field, dict[str, Any], Any], Any]
) -> Writers:
    """What is written into a unit's widgets: as by a paste, and the fields that none holds."""
    widgets, found = unit.unit_widgets, dict(known)
    for name, field in FIELDS.items():
        widget = getattr(widgets, name, None)
        if widget is None or widget in found or (is_picture(field) and name != "batch_images"):
            continue
        found[widget] = partial(write_field, field)
    return found


class _Loader:
    """Makes of units what is written into the widgets of a panel."""

    def __init__(
        self,
        runtime: Any,
        units: Sequence[UnitValue],
        slots: Sequence[Writers],
        shared: Mapping[str, Any],
    ) -> None:
        self._runtime, self._slots, self._shared = runtime, slots, shared
        self._widgets = [unit.unit_widgets for unit in units]

    @property
    def outputs(self) -> list[Any]:
        """The widgets, in the order of `updates`."""
        beside = [one for own in self._widgets for one in (own.independent, own.picture_note)]
        emptied = [one for own in self._widgets for one in _pictures_in(own)]
        slots = [one for slot in self._slots for one in slot]
        return [*self._shared.values(), *beside, *emptied, *slots]

    def updates(self, loaded: Mapping[int, ControlUnit | None], said: Answer) -> list[Any]:
        """What is written.

        Args:
            loaded: unit for each slot that is written to; None switches it off.
            said: what the page is told: which pictures it puts in.
        """
        made: dict[int, Any] = {}
        pictures = {one["unit"]: one for one in said.get("pictures", ())}
        for number, unit in loaded.items():
            own = self._widgets[number]
            if unit is None:
                made[id(own.enabled)] = False
                continue
            given = _fields_of(unit)
            for widget, write in self._slots[number].items():
                made[id(widget)] = write(given, self._runtime)
            put_in = pictures.get(number)
            misses_mask = unit.acting_region is ActingRegion.OWN and not (put_in or {}).get(
                "region"
            )
            made[id(own.region_status)] = notice(
                *([word("preset_mask_not_kept")] if misses_mask else ())
            )
            if put_in is not None:
                made[id(own.independent)] = put_in["is_own"]
                made[id(own.picture_note)] = notice()
                made |= {id(widget): gr.update(value=None) for widget in _pictures_in(own)}
        first = next((unit for unit in loaded.values() if unit is not None), None)
        if said.get("is_whole") and first is not None:
            made |= {id(w): _raw(getattr(first, name)) for name, w in self._shared.items()}
        return [_as_update(made.get(id(widget))) for widget in self.outputs]


def _fields_of(unit: ControlUnit) -> dict[str, Any]:
    """A unit's fields as its widgets show them: numbers of its preprocessor, not -1 for them."""
    shown: dict[str, Any] = {"region": unit.acting_region}
    for name, slider in zip(SLIDERS, listing.sliders(unit.module), strict=True):
        if slider is not None and getattr(unit, name) == FIELDS[name].default:
            shown[name] = slider.default
    return {name: getattr(unit, name) for name in FIELDS} | shown


def _pictures_in(widgets: Any) -> list[Any]:
    """Where pictures of a unit are; all are emptied before others are put in."""
    parts = [
        *(widgets.sketch.picture, widgets.sketch.drawing, widgets.effective_region_mask),
        *(widgets.region_sketch.picture, widgets.region_sketch.drawing),
    ]
    return [widget for widget in parts if widget is not None]


def _raw(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else str(value)


def _as_update(value: Any) -> Any:
    if value is None:
        return gr.update()
    return value if isinstance(value, dict) and "__type__" in value else gr.update(value=value)


@dataclass(frozen=True)
class _Page:
    """What an action works with.

    Attributes:
        values: the units of the panel.
        shown: fields that it has widgets for.
        presets: of the WebUI.
    """

    values: Sequence[Any]
    shown: Collection[str]
    presets: Presets


def answer_page(
    ask: Ask, values: Sequence[Any], shown: Collection[str], presets: Presets
) -> tuple[Answer, dict[int, ControlUnit | None]]:
    """What the dialog asked for.

    Args:
        ask: `do`, one of `_ACTIONS`, and what that takes; whatever a page sends.
        values: the units of the panel.
        shown: fields that it has widgets for.
        presets: of the WebUI.

    Returns:
        The answer, with `fault` where something could not be done; and units to be written.
    """
    loaded: dict[int, ControlUnit | None] = {}
    try:
        action = _ACTIONS.get(str(ask.get("do")), _refuse)
        said, loaded = action(ask, _Page(values, shown, presets))
    except ControlNetError as error:
        said = {"fault": str(error), "isTaken": error.status_code == TAKEN}
    except Exception as error:  # the boundary: the dialog must not be left waiting
        log.exception("the presets failed")
        said = {"fault": f"{type(error).__name__}: {error}", "isTaken": False}
    return {**said, **_list_all(presets)}, loaded


def _list_all(presets: Presets) -> Answer:
    return {
        "presets": presets.summaries(),
        "old": [entry.name for entry in presets.find_old()],
        "lastUsed": LAST_USED,
    }


def _refuse(_ask: Ask, _page: _Page) -> tuple[Answer, dict]:
    msg = word("preset_unknown")
    raise PresetError(msg)


def _list(_ask: Ask, _page: _Page) -> tuple[Answer, dict]:
    return {}, {}


def _save(ask: Ask, page: _Page) -> tuple[Answer, dict]:
    units, number = [parse_unit(value, i) for i, value in enumerate(page.values)], ask.get("unit")
    is_whole = number is None
    units = units if is_whole else [units[_slot(number, len(units))]]
    if fault := next((unit.fault for unit in units if unit.fault), None):
        raise UnitError(fault)
    notes = page.presets.save(
        ask.get("name"),
        units,
        is_whole=is_whole,
        with_pictures=bool(ask.get("pictures")),
        replaces=bool(ask.get("replace")),
    )
    return {"notes": notes}, {}


def _load(ask: Ask, page: _Page) -> tuple[Answer, dict]:
    preset, units = page.presets.load(str(ask.get("name")))
    notes, count, number = [*preset.notes], len(page.values), ask.get("unit")
    if number is None:
        loaded: dict[int, ControlUnit | None] = dict(enumerate(units[:count]))
        if preset.is_whole:
            loaded |= dict.fromkeys(range(len(units), count))
        if len(units) > count:
            left = ", ".join(str(i) for i in range(count, len(units)))
            notes.append(word("preset_too_many", count=count, numbers=left))
    else:
        chosen = next((unit for unit in units if unit.enabled), units[0])
        if len(units) > 1:
            notes.append(word("preset_one_taken", count=len(units), number=chosen.index))
        loaded = {_slot(number, count): chosen}
    pictures = []
    for slot, unit in loaded.items():
        if unit is None:
            continue
        notes += [
            word("preset_unit_note", unit=slot, note=one)
            for one in (*unit.notes, *_find_unseen(unit, page.shown))
        ]
        if preset.has_pictures:
            pictures.append(_pictures_of(unit, slot, notes))
    is_whole = preset.is_whole and number is None
    return {"notes": notes, "pictures": pictures, "is_whole": is_whole}, loaded


def _slot(number: Any, count: int) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < count:
        return number
    msg = word("preset_no_unit", number=str(number)[:20])
    raise PresetError(msg)


def _find_unseen(unit: ControlUnit, shown: Collection[str]) -> list[str]:
    """A sentence on fields that are set and that the panel has no widget for."""
    unseen = [
        name
        for name, field in FIELDS.items()
        if field.is_asked
        and name not in (*shown, *_WITHOUT_WIDGET)
        and not _is_default(getattr(unit, name), field.default)
    ]
    return [word("preset_unseen", fields=", ".join(unseen))] if unseen else []


def _is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _pictures_of(unit: ControlUnit, slot: int, notes: list[str]) -> Answer:
    """What the page puts into a unit: data URLs, None for no picture."""
    image: Any = unit.image
    mask, several = unit.mask, list[Any]()
    if isinstance(image, Mapping):
        mask = image.get("mask") if mask is None else mask
        image = image.get("image")
    if isinstance(image, list | tuple):
        image, mask = None, None
        notes.append(word("preset_unit_note", unit=slot, note=word("preset_several")))
    if isinstance(unit.batch_images, list | tuple):
        several = [*unit.batch_images]
    return {
        "unit": slot,
        "image": _data_url(image),
        "drawing": _data_url(_as_layer(mask, image)),
        "region": _data_url(unit.effective_region_mask),
        "several": [_data_url(one) for one in several],
        "isEnabled": unit.enabled,
        "tab": list(InputMode).index(unit.input_mode),
        "is_own": image is not None or unit.input_mode is not InputMode.SIMPLE,
    }


def _as_layer(mask: Any, image: Any) -> np.ndarray | None:
    """A mask as the layer that the page draws on: white, as dense as the mask, (H, W, 4)."""
    if not isinstance(mask, np.ndarray) or not isinstance(image, np.ndarray):
        return None
    dense = mask[:, :, 3] if mask.shape[2] == 4 else mask[:, :, 0]
    if dense.shape != image.shape[:2]:
        size = (image.shape[1], image.shape[0])
        dense = cv2.resize(dense, size, interpolation=cv2.INTER_NEAREST)
    layer = np.full((*dense.shape, 4), 255, np.uint8)
    layer[:, :, 3] = dense
    return layer if dense.any() else None


def _data_url(picture: Any) -> str | None:
    if not isinstance(picture, np.ndarray):
        return None
    return f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"


def _rename(ask: Ask, page: _Page) -> tuple[Answer, dict]:
    page.presets.rename(str(ask.get("name")), ask.get("to"))
    return {}, {}


def _remove(ask: Ask, page: _Page) -> tuple[Answer, dict]:
    page.presets.remove(str(ask.get("name")))
    return {}, {}


def _import(ask: Ask, page: _Page) -> tuple[Answer, dict]:
    """Files that the page has read: presets, and pictures that they name."""
    files = {}
    for name, text in dict(ask.get("files") or {}).items():
        try:
            files[str(name)] = base64.b64decode(str(text).partition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            msg = word("preset_not_whole", name=str(name)[:100])
            raise PresetError(msg) from error
    documents = [name for name in files if name.lower().endswith((".json", ".txt"))]
    if not documents:
        msg = word("preset_no_file")
        raise PresetError(msg)
    notes, added = list[str](), list[str]()
    for name in documents:
        stem = name.rpartition(".")[0]
        try:
            notes += page.presets.add(stem, files[name], files, bool(ask.get("replace")))
            added.append(stem)
        except ControlNetError as error:
            notes.append(str(error))
    return {"notes": notes, "added": added}, {}


def _import_old(_ask: Ask, page: _Page) -> tuple[Answer, dict]:
    added, faults = page.presets.add_old()
    return {"notes": faults, "added": added}, {}


_ACTIONS: Final = {
    "list": _list,
    "save": _save,
    "load": _load,
    "rename": _rename,
    "remove": _remove,
    "import": _import,
    "importOld": _import_old,
}
