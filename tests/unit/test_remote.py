"""Values from outside: who gets them, and that nobody's units change."""

import numpy as np
import pytest

from lib_controlnet.enums import ActingRegion, ControlMode
from lib_controlnet.errors import UnitError
from lib_controlnet.units.overrides import apply, attributes
from lib_controlnet.units.unit import FIELDS, parse_unit


def three():
    return [parse_unit({"module": "canny", "weight": 0.5, "enabled": i < 2}, i) for i in range(3)]


def test_one_value_is_for_all_units():
    assert [unit.weight for unit in apply(three(), {"weight": 1.5})] == [1.5] * 3


def test_a_list_is_for_each_unit_and_none_leaves_it():
    units = apply(three(), {"weight": [0.1, None], "module": ["none", "invert", None]})
    assert [unit.weight for unit in units] == [0.1, 0.5, 0.5]
    assert [unit.module for unit in units] == ["none", "invert", "canny"]


def test_enabled_as_one_value_is_for_the_first_unit():
    assert [unit.enabled for unit in apply(three(), {"enabled": False})] == [False, True, False]
    units = apply(three(), {"enabled": [None, False, True]})
    assert [unit.enabled for unit in units] == [True, False, True]


def test_units_of_the_caller_stay_as_they_are():
    units = three()
    before = list(units)
    made = apply(units, {"control_mode": "ControlNet is more important"})
    assert units == before
    assert all(unit.control_mode is ControlMode.BALANCED for unit in units)
    assert all(unit.control_mode is ControlMode.CONTROL for unit in made)


def test_nothing_from_outside_gives_the_very_units():
    units = three()
    assert all(a is b for a, b in zip(apply(units, {}), units, strict=True))


def test_without_units_one_is_made_and_stays_off_unless_asked():
    picture = np.zeros((8, 8, 3), np.uint8)
    (unit,) = apply([], {"image": [picture], "enabled": True, "model": "m"})
    assert (unit.enabled, unit.model) == (True, "m")
    assert unit.image is picture
    assert not apply([], {"weight": 1.0})[0].enabled
    assert apply([], {}) == []


def test_a_new_picture_takes_the_old_ones_mask_away():
    unit = parse_unit({"image": "a", "mask": "b"})
    assert apply([unit], {"image": "c"})[0].mask is None
    assert apply([unit], {"weight": 1})[0].mask == "b"


def test_impossible_value_names_unit_and_field():
    with pytest.raises(UnitError, match="unit 1: weight is 'heavy'"):
        apply(three(), {"weight": [None, "heavy"]})


def test_notes_of_a_unit_are_kept():
    unit = parse_unit({"weight": 9}, is_request=False)
    assert apply([unit], {"region": "Own mask"})[0].notes[-1].startswith("weight 9")
    assert apply([unit], {"region": "Own mask"})[0].region is ActingRegion.OWN


def test_every_attribute_names_a_field():
    assert set(attributes().values()) <= set(FIELDS)
    assert all(name.startswith("control_net_") for name in attributes())
