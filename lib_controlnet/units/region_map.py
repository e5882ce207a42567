"""One picture painted in a few colours for several units: who has it, and whose colours count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lib_controlnet.enums import ActingRegion
from lib_controlnet.units.field_values import is_given
from lib_controlnet.units.unit import ControlUnit


def share_region_map(units: Sequence[ControlUnit]) -> list[ControlUnit]:
    """Units that know of the picture in which their regions are painted, and of each other.

    A unit with a colour and no picture of its own gets that of the first unit that has one, be it
    enabled or not. What is not used is said in the unit's notes.
    """
    own = [_picture_of(unit) for unit in units]
    first = next((picture for picture in own if picture is not None), None)
    seen = [first if picture is None else picture for picture in own]
    palettes: dict[Any, dict[str, None]] = {}
    for unit, picture in zip(units, seen, strict=True):
        if unit.region_colour and picture is not None:
            palettes.setdefault(_key(picture), {})[unit.region_colour] = None
    shared = []
    for unit, mine, picture in zip(units, own, seen, strict=True):
        palette = tuple(palettes.get(_key(picture), ()))
        if mine is not None and not palette:
            unit = unit.with_notes("region_map is not used: no unit has a region_colour for it")
        shared.append(_settle(unit, picture, palette))
    return shared


def _picture_of(unit: ControlUnit) -> Any:
    """The picture that a unit brings, out of a drawing widget's object; None without one."""
    value = unit.region_map
    if isinstance(value, Mapping):
        value = value.get("image")
    return value if is_given(value) else None


def _settle(unit: ControlUnit, picture: Any, palette: tuple[str, ...]) -> ControlUnit:
    if not unit.region_colour:
        return unit
    if is_given(unit.effective_region_mask):
        return unit.with_notes("region_colour is not used: effective_region_mask is given")
    if unit.acting_region is not ActingRegion.OWN:
        return unit.with_notes(f"region_colour is not used: region is {unit.region.value!r}")
    return replace(unit, region=ActingRegion.OWN, region_map=picture, region_palette=palette)


def _key(picture: Any) -> Any:
    """What tells pictures apart: two units may have been sent the same text."""
    return picture if isinstance(picture, str) else id(picture)
