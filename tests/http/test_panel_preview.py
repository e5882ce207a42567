"""The preview in img2img: the map of the tab's own picture, as the generation uses it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    SHOWN,
    Posted,
    choose_canny,
    choose_option,
    choose_preprocessor,
    choose_type,
    chosen,
    draw,
    gallery,
    open_img2img,
    save_shapes,
    set_file,
    set_number,
    shown_picture,
    unit_id,
    wait_for_canvas,
    wait_for_value,
)
from PIL import Image

pytestmark = pytest.mark.browser

UNIT = unit_id(0, "img2img")
RUN = f"{UNIT}_controlnet_trigger_preprocessor"
PREVIEW = f"{UNIT}_generated_image img"
TABS = "#mode_img2img > .tab-nav > button"
INPAINT, INPAINT_SKETCH, INPAINT_UPLOAD, BATCH = 2, 3, 4, 5
SETTLING = 1000
"""Milliseconds until the host keeps the bare picture of a canvas."""


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 128 x 128 picture of two shapes, as a file."""
    return save_shapes(tmp_path_factory.mktemp("pictures") / "shapes.png", (128, 128))


@pytest.fixture
def panel(kept_img2img: Any) -> Any:
    """The panel of img2img, open and as it is at first, with a small picture asked for."""
    page = kept_img2img
    page.check(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    return page


def open_tab(page: Any, number: int) -> None:
    page.locator(TABS).nth(number).click()


def put(page: Any, widget: str, path: Path) -> None:
    set_file(page, f"#{widget} input[type=file]", path)
    page.wait_for_selector(f"#{widget} {SHOWN}", state="attached")


def put_on_canvas(page: Any, widget: str, path: Path) -> None:
    put(page, widget, path)
    wait_for_canvas(page, f"#{widget}", Image.open(path).size)


def run(page: Any) -> np.ndarray:
    """Run the preprocessor and return the map, uint8 (H, W, 3)."""
    page.click(f"{RUN}:enabled")
    page.wait_for_selector(PREVIEW)
    return shown_picture(page, PREVIEW)


def shown_alpha(page: Any) -> np.ndarray:
    """Alpha of the preview, uint8 (H, W)."""
    data = base64.b64decode(page.get_attribute(PREVIEW, "src").partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))[:, :, 3]


def used_map(page: Any) -> np.ndarray:
    """The map that a generation with the enabled unit uses."""
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    last = "#img2img_gallery .grid-container button:last-child img"
    known = [image.get_attribute("src") for image in page.locator(last).all()]
    Posted(page).generate(page, "img2img")
    page.wait_for_function(
        "([last, known]) => !known.includes(document.querySelector(last)?.getAttribute('src'))",
        arg=[last, known],
    )
    return gallery(page, 2, "img2img")[1]


def test_run_button_follows_the_picture_of_the_chosen_tab(panel: Any, picture: Path) -> None:
    page = panel
    page.wait_for_selector(f"{RUN}:disabled")
    put(page, "img2img_image", picture)
    page.wait_for_selector(f"{RUN}:enabled")
    for number in (INPAINT, BATCH):
        open_tab(page, number)
        page.wait_for_selector(f"{RUN}:disabled")
    open_tab(page, 0)
    page.wait_for_selector(f"{RUN}:enabled")
    page.check(f"{UNIT}_controlnet_same_img2img_checkbox input")
    page.wait_for_selector(f"{RUN}:disabled")


def test_preview_is_the_map_that_the_generation_uses(panel: Any, picture: Path) -> None:
    page = panel
    put(page, "img2img_image", picture)
    choose_canny(page, UNIT)
    shown = run(page)
    assert shown.shape == (128, 128, 3)
    assert set(np.unique(shown)) == {0, 255}
    assert not page.is_visible(f"{UNIT}_input_image")
    assert (used_map(page) == shown).all()
    set_number(page, "#img2img_seed", 7)
    model = chosen(page, "model_dropdown", UNIT)
    choose_type(page, "All", UNIT)
    wait_for_value(page, "model_dropdown", "None", UNIT)
    choose_preprocessor(page, "shuffle", UNIT)
    choose_option(page, "model_dropdown", model, UNIT)
    page.wait_for_selector(PREVIEW, state="detached")
    shuffled = run(page)
    assert (shuffled != shown).any()
    assert (used_map(page) == shuffled).all()


def test_preview_closes_when_the_tab_has_another_picture(
    panel: Any, picture: Path, tmp_path: Path
) -> None:
    page = panel
    put(page, "img2img_image", picture)
    choose_canny(page, UNIT)
    run(page)
    page.click("#img2img_image :is(button[aria-label='Clear'], [id^=removeButton_])")
    page.wait_for_selector(PREVIEW, state="detached")
    put(page, "img2img_image", save_shapes(tmp_path / "wide.png", (256, 64)))
    assert run(page).shape[0] == 128


def test_preview_closes_in_another_tab_with_the_same_picture(panel: Any, picture: Path) -> None:
    page = panel
    open_tab(page, INPAINT)
    put_on_canvas(page, "img2maskimg", picture)
    open_tab(page, 0)
    put(page, "img2img_image", picture)
    choose_canny(page, UNIT)
    run(page)
    open_tab(page, INPAINT)
    page.wait_for_selector(PREVIEW, state="detached")


def scribble(page: Any, widget: str, picture: Path) -> None:
    """Put a picture on a canvas and draw a line across its middle."""
    put_on_canvas(page, widget, picture)
    page.wait_for_timeout(SETTLING)
    draw(page, f"#{widget}", (0.2, 0.2), (0.25, 0.4))


def put_with_mask(page: Any, picture: Path) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[32:80, 40:100] = 255
    Image.fromarray(mask).save(picture.with_name("mask.png"))
    put(page, "img_inpaint_base", picture)
    put(page, "img_inpaint_mask", picture.with_name("mask.png"))


SHOWN_IN: dict[str, tuple[int, Callable[[Any, Path], None], bool]] = {
    "img2img": (0, lambda page, picture: put(page, "img2img_image", picture), False),
    "sketch": (1, lambda page, picture: scribble(page, "img2img_sketch", picture), False),
    "inpaint": (INPAINT, lambda page, picture: scribble(page, "img2maskimg", picture), False),
    "inpaint, only masked": (INPAINT, lambda _page, _picture: None, True),
    "inpaint sketch": (
        INPAINT_SKETCH,
        lambda page, picture: scribble(page, "inpaint_sketch", picture),
        False,
    ),
    "inpaint sketch, only masked": (INPAINT_SKETCH, lambda _page, _picture: None, True),
    "inpaint upload": (INPAINT_UPLOAD, put_with_mask, False),
    "inpaint upload, only masked": (INPAINT_UPLOAD, lambda _page, _picture: None, True),
}
"""Number of a tab, what puts a picture into it, and whether its "Only masked" is on."""


def test_preview_in_every_tab_is_the_map_that_generate_uses(panel: Any, picture: Path) -> None:
    page = panel
    choose_canny(page, UNIT)
    found: dict[str, np.ndarray] = {}
    for name, (number, fill, only_masked) in SHOWN_IN.items():
        open_tab(page, number)
        fill(page, picture)
        if number >= INPAINT:
            set_number(page, "#img2img_inpaint_full_res_padding", 0)
            page.locator("#img2img_inpaint_full_res label").nth(int(only_masked)).click()
        if page.is_visible(PREVIEW):  # nothing in the page tells of an inpaint setting
            page.click(".cnet-close-preview:visible")
        page.wait_for_selector(PREVIEW, state="detached")
        found[name] = run(page)
        assert (used_map(page) == found[name]).all(), name
    for name in ("inpaint", "inpaint sketch", "inpaint upload"):
        assert (found[name] != found[f"{name}, only masked"]).any(), name


def test_preview_shows_the_mask_of_the_inpaint_tabs(
    panel: Any, picture: Path, tmp_path: Path
) -> None:
    page = panel
    choose_type(page, "Inpaint", UNIT)
    wait_for_value(page, "preprocessor_dropdown", "inpaint", UNIT)
    open_tab(page, INPAINT_UPLOAD)
    set_number(page, "#img2img_mask_blur", 0)
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    put(page, "img_inpaint_base", picture)
    put(page, "img_inpaint_mask", tmp_path / "mask.png")
    run(page)
    alpha = shown_alpha(page)
    assert (alpha[:, :60] == 255).all()
    assert (alpha[:, 68:] == 128).all()


def test_preview_with_an_image_of_the_unit_s_own(panel: Any, picture: Path, tmp_path: Path) -> None:
    page = panel
    put(page, "img2img_image", picture)
    page.check(f"{UNIT}_controlnet_same_img2img_checkbox input")
    own = save_shapes(tmp_path / "own.png", (192, 128))
    page.set_input_files(f"{UNIT}_input_image input[type=file]", str(own))
    wait_for_canvas(page, f"{UNIT}_input_image", (192, 128))
    choose_canny(page, UNIT)
    assert run(page).shape == (128, 192, 3)


def test_preview_of_inpaint_sketch_masks_the_strokes(page: Any, picture: Path) -> None:
    open_img2img(page)  # a sketch canvas of the host that was used before takes no stroke
    for name, value in (("steps", 2), ("width", 128), ("height", 128)):
        set_number(page, f"#img2img_{name}", value)
    page.check(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    open_tab(page, INPAINT_SKETCH)
    set_number(page, "#img2img_mask_blur", 0)
    choose_type(page, "Inpaint", UNIT)
    wait_for_value(page, "preprocessor_dropdown", "inpaint", UNIT)
    put_on_canvas(page, "inpaint_sketch", picture)
    page.wait_for_timeout(SETTLING)
    draw(page, "#inpaint_sketch", (0.1, 0.9), (0.9, 0.9))
    run(page)
    alpha = shown_alpha(page)
    assert (alpha[:80] == 255).all()
    assert (alpha[115, 20:108] == 128).all()
