"""The timeline on gradio 4 in a real browser: what is dragged and typed on it reaches the unit."""

from __future__ import annotations

from typing import Any

import pytest
from panel_page import UNIT, wait_until_still

pytestmark = pytest.mark.browser

TRACK = "#txt2img_controlnet_timeline .cnet-timeline-track"
CURVE = f"{UNIT}_controlnet_weight_curve_textbox :is(input, textarea)"


def test_window_and_curve_reach_the_unit(panel: Any, site: Any) -> None:
    page = panel
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    end = page.locator(f"{TRACK} [data-hand=end]")
    box, track = wait_until_still(page, end), page.locator(TRACK).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - track["width"] / 2, y, steps=4)
    page.mouse.up()
    page.select_option("#txt2img_controlnet_timeline select", "pulse")
    page.focus(f"{TRACK} [data-point='1']")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    assert page.input_value(CURVE) == "0@0, 1.01@0.4, 0@1"
    unit = site.generate(page)[0]
    assert unit.guidance_end == pytest.approx(0.5, abs=0.02)
    assert unit.weight_curve == "0@0, 1.01@0.4, 0@1"
    page.fill(CURVE, "0.5@0.3 | x")
    page.wait_for_selector(".cnet-curve-fault:has-text('x cannot be read')")
