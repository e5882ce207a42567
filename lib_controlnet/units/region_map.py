"""One picture painted in a few colours for several units: who has it, and whose colours count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lib_controlnet.enums import ActingRegion
from lib_controlnet.units.unit import ControlUnit


def share_region_map(units: Sequence[ControlUnit]) -> list[ControlUnit]:
    """Units that know of the picture in which their regions are painted, and of each other.

    A unit with a colour and no picture of its own gets that of the first unit that has one, be it
    enabled or not. What is not used is said in the unit's notes.
    """
    first = next((unit.region_map for unit in units if unit.region_map is not None), None)
    if first is None:
        return [_settle(unit, None, ()) for unit in units]
    painted = [(unit, first if unit.region_map is None else unit.region_map) for unit in units]
    palettes: dict[Any, dict[str, None]] = {}
    for unit, picture in painted:
        if unit.region_colour:
            palettes.setdefault(_key(picture), {})[unit.region_colour] = None
    if not palettes:
        note = "region_map is not used: no unit has a region_colour"
        return [unit if unit.region_map is None else unit.with_notes(note) for unit in units]
    return [_settle(unit, at, tuple(palettes.get(_key(at), ()))) for unit, at in painted]


def _settle(unit: ControlUnit, picture: Any, palette: tuple[str, ...]) -> ControlUnit:
    if not unit.region_colour:
        return unit
    if unit.effective_region_mask is not None:
        return unit.with_notes("region_colour is not used: effective_region_mask is given")
    if unit.acting_region is not ActingRegion.OWN:
        return unit.with_notes(f"region_colour is not used: region is {unit.region.value!r}")
    return replace(unit, region=ActingRegion.OWN, region_map=picture, region_palette=palette)


def _key(picture: Any) -> Any:
    """What tells pictures apart: two units may have been sent the same text."""
    return picture if isinstance(picture, str) else id(picture)
