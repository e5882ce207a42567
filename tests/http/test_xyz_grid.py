"""Cells of the X/Y/Z plot equal single generations with their values, pixel for pixel (row 17)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checklist import MODEL, ask, shapes

GRID = "x/y/z plot"
SIZE = {"steps": 2, "width": 64, "height": 64}
SECOND_MODEL = "control_demo_scribble"

AXES = [
    ("Enabled", ["True", "False"], [{}, {"enabled": False}]),
    ("Model", [MODEL, SECOND_MODEL], [{}, {"model": SECOND_MODEL}]),
    ("Weight", ["0", "0.4", "1.6"], [{"weight": w} for w in (0, 0.4, 1.6)]),
    ("Guidance Start", ["0", "0.5"], [{}, {"guidance_start": 0.5}]),
    ("Guidance End", ["0.5", "1"], [{"guidance_end": 0.5}, {}]),
    (
        "Control Mode",
        ["Balanced", "My prompt is more important", "ControlNet is more important"],
        [{"control_mode": number} for number in range(3)],
    ),
    (
        "Resize Mode",
        ["Just Resize", "Crop and Resize", "Resize and Fill"],
        [{"resize_mode": number} for number in range(3)],
    ),
    (
        "Preprocessor",
        ["none", "canny", "invert (from white bg & black line)"],
        [{"module": name} for name in ("none", "canny", "invert")],
    ),
    ("Pre Resolution", ["64", "256"], [{"processor_res": n} for n in (64, 256)]),
    ("Pre Threshold A", ["10", "250"], [{"threshold_a": n} for n in (10, 250)]),
    ("Pre Threshold B", ["20", "255"], [{"threshold_b": n} for n in (20, 255)]),
    (
        "Window (start-end)",
        ["0-0.5", "0.5-1"],
        [{"guidance_end": 0.5}, {"guidance_start": 0.5}],
    ),
    (
        "Region",
        ["Inside the inpaint mask", "Outside the inpaint mask"],
        [{"region": "Inside the inpaint mask"}, {"region": "Outside the inpaint mask"}],
    ),
    ("Region Feather", ["0", "40"], [{}, {"region_feather": 40}]),
    (
        "Weight Curve",
        ['"1@0, 1@0.5, 0@0.5"', "ease in"],
        [{"guidance_end": 0.5}, {"guidance_start": 0.5, "weight": 0.25}],
    ),
]

MASKED = {"Region": ("mask",), "Region Feather": ("effective_region_mask",)}
"""Fields that get a mask where an axis needs one."""


def noisy() -> np.ndarray:
    """Shapes with edges of every strength, wider than the picture to be made."""
    picture = shapes(160, 96).astype(int)
    picture += np.random.default_rng(3).integers(-25, 26, picture.shape)
    picture[8:40, 100:150] //= 2
    return picture.clip(0, 255).astype(np.uint8)


def half() -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    return mask


@pytest.fixture(scope="module")
def unit(codec: Any) -> dict[str, Any]:
    return {
        **{"module": "canny", "model": MODEL, "image": codec.encode(noisy())},
        **{"processor_res": 96, "threshold_a": 60, "threshold_b": 120},
    }


@pytest.fixture(scope="module")
def grid(webui: Any) -> list[dict[str, Any]]:
    """The grid's arguments in txt2img: of three axes, then of its own, which some hosts add to."""
    scripts = webui.get("/sdapi/v1/script-info").json()
    (grid,) = [one for one in scripts if one["name"] == GRID and not one["is_img2img"]]
    return grid["args"]


OWN = {"Draw legend": False, "Include Sub Images": True}
"""Those of its own that are not as they come."""


def script_args(grid: list[dict[str, Any]], *chosen: tuple[str, list[str]]) -> list[Any]:
    """The script's arguments for one to three axes, values as text and as dropdown choices."""
    axes = grid[0]["choices"]
    values: list[Any] = []
    for title, texts in [*chosen, *[("", [])] * (3 - len(chosen))]:
        place = axes.index(f"[ControlNet] {title}") if title else 0
        values += [place, ", ".join(texts), texts]
    rest = grid[len(values) :]
    assert OWN.keys() <= {one["label"] for one in rest}
    return [*values, *[OWN.get(one["label"], one["value"]) for one in rest]]


def images(codec: Any, answer: Any) -> list[np.ndarray]:
    assert answer.status_code == 200, answer.text[:2000]
    return [codec.decode(text) for text in answer.json()["images"]]


def single(webui: Any, codec: Any, *units: dict) -> np.ndarray:
    return images(codec, ask(webui, *units, **SIZE))[0]


@pytest.mark.parametrize(("title", "values", "fields"), AXES, ids=[axis[0] for axis in AXES])
def test_row_17_xyz_cells_equal_single_generations(
    webui: Any, codec: Any, grid: list[dict], unit: dict, title: str, values: list, fields: list
) -> None:
    given = {**unit, **{name: codec.encode(half()) for name in MASKED.get(title, ())}}
    if title == "Region":
        given |= {"module": "inpaint_global_harmonious", "model": "control_demo_inpaint"}
    arguments = script_args(grid, (title, values))
    made = images(codec, ask(webui, given, script_name=GRID, script_args=arguments, **SIZE))
    cells = made[1 : 1 + len(values)]
    expected = [single(webui, codec, {**given, **own}) for own in fields]
    for value, cell, alone in zip(values, cells, expected, strict=True):
        assert (cell == alone).all(), f"{title} {value}"
    for other in expected[1:]:
        assert (other != expected[0]).any(), "the values make no difference"


def test_row_17_xyz_two_axes_and_values_for_each_unit(
    webui: Any, codec: Any, grid: list[dict], unit: dict
) -> None:
    second = {**unit, "module": "invert", "model": SECOND_MODEL, "weight": 0.5}
    chosen = [("Weight", ["[0.2,1.2]", "[1,None]"]), ("Guidance End", ["0.5", "1"])]
    asked = {"script_name": GRID, "script_args": script_args(grid, *chosen)}
    made = images(codec, ask(webui, unit, second, **asked, **SIZE))
    cells = iter(made[1:5])
    for end in (0.5, 1):
        for first_weight, second_weight in ((0.2, 1.2), (1, 0.5)):
            units = [
                {**unit, "weight": first_weight, "guidance_end": end},
                {**second, "weight": second_weight, "guidance_end": end},
            ]
            assert (next(cells) == single(webui, codec, *units)).all(), (end, first_weight)


def test_row_17_xyz_leaves_no_setting_switched(
    webui: Any, codec: Any, grid: list[dict], unit: dict
) -> None:
    before = single(webui, codec, unit)
    asked = {"script_name": GRID, "script_args": script_args(grid, ("Weight", ["0.1"]))}
    ask(webui, unit, **asked, **SIZE)
    assert (single(webui, codec, unit) == before).all()
    options = webui.get("/sdapi/v1/options").json()
    assert not options.get("control_net_allow_script_control", False)
