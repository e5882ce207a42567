"""The editor of segmentation maps, in a real browser: classes by name, and exact colours only."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from accessible import bring_judges, judge_looks
from editor_page import (
    BOX,
    forget_maps,
    open_editor,
    place,
    steer,
    stroke,
    touch_stroke,
    use_map,
    wait_for_said,
)
from panel_page import (
    UNIT,
    Posted,
    choose_canny,
    choose_option,
    choose_preprocessor,
    choose_type,
    chosen,
    gallery,
    open_panel,
    upload,
)
from PIL import Image

from annotator.palettes import ADE20K, COCO, UNLABELED, pair_names
from lib_controlnet.detect.palettes import describe_palettes

pytestmark = pytest.mark.browser

LABELS = Path(__file__).resolve().parents[2] / "javascript/editors/segmentation_labels.mjs"
NONE = 255
NEAR, REACH = 12, 8
"""How far a colour may be from a class to be taken for it, and a class from what takes it."""
LINES = f"{BOX} .cnet-seg-line"
NOTE = f"{BOX} .cnet-seg-note"
PALETTE = f"{BOX} .cnet-editor-side select"
SIDE = 128
"""Pixels of the picture to be made, each way."""


def press(page: Any, button: str) -> None:
    page.click(f"{BOX} button:text-is('{button}')")


def under(page: Any, x: float, y: float) -> str:
    """What the editor calls the class at a pixel."""
    page.mouse.move(*place(page, x + 0.5, y + 0.5)[0])
    return page.locator(LINES).nth(1).inner_text().partition(": ")[2]


def choose_class(page: Any, text: str) -> None:
    """Search for a class by key, and take the first that is found."""
    page.keyboard.press("/")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def colour(name: str) -> tuple[int, ...]:
    return tuple(ADE20K.colours[ADE20K.names.index(name)].tolist())


def strays(picture: np.ndarray) -> set[tuple[int, ...]]:
    """Colours of a picture (H, W, 3) that no class of ADE20K has."""
    found = set(map(tuple, picture.reshape(-1, 3).tolist()))
    return found - set(map(tuple, ADE20K.colours.tolist())) - {UNLABELED}


def scene(side: int) -> np.ndarray:
    """A map of three classes, uint8 (side, side, 3)."""
    picture = np.empty((side, side, 3), np.uint8)
    picture[: side // 2], picture[side // 2 :] = colour("sky"), colour("sea")
    picture[side // 3 : -side // 3, side // 4 : -side // 4] = colour("boat")
    return picture


def test_a_detected_map_is_read_as_classes_whatever_resizing_has_left(
    panel: Any, tmp_path: Path
) -> None:
    page, posted = panel, Posted(panel)
    forget_maps(page)
    blurred = tmp_path / "blurred.jpg"
    small = cv2.resize(scene(2 * SIDE), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    Image.fromarray(small).save(blurred, quality=80)
    upload(page, blurred)
    choose_canny(page)
    model = chosen(page, "model_dropdown")
    choose_type(page, "All")
    choose_option(page, "model_dropdown", model)
    choose_preprocessor(page, "tile_resample")
    page.click(f"{UNIT}_controlnet_trigger_preprocessor:enabled")
    page.wait_for_selector(f"{UNIT}_generated_image img")
    open_editor(page, "Segmentation")
    wait_for_said(page, "had an in-between colour")
    seen = {(5, 5): "sky", (64, 64): "boat", (5, 125): "sea"}
    assert {at: under(page, *at) for at in seen} == seen
    use_map(page)
    posted.generate(page)
    received = gallery(page, 2)[1]
    assert strays(received) == set()
    assert (received == scene(SIDE)).all(axis=2).mean() > 0.98


def test_a_painted_scene_arrives_in_exact_colours_and_stays_in_the_editor(
    panel: Any, tmp_path: Path
) -> None:
    page, posted = panel, Posted(panel)
    forget_maps(page)
    photograph = tmp_path / "photograph.png"
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(photograph)
    upload(page, photograph)
    choose_canny(page)
    open_editor(page, "Segmentation")

    choose_class(page, "sky")
    page.keyboard.press("b")
    stroke(page, (10, 10), (120, 12), (64, 20))
    choose_class(page, "building")
    page.keyboard.press("p")
    for corner in ((20, 60), (60, 60), (60, 110), (20, 110)):
        page.mouse.click(*place(page, *corner)[0])
    page.keyboard.press("Enter")
    choose_class(page, "skysc")
    page.keyboard.press("r")
    stroke(page, (80, 60), (100, 110))
    choose_class(page, "grass")
    page.keyboard.press("g")
    page.mouse.click(*place(page, 110, 120)[0])
    seen = {(64, 20): "sky", (40, 80): "building", (90, 80): "road / skyscraper", (4, 124): "grass"}
    assert {at: under(page, *at) for at in seen} == seen
    press(page, "\u21b6")
    assert under(page, 4, 124) == "unlabeled (black)"
    press(page, "\u21b7")
    assert under(page, 4, 124) == "grass"
    page.keyboard.press("e")
    stroke(page, (40, 80), (44, 84))
    seen |= paint_by_touch(page) | paint_by_keys(page)
    bring_judges(page)
    assert judge_looks(page, "the editor", BOX) == []
    use_map(page)

    posted.generate(page)
    received = gallery(page, 2)[1]
    assert received.shape == (SIDE, SIDE, 3)
    assert strays(received) == set()
    for (x, y), name in {**seen, (40, 80): ""}.items():
        shown = colour(name.partition(" /")[0]) if name else UNLABELED
        assert tuple(received[y, x]) == shown, name

    page.reload()
    page.wait_for_selector("#txt2img_generate")
    open_panel(page)
    open_editor(page, "Segmentation")
    assert under(page, 64, 20) == "sky"
    assert under(page, 42, 82) == "unlabeled (black)"
    page.select_option(PALETTE, "coco")
    page.locator(f"{NOTE}:has-text('became COCO')").wait_for()
    assert under(page, 64, 20) == "sky-other-merged"
    assert under(page, 4, 124) == "grass-merged"
    page.keyboard.press("Escape")
    page.wait_for_selector(BOX, state="detached")


def paint_by_touch(page: Any) -> dict[tuple[int, int], str]:
    """What fingers paint: the names of classes at pixels, beside others that stay."""
    choose_class(page, "tree")
    page.keyboard.press("b")
    touch_stroke(page, (16, 42), (50, 42))
    choose_class(page, "car")
    page.keyboard.press("r")
    touch_stroke(page, (104, 60), (120, 84))
    choose_class(page, "person")
    page.keyboard.press("p")
    for corner in ((70, 34), (118, 34), (118, 56), (71, 35)):  # a finger meets the first one so
        touch_stroke(page, corner)
    seen = {(33, 42): "tree", (112, 72): "car", (108, 40): "person", (76, 52): "grass"}
    names = {at: under(page, *at).partition(" /")[0] for at in [*seen, (30, 70)]}
    assert names == {**seen, (30, 70): "building"}
    return seen


def paint_by_keys(page: Any) -> dict[tuple[int, int], str]:
    """What keys alone paint: the names of classes at pixels."""

    def press_at(*places: tuple[int, int]) -> None:
        for at in places:
            steer(page, *at)
            page.keyboard.press("Enter")

    choose_class(page, "water")
    page.keyboard.press("r")
    press_at((4, 70), (14, 90))
    choose_class(page, "bed")
    page.keyboard.press("p")
    press_at((66, 114), (96, 114), (96, 122))
    page.keyboard.press("Enter")  # on the last corner: it closes
    seen = {(4, 70): "water", (14, 90): "water", (90, 117): "bed"}
    assert {at: under(page, *at) for at in seen} == seen
    assert under(page, 15, 90) == under(page, 72, 120) == "grass"
    choose_class(page, "sand")
    page.keyboard.press("g")
    press_at((8, 80))
    wait_for_said(page, "sand: 8, 80")
    return {**seen, (4, 70): "sand", (14, 90): "sand"}


@pytest.fixture(scope="module")
def labels(profile: Any) -> Any:
    """A page that runs nothing but the module of labels, with the palettes."""
    page = profile.pages[0]
    code = base64.b64encode(LABELS.read_bytes()).decode()
    page.evaluate(
        """async ([address, told]) => {
          const labels = await import(address);
          const palettes = Object.entries(told.palettes).map((one) => labels.readPalette(...one));
          Object.assign(window, { labels, palettes, alike: told.alike });
        }""",
        [f"data:text/javascript;base64,{code}", describe_palettes()],
    )
    return page


def read_labels(page: Any, picture: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Labels (H, W) of ADE20K that are read from a picture, pixels moved and lost."""
    height, width = picture.shape[:2]
    rgba = np.dstack([picture, np.full((height, width), 255, np.uint8)])
    found = page.evaluate(
        """([width, height, bytes]) => {
          const read = labels.readLabels({ width, height, data: bytes }, palettes[0]);
          return [Array.from(read.plane.data), read.moved, read.lost];
        }""",
        [width, height, rgba.ravel().tolist()],
    )
    return np.array(found[0]).reshape(height, width), found[1], found[2]


def test_colours_between_two_areas_go_to_one_of_them(labels: Any) -> None:
    sky, sea = ADE20K.names.index("sky"), ADE20K.names.index("sea")
    one, other = (ADE20K.colours[label].astype(float) for label in (sky, sea))
    parts = np.array([0, 0, 0.02, 0.2, 0.4, 0.6, 0.8, 1, 1])
    row = np.rint(one + (other - one) * parts[:, None]).astype(np.uint8)
    read, moved, lost = read_labels(labels, np.stack([row, row, row]))
    assert [set(column) for column in read.T] == [{sky}] * 5 + [{sea}] * 4
    assert (moved, lost) == (5 * 3, 0)


def test_a_colour_far_from_every_class_has_none(labels: Any) -> None:
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 15)] * 3), -1).reshape(-1, 3)
    far = np.linalg.norm(every[:, None] - ADE20K.colours.astype(int), axis=2).min(axis=1)
    stray = every[far.argmax()]
    assert far.max() > NEAR
    picture = scene(40)
    picture[:, 10:] = stray
    read, moved, lost = read_labels(labels, picture)
    assert (read[:, : 10 + REACH - 1] != NONE).all()
    assert (read[:, 10 + REACH :] == NONE).all()
    assert (moved, lost) == (REACH * 40, (30 - REACH) * 40)


def test_png_has_the_colours_of_the_labels(labels: Any) -> None:
    rng = np.random.default_rng(5)
    wanted = rng.choice([*range(150), NONE], (37, 53)).astype(np.uint8)
    url = labels.evaluate(
        """async ([width, height, data]) => {
          const plane = { width, height, data: Uint8Array.from(data) };
          const bytes = await (await labels.toPng(plane, palettes[0])).arrayBuffer();
          return btoa(String.fromCharCode(...new Uint8Array(bytes)));
        }""",
        [53, 37, wanted.ravel().tolist()],
    )
    picture = Image.open(io.BytesIO(base64.b64decode(url)))
    colours = np.vstack([ADE20K.colours, np.zeros((106, 3), np.uint8)])
    assert (np.asarray(picture.convert("RGB")) == colours[wanted]).all()


def test_the_palette_of_a_map_is_known_by_its_colours(labels: Any) -> None:
    def guess(picture: np.ndarray) -> str | None:
        rgba = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
        return labels.evaluate(
            "(data) => labels.guessPalette({ data }, palettes)?.name ?? null", rgba.ravel().tolist()
        )

    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    edges = np.zeros((16, 16, 3), np.uint8)
    edges[8] = 255
    assert guess(scene(24)) == "ade20k"
    assert guess(COCO.colours[None, :40]) == "coco"
    assert [guess(ramp), guess(edges), guess(0 * edges)] == [None] * 3


def test_classes_of_one_meaning_keep_it_in_another_palette(labels: Any) -> None:
    converted, lost = labels.evaluate(
        """() => {
          const data = Uint8Array.from({ length: 151 }, (_, i) => (i < 150 ? i : labels.NONE));
          const plane = { width: 151, height: 1, data };
          const { plane: made, lost } = labels.convert(plane, palettes[0], palettes[1], alike);
          return [Array.from(made.data), lost];
        }"""
    )
    alike = dict(pair_names())
    wanted = [COCO.names.index(alike[name]) if name in alike else NONE for name in ADE20K.names]
    assert converted == [*wanted, NONE]
    assert lost == wanted.count(NONE)
