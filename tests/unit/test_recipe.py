"""docs/recipe.md: its measures measure, its numbers are those of the runs, its request is valid."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from lib_controlnet.enums import ActingRegion
from lib_controlnet.units.unit import parse_unit

MODELS = {"canny": "a", "depth": "b", "inpaint": "c"}
MAX_BYTES = 400_000
SIDE = 96


def load(name: str) -> ModuleType:
    docs = str(Path(__file__).resolve().parents[2] / "docs")
    if docs not in sys.path:
        sys.path.append(docs)
    return __import__(name)


measures = load("recipe_measures")
runs = load("recipe_runs")
drawing = load("recipe_drawing")
recipe = load("make_recipe")


def disk(radius: int = 25) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(mask, (SIDE // 2, SIDE // 2), radius, 255, -1)
    return mask


def two_tones(mask: np.ndarray, inside: int = 150, outside: int = 70) -> np.ndarray:
    return np.repeat(np.where(mask > 0, inside, outside).astype(np.uint8)[..., None], 3, axis=2)


def test_seam_of_a_plain_picture_is_zero() -> None:
    assert abs(measures.seam(two_tones(disk(), 90, 90), disk())) < 1e-4


@pytest.mark.parametrize("contrast", [8, 40, 80])
def test_seam_of_a_step_is_its_height_over_the_band(contrast: int) -> None:
    picture = two_tones(disk(), 70 + contrast, 70)
    expected = contrast / (2 * measures.BAND)
    assert measures.seam(picture, disk()) == pytest.approx(expected, rel=0.02)
    darker = two_tones(disk(), 70, 70 + contrast)
    assert measures.seam(darker, disk()) == pytest.approx(expected, rel=0.02)


def test_seam_counts_all_three_channels_alike() -> None:
    whole = measures.seam(two_tones(disk()), disk())
    for channel in range(3):
        picture = two_tones(disk(), 70, 70)
        picture[..., channel] = two_tones(disk())[..., channel]
        assert measures.seam(picture, disk()) == pytest.approx(whole / 3, rel=0.01)


def test_seam_of_a_ramp_across_the_border_is_zero() -> None:
    ramp = np.repeat(np.arange(SIDE, dtype=np.uint8)[None, :, None] * 2, SIDE, axis=0)
    assert abs(measures.seam(np.repeat(ramp, 3, axis=2), disk())) < 0.05


def test_seam_of_the_same_texture_on_both_sides_is_about_zero() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    beside = measures.seam(noise, disk())
    assert abs(beside) < 1.5  # single pixels differ by about 85


def test_seam_adds_up_with_the_texture_around_it() -> None:
    noise = np.random.default_rng(1).integers(0, 5, (SIDE, SIDE, 3), dtype=np.uint8)
    found = measures.seam(two_tones(disk()) + noise, disk()) - measures.seam(noise, disk())
    assert found == pytest.approx(80 / (2 * measures.BAND), rel=0.15)


@pytest.mark.parametrize("offset", [-8, 8], ids=["inside", "outside"])
def test_line_beside_the_border_is_no_seam(offset: int) -> None:
    picture = two_tones(disk(25 + offset))
    assert measures.seam(picture, disk()) < -2


def test_soft_border_shows_less_than_a_hard_one() -> None:
    hard = two_tones(disk())
    soft = [cv2.GaussianBlur(hard, (0, 0), sigma) for sigma in (2, 4, 8)]
    found = [measures.seam(picture, disk()) for picture in (hard, *soft)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] / 4


def test_border_beyond_the_picture_does_not_count() -> None:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2] = 255
    assert measures.seam(two_tones(mask), mask) == pytest.approx(10, rel=0.01)
    profiles = measures.border_profiles(two_tones(mask), mask, 10)
    assert profiles.shape == (SIDE, 21, 3)
    assert np.allclose(profiles[:, 0], 70)
    assert np.allclose(profiles[:, -1], 150)


@pytest.mark.parametrize("value", [0, 255], ids=["black", "white"])
def test_seam_without_a_border_is_refused(value: int) -> None:
    mask = np.full((SIDE, SIDE), value, np.uint8)
    with pytest.raises(ValueError, match="no border"):
        measures.seam(two_tones(mask), mask)


def square(shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a bright square, and its edges."""
    picture = np.full((SIDE, SIDE, 3), 40, np.uint8)
    picture[36 + shift : 60 + shift, 36 + shift : 60 + shift] = 200
    return picture, cv2.Canny(picture, 100, 200)


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (2, 1.0), (5, 0.0)])
def test_adherence_forgives_two_pixels(shift: int, expected: float) -> None:
    found = measures.adherence_inside(square(shift)[0], square()[1], disk(40), 4)
    assert found == pytest.approx(expected, abs=0.12)


def test_adherence_sees_neither_the_outside_nor_the_border() -> None:
    picture, lines = square()
    framed = picture.copy()
    framed[disk(40) == 0] = 255
    framed[:6] = np.random.default_rng(1).integers(0, 256, (6, SIDE, 3), dtype=np.uint8)
    everywhere = lines.copy()
    everywhere[:6] = 255
    assert measures.adherence_inside(framed, everywhere, disk(40), 4) == 1
    assert measures.adherence_inside(framed, everywhere, disk(40), 0) < 1


def test_adherence_of_a_mask_that_leaves_the_picture_counts_up_to_its_edge() -> None:
    picture, lines = square(-34)
    whole = np.full((SIDE, SIDE), 255, np.uint8)
    assert lines[:6].any()
    assert measures.adherence_inside(picture, lines, whole, 30) == 1
    assert measures.adherence_inside(picture, np.zeros_like(lines), whole, 30) == 0


@pytest.mark.parametrize(("row", "expected"), [(48, 0), (20, 0), (19, 9)])
def test_change_outside_begins_beyond_the_margin(row: int, expected: int) -> None:
    original = np.full((SIDE, SIDE, 3), 100, np.uint8)
    picture = original.copy()
    picture[row, 48, 1] -= 9
    assert measures.change_outside(picture, original, disk(25), 3) == expected


def test_change_outside_of_everything_is_none() -> None:
    whole = np.full((SIDE, SIDE), 255, np.uint8)
    black, white = (np.full((SIDE, SIDE, 3), v, np.uint8) for v in (0, 255))
    assert measures.change_outside(black, white, whole, 3) == 0


PARTS = runs.scene.make_parts()
CASES = (*runs.CONTROLS, *runs.GRID)


def results() -> dict:
    return json.loads(runs.RESULTS.read_text(encoding="utf-8"))


def test_every_run_is_on_file_and_no_other() -> None:
    found = results()
    assert found["setup"] == runs.setup()
    assert set(found["runs"]) == {runs.key(case, seed) for case in CASES for seed in runs.SEEDS}


def test_photograph_of_the_results_is_the_one_of_the_scene() -> None:
    parts = runs.scene.make_parts()
    found = measures.seam(parts.photograph, parts.mask)
    assert found == pytest.approx(results()["photograph"]["seam"], abs=0.01)


def test_page_is_what_the_results_say() -> None:
    written = recipe.PAGE.read_text(encoding="utf-8")
    assert written == recipe.recipe_page.page(runs.load()), "run docs/make_recipe.py --redraw"


def test_page_follows_every_measure_of_the_results() -> None:
    for measure in runs.MEASURES:
        found = results()
        for values in found["runs"].values():
            values[measure] += 0.5
        changed = recipe.recipe_page.page(found).splitlines()
        before = recipe.recipe_page.page(results()).splitlines()
        assert sum(old != new for old, new in zip(before, changed, strict=True)) > 10


def test_pictures_of_the_page_are_there_and_small() -> None:
    text = recipe.PAGE.read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((images/[^)]+)\)", text))
    assert {f"images/{path.name}" for path in (recipe.SHEET, recipe.PLOT)} < links
    for link in links:
        assert (recipe.DOCS / link).stat().st_size < MAX_BYTES
    assert {path.name for path in (recipe.DOCS / "images").glob("recipe-*")} == {
        Path(link).name for link in links if "recipe-" in link
    }


def shown_units() -> list:
    text = recipe.PAGE.read_text(encoding="utf-8")
    body = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])
    assert body["init_images"]
    assert body["mask"]
    return [
        parse_unit(unit, index)
        for index, unit in enumerate(body["alwayson_scripts"]["controlnet"]["args"])
    ]


def test_request_of_the_page_is_the_recipe() -> None:
    edge, depth = shown_units()
    assert edge.enabled
    assert depth.enabled
    assert edge.notes == depth.notes == ()
    assert edge.acting_region is ActingRegion.INSIDE
    assert depth.acting_region is ActingRegion.OUTSIDE
    asked = runs.RECIPE
    assert (edge.weight, edge.guidance_end) == (asked.edge.weight, asked.edge.end)
    assert (depth.weight, depth.guidance_end) == (asked.depth.weight, asked.depth.end)
    assert edge.region_feather == depth.region_feather == asked.edge.feather


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_request_of_every_case_is_accepted_as_asked(case: object) -> None:
    body = runs.request(case, PARTS, MODELS)
    assert body["mask_blur"] == case.blur
    units = body["alwayson_scripts"]["controlnet"]["args"]
    parsed = [parse_unit(unit, index) for index, unit in enumerate(units)]
    assert not any(unit.notes for unit in parsed)
    asked = [part for part in (case.edge, case.depth) if part]
    assert len(parsed) == len(asked) + case.inpaint
    for unit, part in zip(parsed, asked, strict=False):
        assert (unit.weight, unit.guidance_end) == (part.weight, part.end)
        assert str(unit.acting_region) == part.region
        assert unit.region_feather == (0 if part.region == runs.WHOLE else part.feather)


def test_scene_is_a_cup_under_the_mask_and_a_figure_within_it() -> None:
    size = (runs.scene.HEIGHT, runs.scene.WIDTH)
    assert {PARTS.photograph.shape, PARTS.figure.shape, PARTS.depth.shape} == {(*size, 3)}
    assert 0.3 < (PARTS.mask > 0).mean() < 0.6
    lines = cv2.Canny(PARTS.figure, 100, 200) > 0
    core = cv2.erode(PARTS.mask, np.ones((9, 9), np.uint8), borderValue=255) > 0
    assert PARTS.mask[lines].all()
    assert core[lines].mean() > 0.9


class FakeStudio:
    """Answers every request with the untouched photograph."""

    asked: list[str]

    def __init__(self, *_options: object) -> None:
        self.models = MODELS
        type(self).asked = []

    def generate(self, label: str, **_body: object) -> list[np.ndarray]:
        self.asked.append(label.split(": ")[1])
        return [PARTS.photograph]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(runs, "Studio", FakeStudio)
    monkeypatch.setattr(runs, "control_lines", lambda *_: cv2.Canny(PARTS.figure, 100, 200))
    FakeStudio.asked = []
    path = tmp_path / "recipe.json"
    path.write_bytes(runs.RESULTS.read_bytes())
    return path


def test_runs_on_file_are_not_repeated(elsewhere: Path, tmp_path: Path) -> None:
    made, filed = runs.generate(tmp_path, path=elsewhere), results()
    assert FakeStudio.asked == []
    assert runs.load(elsewhere) == made
    # The photograph is measured again: another version of Pillow decodes it a little differently.
    assert made.pop("photograph") == pytest.approx(filed.pop("photograph"), abs=0.003)
    assert made == filed


def test_missing_runs_and_missing_pictures_are_made(elsewhere: Path, tmp_path: Path) -> None:
    found = results()
    gone, shown, there = sorted(found["runs"])[:3]
    del found["runs"][gone]
    runs.save(found, elsewhere)
    (tmp_path / runs.file_name(there)).touch()
    made = runs.generate(tmp_path, [shown, there], elsewhere)
    assert sorted(FakeStudio.asked) == sorted([gone, shown])
    assert runs.load(elsewhere) == made
    assert made["runs"][gone]["seam"] == pytest.approx(found["photograph"]["seam"], abs=0.01)
    assert made["runs"][gone]["outside"] == 0


def test_results_of_another_setup_are_dropped(elsewhere: Path) -> None:
    found = results()
    found["setup"]["steps"] += 1
    elsewhere.write_text(json.dumps(found), encoding="utf-8")
    assert runs.load(elsewhere)["runs"] == {}
    assert runs.load(elsewhere.with_name("none"))["runs"] == {}


def average(measure: str, *cases: object) -> float:
    return runs.mean(results(), cases, measure)


def named(name: str) -> object:
    return next(case for case in runs.CONTROLS if case.name == name)


def row(weight: float, end: float) -> list:
    return [runs.grid_case(weight, end, feather) for feather in runs.FEATHERS]


def test_advice_depth_of_the_old_figure_needs_a_region() -> None:
    alone = average("adherence", named("edges everywhere"))
    assert alone - average("adherence", named("edges and depth everywhere")) > 0.1
    for case in (runs.RECIPE, named("edges inside"), named("depth weight 1.5 end 1")):
        assert abs(alone - average("adherence", case)) < 0.03


def test_advice_end_adds_and_weight_adds_most_by_one_and_nothing_beyond_one_and_a_half() -> None:
    for weight in runs.WEIGHTS:
        by_end = [average("adherence", *row(weight, end)) for end in runs.ENDS]
        assert by_end == sorted(by_end)
    by_weight = [average("adherence", *row(weight, 1.0)) for weight in runs.WEIGHTS]
    gains = np.diff(by_weight)
    assert gains[0] > 0.5 * (max(by_weight) - min(by_weight))
    assert gains[1] > 0
    assert abs(gains[2]) < 0.03
    assert (np.diff(gains) < 0).all()
    assert average("adherence", *row(2.0, 0.3)) < average("adherence", *row(1.0, 0.6))


def test_advice_feather_moves_the_seam_by_a_tenth_of_what_blur_does_and_costs_little() -> None:
    found = results()
    by_blur = average("seam", named("mask blur 0")) - average("seam", named("mask blur 8"))
    assert by_blur > 1
    for weight in runs.WEIGHTS:
        cases = [
            [runs.grid_case(weight, end, feather) for end in runs.ENDS] for feather in runs.FEATHERS
        ]
        seams = [runs.mean(found, part, "seam") for part in cases]
        assert max(seams) - min(seams) < 0.1 * by_blur
        assert average("adherence", *cases[0]) >= average("adherence", *cases[-1])


def test_advice_mask_blur_hides_the_seam_up_to_eight() -> None:
    found = results()
    none, four, eight = (
        runs.values(found, case, "seam")
        for case in (named("mask blur 0"), runs.RECIPE, named("mask blur 8"))
    )
    assert all(a > b > c for a, b, c in zip(none, four, eight, strict=True))
    assert average("seam", named("mask blur 16")) >= average("seam", named("mask blur 8"))


def test_advice_control_helps_and_depth_outside_is_below_the_noise() -> None:
    free, recipe_seam = average("seam", named("no control")), average("seam", runs.RECIPE)
    assert free - recipe_seam > 0.3
    alone = runs.values(results(), named("edges inside"), "seam")
    assert abs(recipe_seam - np.mean(alone)) < np.std(alone)
    assert average("adherence", runs.RECIPE) <= average("adherence", named("edges inside"))
    helped = named("with the inpaint unit")
    assert abs(average("seam", helped) - recipe_seam) < np.std(alone)
    assert abs(average("adherence", helped) - average("adherence", runs.RECIPE)) < 0.05
    assert {run["outside"] for run in results()["runs"].values()} == {0}


FLOWED = """# A long headline that stays as it is

- one item {words}
- another
1. a number
"""


def test_flow_fills_lines_and_keeps_items_apart() -> None:
    found = recipe.recipe_page.flow(FLOWED.format(words="word " * 40)).splitlines()
    assert found[0] == "# A long headline that stays as it is"
    assert [line for line in found if line.startswith(("- ", "1. "))][1:] == [
        "- another",
        "1. a number",
    ]
    filled = [line for line in found if "word" in line]
    assert len(filled) == 3
    assert all(line.startswith("  ") for line in filled[1:])
    assert max(map(len, found)) <= 100


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_charts_hold_every_line_in_colour(margin: float) -> None:
    series = recipe.Series("name", ((0, 0.5 + margin), (1, 0.2)), (0.1, 0.1))
    chart = recipe.Chart("Title", "x", (series,), 1, 0.2, (("level", 0.4),))
    page = np.asarray(recipe.charts([[chart, chart], [chart]]))
    assert page.shape[:2] == (800, 1240)
    colour = np.array(drawing.COLOURS[-1])
    y, x = np.nonzero(np.abs(page[:400, :600] - colour.astype(int)).max(-1) < 30)
    left, right = y[x == x.min()].mean(), y[(x < 495) & (x > 470)].mean()
    # 268 pixels stand for 1: the line falls from 0.5 to 0.2, or from 0.7.
    assert right - left == pytest.approx(268 * (0.3 + margin), abs=8)
