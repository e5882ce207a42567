"""Writes docs/images/panel.jpg: the panel with a drawn region and the timeline, in a browser.

python docs/make_panel_picture.py [address of a running WebUI]

Starts the embedded host if no address is given. Needs playwright and a Chromium, like the tests.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(ROOT / "minihost"), str(ROOT / "tests")]

import photographs  # noqa: E402
from panel_page import (  # noqa: E402
    UNIT,
    choose,
    choose_canny,
    choose_type,
    draw,
    open_panel,
    open_unit,
    set_number,
    unit_id,
    upload,
    wait_for_canvas,
    wait_for_value,
)
from servers import embedded_host  # noqa: E402

PICTURE = DOCS / "images" / "panel.jpg"
VIEW = {"width": 1700, "height": 1500}
SIDE_BY_SIDE = 12
QUALITY = 66


def main() -> None:
    """Take the picture."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, address() as url:
        installed = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(
            executable_path=installed, args=["--no-sandbox", "--disable-gpu"]
        )
        light, dark = (shot(browser, url, theme) for theme in ("light", "dark"))
        browser.close()
    sheet = Image.new("RGB", (light.width + SIDE_BY_SIDE + dark.width, light.height), "white")
    sheet.paste(light, (0, 0))
    sheet.paste(dark, (light.width + SIDE_BY_SIDE, 0))
    PICTURE.parent.mkdir(exist_ok=True)
    sheet.save(PICTURE, quality=QUALITY, optimize=True)
    print(f"{PICTURE} {sheet.size} {PICTURE.stat().st_size // 1024} kB")  # noqa: T201


@contextmanager
def address() -> Iterator[str]:
    """Address of the WebUI that was named, or of an embedded host started for this."""
    if len(sys.argv) > 1:
        yield sys.argv[1].rstrip("/")
        return
    with tempfile.TemporaryDirectory() as folder, embedded_host(Path(folder)) as server:
        yield server.url


def shot(browser: Any, url: str, theme: str) -> Image.Image:
    """The panel of txt2img in one theme, three units on, the first one limited to a drawing."""
    page = browser.new_page(viewport=VIEW)
    page.goto(f"{url}/?__theme={theme}")
    page.wait_for_selector("#txt2img_generate")
    open_panel(page, (512, 512))
    for index, (kind, start, end, weight) in enumerate(
        (("Depth", 0, 0.5, 0.8), ("Scribble", 0.3, 1, 1.4)), start=1
    ):
        set_unit(page, index, kind, start, end, weight)
    curve = f"{unit_id(2)}_controlnet_weight_curve_textbox :is(input, textarea)"
    page.fill(curve, "0.5@0.3, 1@0.5, 0.3@0.9 | ease out")
    open_unit(page, 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photograph.png"
        Image.fromarray(photographs.load("astronaut")).save(file)
        upload(page, file)
        choose_canny(page)
        choose(page, f"{UNIT}_controlnet_region_radio", "Own mask")
        wait_for_canvas(page, f"{UNIT}_region_canvas", (512, 512))
        set_number(page, f"{UNIT}_controlnet_region_feather_slider", 24)
        outline(page)
        page.check("#txt2img_hr-visible-checkbox")
        page.mouse.move(1, 1)
        page.wait_for_timeout(800)
        panel = page.locator("#txt2img_controlnet")
        picture = Image.open(io.BytesIO(panel.screenshot()))
    page.close()
    return picture.convert("RGB")


def set_unit(page: Any, index: int, kind: str, start: float, end: float, weight: float) -> None:
    """Switch a unit on and give it a type, a window and a weight."""
    open_unit(page, index)
    unit = unit_id(index)
    page.check(f"{unit}_controlnet_enable_checkbox input")
    choose_type(page, kind, unit)
    wait_for_value(page, "model_dropdown", "control_", unit)
    set_number(page, f"{unit}_controlnet_start_control_step_slider", start)
    set_number(page, f"{unit}_controlnet_ending_control_step_slider", end)
    set_number(page, f"{unit}_controlnet_control_weight_slider", weight)


def outline(page: Any) -> None:
    """Paint over the person of the photograph with the brush as it is."""
    canvas = f"{UNIT}_region_canvas"
    draw(page, canvas, (0.43, 0.12), (0.38, 0.28), (0.5, 0.3), (0.5, 0.13), (0.45, 0.2))
    for y in range(40, 96, 6):
        reach = 0.2 + 0.12 * (y - 40) / 55
        draw(page, canvas, (0.45 - reach, y / 100), (0.45 + reach, y / 100))


if __name__ == "__main__":
    main()
