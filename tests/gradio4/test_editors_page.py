"""The editors of maps on gradio 4: a map is drawn, used, and taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from editor_page import open_editor, stroke, sweep, use_map
from panel_page import UNIT, save_shapes, shown_picture, upload

pytestmark = pytest.mark.browser


def test_a_scribble_becomes_the_units_picture(panel: Any, site: Any, tmp_path: Path) -> None:
    picture = save_shapes(tmp_path / "shapes.png", (192, 128))
    upload(panel, picture)
    photograph = shown_picture(panel, f"{UNIT}_input_image img")
    open_editor(panel, "Scribble")
    way = stroke(panel, (20, 40), (100, 90))
    use_map(panel)
    unit = site.generate(panel)[0]
    assert unit.enabled
    assert unit.module == "none"
    drawn = unit.image["image"]
    assert (drawn.shape, set(np.unique(drawn))) == ((128, 128, 3), {0, 255})
    assert ((drawn[..., 0] > 0) != sweep((128, 128), *way, 4)).sum() <= 2
    panel.click("button:text-is('Picture back')")
    panel.locator(".cnet-tools-said:has-text('As it was before')").wait_for()
    assert (site.generate(panel)[0].image["image"] == photograph).all()
