"""Units from every spelling that clients send."""

import numpy as np
import pytest

from lib_controlnet.enums import ControlMode, HiResOption, ResizeMode
from lib_controlnet.errors import UnitError
from lib_controlnet.unit import PUBLIC_FIELDS, AlphaLayer, ControlUnit, parse_unit


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"enabled": True}),
        ({"enabled": False}, {"enabled": False}),
        ({"enabled": "false"}, {"enabled": False}),
        ({"guidance": 0.5}, {"guidance_end": 0.5}),
        ({"guidance": 0.5, "guidance_end": 0.7}, {"guidance_end": 0.7}),
        ({"lowvram": True}, {"low_vram": True}),
        ({"input_image": "aGk="}, {"image": "aGk="}),
        ({"image": "", "input_image": "aGk="}, {"image": "aGk="}),
        ({"mask": "", "mask_image": "bQ=="}, {"mask": "bQ=="}),
        ({"mask": "", "input_image": ""}, {"mask": None, "image": None}),
        ({"guess_mode": True}, {"control_mode": ControlMode.CONTROL}),
        ({"guessmode": False}, {"control_mode": ControlMode.BALANCED}),
        ({"guessmode": True, "control_mode": 1}, {"control_mode": ControlMode.PROMPT}),
        ({"resize_mode": 2}, {"resize_mode": ResizeMode.OUTER_FIT}),
        ({"resize_mode": 3}, {"resize_mode": ResizeMode.RESIZE}),
        ({"resize_mode": "Scale to Fit (Inner Fit)"}, {"resize_mode": ResizeMode.INNER_FIT}),
        ({"resize_mode": "Envelope (Outer Fit)"}, {"resize_mode": ResizeMode.OUTER_FIT}),
        ({"control_mode": "ControlMode.CONTROL"}, {"control_mode": ControlMode.CONTROL}),
        ({"hr_option": "HiResFixOption.BOTH"}, {"hr_option": HiResOption.BOTH}),
        ({"hr_option": 2}, {"hr_option": HiResOption.HIGH_RES_ONLY}),
        ({"module": None, "model": ""}, {"module": "none", "model": "None"}),
        ({"module": "None"}, {"module": "none"}),
        ({"weight": "0.5", "processor_res": 512.5}, {"weight": 0.5, "processor_res": 512}),
        ({"processor_res": 0.5}, {"processor_res": 0}),
        ({"threshold_a": None}, {"threshold_a": -1}),
        ({"advanced_weighting": [1, 0.5]}, {"advanced_weighting": (1.0, 0.5)}),
        ({"image_fg": "eA=="}, {"mask": AlphaLayer("eA==")}),
    ],
    ids=str,
)
def test_parse_accepted_spelling_gives_value(given, expected):
    unit = parse_unit(given)
    assert {name: getattr(unit, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"guidance_start": 1.5}, "unit 2: guidance_start is 1.5, must be between 0 and 1"),
        ({"guidance_end": "late"}, "unit 2: guidance_end is 'late', must be a number"),
        ({"weight": float("nan")}, "unit 2: weight is nan, must be a finite number"),
        ({"resize_mode": "Squash"}, "unit 2: resize_mode is 'Squash', must be one of"),
        ({"control_mode": 7}, "unit 2: control_mode is 7, must be one of"),
        ({"enabled": "maybe"}, "unit 2: enabled is 'maybe', must be true or false"),
        ({"advanced_weighting": "abc"}, "unit 2: advanced_weighting is 'abc', must be a list"),
    ],
    ids=str,
)
def test_parse_impossible_value_names_unit_field_and_value(given, sentence):
    with pytest.raises(UnitError) as caught:
        parse_unit(given, 2)
    assert str(caught.value).startswith(sentence)
    assert caught.value.status_code == 422


def test_parse_weight_out_of_range_is_clamped_and_noted():
    unit = parse_unit({"weight": 3})
    assert unit.weight == 2.0
    assert "weight 3" in unit.notes[0]


def test_parse_reversed_window_is_noted():
    unit = parse_unit({"guidance_start": 0.8, "guidance_end": 0.2})
    assert "never active" in unit.notes[-1]


def test_parse_unknown_keys_are_ignored_with_one_note():
    unit = parse_unit({"frobnicate": 1, "zap": 2})
    assert unit.notes == ("unknown keys ignored: frobnicate, zap",)


def test_parse_does_not_touch_the_request():
    given = {"input_image": "aGk=", "guidance": 1.0}
    before = dict(given)
    parse_unit(given)
    assert given == before


def test_parse_object_keeps_its_own_enabled():
    class Look:
        enabled = False
        module = "canny"
        image = np.zeros((2, 2, 3), np.uint8)

    unit = parse_unit(Look())
    assert (unit.enabled, unit.module) == (False, "canny")
    assert unit.image is Look.image


def test_parse_control_unit_gets_its_place():
    assert parse_unit(ControlUnit(), 4).name == "unit 4"


def test_public_fields_are_the_interface_in_order():
    assert len(PUBLIC_FIELDS) == 36
    assert PUBLIC_FIELDS[:12] == (
        *("is_ui", "input_mode", "batch_images", "output_dir", "loopback", "enabled"),
        *("module", "model", "weight", "image", "resize_mode", "low_vram"),
    )


@pytest.mark.parametrize("field", ["weight", "control_mode", "processor_res", "region_feather"])
@pytest.mark.parametrize(
    "value",
    [10**400, "9" * 400, float("inf"), -(10**5000)],
    ids=["int", "text", "inf", "longer than may be printed"],
)
def test_huge_numbers_are_a_units_error(field, value):
    with pytest.raises(UnitError, match=f"unit 2: {field} is ") as caught:
        parse_unit({field: value}, 2)
    assert len(str(caught.value)) < 400


def test_message_quotes_a_long_value_in_part():
    with pytest.raises(UnitError) as caught:
        parse_unit({"weight": "a" * 10_000_000})
    assert len(str(caught.value)) < 200
