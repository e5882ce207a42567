"""The panel on gradio 4 for screen readers; its row of types where these are a list."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accessible import bring_judges, judge
from panel_page import UNIT, save_shapes, unit_id, upload, wait_for_value
from PIL import Image
from small_canvas import SmallCanvas

pytestmark = pytest.mark.browser


def enabled(page: Any) -> list[bool]:
    """Which units are switched on."""
    boxes = page.locator("#txt2img_controlnet .cnet-unit-enabled input")
    return [box.is_checked() for box in boxes.all()]


def track_height(page: Any, slider: str) -> int:
    """How high the line of a slider is, left of its thumb, in pixels."""
    shot = page.locator(f"{slider} input[type=range]").screenshot()
    picture = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))
    column = picture[:, picture.shape[1] // 4]
    return int((column != column[0]).any(axis=1).sum())


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_nothing_is_nameless_faint_small_or_cut(
    open_site: Any, site: Any, tmp_path: Path, tab: str
) -> None:
    page, panel = open_site(site, tab), f"#{tab}_controlnet"
    bring_judges(page)
    found = judge(page, "open", panel)
    if tab == "txt2img":
        assert 2 <= track_height(page, f"{UNIT}_controlnet_control_weight_slider") <= 8
        edge = "(button) => parseFloat(getComputedStyle(button).paddingLeft)"
        assert page.locator(".cnet-regions-open").first.evaluate(edge) >= 4
        page.click(f"{panel} .cnet-quick button:text-is('Canny')")
        wait_for_value(page, "preprocessor_dropdown", "canny")
        assert enabled(page) == [True, False]
        upload(page, save_shapes(tmp_path / "shapes.png"))
        page.click(f"{UNIT}_controlnet_trigger_preprocessor:enabled")
        page.wait_for_selector(f"{UNIT}_generated_image img")
        found += judge(page, "a preview", panel)
    assert not found, "\n".join(found)


def test_types_in_a_list_have_a_row_too(make_site: Any, open_site: Any) -> None:
    page = open_site(make_site(SmallCanvas, controlnet_control_type_dropdown=True))
    row = "#txt2img_controlnet .cnet-quick button"
    page.click(f"{row}:text-is('Canny')")
    wait_for_value(page, "type_filter_radio", "Canny")
    wait_for_value(page, "preprocessor_dropdown", "canny")
    page.click(f"{row}:text-is('Depth')")
    wait_for_value(page, "type_filter_radio", "Depth", unit_id(1))
    assert enabled(page) == [True, True]
    page.click(f"{row}:text-is('Tile')")
    page.wait_for_selector(".cnet-quick-said:has-text('in use')")
