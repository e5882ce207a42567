"""Other scripts steer the units: `p.control_net_*`, and the axes of the X/Y/Z grid."""

from __future__ import annotations

import copy
from typing import Any

import neighbours
import numpy as np
import pytest
from controls import MODEL, SIZE, encoded, picture, unit
from PIL import Image

ALLOW = "control_net_allow_script_control"
TITLES = [
    *("Enabled", "Model", "Weight", "Guidance Start", "Guidance End", "Control Mode"),
    *("Resize Mode", "Preprocessor", "Pre Resolution", "Pre Threshold A", "Pre Threshold B"),
]


@pytest.fixture
def allowed(webui, monkeypatch):
    from modules import shared

    monkeypatch.setitem(shared.opts.data, ALLOW, True)


def processing_of(*units: dict, **attributes: Any) -> Any:
    """A processing object with these units, and attributes that a script has put on it."""
    p = neighbours.processing_of(*units)
    for name, value in attributes.items():
        setattr(p, name, value)
    return p


def generate(p: Any) -> np.ndarray:
    """The first picture."""
    return np.array(neighbours.process(p).images[0])


@pytest.fixture(scope="module")
def free(webui):
    return generate(processing_of())


@pytest.fixture(scope="module")
def controlled(webui):
    return generate(processing_of(unit()))


def test_attributes_without_permission_do_nothing(webui, controlled):
    assert np.array_equal(generate(processing_of(unit(), control_net_weight=0.0)), controlled)


def test_attributes_with_permission_change_this_generation_only(webui, allowed, free, controlled):
    asked = unit()
    before = copy.deepcopy(asked)
    assert np.array_equal(generate(processing_of(asked, control_net_weight=0.0)), free)
    assert np.array_equal(generate(processing_of(asked, control_net_enabled=False)), free)
    assert asked == before
    assert np.array_equal(generate(processing_of(asked)), controlled)


@pytest.mark.parametrize("form", ["pil", "array", "list", "dict"])
def test_row_16_picture_given_by_a_script_controls(webui, allowed, controlled, form):
    pixels = picture()
    forms = {
        "pil": Image.fromarray(pixels),
        "array": pixels,
        "list": [Image.fromarray(pixels)],
        "dict": {"image": pixels, "mask": np.zeros_like(pixels)},
    }
    p = processing_of(unit(image=encoded(picture(seed=9))), control_net_input_image=forms[form])
    assert np.array_equal(generate(p), controlled)


def test_script_without_units_builds_one(webui, allowed, controlled):
    p = processing_of(
        control_net_enabled=True, control_net_model=MODEL, control_net_input_image=picture()
    )
    assert np.array_equal(generate(p), controlled)


def test_impossible_attribute_stops_with_a_sentence(webui, allowed):
    with pytest.raises(Exception, match="unit 0: weight is 'heavy', must be a number"):
        generate(processing_of(unit(), control_net_weight="heavy"))


@pytest.fixture
def grid(webui):
    """Our axes in the host's grid script; label -> axis."""
    from modules import scripts

    from lib_controlnet.host.runs import xyz
    from lib_controlnet.host.runtime import runtime

    (module,) = (
        data.module
        for data in scripts.scripts_data
        if data.script_class.__module__ == xyz.SCRIPT_FILE
    )
    xyz.register(runtime())
    labels = [axis.label for axis in module.axis_options]
    assert len(labels) == len(set(labels)), "registering again adds nothing"
    prefix = xyz.PREFIX
    ours = [axis for axis in module.axis_options if axis.label.startswith(prefix)]
    return {axis.label.removeprefix(prefix): axis for axis in ours}


def cells(axis: Any, text: str) -> list[Any]:
    """Values as the grid script reads them from its text box."""
    values = [axis.type(word) for word in axis.prepare(text)]
    if axis.confirm:
        axis.confirm(None, values)
    return values


def test_row_17_xyz_axes_have_their_titles_in_order(grid):
    assert list(grid)[:11] == TITLES
    assert {"Region Feather", "Region", "Window (start-end)"} <= set(grid)


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("Weight", "0, 0.5,1", [0, 0.5, 1]),
        ("Weight", "0-1 (+0.25)", [0, 0.25, 0.5, 0.75, 1]),
        ("Weight", "0-1 [3]", [0, 0.5, 1]),
        ("Weight", "[0.5,1], [1, None], 0.2", [[0.5, 1], [1, None], 0.2]),
        ("Weight", "1,, None", [1, None, None]),
        ("Pre Resolution", "256-768(+256)", [256, 512, 768]),
        ("Pre Threshold A", "10-1 (-3)", [10, 7, 4, 1]),
        ("Enabled", "True, false", [True, False]),
        ("Enabled", "[True,False]", [[True, False]]),
        ("Control Mode", "Balanced, ControlNet is more important", None),
        ("Preprocessor", "canny, [none, invert]", ["canny", ["none", "invert"]]),
        ("Window (start-end)", "0-0.5, [0.5-1, None]", [(0.0, 0.5), [(0.5, 1.0), None]]),
    ],
)
def test_row_17_xyz_values_are_read(grid, title, text, expected):
    assert cells(grid[title], text) == (expected or [word.strip() for word in text.split(",")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a [01234567], b [89abcdef]", ["a [01234567]", "b [89abcdef]"]),
        ("x [fp16] [01234567], x [fp16]", ["x [fp16] [01234567]", "x [fp16]"]),
        ("[fp16] x [01234567]", ["[fp16] x [01234567]"]),
        ("x [a, b] [01234567], y", ["x [a, b] [01234567]", "y"]),
        ("[a [01234567], b [89abcdef]], c", [["a [01234567]", "b [89abcdef]"], "c"]),
        ("[[fp16] x [01234567], None]", [["[fp16] x [01234567]", None]]),
        ('"a, b [01234567]", c', ["a, b [01234567]", "c"]),
        ('["a, b", c]', [["a, b", "c"]]),
        ("x [fp16, y]z, [", ["x [fp16, y]z", "["]),
        ("x [fp16, y", ["x [fp16", "y"]),
        ("a] b, c", ["a] b", "c"]),
        ("a\0" + "7\0, b", ["a 7", "b"]),
        ("a [01234567]\nb", ["a [01234567]", "b"]),
    ],
)
def test_names_with_brackets_and_commas_are_whole_values(webui, text, expected):
    from lib_controlnet.host.runs import xyz

    assert list(map(xyz.per_unit(str), xyz.split(text))) == expected


def test_a_text_of_brackets_is_read_in_one_pass(webui):
    from lib_controlnet.host.runs import xyz

    assert len(xyz.split("[a]," * 12_000)) == 12_001


@pytest.mark.parametrize(
    ("title", "text", "message"),
    [
        ("Weight", "heavy", "'heavy' is no value"),
        ("Weight", "5-1 (+1)", "never reaches its end"),
        ("Guidance End", "7", "guidance_end is 7"),
        ("Model", "absent", "'absent' is not found"),
        ("Preprocessor", "frob", "Module not available: 'frob'"),
        ("Region", "behind", "region is 'behind'"),
        ("Window (start-end)", "0.5", "write start-end"),
        ("Weight", "0-1 [1000000000]", "stands for more than 1000 numbers"),
        ("Weight", "0-1e9, 0-999999999", "stands for more than 1000 numbers"),
        ("Weight", "0-1 (0.00000000001)", "stands for more than 1000 numbers"),
        ("Weight", "0-900, 0-900", "stands for more than 1000 numbers"),
        ("Weight", "1" * 30_000, "is no value|weight is"),
        ("Weight", " " * 100_000, "at most 50000 are read"),
        ("Weight", "[" * 20_000 + "]" * 20_000, "is no value"),
        ("Model", '"' + "a" * 60_000, "at most 50000 are read"),
    ],
    ids=lambda text: text[:20],
)
def test_impossible_axis_value_is_refused_before_the_first_cell(grid, title, text, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        cells(grid[title], text)


def test_cells_change_their_own_generation_only(webui, grid, free, controlled):
    from modules import shared

    asked = unit()
    before = copy.deepcopy(asked)
    p = processing_of(asked)
    weights = []
    for value in cells(grid["Weight"], "0, 1, [0]"):
        cell = copy.copy(p)
        grid["Weight"].apply(cell, value, None)
        weights.append(generate(cell))
    assert [np.array_equal(result, free) for result in weights] == [True, False, True]
    assert np.array_equal(weights[1], controlled)
    assert asked == before
    assert not hasattr(p, "controlnet_cell")
    assert not shared.opts.data.get(ALLOW, False), "the grid needs no permission and grants none"
    assert np.array_equal(generate(p), controlled)


def test_two_axes_act_together(webui, grid, free):
    p = copy.copy(processing_of(unit()))
    (window,) = cells(grid["Window (start-end)"], "1-1")
    grid["Window (start-end)"].apply(p, window, None)
    grid["Weight"].apply(p, 2, None)
    assert np.array_equal(generate(p), free)
    assert SIZE == 64
