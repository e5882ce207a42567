"""The panel by key, for screen readers, and at every width, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accessible import LOOKS, SETTLED, bring_judges, judge_looks
from panel_page import (
    UNIT,
    choose,
    choose_canny,
    choose_preprocessor,
    choose_type,
    draw,
    open_accordion,
    save_shapes,
    set_file,
    set_number,
    unit_id,
    upload,
)

from lib_controlnet.enums import ResizeMode
from lib_controlnet.pictures.maps import Size, pixel_perfect_resolution
from lib_controlnet.words import WORDS

pytestmark = pytest.mark.browser

PANEL = "#txt2img_controlnet"


DIALOGS = {
    f".cnet-unit:has({UNIT}_input_image) .cnet-download-open": "dialog.cnet-downloads",
    f".cnet-unit:has({UNIT}_input_image) .cnet-presets-open": "dialog.cnet-presets[open]",
}
"""What opens a dialog, and the dialog."""


def judge(page: Any, state: str, root: str = PANEL) -> list[str]:
    """What is wrong with the panel, or a dialog of it, as it is shown, however it is looked at."""
    return judge_looks(page, state, root)


def test_nothing_is_nameless_faint_small_or_cut(kept_panel: Any, tmp_path: Path) -> None:
    page = kept_panel
    page.set_viewport_size({"width": LOOKS[0][1][0], "height": 1200})
    bring_judges(page)
    found = judge(page, "open")
    for opener, dialog in DIALOGS.items():
        page.click(opener)
        page.wait_for_selector(dialog)
        found += judge(page, dialog, dialog)
        page.keyboard.press("Escape")
        page.wait_for_selector(dialog, state="hidden")
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    choose_type(page, "Revision")
    page.wait_for_selector(f"{UNIT}_controlnet_notes", state="visible")
    found += judge(page, "a message")
    upload(page, save_shapes(tmp_path / "shapes.png"))
    choose_canny(page)
    page.check(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    page.click(f"{UNIT}_controlnet_trigger_preprocessor:enabled")
    page.wait_for_selector(f"{UNIT}_generated_image img")
    choose(page, f"{UNIT}_controlnet_region_radio", "Own mask")
    draw(page, f"{UNIT}_region_canvas", (0.2, 0.2), (0.6, 0.6))
    for header in page.query_selector_all(f"{PANEL} .label-wrap:not(.open)"):
        if header.is_visible():
            header.click()
    page.fill(f"{UNIT}_controlnet_weight_curve_textbox :is(input, textarea)", "pulse")
    page.check("#txt2img_hr-visible-checkbox")
    found += judge(page, "all of it")
    page.click(f"{UNIT}_controlnet_model_dropdown input")
    page.wait_for_selector(f"{UNIT}_controlnet_model_dropdown ul.options")
    found += judge(page, "a list")
    page.keyboard.press("Escape")
    tabs = page.locator(f"{PANEL} .cnet-input-tabs > .tab-nav > button >> visible=true")
    for number, state in ((1, "a folder"), (2, "several pictures")):
        tabs.nth(number).click()
        found += judge(page, state)
    found += judge_img2img(page, tmp_path / "shapes.png")
    assert not found, "\n".join(found)


def judge_img2img(page: Any, picture: Path) -> list[str]:
    """What is wrong with the panel of img2img: with the tab's picture, with one of its own."""
    panel, unit = "#img2img_controlnet", unit_id(0, "img2img")
    page.locator("#tabs > div.tab-nav > button").nth(1).click()
    open_accordion(page, "img2img")
    page.wait_for_selector(f"{unit}_controlnet_enable_checkbox", state="visible")
    found = judge(page, "img2img", panel)
    page.check(f"{unit}_controlnet_same_img2img_checkbox input")
    page.wait_for_selector(f"{unit}_input_image", state="visible")
    set_file(page, f"{unit}_input_image input[type=file]", picture)
    page.wait_for_selector(f"{unit}_input_image img", state="attached")
    return found + judge(page, "img2img with a picture of its own", panel)


def test_everything_is_reached_and_pressed_by_key(page: Any) -> None:
    page.wait_for_selector("#txt2img_generate")
    header = page.locator(f"{PANEL} .label-wrap").first
    header.wait_for()
    page.wait_for_timeout(SETTLED)
    assert header.get_attribute("aria-expanded") == "false"
    header.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{UNIT}_input_image")
    page.wait_for_timeout(SETTLED)
    assert header.get_attribute("aria-expanded") == "true"
    tabs = page.locator("#txt2img_controlnet_tabs > .tab-nav > button")
    tabs.first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(SETTLED)
    chosen = [tab.get_attribute("aria-selected") for tab in tabs.all()]
    assert chosen == ["false", "true", "false"]
    page.keyboard.press("Home")
    page.wait_for_timeout(SETTLED)
    assert tabs.first.get_attribute("aria-selected") == "true"
    with page.expect_file_chooser():
        place = page.locator(f"{UNIT}_input_image [aria-label$='choose a file']").first
        place.focus()
        page.keyboard.press("Enter")
    reached = set()
    tabs.first.focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('[id*=controlnet]')?.id"))
    wanted = ("enable_checkbox", "type_filter_radio", "preprocessor_dropdown", "model_dropdown")
    wanted += ("control_weight_slider", "control_mode_radio", "region_radio", "refresh_models")
    assert {f"{UNIT[1:]}_controlnet_{name}" for name in wanted} <= reached


TARGETS = [
    ((256, 384), "Crop and Resize"),
    ((256, 384), "Resize and Fill"),
    ((600, 72), "Just Resize"),
]
"""Sizes that are asked for, and how the picture is brought to them."""


def test_controls_say_what_they_are_for(kept_panel: Any, tmp_path: Path) -> None:
    page = kept_panel
    page.wait_for_timeout(SETTLED)
    line = page.locator(".cnet-type-line >> visible=true")
    assert line.inner_text() == WORDS["type_all"]
    page.hover(f"{UNIT}_controlnet_type_filter_radio label:has(input[value=Depth])")
    assert line.inner_text() == WORDS["type_depth"]
    page.hover(f"{UNIT}_controlnet_control_weight_slider")
    assert line.inner_text() == WORDS["type_all"]
    choose_canny(page)
    page.wait_for_timeout(SETTLED)
    assert line.inner_text() == WORDS["type_canny"]
    assert page.locator(f"{UNIT}_controlnet_type_filter_radio label svg").count() > 20
    slider = page.locator(f"{UNIT}_controlnet_control_weight_slider input[type=number]")
    assert slider.get_attribute("title") == WORDS["title_control_weight_slider"]
    mark = page.locator(f"{UNIT}_controlnet_pixel_perfect_checkbox .cnet-pixel-size")
    page.check(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    upload(page, save_shapes(tmp_path / "shapes.png", (192, 128)))
    for (width, height), mode in TARGETS:
        set_number(page, "#txt2img_width", width)
        set_number(page, "#txt2img_height", height)
        choose(page, f"{UNIT}_controlnet_resize_mode_radio", mode)
        page.wait_for_timeout(SETTLED)
        target = Size(width, height)
        wanted = pixel_perfect_resolution(Size(192, 128), target, ResizeMode.parse(mode))
        assert mark.inner_text() == f"{wanted} px"
    page.uncheck(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    mark.wait_for(state="detached")


def test_a_message_has_the_colour_of_its_kind(kept_panel: Any) -> None:
    page = kept_panel
    notes = f"{UNIT}_controlnet_notes"
    choose_type(page, "Depth")
    choose_preprocessor(page, "depth_leres")
    info = colour_of(page, notes, "downloads")
    choose_preprocessor(page, "depth_hand_refiner")
    error = colour_of(page, notes, "cannot run")
    assert info == "rgb(37, 99, 235)"
    assert error != info
    status, run = f"{UNIT}_controlnet_status", f"{UNIT}_controlnet_trigger_preprocessor"
    order = (
        "([a, b]) => document.querySelector(a).compareDocumentPosition(document.querySelector(b))"
    )
    assert page.evaluate(order, [run, status]) == 4, "below the button"
    assert page.evaluate(order, [status, f"{UNIT}_controlnet_control_weight_slider"]) == 4


def colour_of(page: Any, line: str, text: str) -> str:
    """The colour of a line of messages once it says something."""
    page.wait_for_selector(f'{line}:has-text("{text}")', state="visible")
    outer = f"{line}.cnet-status, .cnet-status:has({line})"
    return page.eval_on_selector(outer, "(line) => getComputedStyle(line).borderLeftColor")
