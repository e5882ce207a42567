"""Units from every spelling that clients send."""

import dataclasses

import numpy as np
import pytest

from lib_controlnet.enums import (
    ControlMode,
    ControlNetUnionControlType,
    HiResOption,
    InputMode,
    PuLIDMode,
    ResizeMode,
    Speed,
)
from lib_controlnet.errors import UnitError
from lib_controlnet.units.field_values import AlphaLayer
from lib_controlnet.units.unit import FIELDS, ControlUnit, parse_unit


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


SUPERSET = {
    "dict without enabled": ({}, {"enabled": True}),
    "explicit enabled": ({"enabled": False}, {"enabled": False}),
    "guidance": ({"guidance": 0.4}, {"guidance_end": 0.4}),
    "guidance beside guidance_end": ({"guidance": 1, "guidance_end": 0.7}, {"guidance_end": 0.7}),
    "lowvram": ({"lowvram": True}, {"low_vram": True}),
    "lowvram beside low_vram": ({"lowvram": True, "low_vram": None}, {"low_vram": True}),
    "input_image": ({"input_image": "aGk="}, {"image": "aGk="}),
    "input_image beside image": ({"input_image": "eA==", "image": "aGk="}, {"image": "aGk="}),
    "empty input_image": ({"input_image": "", "image": "aGk="}, {"image": "aGk="}),
    "guessmode": ({"guessmode": True}, {"control_mode": ControlMode.CONTROL}),
    "guess_mode": ({"guess_mode": False}, {"control_mode": ControlMode.BALANCED}),
    "guessmode beside control_mode": (
        {"guessmode": True, "control_mode": "Balanced"},
        {"control_mode": ControlMode.BALANCED},
    ),
    "mask_image": ({"mask_image": "bQ=="}, {"mask": "bQ=="}),
    "mask_image beside mask": ({"mask_image": "bQ==", "mask": "bg=="}, {"mask": "bg=="}),
    "mask_image beside empty mask": ({"mask_image": "bQ==", "mask": ""}, {"mask": "bQ=="}),
    "resize_mode int": ({"resize_mode": 0}, {"resize_mode": ResizeMode.RESIZE}),
    "resize_mode latent": ({"resize_mode": 3}, {"resize_mode": ResizeMode.RESIZE}),
    "control_mode int": ({"control_mode": 2}, {"control_mode": ControlMode.CONTROL}),
    "hr_option int": ({"hr_option": 1}, {"hr_option": HiResOption.LOW_RES_ONLY}),
    "enum text": ({"hr_option": "HiResFixOption.BOTH"}, {"hr_option": HiResOption.BOTH}),
    "enum name": ({"resize_mode": "OUTER_FIT"}, {"resize_mode": ResizeMode.OUTER_FIT}),
    "module None": ({"module": "None"}, {"module": "none"}),
    "module null": ({"module": None}, {"module": "none"}),
    "module empty": ({"module": ""}, {"module": "none"}),
    "model null": ({"model": None}, {"model": "None"}),
    "model empty": ({"model": ""}, {"model": "None"}),
    "window reversed": (
        {"guidance_start": 0.8, "guidance_end": 0.2},
        {"guidance_start": 0.8, "guidance_end": 0.2},
    ),
    "numeric strings": (
        {"weight": "0.5", "processor_res": "512", "guidance_start": " 0.1 ", "threshold_a": "9"},
        {"weight": 0.5, "processor_res": 512, "guidance_start": 0.1, "threshold_a": 9.0},
    ),
    "batch_image_dir": ({"batch_image_dir": "/in"}, {"batch_images": "/in"}),
    "batch_mask_dir": ({"batch_mask_dir": "/in"}, {"batch_mask_dir": "/in"}),
    "batch_input_gallery": ({"batch_input_gallery": [1]}, {"enabled": True}),
    "batch_mask_gallery": ({"batch_mask_gallery": [1]}, {"enabled": True}),
    "generated_image": ({"generated_image": "x"}, {"image": None}),
    "use_preview_as_input": ({"use_preview_as_input": True}, {"image": None}),
    "image_fg": ({"image_fg": "eA=="}, {"mask": AlphaLayer("eA==")}),
    "mask_image_fg": ({"mask_image_fg": "eA=="}, {"mask": None}),
    "unknown key": ({"frob": 1}, {"enabled": True}),
}
"""Rows of the table of accepted input, by name: what is sent, what the unit then holds."""
NOTED = {"unknown key"}


@pytest.mark.parametrize("row", SUPERSET)
def test_superset_row_is_understood_and_told_where_it_changes_something(row):
    given, expected = SUPERSET[row]
    unit = parse_unit(given)
    assert {name: getattr(unit, name) for name in expected} == expected
    assert len(unit.notes) == (row in NOTED)
    for field in dataclasses.fields(ControlUnit):
        if field.name not in (*expected, "enabled", "notes", "is_request"):
            assert getattr(unit, field.name) == field.default, field.name


@pytest.mark.parametrize(
    ("kind", "field", "spellings"),
    [
        (ResizeMode, "resize_mode", {"RESIZE": ["Just Resize", 0, 3, "3", "0", "just resize"]}),
        (
            ResizeMode,
            "resize_mode",
            {
                "INNER_FIT": [
                    *("Crop and Resize", 1, "1", "INNER_FIT", "ResizeMode.INNER_FIT"),
                    *("Inner Fit (Scale to Fit)", "Scale to Fit (Inner Fit)"),
                ]
            },
        ),
        (
            ResizeMode,
            "resize_mode",
            {
                "OUTER_FIT": [
                    *("Resize and Fill", 2, 2.0, "2", "outer_fit"),
                    *("Outer Fit (Shrink to Fit)", "Envelope (Outer Fit)"),
                ]
            },
        ),
        (ControlMode, "control_mode", {"PROMPT": ["My prompt is more important", 1, "PROMPT"]}),
        (ControlMode, "control_mode", {"CONTROL": ["ControlNet is more important", 2]}),
        (HiResOption, "hr_option", {"HIGH_RES_ONLY": ["High res only", 2, "HIGH_RES_ONLY"]}),
        (InputMode, "input_mode", {"MERGE": ["merge", 2, "InputMode.MERGE"]}),
        (PuLIDMode, "pulid_mode", {"STYLE": ["Extremely style", 1]}),
        (Speed, "speed", {"FASTEST": ["fastest", 3, "Speed.FASTEST"]}),
        (
            ControlNetUnionControlType,
            "union_control_type",
            {"HARD_EDGE": ["Hard Edge", 3, "HARD_EDGE"], "TILE": ["Tile", 6]},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_choice_is_understood_in_every_spelling(kind, field, spellings):
    for name, texts in spellings.items():
        for text in [*texts, kind[name]]:
            assert getattr(parse_unit({field: text}), field) is kind[name], text


JUNK = (
    *(None, True, -1, 1.5, 10**400, 1e308, float("nan"), float("-inf")),
    *("", " ", "None", "x" * 5000, "9" * 400, "\ud800", "\x00", "²"),
    *([], [[]], [None], [1, "x"], {}, {"a": {}}, object()),
)


@pytest.mark.parametrize("field", FIELDS)
def test_junk_in_a_field_is_understood_or_refused_in_one_short_sentence(field):
    for junk in JUNK:
        try:
            unit = parse_unit({field: junk}, 3)
        except UnitError as error:
            assert str(error).startswith(f"unit 3: {field} ")
            assert " is " in str(error)
            assert len(str(error)) < 600
            str(error).encode("utf-8")
        else:
            assert isinstance(unit, ControlUnit)


class Scheduled:
    """A unit of a script whose schedule overshoots."""

    enabled = True
    weight = 3


def test_weight_out_of_range_is_refused_from_a_request_and_clamped_from_a_script():
    with pytest.raises(UnitError, match="^unit 1: weight is 3, must be between 0 and 2$"):
        parse_unit({"weight": 3}, 1)
    for unit in (parse_unit(Scheduled()), parse_unit({"weight": 3}, is_request=False)):
        assert unit.weight == 2.0
        assert unit.notes == ("weight 3 lies outside 0 to 2: 2 is used",)


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
    assert len(FIELDS) == 42
    assert tuple(FIELDS)[:12] == (
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


@pytest.mark.parametrize("field", ["weight", "weight_curve"])
def test_message_quotes_a_long_value_in_part(field):
    with pytest.raises(UnitError) as caught:
        parse_unit({field: "a" * 10_000_000})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("field", ["guessmode", "guess_mode"])
def test_guess_mode_that_is_no_boolean_names_unit_and_field(field):
    with pytest.raises(UnitError, match=f"^unit 3: {field} is 'abc', must be true or false$"):
        parse_unit({field: "abc"}, 3)
