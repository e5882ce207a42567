"""Axes of the X/Y/Z plot: what a cell sets is what the same request sets, and legends say it."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace
from typing import Any

import made_up
import numpy as np
import pytest
from controls import MODEL, encoded, first, picture, request, unit
from neighbours import processing_of

from lib_controlnet.units import overrides
from lib_controlnet.units.unit import FIELDS, parse_unit

UNITS = [unit(weight=0.9), unit(image=encoded(picture(seed=1)), module="canny", weight=0.7)]
EVERY, FIRST, SECOND = (0, 1), (0,), (1,)

# title: [(as typed, legend, {units: fields})], the two values of every axis being different
AXES: dict[str, list[tuple[str, str, dict[tuple[int, ...], dict[str, Any]]]]] = {
    "Enabled": [
        ("False", "False (unit 0)", {FIRST: {"enabled": False}}),
        ("[yes, off]", "[True, False]", {SECOND: {"enabled": False}}),
    ],
    "Model": [
        (MODEL, f"{MODEL} [HASH]", {EVERY: {"model": MODEL}}),
        ("[None, other_base]", "[as in the unit, other_base [HASH]]",
         {SECOND: {"model": "other_base"}}),
    ],
    "Weight": [
        ("0.5", "0.5", {EVERY: {"weight": 0.5}}),
        ("[0.25,1]", "[0.25, 1]", {FIRST: {"weight": 0.25}, SECOND: {"weight": 1}}),
    ],
    "Guidance Start": [
        (".25", "0.25", {EVERY: {"guidance_start": 0.25}}),
        ("[0.1, ]", "[0.1, as in the unit]", {FIRST: {"guidance_start": 0.1}}),
    ],
    "Guidance End": [
        ("0.75", "0.75", {EVERY: {"guidance_end": 0.75}}),
        ("[None, 0.5]", "[as in the unit, 0.5]", {SECOND: {"guidance_end": 0.5}}),
    ],
    "Control Mode": [
        ("1", "My prompt is more important", {EVERY: {"control_mode": 1}}),
        ("[2, Balanced]", "[ControlNet is more important, Balanced]", {FIRST: {"control_mode": 2}}),
    ],
    "Resize Mode": [
        ("Just Resize", "Just Resize", {EVERY: {"resize_mode": 0}}),
        ("[Resize and Fill]", "[Resize and Fill]", {FIRST: {"resize_mode": 2}}),
    ],
    "Preprocessor": [
        ("invert", "invert (from white bg & black line)", {EVERY: {"module": "invert"}}),
        ("[none, softedge_hed]", "[none, softedge_hed]",
         {FIRST: {"module": "none"}, SECOND: {"module": "softedge_hed"}}),
    ],
    "Pre Resolution": [
        ("256", "256", {EVERY: {"processor_res": 256}}),
        ("[128, 512]", "[128, 512]",
         {FIRST: {"processor_res": 128}, SECOND: {"processor_res": 512}}),
    ],
    "Pre Threshold A": [
        ("50", "50", {EVERY: {"threshold_a": 50}}),
        ("[None,60]", "[as in the unit, 60]", {SECOND: {"threshold_a": 60}}),
    ],
    "Pre Threshold B": [
        ("150", "150", {EVERY: {"threshold_b": 150}}),
        ("[None,160]", "[as in the unit, 160]", {SECOND: {"threshold_b": 160}}),
    ],
    "Window (start-end)": [
        ("0.1-0.6", "0.1-0.6", {EVERY: {"guidance_start": 0.1, "guidance_end": 0.6}}),
        ("[0-0.5, None]", "[0.0-0.5, as in the unit]", {FIRST: {"guidance_end": 0.5}}),
    ],
    "Region": [
        ("Own mask", "Own mask", {EVERY: {"region": "Own mask"}}),
        ("[None, Outside the inpaint mask]", "[as in the unit, Outside the inpaint mask]",
         {SECOND: {"region": "Outside the inpaint mask"}}),
    ],
    "Region Feather": [
        ("8", "8", {EVERY: {"region_feather": 8}}),
        ("[None, 4]", "[as in the unit, 4]", {SECOND: {"region_feather": 4}}),
    ],
    "Hires-Fix Option": [
        ("Low res only", "Low res only", {EVERY: {"hr_option": "Low res only"}}),
        ("[High res only]", "[High res only]", {FIRST: {"hr_option": "High res only"}}),
    ],
    "Union Control Type": [
        ("depth", "Depth", {EVERY: {"union_control_type": "Depth"}}),
        ("[None, 9]", "[as in the unit, 9]", {SECOND: {"union_control_type": "9"}}),
    ],
    "Union Apart": [
        ("true", "True", {EVERY: {"union_apart": True}}),
        ("[None, true]", "[as in the unit, True]", {SECOND: {"union_apart": True}}),
    ],
    "Speed": [
        ("fast", "Fast", {EVERY: {"speed": "Fast"}}),
        ("[None, Fastest]", "[as in the unit, Fastest]", {SECOND: {"speed": "Fastest"}}),
    ],
    "Weight Curve": [
        ('"1@0, 0@1"', "1@0, 0@1", {EVERY: {"weight_curve": "linear"}}),
        ('[None, "pulse | 0.5@0"]', "[as in the unit, 0@0, 1@0.5, 0@1 | 0.5@0]",
         {SECOND: {"weight_curve": "pulse | 0.5@0"}}),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def axes(webui) -> dict[str, Any]:
    """The script's axes of ours by title."""
    from modules import scripts

    modules = (data.module for data in scripts.scripts_data)
    grid = next(module for module in modules if hasattr(module, "axis_options"))
    start = "[ControlNet] "
    found = {o.label.removeprefix(start): o for o in grid.axis_options if o.label.startswith(start)}
    webui.get("/controlnet/model_list?update=true")
    return found


def read(option: Any, text: str, p: Any) -> list[Any]:
    """Values of an axis, as the script reads what is typed."""
    values = [option.type(word) for word in option.prepare(text)]
    option.confirm(p, values)
    return values


def units_of(p: Any) -> list[Any]:
    """The units that a generation on `p` starts with."""
    from lib_controlnet.host import generation
    from lib_controlnet.host.runtime import runtime

    script = p.scripts.script("ControlNet")
    asked = generation.read_units(p.script_args[script.args_from : script.args_to])
    found = overrides.apply(asked, generation.outside_values(p, runtime()))
    names = (*FIELDS, "index", "acting_region")
    return [{name: getattr(unit, name) for name in names} for unit in found]


def cell(p: Any, *chosen: tuple[Any, Any]) -> Any:
    made = copy.copy(p)
    for option, value in chosen:
        option.apply(made, value, [value])
    return made


def alone(*changes: dict[tuple[int, ...], dict[str, Any]]) -> list[Any]:
    """The units of the request that has the cell's values in its own units."""
    units = [dict(given) for given in UNITS]
    for indices, fields in itertools.chain(*(change.items() for change in changes)):
        for index in indices:
            units[index].update(fields)
    return units_of(processing_of(*units))


def test_table_has_every_axis(axes):
    assert list(axes) == list(AXES)


@pytest.mark.parametrize("title", AXES)
def test_values_of_an_axis_and_their_legends(axes, title):
    option, p = axes[title], processing_of(*UNITS)
    values = read(option, ", ".join(typed for typed, _, _ in AXES[title]), p)
    for value, (typed, legend, change) in zip(values, AXES[title], strict=True):
        assert units_of(cell(p, (option, value))) == alone(change), typed
        shown = option.format_value(p, option, value)
        for name in (MODEL, "other_base"):
            hashed = next(n for n in model_names() if n.startswith(f"{name} "))
            legend = legend.replace(f"{name} [HASH]", hashed)
        assert shown == f"[ControlNet] {title}: {legend}"
    (unset,) = read(option, "None", p)
    assert units_of(cell(p, (option, unset))) == alone()
    assert option.format_value(p, option, unset).endswith(": as in the unit")


def model_names() -> list[str]:
    from lib_controlnet.host.runtime import runtime

    return runtime().catalog.names()


WINDOW = "Window (start-end)"
WINDOWS = {"Guidance Start", "Guidance End", WINDOW}


@pytest.mark.parametrize("title", AXES)
def test_cells_of_every_two_axes_are_the_request_with_both_values(axes, title):
    p = processing_of(*UNITS)
    for other, forms in AXES.items():
        shared = {title, other} <= WINDOWS and WINDOW in (title, other)
        for (typed, _, change), (typed_too, _, change_too) in zip(
            AXES[title], reversed(forms), strict=True
        ):
            if other == title or shared:
                continue
            pairs = [(axes[name], read(axes[name], text, p)[0])
                     for name, text in ((title, typed), (other, typed_too))]  # fmt: skip
            assert units_of(cell(p, *pairs)) == alone(change, change_too), (other, typed, typed_too)
    assert units_of(p) == alone(), "the grid's own job is as it was"


@pytest.mark.parametrize(
    ("texts", "weights"),
    [
        (("[0.5,None]", "[None,0.25]"), (0.5, 0.25)),
        (("[0.5]", "[,0.25]"), (0.5, 0.25)),
        (("None", "0.25"), (0.25, 0.25)),
    ],
)
def test_two_axes_may_vary_one_field_of_different_units(axes, texts, weights):
    option, p = axes["Weight"], processing_of(*UNITS)
    made = cell(p, *((option, read(option, text, p)[0]) for text in texts))
    assert tuple(unit["weight"] for unit in units_of(made)) == weights


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ([("Weight", "0.5"), ("Weight", "0.6")], "two axes of the grid set the same value"),
        ([("Weight", "[0.5,1]"), ("Weight", "[None,0.6]")], "two axes of the grid"),
        ([("Guidance End", "0.5"), ("Window (start-end)", "0-1")], "two axes of the grid"),
        ([("Weight", "")], "the axis has no values"),
        ([("Weight", "[1,1,1,1]")], "values for 4 units, and there are 3"),
        ([("Weight", "heavy")], "'heavy' is no value"),
        ([("Weight", "[1,heavy]")], "'heavy' is no value"),
        ([("Weight", "1_0")], "'1_0' is no value"),
        ([("Weight", "-3")], "weight"),
        ([("Enabled", "maybe")], "neither True nor False"),
        ([("Preprocessor", "cannyy")], "cannyy"),
        ([("Model", "no such model")], "no such model"),
        ([("Control Mode", "7")], "control_mode"),
        ([("Window (start-end)", "0.5")], "is no window"),
        ([("Window (start-end)", "0-7")], "guidance_end"),
        ([("Pre Resolution", "10-1(+1)")], "never reaches its end"),
        ([("Weight Curve", "1@0, 0.5@0.7")], "'0.5@0.7' is one point of a curve; put each curve"),
        ([("Weight Curve", "0.5@0, 1@0 | 0@1")], "'1@0 | 0@1' is one point of a curve; put each"),
        ([("Weight Curve", '"1@0, 9@1"')], "must have factors between 0 and 2, not 9"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_grid_that_cannot_be_true_is_refused_with_a_sentence(axes, chosen, sentence):
    p = processing_of(*UNITS)

    def make() -> None:
        pairs = [(axes[title], read(axes[title], text, p)) for title, text in chosen]
        cell(p, *((option, values[0]) for option, values in pairs))

    with pytest.raises(RuntimeError, match="^\\[ControlNet\\] ") as raised:
        make()
    assert sentence in str(raised.value)


def test_model_names_are_read_with_their_hash_and_from_a_list(axes):
    option, p = axes["Model"], processing_of(*UNITS)
    names = [name for name in model_names() if name.startswith((MODEL, "other_base"))]
    assert len(names) == 2
    assert read(option, ", ".join(names), p) == names
    both = f"[{names[0]}, None], {names[1]}"
    assert read(option, both, p) == [[names[0], None], names[1]]
    assert option.prepare("a\r\nb\rc\nd") == ["a", "b", "c", "d"]
    assert option.prepare("[fp16] a [01234567], b") == ["[fp16] a [01234567]", "b"]
    assert option.type("[fp16] a [01234567]") == "[fp16] a [01234567]"
    assert option.type([names[0], "None"]) == [names[0], None]


def script_args(*chosen: tuple[str, str]) -> list[Any]:
    from modules import scripts

    grid = scripts.scripts_txt2img.script("x/y/z plot")
    labels = [option.label for option in grid.options]
    values: list[Any] = []
    for title, text in [*chosen, *[("Nothing", "")] * (3 - len(chosen))]:
        values += [labels.index(title), text, []]
    return [*values, True, True, *[False] * 5, 0, True]


def grid(webui: Any, *units: dict, axes: list[tuple[str, str]]) -> Any:
    asked = {"script_name": "x/y/z plot", "script_args": script_args(*axes)}
    return webui.post("/sdapi/v1/txt2img", request(*units, steps=1, **asked))


def test_cells_with_an_axis_of_the_host_equal_the_requests_alone(webui, axes):
    from modules.api.api import decode_base64_to_image

    chosen = [("Seed", "5, 6"), ("[ControlNet] Weight", "[0.5], [1.5]"), ("Steps", "1, 2")]
    answer = grid(webui, unit(), axes=chosen)
    assert answer.status_code == 200, answer.text
    pictures = [np.array(decode_base64_to_image(x)) for x in answer.json()["images"]][1:9]
    for made, (steps, weight, seed) in zip(
        pictures, itertools.product((1, 2), (0.5, 1.5), (5, 6)), strict=True
    ):
        expected = webui.txt2img(**{**request(unit(weight=weight)), "steps": steps, "seed": seed})
        assert np.array_equal(made, first(expected)), (steps, weight, seed)


@pytest.mark.parametrize(
    ("units", "chosen", "sentence"),
    [
        ([], [("[ControlNet] Weight", "1")], "no unit is enabled"),
        ([unit(enabled=False)], [("[ControlNet] Weight", "1")], "no unit is enabled"),
        ([unit()], [("[ControlNet] Weight", "x")], "is no value"),
    ],
)
def test_refused_grid_is_a_4xx_over_http(webui, axes, units, chosen, sentence):
    answer = grid(webui, *units, axes=chosen)
    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]


def test_axis_that_enables_a_unit_may_stand_beside_others(webui, axes):
    chosen = [("[ControlNet] Weight", "1"), ("[ControlNet] Enabled", "True")]
    answer = grid(webui, unit(enabled=False), axes=chosen)
    assert answer.status_code == 200, answer.text


def test_made_up_field_is_an_axis_and_a_value_that_others_read(webui, monkeypatch):
    from lib_controlnet.host import generation, neighbours
    from lib_controlnet.host.runs import xyz
    from lib_controlnet.host.runtime import runtime

    made_up.add_field(monkeypatch)
    *_others, (label, read, change) = xyz.axes(lambda *parts, **_more: parts, runtime())
    assert label == f"{xyz.PREFIX}{made_up.TITLE}"
    p = processing_of(unit())
    change(p, read("0.25"), [])
    (changed,) = overrides.apply([parse_unit({})], generation.outside_values(p, runtime()))
    assert changed.glow == 0.25
    prepared = SimpleNamespace(unit=changed)
    assert getattr(neighbours.ControlParams(None, prepared), made_up.VIEW) == 0.25
