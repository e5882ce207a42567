"""A field that no unit has, put into the table of fields for one test."""

from __future__ import annotations

import dataclasses

import pytest

from lib_controlnet.units import unit
from lib_controlnet.units.field_values import Within
from lib_controlnet.units.fields import Axis, Written, row, rows

NAME = "glow"
TITLE = "Glow of Edges"
ATTRIBUTE = "control_net_glowing"
VIEW = "glow_percent"


def add_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the row: what a developer writes into the body of `ControlUnit`."""
    facts = (Written.IF_SET, Axis(99, TITLE), (ATTRIBUTE,), {"shine": None}, VIEW)
    field = (NAME, float, row(0.5, *facts, Within(0.0, 1.0)))
    unit_with_it = dataclasses.make_dataclass(
        "ControlUnit", [field], bases=(unit.ControlUnit,), frozen=True
    )
    monkeypatch.setattr(unit, "ControlUnit", unit_with_it)
    monkeypatch.setitem(unit.FIELDS, NAME, rows(unit_with_it)[NAME])
