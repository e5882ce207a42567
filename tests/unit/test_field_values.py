"""Every field of a unit in every form in which JSON carries a value: understood, or a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lib_controlnet.enums import Choice, ControlNetUnionControlType
from lib_controlnet.errors import UnitError
from lib_controlnet.units.field_values import NO_MODEL, NO_MODULE
from lib_controlnet.units.unit import FIELDS, ControlUnit, parse_unit
from lib_controlnet.units.weight_curve import WeightCurve

HUGE = 10**400
FALL = ((0.0, 1.0), (1.0, 0.0))
NUMBERS = ("weight", "guidance_start", "guidance_end", "region_feather")
SLIDERS = ("threshold_a", "threshold_b")
NAMES = ("module", "model")
TEXTS = ("output_dir", "batch_mask_dir")
PICTURES = ("image", "mask", "effective_region_mask", "region_map")
KINDS: dict[str, tuple[str, ...]] = {
    "boolean": tuple(n for n in FIELDS if isinstance(FIELDS[n].default, bool)),
    "number": NUMBERS,
    "slider": SLIDERS,
    "whole": ("processor_res",),
    "choice": tuple(n for n in FIELDS if isinstance(FIELDS[n].default, Choice)),
    "name": NAMES,
    "text": TEXTS,
    "picture": PICTURES,
    "weights": ("advanced_weighting",),
    "curve": ("weight_curve",),
    "functions": ("batch_modifiers",),
    "list": ("batch_image_files",),
    "folder": ("batch_images",),
    "frames": ("batch_keyframe_idx",),
    "opaque": ("ipadapter_input",),
    "colour": ("region_colour",),
}
ACCEPTED: dict[str, list[tuple[Any, Any]]] = {
    "boolean": [
        *((x, True) for x in (True, 1, 1.0, "true", "True", " TRUE ", "1", "on", "yes", "y")),
        *((x, False) for x in (False, 0, 0.0, "false", "False", "0", "off", "no", "n", "")),
    ],
    "number": [(1, 1.0), (0.5, 0.5), ("0.5", 0.5), (" 1 ", 1.0), ("5e-1", 0.5), (0, 0.0)],
    "slider": [(100, 100.0), (0.5, 0.5), ("64", 64.0), (-1, -1.0), (-1.0, -1.0)],
    "whole": [(512, 512), (512.0, 512), ("512", 512), (" 512 ", 512), (-1, -1), (0.5, 0)],
    "name": [("canny", "canny"), (" canny ", "canny"), ("8", "8")],
    "text": [("/a b", "/a b")],
    "picture": [("aGk=", "aGk="), ({"image": "x"}, {"image": "x"}), (["x", "y"], ["x", "y"])],
    "weights": [([1, "0.5", 0.25], (1.0, 0.5, 0.25)), ([], None), ("None", None), ("", None)],
    "curve": [
        *((empty, None) for empty in ([], {}, "None", " ", "|", {"first": "", "hires": None})),
        ("linear", WeightCurve(FALL, FALL)),
        (" LINEAR |", WeightCurve(FALL)),
        ("0@1 , 1@0|0.5@0,", WeightCurve(FALL, ((0.0, 0.5),))),
        ([[1, "0"], [0, 1]], WeightCurve(FALL, FALL)),
        ({"hires": [[0, 1], [1, 0]]}, WeightCurve((), FALL)),
    ],
    "functions": [([], ()), ("", ())],
    "list": [(["a", "b"], ("a", "b")), ([], ())],
    "folder": [("/in", "/in"), (["aGk="], ["aGk="])],
    "frames": [("0,4", "0,4"), ([0, 4], (0, 4))],
    "opaque": [(["x"], ["x"]), ("x", "x")],
    "colour": [
        *((x, "#ff0000") for x in ("#ff0000", "#F00", "ff0000", " red ", "Red", "255, 0, 0")),
        *(([0, 128.0, "255"], "#0080ff"), ("rebeccapurple", "#663399")),
    ],
}
REFUSED: dict[str, list[Any]] = {
    "boolean": ["maybe", "None", 2, -1, 0.5, HUGE, [], [True], {}, {"a": 1}],
    "number": ["x", "0,5", "1_0", "٥", "nan", "Infinity", True, HUGE, 1e300, -1, "9999", [1]],
    "slider": ["x", "1_0", "-inf", True, HUGE, [1], {}],
    "whole": ["x", "1_0", "nan", False, HUGE, [512], {"a": 1}],
    "choice": ["x", -1, 99, 0.5, "0.5", True, HUGE, "²", [], ["Balanced"], {}],
    "name": [1, 0.5, True, ["canny"], {"name": "canny"}],
    "text": [1, True, ["/a"], {}],
    "picture": [1, 0.5, True, False, {"picture": "x"}, [{"url": "x"}]],
    "weights": ["x", "1 1", 1, True, {"0": 1}, [None], [[1]], [True], ["x"], [float("nan")]],
    "curve": [
        *(
            "x",
            "1",
            "1@",
            "@1",
            "1@x",
            "1@0 0@1",
            "1_0@0",
            "１@0",
            "nan@0",
            "1@inf",
            "1@0|1@0|1@0",
            "@" * 9000,
        ),
        *(
            "3@0",
            "-1@0",
            "1@2",
            "1@-1",
            "1@0, 1@0, 0@0",
            "1@0," * 65,
            1,
            0.5,
            True,
            [1],
            [[1]],
            [[1, 2, 3]],
        ),
        *(
            [[0, True]],
            [[0, "x"]],
            [[2, 0]],
            [[0, float("nan")]],
            [[0, 1]] * 65,
            {"x": 1},
            {"first": 1},
        ),
    ],
    "functions": [["x"], [1], "x", 1, {}],
    "list": ["x", 1, True, {"a": 1}],
    "folder": [1, True, {"a": 1}],
    "frames": [1, True, {"a": 1}],
    "opaque": [1, True],
    "colour": [
        "reddish",
        "#ff00",
        "#gg0000",
        "²²²",
        "[]",
        1,
        True,
        [1, 2],
        [0, 0, 256],
        {"r": 1},
        "f" * 99,
    ],
}
"""By kind of field: what has a meaning, and what has none. `nan` and the like come as JSON's."""


def rows(table: dict[str, list]) -> list[Any]:
    return [
        pytest.param(field, value, id=f"{field}-{str(value)[:30]}")
        for kind, values in table.items()
        for field in KINDS[kind]
        for value in values
    ]


def test_every_field_is_in_the_table() -> None:
    assert sorted(field for fields in KINDS.values() for field in fields) == sorted(FIELDS)
    assert set(KINDS) == set(REFUSED) == {*ACCEPTED, "choice"}


@pytest.mark.parametrize(("field", "pair"), rows(ACCEPTED))
def test_value_is_taken_by_its_meaning(field: str, pair: tuple[Any, Any]) -> None:
    value, meaning = pair
    unit = parse_unit({field: value})
    assert getattr(unit, field) == meaning
    assert type(getattr(unit, field)) is type(meaning)
    assert all(note.startswith(field) for note in unit.notes)


@pytest.mark.parametrize("field", KINDS["choice"])
def test_choice_is_taken_by_value_name_index_and_in_any_case(field: str) -> None:
    kind = type(FIELDS[field].default)
    for index, member in enumerate(kind):
        spellings = (member.value, member.name, str(member.value).upper(), member.name.lower())
        indexes: tuple[Any, ...] = (index, float(index), str(index), f"{index}.0")
        if member is ControlNetUnionControlType.UNKNOWN:  # no type, so it has no number
            indexes = ()
        for sent in (*spellings, f"{kind.__name__}.{member.name}", *indexes):
            assert getattr(parse_unit({field: sent}), field) is member, sent


@pytest.mark.parametrize(("field", "value"), rows(REFUSED))
def test_value_without_a_meaning_names_unit_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(UnitError) as caught:
        parse_unit({field: value}, 3)
    text = str(caught.value)
    assert text.startswith(f"unit 3: {field} is ")
    assert ", must " in text
    assert caught.value.status_code == 422


@pytest.mark.parametrize("field", FIELDS)
def test_null_means_the_default(field: str) -> None:
    default = {"enabled": True}.get(field, FIELDS[field].default)
    assert getattr(parse_unit({field: None}), field) == default
    if field not in KINDS["boolean"]:
        assert getattr(parse_unit({field: " "}), field) == default


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", [*NUMBERS, *SLIDERS, "processor_res", "control_mode", "enabled"])
def test_numbers_that_json_cannot_hold_are_refused(field: str, text: str) -> None:
    with pytest.raises(UnitError, match=f"^unit 0: {field} is "):
        parse_unit({field: json.loads(text)})


@pytest.mark.parametrize(("field", "value"), rows(REFUSED))
def test_unit_that_is_off_may_hold_anything(field: str, value: Any) -> None:
    if field == "enabled":
        return
    for off in (False, 0, "false", ""):
        unit = parse_unit({"enabled": off, field: value}, 2)
        assert not unit.enabled
        assert unit.fault.startswith(f"unit 2: {field} is ")
    assert parse_unit({"enabled": False}).fault == ""


@pytest.mark.parametrize(
    "key", ["Control Mode", "control-mode", "controlMode", "CONTROL_MODE", "ControlMode"]
)
def test_key_is_known_by_its_letters(key: str) -> None:
    unit = parse_unit({key: 2})
    assert unit.control_mode == "ControlNet is more important"
    assert unit.notes == ()
    both = parse_unit({"control_mode": 1, key: 2})
    assert both.control_mode == "My prompt is more important"
    assert both.notes == (f"unknown keys ignored: {key}",)


@pytest.mark.parametrize("value", ["canny", b"x", 1, 0.5, True, [{}], ({},)])
def test_argument_that_is_no_unit_is_refused(value: Any) -> None:
    with pytest.raises(UnitError, match="^unit 1: the argument is .*, not a unit; send one object"):
        parse_unit(value, 1)


def test_fraction_of_a_whole_number_is_noted() -> None:
    unit = parse_unit({"processor_res": 512.5})
    assert unit.processor_res == 512
    assert unit.notes == ("processor_res 512.5 is no whole number: 512 is used",)


def test_embeddings_stay_unread_and_are_not_an_empty_list() -> None:
    for given in (["x"], "x", [[0.5, 1.0]], {"image_embeds": [0.5]}):
        unit = parse_unit({"ipadapter_input": given})
        assert unit.ipadapter_input == given
        assert unit.notes == ()
    with pytest.raises(
        UnitError, match="unit 0: ipadapter_input is an empty list; this input cannot be empty"
    ):
        parse_unit({"ipadapter_input": []})
    with pytest.raises(UnitError, match="ipadapter_input is 3, must be base64"):
        parse_unit({"ipadapter_input": 3})


def test_defaults_of_the_names() -> None:
    for text in ("none", "None", "NONE", "", None):
        unit = parse_unit({"module": text, "model": text})
        assert (unit.module, unit.model) == (NO_MODULE, NO_MODEL)
    assert isinstance(unit, ControlUnit)
