"""The panel on gradio 4 in a real browser: pictures and drawings reach units and previews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    UNIT,
    choose,
    choose_type,
    draw,
    remove_picture,
    save_shapes,
    shown_picture,
    unit_id,
    upload,
    wait_for_canvas,
    wait_for_value,
)
from PIL import Image
from small_canvas import NamingCanvas

pytestmark = pytest.mark.browser

INPUT, CANVAS = f"{UNIT}_input_image", f"{UNIT}_region_canvas"
PREVIEW = "_generated_image img"
SETTLED = 700
"""Milliseconds in which the answer to an event has long been written."""


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 192 x 128 picture of two shapes, as a file."""
    return save_shapes(tmp_path_factory.mktemp("pictures") / "shapes.png")


def mask_of(unit: Any) -> np.ndarray:
    return unit.image["mask"][..., 0] > 127


def run(page: Any, unit: str = UNIT) -> np.ndarray:
    """Run the preprocessor and return the map, uint8 (H, W, 3)."""
    page.click(f"{unit}_controlnet_trigger_preprocessor:enabled")
    page.wait_for_selector(f"{unit}{PREVIEW}")
    return shown_picture(page, f"{unit}{PREVIEW}")


def test_picture_and_drawing_reach_the_unit(
    panel: Any, site: Any, picture: Path, tmp_path: Path
) -> None:
    panel.wait_for_selector(f"{UNIT}_controlnet_trigger_preprocessor:disabled")
    upload(panel, picture)
    panel.wait_for_selector("#txt2img_controlnet .cnet-badge:has-text('1 unit')")
    draw(panel, INPUT, (0.25, 0.5), (0.75, 0.5))
    panel.wait_for_selector(f"{UNIT}_controlnet_drawing_note:has-text('What is drawn')")
    unit = site.generate(panel)[0]
    assert unit.enabled
    assert (unit.image["image"] == np.asarray(Image.open(picture))).all()
    mask = mask_of(unit)
    assert mask.shape == (128, 192)
    assert mask[64, 60:132].all()
    assert not mask[:20].any()
    remove_picture(panel, INPUT)
    panel.wait_for_selector(f"{UNIT}_controlnet_trigger_preprocessor:disabled")
    assert site.generate(panel)[0].image is None
    (bad := tmp_path / "bad.png").write_text("no picture")
    panel.set_input_files(f"{INPUT} input[type=file]", str(bad))
    panel.wait_for_selector(f"{UNIT}_controlnet_picture_note:has-text('This file is no picture')")


def test_drawing_on_a_new_canvas_is_the_map(panel: Any, site: Any) -> None:
    panel.click(f"{UNIT}_controlnet_open_new_canvas_button")
    for side, value in (("width", "320"), ("height", "256")):
        panel.fill(f"{UNIT}_controlnet_canvas_{side} input[type=number]", value)
    panel.click(f"{UNIT}_controlnet_canvas_create_button")
    wait_for_canvas(panel, INPUT, (320, 256))
    draw(panel, INPUT, (0.2, 0.5), (0.6, 0.5))
    shown = run(panel)
    assert shown.shape == (256, 320, 3)
    assert (shown[128, 100] > 127).all()
    assert (shown[4, 300] == 0).all()
    assert not panel.is_visible(f"{UNIT}_controlnet_drawing_note"), "it is what a canvas is for"
    unit = site.generate(panel)[0]
    assert unit.enabled
    assert mask_of(unit)[128, 80:180].all()
    panel.click(f"{UNIT}_controlnet_send_dimen_button")
    panel.wait_for_function("document.querySelector('#txt2img_width input').value === '320'")


def test_preview_of_a_picture_and_its_putting_away(panel: Any, picture: Path) -> None:
    upload(panel, picture)
    choose_type(panel, "Canny")
    wait_for_value(panel, "preprocessor_dropdown", "canny")
    lines = run(panel)
    assert lines.shape == (512, 768, 3)
    assert set(np.unique(lines)) == {0, 255}
    draw(panel, INPUT, (0.25, 0.5), (0.75, 0.5))
    panel.wait_for_selector(f"{UNIT}{PREVIEW}", state="detached")


def test_region_is_drawn_and_loaded(panel: Any, site: Any, picture: Path, tmp_path: Path) -> None:
    upload(panel, picture)
    choose(panel, f"{UNIT}_controlnet_region_radio", "Own mask")
    wait_for_canvas(panel, CANVAS, (192, 128))
    plain = shown_picture(panel, f"{CANVAS} img").astype(int)
    assert np.abs(plain[60, 40] - (200, 30, 30)).max() < 12
    draw(panel, CANVAS, (0.3, 0.8), (0.7, 0.8))
    top = np.zeros((64, 96), np.uint8)
    top[:10] = 255
    Image.fromarray(top).save(tmp_path / "mask.png")
    panel.set_input_files(f"{UNIT}_mask_image input[type=file]", str(tmp_path / "mask.png"))
    panel.wait_for_selector(f"{UNIT}_mask_image img")
    mask = site.generate(panel)[0].effective_region_mask
    assert mask.shape == (128, 192, 3)
    assert (mask[:18] == 255).all()
    assert (mask[102, 62:130] == 255).all()
    assert (mask[30:70] == 0).all()
    # Another size: what was drawn becomes the mask file.
    upload(panel, save_shapes(tmp_path / "square.png", (128, 128)))
    wait_for_canvas(panel, CANVAS, (128, 128))
    panel.wait_for_selector(f"{UNIT}_controlnet_region_status:has-text('is kept as')")
    kept = site.generate(panel)[0].effective_region_mask
    assert (kept[:18] == 255).all()
    assert (kept[102, 62:130] == 255).all()
    assert (kept[30:70] == 0).all()


def test_img2img_previews_follow_the_open_tab(open_site: Any, site: Any, picture: Path) -> None:
    page, unit = open_site(site, "img2img"), unit_id(0, "img2img")
    button = f"{unit}_controlnet_trigger_preprocessor"
    page.check(f"{unit}_controlnet_pixel_perfect_checkbox input")
    modes = page.locator("#mode_img2img > .tab-nav > button")
    for number, name in enumerate(("img2img_image", "img2img_sketch", "img2maskimg")):
        modes.nth(number).click()
        page.wait_for_selector(f"{button}:disabled")
        page.set_input_files(f"#{name} input[type=file]", str(picture))
        wait_for_canvas(page, f"#{name}", (192, 128))
        draw(page, f"#{name}", (0.1, 0.95), (0.9, 0.95))
        shown = run(page, unit)
        assert np.abs(shown[60, 40].astype(int) - (200, 30, 30)).max() < 12
        assert (shown[121, 96].max() < 60) == (name == "img2img_sketch"), name
    modes.nth(4).click()
    page.wait_for_selector(f"{button}:disabled")
    page.set_input_files("#img_inpaint_base input[type=file]", str(picture))
    assert np.abs(run(page, unit)[60, 40].astype(int) - (200, 30, 30)).max() < 12
    modes.nth(5).click()
    page.wait_for_selector(f"{button}:disabled")


def test_own_picture_in_img2img(open_site: Any, site: Any, picture: Path) -> None:
    page, unit = open_site(site, "img2img"), unit_id(0, "img2img")
    assert not page.is_visible(f"{unit}_input_image")
    page.check(f"{unit}_controlnet_same_img2img_checkbox input")
    page.wait_for_selector(f"{unit}_input_image", state="visible")
    upload(page, picture, unit)
    page.wait_for_selector("#img2img_controlnet .cnet-badge:has-text('1 unit')")
    assert site.generate(page, "img2img")[0].image["image"].shape == (128, 192, 3)
    page.uncheck(f"{unit}_controlnet_same_img2img_checkbox input")
    assert site.generate(page, "img2img")[0].image is None


def test_pictures_that_a_canvas_sends_and_only_names(
    open_site: Any, make_site: Any, picture: Path
) -> None:
    """Some canvases send what they hold to the host, and keep its name in their texts."""
    site = make_site(NamingCanvas)
    page = open_site(site)
    upload(page, picture)
    page.wait_for_selector("#txt2img_controlnet .cnet-badge:has-text('1 unit')")
    assert not page.is_visible(f"{UNIT}_controlnet_picture_note")
    page.click(f"{UNIT}_controlnet_send_dimen_button")
    page.wait_for_function("document.querySelector('#txt2img_width input').value === '192'")
    assert np.abs(run(page)[60, 40].astype(int) - (200, 30, 30)).max() < 12
    draw(page, INPUT, (0.25, 0.5), (0.75, 0.5))
    choose(page, f"{UNIT}_controlnet_region_radio", "Own mask")
    wait_for_canvas(page, CANVAS, (192, 128))
    draw(page, CANVAS, (0.3, 0.8), (0.7, 0.8))
    page.wait_for_timeout(SETTLED)
    unit = site.generate(page)[0]
    assert unit.enabled
    assert (unit.image["image"] == np.asarray(Image.open(picture))).all()
    assert mask_of(unit)[64, 60:132].all()
    assert (unit.effective_region_mask[102, 62:130] == 255).all()
    remove_picture(page, INPUT)
    page.wait_for_selector(f"{UNIT}_controlnet_trigger_preprocessor:disabled")
    assert site.generate(page)[0].image is None


def test_movie_script_gets_picture_and_drawing(panel: Any, site: Any, picture: Path) -> None:
    panel.locator("button:has-text('Image Input')").first.click()
    panel.set_input_files("#image_0 input[type=file]", str(picture))
    wait_for_canvas(panel, "#image_0", (192, 128))
    draw(panel, "#image_0", (0.25, 0.5), (0.75, 0.5))
    units, (_movie, sketch, *_rest) = site.generate(panel)[:2], site.taken[2:]
    assert [unit.image for unit in units] == [None, None]
    assert sketch["image"].shape == (128, 192, 3)
    assert (sketch["mask"][64, 60:132] == 255).all()


def test_without_a_canvas_pictures_are_uploaded(
    open_site: Any, make_site: Any, picture: Path
) -> None:
    site = make_site(None)
    page = open_site(site)
    group = page.locator(f".cnet-input-image-group:has({INPUT})")
    assert group.locator(".cnet-no-canvas").first.is_visible()
    page.set_input_files(f"{INPUT} input[type=file]", str(picture))
    page.wait_for_selector("#txt2img_controlnet .cnet-badge:has-text('1 unit')")
    unit = site.generate(page)[0]
    assert unit.image["image"].shape == (128, 192, 3)
    assert not unit.image["mask"].any()
    remove_picture(page, INPUT)
    page.click(f"{UNIT}_controlnet_open_new_canvas_button")
    page.click(f"{UNIT}_controlnet_canvas_create_button")
    page.wait_for_selector(f"{INPUT} img")
    assert site.generate(page)[0].image["image"].shape == (512, 512, 3)


def test_what_is_pasted_is_no_choice_of_the_user(panel: Any, site: Any) -> None:
    """gradio 4 reports a control type that is written as one that was chosen."""
    panel.click("#paste")
    panel.wait_for_selector(f"{UNIT}_controlnet_type_filter_radio label.selected:has-text('Canny')")
    panel.wait_for_timeout(SETTLED)
    unit = site.generate(panel)[0]
    assert (unit.module, unit.processor_res, unit.threshold_a) == ("canny", 640, 64)
    choose_type(panel, "Depth")  # by hand it has its defaults
    panel.wait_for_timeout(SETTLED)
    assert site.generate(panel)[0].module != "canny"


def test_a_copied_unit_has_picture_and_drawing(panel: Any, site: Any, picture: Path) -> None:
    upload(panel, picture)
    choose_type(panel, "Canny")
    wait_for_value(panel, "preprocessor_dropdown", "canny")
    draw(panel, INPUT, (0.25, 0.5), (0.75, 0.5))
    choose(panel, f"{UNIT}_controlnet_region_radio", "Own mask")
    wait_for_canvas(panel, CANVAS, (192, 128))
    draw(panel, CANVAS, (0.3, 0.8), (0.7, 0.8))
    panel.click(".cnet-menu >> nth=0 >> summary")
    panel.click(".cnet-menu[open] button:text-is('Unit 1')")
    first, second = site.generate(panel)[:2]  # waits for the copy
    assert second.enabled
    assert (second.module, second.region) == ("canny", first.region)
    for part in ("image", "mask"):
        assert (second.image[part] == first.image[part]).all()
    assert mask_of(second)[64, 60:132].all()
    assert (second.effective_region_mask == first.effective_region_mask).all()
    assert second.effective_region_mask.any()
    panel.click(".cnet-tool-clear >> nth=0")
    panel.wait_for_selector(".cnet-tools-said:has-text('was cleared')")
    cleared, second = site.generate(panel)[:2]
    assert (cleared.image, cleared.module, cleared.enabled) == (None, "none", False)
    assert mask_of(second).any()
    choose(panel, f"{UNIT}_controlnet_region_radio", "Own mask")
    panel.wait_for_timeout(SETTLED)
    region = site.generate(panel)[0].effective_region_mask
    assert region is None or not region.any(), "nor is anything drawn on its region"


def test_the_list_of_downloads_opens_and_chooses(panel: Any) -> None:
    model = {
        **{"name": "control_demo_canny.safetensors", "control_types": ["Canny"], "base": "SD1"},
        **{"family": "ControlNet", "size": 9, "size_text": "9 bytes", "licence": None},
        **{"repository": "a/b", "page": "https://huggingface.co/a/b", "sha256": None},
        **{"note": None, "present": False, "unfit": None},
    }
    item = {"id": f"model/{model['name']}", "name": model["name"], "state": "waiting"}
    item |= {"done": 0, "size": 9, "rate": 0, "message": ""}
    told = {"downloads": [], "refused": None, "started": [item["id"]]}

    def answer(route: Any) -> None:
        if route.request.url.endswith("published_models"):
            route.fulfill(json={"base": "SD1", "models": [model]})
            return
        state = {"POST": "waiting", "GET": "done"}[route.request.method]
        told["downloads"] = (
            [item | {"state": state}] if told["downloads"] or state == "waiting" else []
        )
        route.fulfill(json=told)

    panel.route("**/controlnet/*", answer)
    panel.click(f".cnet-unit:has({INPUT}) .cnet-download-open")
    row = panel.locator("dialog.cnet-downloads li[data-model]")
    row.locator("button").click()
    row.locator("button:has-text('In your folder')").wait_for()
    panel.keyboard.press("Escape")
    panel.wait_for_selector("dialog.cnet-downloads", state="hidden")
    wait_for_value(panel, "model_dropdown", "control_demo_canny")


def test_a_preset_brings_picture_and_drawing_back(panel: Any, site: Any, picture: Path) -> None:
    upload(panel, picture)
    draw(panel, INPUT, (0.25, 0.5), (0.75, 0.5))
    choose_type(panel, "Canny")
    wait_for_value(panel, "model_dropdown", "control_demo_canny")
    before = site.generate(panel)[0]
    assert mask_of(before).any()
    panel.click("#txt2img_controlnet .cnet-presets-of-all button")
    panel.fill("dialog.cnet-presets form input[type=text]", "drawn")
    panel.keyboard.press("Enter")
    panel.wait_for_selector(".cnet-presets-status:has-text('Saved: drawn.')")
    panel.keyboard.press("Escape")
    remove_picture(panel, INPUT)
    choose_type(panel, "All")
    panel.click("#txt2img_controlnet .cnet-presets-of-all button")
    panel.get_by_role("button", name="Load: drawn", exact=True).click()
    panel.wait_for_selector(".cnet-presets-status:has-text('Loaded: drawn.')")
    panel.keyboard.press("Escape")
    panel.wait_for_timeout(SETTLED)
    assert site.generate(panel)[0] == before
    assert panel.is_checked(f"{UNIT}_controlnet_type_filter_radio input[value='Canny']")
