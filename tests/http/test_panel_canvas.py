"""The drawing canvases of the panel on a machine so busy that gradio forgets to size them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    UNIT,
    Posted,
    choose,
    draw,
    needs_gradio_3,
    open_panel,
    save_shapes,
    shown_picture,
    upload,
    wait_for_canvas,
)

from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

INPUT = f"{UNIT}_input_image"
LATE_OBSERVER = """
  const Observer = window.ResizeObserver;
  window.ResizeObserver = class extends Observer {
    constructor(report) { super((...all) => setTimeout(() => report(...all), 400)); }
  };
"""
"""Resize observers report later than gradio's timer, as they do on a busy machine."""


@pytest.fixture(scope="module")
def page_scripts() -> tuple[str, ...]:
    return (LATE_OBSERVER,)


@pytest.fixture
def panel(page: Any) -> Any:
    """The panel of a page whose observers are late."""
    needs_gradio_3(page)
    open_panel(page)
    return page


def layer(page: Any, widget: str, key: str) -> np.ndarray:
    """RGBA pixels of one layer of a canvas, uint8 (H, W, 4)."""
    width, height, data = page.evaluate(
        """(selector) => {
          const canvas = document.querySelector(selector);
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return [canvas.width, canvas.height, Array.from(data.data)];
        }""",
        f"{widget} canvas[key={key}]",
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def test_region_canvas_that_gradio_left_unsized_is_sized(panel: Any) -> None:
    choose(panel, f"{UNIT}_controlnet_region_radio", "Own mask")
    wait_for_canvas(panel, f"{UNIT}_region_canvas", (128, 128))


def test_unit_picture_on_an_unsized_canvas_is_drawn_on(panel: Any, tmp_path: Path) -> None:
    picture = save_shapes(tmp_path / "shapes.png", (192, 128))
    posted = Posted(panel)
    upload(panel, picture)
    panel.wait_for_timeout(300)
    shown = layer(panel, INPUT, "drawing")
    assert shown.shape == (128, 192, 4)
    assert np.abs(shown[..., :3].astype(int) - shown_picture(panel, f"{INPUT} img")).max() <= 2
    draw(panel, INPUT, (0.25, 0.5), (0.75, 0.5))
    panel.wait_for_timeout(300)
    unit = build_unit(posted.generate(panel)[0])
    mask = unit.image["mask"][..., 0] > 127
    rows, columns = np.nonzero(mask)
    assert mask.shape == (128, 192)
    assert 40 < columns.mean() < 152
    assert abs(rows.mean() - 64) < 4
    assert mask[64, 60:132].all()
