"""The mask of a unit whose region is painted in its colour, in one picture for several units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lib_controlnet.errors import ImageError, UnitError
from lib_controlnet.limits import MAX_WORKED
from lib_controlnet.pictures.colour_areas import MAX_COLOURS, ColourAreas, split_colours
from lib_controlnet.pictures.maps import Size
from lib_controlnet.units.region_map import share_region_map

if TYPE_CHECKING:
    from lib_controlnet.units.unit import ControlUnit

Read = Callable[..., np.ndarray]
"""Decodes a picture that is called something in messages; takes `keep_alpha`."""


def read_painted_mask(unit: ControlUnit, read: Read, once: Callable[..., Any]) -> np.ndarray:
    """Where the picture of regions has the unit's colour, uint8 (H, W).

    Args:
        unit: has a colour; from `share_region_map`.
        read: decodes the picture.
        once: see `GenerationRequest.once`; all units of a picture get masks of one division.

    Raises:
        UnitError: there is no picture, or the colour is not in it.
        ImageError: it cannot be decoded, or is too large.
    """
    colour, name = unit.region_colour, f"{unit.name}: region_map"
    if unit.region_map is None:
        msg = (
            f"{unit.name}: region_colour is {colour}, but no unit has a region_map; send the "
            "picture in which the regions are painted as region_map of one unit"
        )
        raise UnitError(msg)
    palette = unit.region_palette
    if len(palette) > MAX_COLOURS:
        msg = (
            f"{name} is for {len(palette)} colours of units, {MAX_COLOURS} at most can be told "
            "apart; use fewer"
        )
        raise UnitError(msg)
    picture = read(unit.region_map, name, keep_alpha=True)
    size = Size.from_array(picture)
    if size.area > MAX_WORKED:
        msg = (
            f"{name} is {size.width} x {size.height} pixels; at most "
            f"{MAX_WORKED // 1_000_000} million in all can be used, make it smaller"
        )
        raise ImageError(msg)
    areas: ColourAreas = once(
        ("region_map", id(picture), palette), lambda: split_colours(picture, palette), picture
    )
    if not areas.shares[colour]:
        msg = (
            f"{unit.name}: region_colour is {colour}, which is not in the region_map; its colours "
            f"are {areas.describe() or 'all transparent'}"
        )
        raise UnitError(msg)
    return areas.mask_of(colour)


def paint_masks(units: Sequence[ControlUnit], read: Read) -> list[ControlUnit]:
    """Units that have their masks in place of colours, for where only masks can be shown.

    A unit whose picture is not there stays as it is. Raises: see `read_painted_mask`.
    """
    kept: dict[tuple, Any] = {}

    def once(key: tuple, make: Callable[[], Any], *held: object) -> Any:
        if key not in kept:
            kept[key] = make(), held
        return kept[key][0]

    def paint(unit: ControlUnit) -> ControlUnit:
        if unit.region_map is None or not unit.region_palette:
            return unit
        mask = np.repeat(read_painted_mask(unit, read, once)[:, :, None], 3, axis=2)
        return replace(unit, effective_region_mask=mask, region_colour="", region_palette=())

    shared = [paint(unit) for unit in share_region_map(units)]
    is_shown = all(not unit.region_colour for unit in shared)
    return [replace(unit, region_map=None) if is_shown else unit for unit in shared]
