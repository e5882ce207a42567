"""What a preset's document says: units as requests have them, with files in place of pictures.

    {"format": "ControlNet preset", "version": 1, "scope": "unit", "pictures": true,
     "units": [{...}]}

A unit has the fields of the one table, `FIELDS`: the plain ones always, so that a default that
changes later changes no preset, others where they are set. It is read as a request's unit is, so
older names and what a later version adds do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np

from lib_controlnet.enums import Choice
from lib_controlnet.errors import PresetError, UnitError, quote
from lib_controlnet.limits import MAX_IMAGES, MAX_TOGETHER
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.units import field_values
from lib_controlnet.units.fields import Field
from lib_controlnet.units.unit import FIELDS, ControlUnit, parse_unit, present_names
from lib_controlnet.units.weight_curve import WeightCurve
from lib_controlnet.units.weight_types import LayerCurve

FORMAT: Final = "ControlNet preset"
VERSION: Final = 1
MAX_UNITS: Final = 32
"""Of one preset; a panel has 10 at most."""
MAX_VALUE: Final = 200_000
"""Characters of one field that is no picture."""
SCOPES: Final = ("unit", "all")

Keep = Callable[[str, bytes], str]
"""Takes part of a picture's name, such as `unit0.image`, and its PNG; gives what stands for it."""
Fetch = Callable[[str], Any]
"""Gives the picture that a document names."""


@dataclass(frozen=True)
class Preset:
    """What a document says.

    Attributes:
        units: as requests have them.
        is_whole: it is of all units of a panel; else of one.
        has_pictures: it says which pictures the units have; else it leaves them alone.
        notes: what was passed over, one sentence each.
    """

    units: tuple[Mapping[str, Any], ...]
    is_whole: bool
    has_pictures: bool
    notes: tuple[str, ...] = ()


def is_picture(field: Field) -> bool:
    """Whether a field holds pictures, or may hold them."""
    return field.parse in (field_values.picture, field_values.pictures)


def _is_folder(field: Field, value: Any) -> bool:
    """Whether a field that may hold pictures holds the path of a folder."""
    return field.parse is field_values.pictures and isinstance(value, str) and bool(value)


def write_units(
    units: Sequence[Any], with_pictures: bool, keep: Keep
) -> tuple[list[dict[str, Any]], list[str]]:
    """Units as a document has them.

    Args:
        units: `ControlUnit`s, or objects with their attributes.
        with_pictures: whether their pictures are kept.
        keep: keeps one picture.

    Returns:
        The units, and a sentence for each value that cannot be kept.

    Raises:
        ControlNetError: a picture cannot be decoded, or there is too much of something.
    """
    if len(units) > MAX_UNITS:
        msg = f"a preset holds {MAX_UNITS} units at most, {len(units)} are given"
        raise PresetError(msg)
    written, notes = [], list[str]()
    pictures = _Pictures(keep)
    for number, unit in enumerate(units):
        found: dict[str, Any] = {}
        for name, field in FIELDS.items():
            value = getattr(unit, name, field.default)
            if not field.is_asked or (is_picture(field) and not _is_folder(field, value)):
                continue
            is_plain = isinstance(field.default, bool | int | float | str)
            if not is_plain and value == field.default:
                continue
            try:
                found[name] = _plain(value)
            except ValueError:
                notes.append(f"unit {number}: its {name} cannot be kept")
        if with_pictures:
            found |= pictures.of(unit, number)
        written.append(found)
    return written, notes


def _plain(value: Any) -> Any:
    """A value as JSON has it.

    Raises:
        ValueError: JSON has none such, or it is too long.
    """
    if isinstance(value, Choice | LayerCurve | WeightCurve):
        return str(value)
    if isinstance(value, tuple | list):
        value = [_plain(item) for item in value]
    elif not isinstance(value, bool | int | float | str | None):
        raise ValueError
    if len(json.dumps(value, allow_nan=False)) > MAX_VALUE:
        raise ValueError
    return value


class _Pictures:
    """Writes the pictures of one preset, as many pixels as a request may bring."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._pixels, self._count = MAX_TOGETHER, MAX_IMAGES

    def of(self, unit: Any, number: int) -> dict[str, Any]:
        """Picture fields of a unit that hold something."""
        found: dict[str, Any] = {}
        for name, field in FIELDS.items():
            value = getattr(unit, name, None)
            if not is_picture(field) or _is_folder(field, value) or _is_blank(value):
                continue
            if kept := self._write(value, f"unit{number}.{name}"):
                found[name] = kept
        return found

    def _write(self, value: Any, part: str) -> Any:
        if isinstance(value, field_values.AlphaLayer):
            return self._write_one(value.picture, part, is_mask=True)
        if isinstance(value, Mapping):
            image = self._write(value["image"], part) if not _is_blank(value.get("image")) else None
            mask = value.get("mask")
            if _is_blank(mask) or (isinstance(mask, np.ndarray) and not mask.any()):
                return image
            return {"image": image, "mask": self._write(mask, f"{part}.mask")}
        if isinstance(value, tuple | list):
            return [self._write(item, f"{part}.{i}") for i, item in enumerate(value)]
        return self._write_one(value, part)

    def _write_one(self, value: Any, part: str, is_mask: bool = False) -> str:
        picture = decode_image(value, part, keep_alpha=True)
        if is_mask and picture.shape[2] == 4:
            picture = np.repeat(picture[:, :, 3:], 3, axis=2)
        self._pixels -= picture.shape[0] * picture.shape[1]
        self._count -= 1
        if self._pixels < 0 or self._count < 0:
            msg = (
                f"the pictures of a preset are {MAX_IMAGES} at most, with "
                f"{MAX_TOGETHER // 1_000_000} million pixels in all; save it without pictures"
            )
            raise PresetError(msg)
        return self._keep(part, encode_png(picture))


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str | tuple | list | Mapping) and not value)


def encode_png(picture: np.ndarray) -> bytes:
    """A PNG file, quickly made.

    Args:
        picture: uint8 (H, W, 3 or 4).
    """
    order = cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, order), settings)
    if not done:
        msg = f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels cannot be written"
        raise PresetError(msg)
    return data.tobytes()


def write_document(
    units: Sequence[Mapping[str, Any]], *, is_whole: bool, has_pictures: bool
) -> bytes:
    """The document's text, for people to read."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "scope": SCOPES[is_whole],
        "pictures": has_pictures,
        "units": list(units),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode()


def read_json(data: bytes) -> Any:
    """What JSON says; numbers of any length and depth do no harm.

    Raises:
        PresetError: it is none.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        msg = f"it is no JSON: {reason[:200]}"
        raise PresetError(msg) from error


def read_document(document: Mapping[str, Any]) -> Preset:
    """A document's preset; the units are not looked at, see `parse_units`.

    Raises:
        PresetError: it is none.
    """
    units, notes = document.get("units"), list[str]()
    if not isinstance(units, list) or not all(isinstance(unit, Mapping) for unit in units):
        msg = 'its "units" must be a list of objects, one for each unit'
        raise PresetError(msg)
    if not 0 < len(units) <= MAX_UNITS:
        msg = f'its "units" are {len(units)}, must be 1 to {MAX_UNITS}'
        raise PresetError(msg)
    version = document.get("version", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        msg = f'its "version" is {quote(version)}, must be a whole number from 1'
        raise PresetError(msg)
    if version > VERSION:
        notes.append("it was written by a later version; what that added is left out")
    scope = document.get("scope", SCOPES[len(units) > 1])
    if scope not in SCOPES:
        msg = f'its "scope" is {quote(scope)}, must be "unit" or "all"'
        raise PresetError(msg)
    if scope == "unit" and len(units) > 1:
        msg = f'its "scope" is "unit", and it holds {len(units)} units'
        raise PresetError(msg)
    has_pictures = document.get("pictures", any(map(_names_picture, units)))
    if not isinstance(has_pictures, bool):
        msg = f'its "pictures" is {quote(has_pictures)}, must be true or false'
        raise PresetError(msg)
    return Preset(tuple(units), scope == "all", has_pictures, tuple(notes))


def _names_picture(unit: Mapping[str, Any]) -> bool:
    given = present_names(unit, is_strict=False)[0]
    return any(
        not _is_blank(given.get(name)) for name, field in FIELDS.items() if is_picture(field)
    )


def texts_in(value: Any) -> list[str]:
    """The texts of a picture field's value, whatever holds them."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value
    found = items if isinstance(value, Mapping | list | tuple) else ()
    return [text for item in found for text in ([item] if isinstance(item, str) else ())]


def pictures_of(unit: Mapping[str, Any]) -> list[str]:
    """The texts that stand for a unit's pictures."""
    given = present_names(unit, is_strict=False)[0]
    named = (given.get(name) for name, field in FIELDS.items() if is_picture(field))
    return [text for value in named for text in texts_in(value)]


def parse_units(preset: Preset, fetch: Fetch) -> list[ControlUnit]:
    """The units, checked as a request's are.

    Args:
        preset: what was read.
        fetch: what stands for a picture's text; it may raise a `ControlNetError`.

    Raises:
        ControlNetError: a value is impossible, or a picture cannot be had; unit and field are
            named.
    """
    found = []
    for number, given in enumerate(preset.units):
        fields, unknown = present_names(given, is_strict=False)
        for name, field in FIELDS.items():
            if is_picture(field) and name in fields:
                fields[name] = _fetch_all(fields[name], fetch)
        unit = parse_unit(fields, number)
        if unit.fault:
            raise UnitError(unit.fault)
        if unknown:
            keys = ", ".join(quote(key) for key in sorted(unknown)[:10])
            unit = unit.with_notes(f"unknown, left out: {keys}")
        found.append(replace(unit, is_ui=False))
    return found


def _fetch_all(value: Any, fetch: Fetch) -> Any:
    if isinstance(value, str):
        return fetch(value) if value else value
    if isinstance(value, Mapping):
        return {key: _fetch_all(item, fetch) for key, item in list(value.items())[:8]}
    if isinstance(value, list):
        return [_fetch_all(item, fetch) for item in value[:MAX_IMAGES]]
    return value
