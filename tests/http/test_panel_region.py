"""Regions in a real browser: chosen, drawn, uploaded, and seen in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from adherence import agreement, edges
from panel_page import (
    LAYER,
    SHOWN,
    SURFACE,
    UNIT,
    Posted,
    choose,
    choose_canny,
    draw,
    gallery,
    open_panel,
    remove_picture,
    save_shapes,
    set_file,
    set_number,
    shown_picture,
    unit_id,
    upload,
    wait_for_canvas,
)
from PIL import Image

from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

REGION = f"{UNIT}_controlnet_region_radio"
BOX = f"{UNIT}_controlnet_mask_upload_checkbox input"
FEATHER = f"{UNIT}_controlnet_region_feather_slider"
CANVAS = f"{UNIT}_region_canvas"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 128 x 128 picture of two shapes, as a file."""
    return save_shapes(tmp_path_factory.mktemp("pictures") / "shapes.png", (128, 128))


def chosen_region(page: Any) -> str:
    return page.input_value(f"{REGION} input:checked")


def draw_left_half(page: Any) -> None:
    """Fill the left half of the region canvas, almost; the brush is 50 pixels wide."""
    width = page.evaluate(f"document.querySelector('{CANVAS} {LAYER}').width")
    for x in np.arange(25, width / 2 - 15, 40):
        draw(page, CANVAS, (x / width, 0.02), (x / width, 0.98))


def square_and_circle(path: Path) -> np.ndarray:
    """Write a 256 x 256 picture with a square on the left and a circle on the right."""
    array = np.full((256, 256, 3), (40, 60, 200), np.uint8)
    cv2.rectangle(array, (21, 64), (106, 192), (240, 220, 40), -1)
    cv2.circle(array, (192, 128), 42, (220, 40, 40), -1)
    Image.fromarray(array).save(path)
    return array


def followed(picture: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Share of the wanted edges that a picture has, in its left and in its right half."""
    half = wanted.shape[1] // 2
    found, lines = edges(picture), edges(wanted)
    sides = (slice(0, half), slice(half, None))
    left, right = (agreement(found[:, side], lines[:, side]).recall for side in sides)
    return left, right


def test_region_and_checkbox_say_the_same(panel: Any) -> None:
    page = panel
    assert (chosen_region(page), page.is_checked(BOX)) == ("Whole picture", False)
    assert not page.is_visible(FEATHER)

    page.check(BOX)
    page.wait_for_selector(f"{REGION} input[value='Own mask']:checked", state="attached")
    page.wait_for_selector(CANVAS, state="visible")
    page.wait_for_selector(FEATHER, state="visible")

    choose(page, REGION, "Inside the inpaint mask")
    page.wait_for_selector(f"{BOX}:not(:checked)", state="attached")
    page.wait_for_selector(CANVAS, state="hidden")
    assert page.is_visible(FEATHER)
    assert chosen_region(page) == "Inside the inpaint mask"

    choose(page, REGION, "Own mask")
    page.wait_for_selector(f"{BOX}:checked", state="attached")
    page.uncheck(BOX)
    page.wait_for_selector(f"{REGION} input[value='Whole picture']:checked", state="attached")
    page.wait_for_selector(FEATHER, state="hidden")


def test_own_mask_without_any_mask_stops_with_the_sentence(panel: Any, picture: Path) -> None:
    page = panel
    upload(page, picture)
    choose_canny(page)
    choose(page, REGION, "Own mask")
    wait_for_canvas(page, CANVAS, (128, 128))
    page.click("#txt2img_generate")
    error = page.wait_for_selector("#html_log_txt2img .error", timeout=300_000)
    assert "unit 0: region is 'Own mask', but no mask is given" in error.inner_text()


def test_region_of_a_hidden_unit_is_laid_out_when_it_is_seen(panel: Any, picture: Path) -> None:
    page = panel
    choose(page, REGION, "Own mask")
    wait_for_canvas(page, CANVAS, (128, 128))
    tabs = page.locator("#txt2img_controlnet_tabs > div.tab-nav > button")
    tabs.nth(1).click()
    page.wait_for_selector(CANVAS, state="hidden")
    set_number(page, "#txt2img_height", 64)
    tabs.nth(0).click()
    wait_for_canvas(page, CANVAS, (128, 64))
    box = page.locator(f"{CANVAS} {SURFACE}").bounding_box()
    assert box["height"] > 60
    assert box["width"] == pytest.approx(2 * box["height"], rel=0.02)


def test_batch_option_is_sent_with_every_unit(panel: Any) -> None:
    page = panel
    posted = Posted(page)
    # An edit of each unit, so that each has a value of its own to send.
    for index in range(3):
        page.locator("#txt2img_controlnet_tabs > div.tab-nav > button").nth(index).click()
        box = f"#txt2img_controlnet_ControlNet-{index}_controlnet_low_vram_checkbox input"
        page.check(box)
    for option in ("Each ControlNet unit for each", "All ControlNet units for all"):
        if not page.is_visible("#txt2img_controlnet_controlnet_batch_option_radio"):
            page.click("#txt2img_controlnet #controlnet_batch_options .label-wrap")
        page.click(
            f"#txt2img_controlnet_controlnet_batch_option_radio label:has(input[value^='{option}'])"
        )
        units = posted.generate(page)
        assert [unit["batch_option"].startswith(option) for unit in units] == [True] * 3


def test_drawn_region_confines_the_control(panel: Any, tmp_path: Path) -> None:
    page, posted = panel, Posted(panel)
    wanted = square_and_circle(tmp_path / "shapes.png")
    prompt = "a yellow square and a red circle on a blue background"
    page.fill("#txt2img_prompt textarea", prompt)
    for name, value in (("width", 256), ("height", 256), ("steps", 10), ("cfg_scale", 4)):
        set_number(page, f"#txt2img_{name}", value)
    upload(page, tmp_path / "shapes.png")
    choose_canny(page)
    choose(page, REGION, "Own mask")
    wait_for_canvas(page, CANVAS, (256, 256))
    draw_left_half(page)
    set_number(page, FEATHER, 8)
    unit = build_unit(posted.generate(page)[0])
    assert (unit.region, unit.region_feather) == ("Own mask", 8)
    mask = unit.effective_region_mask
    assert mask.shape == (256, 256, 3)
    assert (mask[10:246, 5:110] == 255).all()
    assert (mask[:, 140:] == 0).all()
    info = page.inner_text("#html_info_txt2img")
    assert "Region: Own mask, Region Feather: 8.0" in info
    left, right = followed(gallery(page, 2)[0], wanted)
    assert left > 0.35
    assert right < 0.25

    page.uncheck(BOX)
    whole = build_unit(posted.generate(page)[0])
    assert (whole.region, whole.effective_region_mask) == ("Whole picture", None)
    page.wait_for_function(  # a slow page still shows the text of the picture before
        "() => !document.getElementById('html_info_txt2img').innerText.includes('Region')"
    )
    assert followed(gallery(page, 2)[0], wanted)[1] > 0.6
    set_number(page, "#txt2img_cfg_scale", 7)  # as the page began


def test_region_canvas_follows_the_picture(page: Any, picture: Path, tmp_path: Path) -> None:
    open_panel(page)
    page.wait_for_timeout(300)
    assert page.locator(f"{CANVAS} {SHOWN}").count() == 0, "carries nothing until it is wanted"
    choose(page, REGION, "Own mask")
    # Nothing to draw on but the proportions of what would be made.
    wait_for_canvas(page, CANVAS, (128, 128))
    assert (shown_picture(page, f"{CANVAS} img") == 128).all()
    set_number(page, "#txt2img_width", 256)
    wait_for_canvas(page, CANVAS, (256, 128))

    wide = save_shapes(tmp_path / "wide.png", (1536, 1024))
    upload(page, wide)
    wait_for_canvas(page, CANVAS, (768, 512))
    shown = shown_picture(page, f"{CANVAS} img")
    assert np.abs(shown[240, 120].astype(int) - (200, 30, 30)).max() < 12
    remove_picture(page, f"{UNIT}_input_image")
    wait_for_canvas(page, CANVAS, (256, 128))


def test_edits_of_regions_ask_nothing_of_the_server(page: Any, picture: Path) -> None:
    open_panel(page)
    upload(page, picture)
    page.check("#txt2img_hr-visible-checkbox")
    page.wait_for_timeout(500)  # the host itself asks for the target size
    posted = Posted(page)
    choose(page, REGION, "Own mask")
    wait_for_canvas(page, CANVAS, (128, 128))
    draw_left_half(page)
    set_number(page, FEATHER, 20)
    page.click("#txt2img_controlnet #controlnet_batch_options .label-wrap")
    choose(
        page,
        "#txt2img_controlnet_controlnet_batch_option_radio",
        "Each ControlNet unit for each image in a batch",
    )
    page.wait_for_timeout(500)
    assert posted.events == 0


def test_mask_file_and_drawing_make_one_mask(panel: Any, picture: Path, tmp_path: Path) -> None:
    page, posted = panel, Posted(panel)
    upload(page, picture)
    choose_canny(page)
    choose(page, REGION, "Own mask")
    wait_for_canvas(page, CANVAS, (128, 128))
    plain = shown_picture(page, f"{CANVAS} img").astype(int)
    top = np.zeros((64, 64), np.uint8)
    top[:16] = 255
    Image.fromarray(top).save(tmp_path / "mask.png")
    before = page.get_attribute(f"{CANVAS} img", "src")
    page.set_input_files(f"{UNIT}_mask_image input[type=file]", str(tmp_path / "mask.png"))
    # The file's white is shown in colour on the picture.
    page.wait_for_function(
        "([selector, old]) => document.querySelector(selector).src !== old",
        arg=[f"{CANVAS} img", before],
    )
    tinted = shown_picture(page, f"{CANVAS} img").astype(int)
    assert np.abs(tinted - plain)[:28].mean() > 40
    assert np.abs(tinted - plain)[40:].mean() < 3
    draw(page, CANVAS, (0.3, 0.9), (0.7, 0.9))
    mask = build_unit(posted.generate(page)[0]).effective_region_mask
    assert (mask[:30] == 255).all()
    assert (mask[36:80] == 0).all()
    assert (mask[116, 50:80] == 255).all()


def test_saved_defaults_are_shown_and_used(profile: Any, webui: Any) -> None:
    """The host writes a user's saved defaults into the page's configuration; so does this test."""
    name = UNIT.removeprefix("#") + "_controlnet_"
    page = profile.new_page()
    page.add_init_script(
        f"""Object.defineProperty(window, "gradio_config", {{
          get() {{ return this.saved; }},
          set(config) {{
            for (const {{ props }} of config.components) {{
              if (props.elem_id === "{name}region_radio") props.value = "Own mask";
              if (props.elem_id === "{name}preprocessor_dropdown") props.value = "canny";
            }}
            this.saved = config;
          }},
        }});"""
    )
    page.goto(webui.url, wait_until="domcontentloaded")
    page.wait_for_selector("#txt2img_generate", timeout=120_000)
    open_panel(page)
    page.wait_for_selector(CANVAS, state="visible")
    wait_for_canvas(page, CANVAS, (128, 128))
    page.wait_for_selector(f"{UNIT}_controlnet_threshold_A_slider", state="visible")
    assert page.is_checked(BOX)
    assert page.is_visible(FEATHER)
    assert chosen_region(page) == "Own mask"
    page.close()


def test_img2img_region_is_drawn_on_the_tab_s_picture(kept_img2img: Any, picture: Path) -> None:
    page, posted, unit = kept_img2img, Posted(kept_img2img), unit_id(0, "img2img")
    set_file(page, "#img2img_image input[type=file]", picture)
    page.check(f"{unit}_controlnet_enable_checkbox input")
    choose_canny(page, unit)
    choose(page, f"{unit}_controlnet_region_radio", "Own mask")
    canvas = f"{unit}_region_canvas"
    wait_for_canvas(page, canvas, (128, 128))
    shown = shown_picture(page, f"{canvas} img")
    assert np.abs(shown[60, 30].astype(int) - (200, 30, 30)).max() < 12
    draw(page, canvas, (0.1, 0.2), (0.9, 0.2))
    mask = build_unit(posted.generate(page, "img2img")[0]).effective_region_mask
    assert (mask[26, 20:108] == 255).all()
    assert (mask[80:] == 0).all()
    gallery(page, 2, "img2img")
    assert "Region: Own mask" in page.inner_text("#html_info_img2img")
