"""The preview of every preprocessor that needs no file, in a real browser."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    UNIT,
    choose_preprocessor,
    choose_type,
    draw,
    save_shapes,
    upload,
)
from PIL import Image

from lib_controlnet.detect import preprocess
from lib_controlnet.detect.preprocess import run_preprocessor

pytestmark = pytest.mark.browser

RUN = f"{UNIT}_controlnet_trigger_preprocessor"
PREVIEW = f"{UNIT}_generated_image img"
TRIES = 5
RUNNABLE = [d for d in preprocess.all_detectors() if not (d.files or d.requires or d.unavailable)]
PLAIN = [d for d in RUNNABLE if not d.uses_mask and d.name != "none"]
MASKED = [d for d in RUNNABLE if d.uses_mask]


@pytest.fixture
def panel(kept_panel: Any, tmp_path: Path) -> Any:
    """The panel of txt2img with a picture of 192 x 128 and every preprocessor listed."""
    page = kept_panel
    upload(page, save_shapes(tmp_path / "shapes.png"))
    choose_type(page, "All")
    return page


def preview(page: Any) -> np.ndarray:
    """Run the preprocessor and return what is shown, uint8 (H, W, 3 or 4)."""
    page.wait_for_selector(PREVIEW, state="detached")
    late = page.get_by_text("The settings were changed while the preview was made").locator(
        "visible=true"
    )
    for _ in range(TRIES):  # the sliders of the preprocessor just chosen may still be on their way
        page.click(f"{RUN}:enabled")
        page.locator(PREVIEW).or_(late).first.wait_for()
        if page.locator(PREVIEW).count():
            break
    page.wait_for_selector(PREVIEW)
    source = page.get_attribute(PREVIEW, "src")
    if source.startswith("data:"):
        data = base64.b64decode(source.partition(",")[2])
    else:
        data = page.request.get(source).body()
    return np.asarray(Image.open(io.BytesIO(data)))


def test_preview_shows_each_preprocessors_map(panel: Any, tmp_path: Path) -> None:
    picture = np.asarray(Image.open(tmp_path / "shapes.png"))
    for detector in PLAIN:
        choose_preprocessor(panel, detector.title)
        shown = preview(panel)
        expected = run_preprocessor(detector.name, picture).display
        assert shown.shape[:2] == expected.shape[:2], detector.name
        if not detector.seeded:
            difference = np.abs(shown[..., :3].astype(int) - expected[..., :3])
            assert difference.max() <= 1, detector.name


def test_preview_of_inpainting_shows_the_drawn_mask_half_transparent(panel: Any) -> None:
    draw(panel, f"{UNIT}_input_image", (0.25, 0.5), (0.75, 0.5))
    panel.wait_for_timeout(300)
    for detector in MASKED:
        choose_preprocessor(panel, detector.title)
        shown = preview(panel)
        assert shown.shape == (128, 192, 4)
        is_black = detector.masked is not None  # shown as the model sees it
        masked = shown[64, 96]
        assert (masked[3] == 128) is not is_black, detector.name
        assert (list(masked) == [0, 0, 0, 255]) is is_black, detector.name
        assert shown[5, 5, 3] == 255
