"""Units changed from outside for one generation: `p.control_net_*` of scripts, cells of XYZ grids.

A value is one for all units or a list with one per unit; None leaves a unit as it is. The units
that a caller handed over are never changed: new ones are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lib_controlnet.errors import UnitError
from lib_controlnet.units.unit import FIELDS, ControlUnit, parse_unit

FIRST_UNIT_ONLY: Final = ("enabled",)
"""Fields whose single value is meant for the first unit."""


def attributes() -> dict[str, str]:
    """Attribute of the host's processing object -> field; of two for one field the later wins."""
    return {name: field.name for field in FIELDS.values() for name in field.attributes}


def apply(units: Sequence[ControlUnit], values: Mapping[str, Any]) -> list[ControlUnit]:
    """The units with values from outside.

    Args:
        units: as the caller gave them; untouched.
        values: field -> value for all units (for the first, see `FIRST_UNIT_ONLY`), or list of
            values per unit. Without any unit one is made of the values.

    Raises:
        UnitError: a value is impossible, or a unit is switched on that holds one; unit and field
            are named.
    """
    if not units and values:
        units = [parse_unit({"enabled": False})]
    return [_apply_to(unit, position, values) for position, unit in enumerate(units)]


def _apply_to(unit: ControlUnit, position: int, values: Mapping[str, Any]) -> ControlUnit:
    own = {name: _for_unit(name, value, position) for name, value in values.items()}
    own = {name: value for name, value in own.items() if value is not None}
    if not own:
        return unit
    if "image" in own:
        own["mask"] = None  # it belonged to the picture that is replaced
    fields = {name: getattr(unit, name) for name in FIELDS}
    again = parse_unit({**fields, **own}, unit.index, is_request=False)
    if again.enabled and unit.fault:
        raise UnitError(unit.fault)
    return dataclasses.replace(again.with_notes(*unit.notes), fault=unit.fault)


def _for_unit(name: str, value: Any, position: int) -> Any:
    if isinstance(value, list):
        return value[position] if position < len(value) else None
    return value if position == 0 or name not in FIRST_UNIT_ONLY else None
