"""Presets in the panel: the dialog of the page's script asks, and gets an answer.

A hidden button of a panel carries both (`ui/carrier.py`), together with the units' values where a
preset is saved. What a loaded preset says comes back as edits of units, which the page writes like
any other: see `ui/apply.py`.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from lib_controlnet.enums import ActingRegion, InputMode
from lib_controlnet.errors import ControlNetError, PresetError, UnitError
from lib_controlnet.prepare.inputs import PictureSource
from lib_controlnet.prepare.painted import paint_masks
from lib_controlnet.presets.form import encode_png, is_picture
from lib_controlnet.presets.names import LAST_USED
from lib_controlnet.presets.store import TAKEN, Presets
from lib_controlnet.ui.apply import CONTROL_TYPE, MASK_LOST
from lib_controlnet.ui.batch import MERGE_IMAGES, write_paths
from lib_controlnet.ui.carrier import build_carrier
from lib_controlnet.ui.unit_value import INDEPENDENT, UnitValue
from lib_controlnet.ui.uploads import keep_upload
from lib_controlnet.units.unit import FIELDS, ControlUnit, parse_unit
from lib_controlnet.words import word

log = logging.getLogger(__name__)

Ask = Mapping[str, Any]
Answer = dict[str, Any]

_WITHOUT_WIDGET: Final = ("mask",)
"""Fields that are shown in another one's widget."""


def connect_presets(units: Sequence[UnitValue], prefix: str, runtime: Any) -> None:
    """Build what carries questions and answers in the open Blocks, and connect it.

    Args:
        units: of the panel.
        prefix: the panel's element id.
        runtime: the extension's services.
    """
    shown = [name for name in FIELDS if name in units[0].widgets]

    def answer(ask: Ask, *values: Any) -> Answer:
        return answer_page(ask, values, shown, runtime.presets)

    build_carrier(f"{prefix}_presets", answer, units, "askPresets")


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
) -> Answer:
    """What the dialog asked for.

    Args:
        ask: `do`, one of `_ACTIONS`, and what that takes; whatever a page sends.
        values: the units of the panel.
        shown: fields that it has widgets for.
        presets: of the WebUI.

    Returns:
        The answer, with `fault` where something could not be done. With a loaded preset it has
        `edits` (see `ui.apply.write_units`) and the numbers of units that are to be `off`.
    """
    try:
        action = _ACTIONS.get(str(ask.get("do")), _refuse)
        said = action(ask, _Page(values, shown, presets))
    except ControlNetError as error:
        said = {"fault": str(error), "isTaken": error.status_code == TAKEN}
    except Exception as error:  # the boundary: the dialog must not be left waiting
        log.exception("the presets failed")
        said = {"fault": f"{type(error).__name__}: {error}", "isTaken": False}
    return {**said, **_list_all(presets)}


def _list_all(presets: Presets) -> Answer:
    return {
        "presets": presets.summaries(),
        "old": [entry.name for entry in presets.find_old()],
        "lastUsed": LAST_USED,
    }


def _refuse(_ask: Ask, _page: _Page) -> Answer:
    msg = word("preset_unknown")
    raise PresetError(msg)


def _list(_ask: Ask, _page: _Page) -> Answer:
    return {}


def _save(ask: Ask, page: _Page) -> Answer:
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
    return {"notes": notes}


def _load(ask: Ask, page: _Page) -> Answer:
    preset, units = page.presets.load(str(ask.get("name")))
    units = paint_masks(units, PictureSource().read)
    notes, count, number = [*preset.notes], len(page.values), ask.get("unit")
    is_whole = preset.is_whole and number is None
    if number is None:
        loaded = dict(enumerate(units[:count]))
        if len(units) > count:
            left = ", ".join(str(i) for i in range(count, len(units)))
            notes.append(word("preset_too_many", count=count, numbers=left))
    else:
        chosen = next((unit for unit in units if unit.enabled), units[0])
        if len(units) > 1:
            notes.append(word("preset_one_taken", count=len(units), number=chosen.index))
        loaded = {_slot(number, count): chosen}
    edits = []
    for slot, unit in loaded.items():
        said = [*unit.notes, *_find_unseen(unit, page.shown)]
        edits.append({"unit": slot, **_edit(unit, page.shown, preset.has_pictures, said)})
        notes += [word("preset_unit_note", unit=slot, note=one) for one in said]
    edits[0]["shared"] = is_whole
    return {"notes": notes, "edits": edits, "off": [*range(len(units), count)] if is_whole else []}


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


def _edit(unit: ControlUnit, shown: Collection[str], has_pictures: bool, said: list[str]) -> Answer:
    """What the page writes of a unit: its `values`, and its `pictures` if the preset has them.

    Args:
        said: gets a sentence on what cannot be shown.
    """
    values = {name: _raw(getattr(unit, name)) for name in shown if not is_picture(FIELDS[name])}
    values |= {"region": str(unit.acting_region), CONTROL_TYPE: None}
    several: Any = unit.batch_images
    values["batch_images"] = several if isinstance(several, str) else ""
    pictures: Answer = {}
    if has_pictures:
        pictures = _pictures_of(unit, said)
        is_own = pictures["image"] is not None or unit.input_mode is not InputMode.SIMPLE
        values[INDEPENDENT] = is_own
        arrays = [one for one in several if isinstance(one, np.ndarray)]
        files = [keep_upload(encode_png(one), f"picture-{i}.png") for i, one in enumerate(arrays)]
        values[MERGE_IMAGES] = write_paths(files)
    values[MASK_LOST] = unit.acting_region is ActingRegion.OWN and not pictures.get("mask")
    return {"values": values, **({"pictures": pictures} if has_pictures else {})}


def _raw(value: Any) -> Any:
    """A field's value as its widget holds it."""
    if isinstance(value, tuple):
        return list(value)
    if value is None:
        return ""
    return value if isinstance(value, bool | int | float) else str(value)


def _pictures_of(unit: ControlUnit, said: list[str]) -> Answer:
    """A unit's pictures as the page has them: data URLs, None for no picture."""
    image: Any = unit.image
    mask = unit.mask
    if isinstance(image, Mapping):
        mask = image.get("mask") if mask is None else mask
        image = image.get("image")
    if isinstance(image, list | tuple):
        image, mask = None, None
        said.append(word("preset_several"))
    return {
        "image": _data_url(image),
        "drawing": _data_url(_as_layer(mask, image)),
        "mask": _data_url(unit.effective_region_mask),
        "region": None,
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


def _rename(ask: Ask, page: _Page) -> Answer:
    page.presets.rename(str(ask.get("name")), ask.get("to"))
    return {}


def _remove(ask: Ask, page: _Page) -> Answer:
    page.presets.remove(str(ask.get("name")))
    return {}


def _import(ask: Ask, page: _Page) -> Answer:
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
    return {"notes": notes, "added": added}


def _import_old(_ask: Ask, page: _Page) -> Answer:
    added, faults = page.presets.add_old()
    return {"notes": faults, "added": added}


_ACTIONS: Final = {
    "list": _list,
    "save": _save,
    "load": _load,
    "rename": _rename,
    "remove": _remove,
    "import": _import,
    "importOld": _import_old,
}
