"""The timeline under the units, and what pasting and editing make of it, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from panel_page import (
    UNIT,
    choose,
    choose_preprocessor,
    choose_type,
    draw,
    open_unit,
    save_shapes,
    set_number,
    unit_id,
    upload,
    wait_for_value,
)

pytestmark = pytest.mark.browser

TIMELINE = "#txt2img_controlnet_timeline"
BARS = f"{TIMELINE} .cnet-timeline-bar"


def enable(page: Any, index: int = 0) -> None:
    page.check(f"{unit_id(index)}_controlnet_enable_checkbox input")


def wait_for_bars(page: Any, *expected: tuple[int, float, float, float]) -> None:
    """Wait for bars of (unit, left, width, height), as fractions of their strips."""
    page.wait_for_function(
        """([selector, expected]) => {
          const found = Array.from(document.querySelectorAll(selector)).map((bar) => {
            const box = bar.getBoundingClientRect();
            const strip = bar.parentElement.getBoundingClientRect();
            return [Number(bar.dataset.unit), (box.left - strip.left) / strip.width,
                    box.width / strip.width, box.height / strip.height];
          });
          return found.length === expected.length && found.every(
            (bar, i) => bar.every((value, k) => Math.abs(value - expected[i][k]) < 0.02));
        }""",
        arg=[BARS, [list(bar) for bar in expected]],
        timeout=10_000,
    )


def spoken(page: Any) -> str:
    """What a screen reader says of the timeline."""
    picture = page.locator(f"{TIMELINE} .cnet-timeline-picture")
    assert picture.get_attribute("role") == "group"
    return picture.get_attribute("aria-label")


def test_timeline_of_no_unit_says_so(panel: Any) -> None:
    page = panel
    assert page.is_visible(TIMELINE)
    assert spoken(page) == "Timeline: no unit is enabled."
    assert page.locator(BARS).count() == 0


def test_bars_follow_enabling_and_sliders(panel: Any) -> None:
    page = panel
    enable(page)
    wait_for_bars(page, (0, 0, 1, 1))
    set_number(page, f"{UNIT}_controlnet_start_control_step_slider", 0.25)
    set_number(page, f"{UNIT}_controlnet_ending_control_step_slider", 0.75)
    set_number(page, f"{UNIT}_controlnet_control_weight_slider", 1.6)
    wait_for_bars(page, (0, 0.25, 0.5, 0.8))
    open_unit(page, 2)
    enable(page, 2)
    set_number(page, f"{unit_id(2)}_controlnet_ending_control_step_slider", 0.3)
    wait_for_bars(page, (0, 0.25, 0.5, 0.8), (2, 0, 0.3, 1))
    open_unit(page, 0)
    page.uncheck(f"{UNIT}_controlnet_enable_checkbox input")
    wait_for_bars(page, (2, 0, 0.3, 1))


def test_bar_moves_while_the_slider_is_dragged(panel: Any) -> None:
    page = panel
    enable(page)
    slider = page.locator(f"{UNIT}_controlnet_ending_control_step_slider input[type=range]")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] - 8, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, middle, steps=5)
    wait_for_bars(page, (0, 0, 0.5, 1))  # the button is still down
    page.mouse.up()


def test_unit_that_starts_after_its_end_has_no_bar(panel: Any) -> None:
    page = panel
    enable(page)
    wait_for_bars(page, (0, 0, 1, 1))
    set_number(page, f"{UNIT}_controlnet_start_control_step_slider", 0.8)
    set_number(page, f"{UNIT}_controlnet_ending_control_step_slider", 0.2)
    wait_for_bars(page)
    assert "never active" in spoken(page)
    assert "never active" in page.inner_text(f"{TIMELINE} .cnet-timeline-track")


def test_labels_name_the_preprocessor_or_the_model(panel: Any) -> None:
    page = panel
    enable(page)
    label = f"{TIMELINE} .cnet-timeline-name >> nth=0"
    assert page.inner_text(label) == "0 no preprocessor"
    choose_type(page, "Depth")
    wait_for_value(page, "model_dropdown", "control_demo_depth")
    page.wait_for_selector(f"{TIMELINE} .cnet-timeline-name:has-text('0 depth_midas')")
    choose_preprocessor(page, "none")
    page.wait_for_selector(f"{TIMELINE} .cnet-timeline-name:has-text('0 control_demo_depth')")
    choose_type(page, "Canny")
    wait_for_value(page, "model_dropdown", "control_demo_canny")
    page.wait_for_selector(f"{TIMELINE} .cnet-timeline-name:has-text('0 canny')")
    assert spoken(page) == "Timeline. Unit 0, canny: from 0 % to 100 % of the steps, with weight 1."


def test_hires_pass_has_a_column_of_its_own(panel: Any) -> None:
    page = panel
    enable(page)
    open_unit(page, 1)
    enable(page, 1)
    wait_for_bars(page, (0, 0, 1, 1), (1, 0, 1, 1))
    page.check("#txt2img_hr-visible-checkbox")
    wait_for_bars(page, *[(unit, 0, 1, 1) for unit in (0, 0, 1, 1)])
    option = f"{unit_id(1)}_controlnet_hr_option_radio"
    page.wait_for_selector(option, state="visible")
    choose(page, option, "High res only")
    wait_for_bars(page, *[(unit, 0, 1, 1) for unit in (0, 0, 1)])
    strips = page.locator(f"{TIMELINE} .cnet-timeline-track")
    absent = ["cnet-timeline-absent" in strips.nth(i).get_attribute("class") for i in range(4)]
    assert absent == [False, False, True, False]
    assert "Unit 1, no preprocessor: from 0 % to 100 % of the steps, hires pass" in spoken(page)
    page.uncheck("#txt2img_hr-visible-checkbox")
    wait_for_bars(page, (0, 0, 1, 1), (1, 0, 1, 1))


def test_timeline_is_drawn_again_only_when_it_changes(panel: Any, tmp_path: Path) -> None:
    page = panel
    enable(page)
    wait_for_bars(page, (0, 0, 1, 1))
    page.evaluate(
        """(place) => {
          window.drawn = 0;
          new MutationObserver(() => { window.drawn += 1; })
            .observe(document.querySelector(place), {
              attributes: true, characterData: true, childList: true, subtree: true,
            });
        }""",
        TIMELINE,
    )
    upload(page, save_shapes(tmp_path / "shapes.png"))
    page.check(f"{UNIT}_controlnet_low_vram_checkbox input")
    page.click("#txt2img_prompt textarea")
    page.wait_for_timeout(300)
    assert page.evaluate("window.drawn") == 0
    set_number(page, f"{UNIT}_controlnet_control_weight_slider", 0.5)
    wait_for_bars(page, (0, 0, 1, 0.5))
    assert page.evaluate("window.drawn") == 1


def test_scripts_of_the_panel_leave_two_globals(panel: Any) -> None:
    page = panel
    enable(page)
    wait_for_bars(page, (0, 0, 1, 1))
    names = page.evaluate(
        "() => Object.keys(window).filter((name) => /cnet|controlnet|timeline|region/i.test(name))"
    )
    assert sorted(names) == ["controlnetPanel", "controlnetWord"]


PASTED = (
    "a blue square\nSteps: 3, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 128x128, "
    'ControlNet 0: "Module: canny, Model: control_demo_canny, Weight: 0.6, '
    "Resize Mode: Just Resize, Processor Res: 640, Threshold A: 64.0, Threshold B: 150, "
    "Guidance Start: 0.1, Guidance End: 0.8, Pixel Perfect: False, Control Mode: Balanced{more}"
    '"'
)


def paste(page: Any, more: str = "") -> None:
    page.fill("#txt2img_prompt textarea", PASTED.format(more=more))
    page.click("#paste")
    page.wait_for_function(
        "() => document.querySelector('#txt2img_prompt textarea').value === 'a blue square'"
    )


def test_pasted_units_are_on_the_timeline(panel: Any) -> None:
    page = panel
    enable(page)
    paste(page)
    wait_for_bars(page, (0, 0.1, 0.7, 0.6))


def test_paste_restores_region_hires_option_and_weights(panel: Any) -> None:
    page = panel
    more = (
        ", Hr Option: Low res only, Region: Outside the inpaint mask, Region Feather: 24.0, "
        "Advanced Weighting: 1.0 0.5 0.25"
    )
    paste(page, more)
    region = f"{UNIT}_controlnet_region_radio input"
    weights = f"{UNIT}_controlnet_advanced_weighting_textbox :is(input, textarea)"
    low = f"{UNIT}_controlnet_hr_option_radio input[value='Low res only']"
    wait_for_value(page, "region_feather_slider", "24")
    page.wait_for_selector(f"{region}[value='Outside the inpaint mask']:checked", state="attached")
    page.wait_for_selector(f"{low}:checked", state="attached")
    assert page.input_value(weights) == "1 0.5 0.25"
    page.wait_for_selector(f"{UNIT}_controlnet_region_feather_slider", state="visible")
    page.wait_for_selector(".cnet-layer-weights .cnet-badge:has-text('3')")

    paste(page)
    page.wait_for_selector(f"{region}[value='Whole picture']:checked", state="attached")
    page.wait_for_selector(f"{low}:not(:checked)", state="attached")
    page.wait_for_selector(f"{UNIT}_controlnet_region_feather_slider", state="hidden")
    page.wait_for_function("(box) => document.querySelector(box).value === ''", arg=weights)
    wait_for_value(page, "region_feather_slider", "0")


def test_paste_of_an_own_mask_says_that_it_is_missing(panel: Any, tmp_path: Path) -> None:
    page = panel
    line, canvas = f"{UNIT}_controlnet_region_status", f"{UNIT}_region_canvas"
    # gradio reports an edit of the canvas twice while it lays out what is drawn on.
    page.evaluate(
        """() => document.addEventListener("gradio", (event) => {
          if (event.detail.event === "edit") document.body.dataset.edits += "+";
        }, true)"""
    )
    paste(page, ", Region: Own mask")
    page.wait_for_selector(f"{line}:has-text('draw the mask again')")
    page.wait_for_function("() => (document.body.dataset.edits || '').endsWith('++')")
    page.wait_for_timeout(200)
    assert page.is_visible(line)
    draw(page, canvas, (0.2, 0.5), (0.6, 0.5))
    page.wait_for_selector(line, state="hidden")

    paste(page, ", Region: Own mask")
    page.wait_for_selector(f"{line}:has-text('draw the mask again')")
    page.set_input_files(
        f"{UNIT}_mask_image input[type=file]", str(save_shapes(tmp_path / "mask.png"))
    )
    page.wait_for_selector(line, state="hidden")
    paste(page)
    page.wait_for_selector(canvas, state="hidden")
