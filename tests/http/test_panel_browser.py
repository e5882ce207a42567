"""The panel in a real browser: what a person does, and what the person then sees."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    PATIENCE,
    UNIT,
    choose,
    choose_type,
    chosen,
    draw,
    finish,
    gallery,
    generate,
    needs_gradio_3,
    open_img2img,
    open_panel,
    remove_picture,
    save_shapes,
    set_file,
    set_number,
    shown_picture,
    upload,
    wait_for_canvas,
    wait_for_value,
)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 192 x 128 picture of two shapes, as a file."""
    return save_shapes(tmp_path_factory.mktemp("pictures") / "shapes.png")


def test_canny_from_upload_to_picture(page: Any, picture: Path) -> None:
    open_panel(page)
    assert page.locator(".cnet-badge").count() == 0
    upload(page, picture)
    page.wait_for_selector("#txt2img_controlnet .cnet-badge:has-text('1 unit')")
    assert page.is_checked(f"{UNIT}_controlnet_enable_checkbox input")

    choose_type(page, "Canny")
    wait_for_value(page, "preprocessor_dropdown", "canny")
    wait_for_value(page, "model_dropdown", "control_")
    assert "canny" in chosen(page, "model_dropdown")
    tab = page.locator("#txt2img_controlnet_tabs > div.tab-nav > button").first
    assert "cnet-unit-active" in tab.get_attribute("class")
    assert tab.locator(".control-type-suffix").text_content() == "[Canny]"
    low = page.locator(f"{UNIT}_controlnet_threshold_A_slider")
    assert "Low Threshold" in low.inner_text()
    assert low.locator("input[type=number]").input_value() == "100"

    page.click(f"{UNIT}_controlnet_trigger_preprocessor")
    page.wait_for_selector(f"{UNIT}_generated_image img")
    lines = shown_picture(page, f"{UNIT}_generated_image img")
    assert lines.shape == (512, 768, 3)
    assert set(np.unique(lines)) == {0, 255}

    generate(page)
    made, detected = gallery(page, 2)
    assert made.shape[:2] == detected.shape[:2] == (128, 128)
    assert set(np.unique(detected)) == {0, 255}
    assert len(np.unique(made)) > 32
    page.wait_for_function(
        "() => document.querySelector('#html_info_txt2img').innerText.includes('ControlNet 0')"
    )
    report = page.wait_for_selector(".cnet-report")
    assert report.query_selector("summary").inner_text() == "ControlNet: 1 unit ran"
    (line,) = report.query_selector_all("li")
    said = line.text_content()
    assert re.match(
        r"Unit 0 canny \d+x\d+ · control_demo_canny \[\w+\] · ControlNet for SD1, ", said
    )
    assert re.search(r"2 of 2 steps at 128x128, [\d.]+ ms each$", said)
    page.uncheck(f"{UNIT}_controlnet_enable_checkbox input")
    generate(page)
    finish(page)
    page.wait_for_selector(".cnet-report", state="detached")


def test_edit_right_before_the_click_counts(page: Any, picture: Path) -> None:
    open_panel(page)
    upload(page, picture)
    choose_type(page, "Canny")
    wait_for_value(page, "model_dropdown", "control_")
    page.evaluate(
        """async (unit) => {
          const box = document.querySelector(
            `${unit}_controlnet_control_weight_slider input[type=number]`);
          box.value = "0.35";
          box.dispatchEvent(new Event("input", { bubbles: true }));
          // The next event, as early as a browser can deliver one.
          await new Promise((next) => setTimeout(next, 0));
          document.querySelector("#txt2img_generate").click();
        }""",
        UNIT,
    )
    gallery(page, 2)
    assert "Weight: 0.35" in page.inner_text("#html_info_txt2img")


def test_preview_without_model_says_so_until_one_is_chosen(panel: Any, picture: Path) -> None:
    page = panel
    upload(page, picture)
    page.click(f"{UNIT}_controlnet_trigger_preprocessor")
    status = page.wait_for_selector(f"{UNIT}_controlnet_status:has-text('No control model')")
    assert status.is_visible()
    assert page.is_visible(f"{UNIT}_generated_image img")
    choose_type(page, "Canny")
    page.wait_for_selector(f"{UNIT}_controlnet_status", state="hidden")
    # The old map does not belong to the new preprocessor.
    page.wait_for_selector(f"{UNIT}_generated_image img", state="detached")


def test_enabled_without_picture_shows_the_sentence(panel: Any) -> None:
    page = panel
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    choose_type(page, "Canny")
    wait_for_value(page, "model_dropdown", "control_")
    generate(page)
    error = page.wait_for_selector("#html_log_txt2img .error", timeout=PATIENCE)
    assert "unit 0: controlnet is enabled but no input image is given" in error.inner_text()


def test_run_button_waits_for_a_picture(panel: Any, picture: Path) -> None:
    page = panel
    run = f"{UNIT}_controlnet_trigger_preprocessor"
    page.wait_for_selector(f"{run}:disabled")
    assert page.get_attribute(run, "title") == "No ControlNet input image available"
    upload(page, picture)
    page.wait_for_selector(f"{run}:enabled")
    assert page.get_attribute(run, "title") == "Run preprocessor"
    remove_picture(page, f"{UNIT}_input_image")
    page.wait_for_selector(f"{run}:disabled")


def test_drawing_is_the_control_picture(panel: Any, picture: Path) -> None:
    page = panel
    upload(page, picture)
    draw(page, f"{UNIT}_input_image", (0.2, 0.5), (0.6, 0.5))
    page.click(f"{UNIT}_controlnet_trigger_preprocessor")
    page.wait_for_selector(f"{UNIT}_generated_image img")
    shown = shown_picture(page, f"{UNIT}_generated_image img")
    assert shown.shape == (128, 192, 3)
    assert 0.02 < (shown > 127).mean() < 0.6
    assert (shown[64, 60] > 127).all()
    assert (shown[4, 180] == 0).all()


def test_options_follow_the_hires_switch(panel: Any) -> None:
    page = panel
    option = f"{UNIT}_controlnet_hr_option_radio"
    assert not page.is_visible(option)
    page.check("#txt2img_hr-visible-checkbox")
    page.wait_for_selector(option, state="visible")


def test_pixel_perfect_hides_the_resolution(panel: Any) -> None:
    page = panel
    choose_type(page, "Canny")
    slider = f"{UNIT}_controlnet_preprocessor_resolution_slider"
    page.wait_for_selector(slider, state="visible")
    page.check(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    page.wait_for_selector(slider, state="hidden")


def test_new_canvas_and_send_dimensions(panel: Any, picture: Path) -> None:
    page = panel
    page.click(f"{UNIT}_controlnet_open_new_canvas_button")
    page.fill(f"{UNIT}_controlnet_canvas_width input[type=number]", "320")
    page.fill(f"{UNIT}_controlnet_canvas_height input[type=number]", "256")
    page.click(f"{UNIT}_controlnet_canvas_create_button")
    page.wait_for_selector(f"{UNIT}_input_image img")
    canvas = shown_picture(page, f"{UNIT}_input_image img")
    assert canvas.shape == (256, 320, 3)
    assert (canvas == 0).all(), "the host's brush is white"
    assert page.is_checked(f"{UNIT}_controlnet_enable_checkbox input")
    page.click(f"{UNIT}_controlnet_send_dimen_button")
    page.wait_for_function(
        "() => document.querySelector('#txt2img_width input[type=number]').value === '320'"
    )
    assert page.input_value("#txt2img_height input[type=number]") == "256"


def test_region_mask_appears_with_its_switch(panel: Any) -> None:
    page = panel
    assert not page.is_visible(f"{UNIT}_mask_image")
    page.check(f"{UNIT}_controlnet_mask_upload_checkbox input")
    page.wait_for_selector(f"{UNIT}_mask_image", state="visible")


def test_img2img_own_picture_behind_its_switch(kept_page: Any, picture: Path) -> None:
    page, unit = kept_page, open_img2img(kept_page)
    hidden = [f"{unit}_input_image", f"{unit}_controlnet_resize_mode_radio"]
    assert not any(page.is_visible(selector) for selector in hidden)
    # Its place is the tab's, and so is the mode by which editors lay pictures and masks.
    mode = "(place) => controlnetPanel.resizeModeOf('img2img', document.querySelector(place))"
    shown = f".cnet-unit:has({unit}_input_image)"
    for number in (3, 2, 0):
        page.check(f"#resize_mode input >> nth={number}")
        page.wait_for_function(f"(place) => ({mode})(place) === {number % 3}", arg=shown)
    # The size of what is made follows from the tab's picture where that is scaled.
    target = "controlnetPanel.targetOf('img2img').join()"
    sides = [
        page.input_value(f"#img2img_{side} input[type=number]") for side in ("width", "height")
    ]
    set_file(page, "#img2img_image input[type=file]", picture)
    page.click("#img2img_tabs_resize > .tab-nav > button >> nth=1")
    set_number(page, "#img2img_scale", 1.55)
    page.wait_for_function(f"() => {target} === '296,192'")
    page.click("#img2img_tabs_resize > .tab-nav > button >> nth=0")
    assert page.evaluate(target) == ",".join(sides)
    page.check(f"{unit}_controlnet_same_img2img_checkbox input")
    for selector in hidden:
        page.wait_for_selector(selector, state="visible")
    page.wait_for_function(f"(place) => ({mode})(place) === 1", arg=shown)


def test_pasted_parameters_fill_the_unit(panel: Any) -> None:
    page = panel
    page.fill(
        "#txt2img_prompt textarea",
        "a blue square\n"
        "Steps: 3, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 128x128, "
        'ControlNet 0: "Module: canny, Model: control_demo_canny, Weight: 0.6, '
        "Resize Mode: Just Resize, Processor Res: 640, Threshold A: 64.0, Threshold B: 150, "
        "Guidance Start: 0.1, Guidance End: 0.8, Pixel Perfect: False, "
        'Control Mode: My prompt is more important"',
    )
    other = UNIT.replace("ControlNet-0", "ControlNet-1")
    page.click("#txt2img_controlnet_tabs > div.tab-nav > button >> nth=1")
    page.check(f"{other}_controlnet_enable_checkbox input")
    page.click("#txt2img_controlnet_tabs > div.tab-nav > button >> nth=0")
    page.click("#paste")
    wait_for_value(page, "preprocessor_dropdown", "canny")
    wait_for_value(page, "model_dropdown", "control_demo_canny [")
    numbers = {
        "control_weight_slider": "0.6",
        "start_control_step_slider": "0.1",
        "ending_control_step_slider": "0.8",
        "preprocessor_resolution_slider": "640",
        "threshold_A_slider": "64",
        "threshold_B_slider": "150",
    }
    for suffix, value in numbers.items():
        wait_for_value(page, f"{suffix}", value)
    for suffix, value in (
        ("resize_mode", "Just Resize"),
        ("control_mode", "My prompt is more important"),
    ):
        assert page.is_checked(f"{UNIT}_controlnet_{suffix}_radio input[value='{value}']")
    assert page.is_checked(f"{UNIT}_controlnet_type_filter_radio input[value='Canny']")
    assert page.is_checked(f"{UNIT}_controlnet_enable_checkbox input")
    assert not page.is_checked(f"{other}_controlnet_enable_checkbox input"), "it took no part"


ZOOM_STUB = """() => {
  window.zoomed = [];
  window.applyZoomAndPan = (id) => {
    const empty = document.querySelector(`${id} input[type=file]`);
    empty.addEventListener("click", () => {}); // A1111's needs one, too
    window.zoomed.push(id);
  };
}"""
"""Stands for A1111's function, which the embedded host does not have; it comes late there."""


def test_canvases_are_zoomed_by_the_host(page: Any, webui: Any, picture: Path) -> None:
    needs_gradio_3(page)
    if webui.is_ours:
        page.evaluate(ZOOM_STUB)
    open_panel(page)
    canvas = f"{UNIT}_input_image"
    page.wait_for_function("(id) => document.querySelector(id).dataset.zoom", arg=canvas)
    if webui.is_ours:
        assert page.evaluate("window.zoomed") == [canvas], "what is seen, and only once"
    choose(page, f"{UNIT}_controlnet_region_radio", "Own mask")
    region = f"{UNIT}_region_canvas"
    page.wait_for_function("(id) => document.querySelector(id).dataset.zoom", arg=region)
    upload(page, picture)
    if webui.is_ours:
        assert page.evaluate("window.zoomed") == [canvas, region]
        return
    for widget, size in ((canvas, (192, 128)), (region, (192, 128))):
        wait_for_canvas(page, widget, size)
        page.locator(widget).scroll_into_view_if_needed()
        page.locator(f"{widget} canvas[key=interface]").hover()
        page.keyboard.down("Alt")
        page.mouse.wheel(0, -100)
        page.keyboard.up("Alt")
        page.wait_for_function(
            "(id) => document.querySelector(id).style.transform.includes('scale(1.2)')", arg=widget
        )
        page.keyboard.press("r")  # the host's key for the plain view
