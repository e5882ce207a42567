"""Generation parameters: the published text byte by byte, and everything that was ever written."""

from __future__ import annotations

import logging

import pytest

from lib_controlnet.enums import (
    ActingRegion,
    ControlMode,
    ControlNetUnionControlType,
    HiResOption,
    PuLIDMode,
    ResizeMode,
    Speed,
)
from lib_controlnet.units import infotext
from lib_controlnet.units.fields import Written
from lib_controlnet.units.unit import ControlUnit, parse_unit
from lib_controlnet.units.weight_curve import SHAPES, WeightCurve

ALWAYS = [field.name for field in infotext.fields(Written.ALWAYS)]
IF_SET = [field.name for field in infotext.fields(*infotext.IF_SET)]
CANNY = {"processor_res": 512, "threshold_a": 100, "threshold_b": 200}
PUBLISHED = (
    "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1.0, "
    "Resize Mode: Crop and Resize, Processor Res: 512, Threshold A: 100, Threshold B: 200, "
    "Guidance Start: 0.0, Guidance End: 1.0, Pixel Perfect: False, Control Mode: Balanced"
)


def test_row_18_infotext_has_the_published_text() -> None:
    unit = ControlUnit(module="canny", model="control_v11p_sd15_canny [d14c016b]")
    assert infotext.serialize(unit, CANNY) == PUBLISHED


def test_serialize_chosen_sliders_print_as_floats_and_resolution_as_integer() -> None:
    unit = ControlUnit(module="canny", processor_res=640, threshold_a=64, threshold_b=200)
    text = infotext.serialize(unit, {"processor_res": 640, "threshold_a": 64, "threshold_b": 200})
    assert "Processor Res: 640, Threshold A: 64.0, Threshold B: 200.0" in text


def test_serialize_out_of_range_slider_prints_what_is_used() -> None:
    text = infotext.serialize(ControlUnit(module="canny", threshold_a=999), CANNY)
    assert "Threshold A: 100," in text


def test_serialize_preprocessor_without_sliders_prints_a_half() -> None:
    hidden = {"processor_res": 0.5, "threshold_a": 0.5, "threshold_b": 0.5}
    text = infotext.serialize(ControlUnit(module="inpaint_only"), hidden)
    assert "Processor Res: 0.5, Threshold A: 0.5, Threshold B: 0.5" in text


@pytest.mark.parametrize(
    "model",
    ["plain [01234567]", "a, b: c [01234567]", 'quo"te', "C:\\models\\x", "line\nbreak", "Ünï, 画"],
)
def test_row_18_infotext_of_any_model_name_survives(model: str) -> None:
    unit = ControlUnit(
        module="invert (from white bg & black line)",
        model=model,
        weight=0.85,
        resize_mode=ResizeMode.OUTER_FIT,
        processor_res=768,
        threshold_a=0.25,
        threshold_b=3,
        guidance_start=0.1,
        guidance_end=0.75,
        pixel_perfect=True,
        control_mode=ControlMode.PROMPT,
    )
    fields = infotext.parse(infotext.serialize(unit))
    assert set(fields) == set(ALWAYS)
    assert {name: getattr(unit, name) for name in ALWAYS} == fields


def test_round_trip_fields_beyond_the_published_ones_survive() -> None:
    unit = ControlUnit(
        module="canny",
        hr_option=HiResOption.HIGH_RES_ONLY,
        pulid_mode=PuLIDMode.STYLE,
        region=ActingRegion.OUTSIDE,
        region_feather=12.5,
        union_control_type=ControlNetUnionControlType.TYPE_9,
        union_apart=True,
        speed=Speed.FASTEST,
        region_colour="#1e3cff",
        weight_curve=WeightCurve(((0.1, 0.2), (2 / 3, 1 / 3)), SHAPES["pulse"]),
        advanced_weighting=(1.0, 0.1, 1 / 3),
    )
    text = infotext.serialize(unit)
    assert text.startswith("Module: canny, Model: None, Weight: 1.0, Resize Mode:")
    assert text.endswith("0.1 0.3333333333333333"), "older readers skip what follows the eleven"
    fields = infotext.parse(text)
    assert {name: fields[name] for name in IF_SET} == {name: getattr(unit, name) for name in IF_SET}


def test_parse_result_makes_an_equal_unit() -> None:
    unit = parse_unit({**infotext.parse(PUBLISHED), "enabled": True})
    assert (unit.module, unit.threshold_b, unit.guidance_end) == ("canny", 200, 1.0)


@pytest.mark.parametrize(
    ("extra", "name", "value"),
    [
        pytest.param("Hr Option: Both", "hr_option", HiResOption.BOTH, id="forge"),
        pytest.param(
            "Hr Option: HiResFixOption.HIGH_RES_ONLY",
            "hr_option",
            HiResOption.HIGH_RES_ONLY,
            id="forge-enum",
        ),
        pytest.param("Low Vram: True", "low_vram", True, id="low-vram"),
        pytest.param("Save Detected Map: False", "save_detected_map", False, id="forge-map"),
    ],
)
def test_parse_keys_of_other_programs_are_read(extra: str, name: str, value: object) -> None:
    assert infotext.parse(f"{PUBLISHED}, {extra}")[name] == value


def test_row_18_infotext_of_forge_keeps_the_unit() -> None:
    fields = infotext.parse("Module: None, Model: m [1], Something: new, Weight: 0.5")
    assert fields == {"module": "none", "model": "m [1]", "weight": 0.5}


def test_parse_unreadable_number_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        fields = infotext.parse("Module: canny, Weight: heavy")
    assert fields == {"module": "canny"}
    assert "Weight is 'heavy', must be a number; that is left out" in caplog.text


def test_parse_tells_who_asks_what_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        'Module: canny, Weight: nan, Guidance Start: 1_0, Guidance End: "0.5, '
        "Resize Mode: huge, Weight Curve: soon, Advanced Weighting: 1 inf"
    )
    unread: dict[str, str] = {}
    assert infotext.parse(text, unread) == {"module": "canny"}
    names = ("Weight", "Guidance Start", "Guidance End", "Resize Mode", "Weight Curve")
    assert list(unread) == [*names, "Advanced Weighting"]
    assert all(fault.startswith("is ") and ", must be " in fault for fault in unread.values())
    assert not caplog.text
    by_number: dict[int, dict[str, str]] = {}
    infotext.parse_all({"ControlNet 3": text}, by_number)
    assert by_number == {3: unread}


def test_parse_early_notation_with_range() -> None:
    fields = infotext.parse(
        "preprocessor: canny, model: control_canny [1], weight: 1, starting/ending: (0.2, 0.8), "
        "resize mode: Just Resize, pixel perfect: True, control mode: Balanced"
    )
    assert (fields["module"], fields["guidance_start"], fields["guidance_end"]) == (
        "canny",
        0.2,
        0.8,
    )
    assert fields["resize_mode"] is ResizeMode.RESIZE


def test_parse_text_without_fields_raises() -> None:
    with pytest.raises(ValueError, match="holds none of the fields Module"):
        infotext.parse("hello world")


def test_parse_all_numbers_units_and_ignores_the_rest() -> None:
    params = {
        "Steps": "20",
        "ControlNet 0": PUBLISHED,
        "ControlNet 2": "Module: depth_midas, Weight: 0.5",
        "ControlNet 3": "broken",
        "ControlNet": "Module: tile_resample",
        "Other": 5,
    }
    units = infotext.parse_all({**params, "ControlNet": 3})
    assert sorted(units) == [0, 2]
    assert infotext.parse_all({"ControlNet": "Module: x"})[0] == {"module": "x"}


def test_row_18_infotext_of_2023_in_flat_notation() -> None:
    units = infotext.parse_all(
        {
            "ControlNet-0 Enabled": "True",
            "ControlNet-0 Module": "canny",
            "ControlNet-0 Model": "control_sd15, canny [fef5e48e]",
            "ControlNet-0 Weight": "0.7",
            "ControlNet-0 Guidance Strength": "0.9",
        }
    )
    assert units == {
        0: {
            "module": "canny",
            "model": "control_sd15, canny [fef5e48e]",
            "weight": 0.7,
            "guidance_end": 0.9,
        }
    }


@pytest.mark.parametrize(
    ("key", "own"), [("ControlNet 0", True), ("ControlNet", False), ("ControlNet M2M", False)]
)
def test_is_own_key_only_takes_unit_entries(key: str, own: bool) -> None:
    assert infotext.is_own_key(key) is own


def test_parse_reads_in_one_pass_what_a_pattern_read() -> None:
    text = (
        'Module: "a, b: \\"c\\"" , starting/ending: (0.1 , 0.9), Model:x,, junk "y: 1", Weight : 2'
    )
    assert infotext.parse(text) == {
        "module": 'a, b: "c"',
        "guidance_start": 0.1,
        "guidance_end": 0.9,
        "model": "x",
        "weight": 2.0,
    }


@pytest.mark.parametrize(
    "text", ["starting/ending: (1.2.3, 4)", "starting/ending: (0", "starting/ending: (0, x)"]
)
def test_parse_window_that_is_none_is_left_out(text: str) -> None:
    assert infotext.parse(f"Module: canny, {text}") == {"module": "canny"}


@pytest.mark.parametrize(
    "params",
    [
        {"ControlNet 0": "Module: " + "a" * 30_000},
        {"ControlNet " + "9" * 5000: "Module: canny"},
        {"ControlNet-" + "9" * 5000 + " Module": "canny"},
        {"ControlNet-0 Module": "a" * 30_000},
    ],
    ids=["long", "number", "flat-number", "flat-long"],
)
def test_parse_all_passes_over_what_nobody_wrote(params: dict[str, str]) -> None:
    assert infotext.parse_all({**params, "ControlNet 1": "Module: x"}) == {1: {"module": "x"}}


def test_with_whom_a_unit_was_evaluated_is_written_and_read_by_nobody() -> None:
    unit = ControlUnit(module="canny", union_control_type=ControlNetUnionControlType.DEPTH)
    plain = infotext.serialize(unit)
    written = plain + infotext.describe_company([1, 2])
    assert written.endswith(", Evaluated With: 1 2")
    assert infotext.parse(written) == infotext.parse(plain)
    assert infotext.describe_company([]) == ""
