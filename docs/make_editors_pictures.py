"""Writes docs/images/editor-*.jpg: the editors and the curves on the timeline, in a browser.

python docs/make_editors_pictures.py [address of a running WebUI]

Starts the embedded host if no address is given. Needs playwright and a Chromium, like the tests.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from make_panel_picture import DOCS, QUALITY, address
from PIL import Image

import photographs  # isort: skip  # found by what make_panel_picture puts on the path
from editor_page import BOX, forget_maps, open_editor, place, stroke  # isort: skip
from panel_page import (  # isort: skip
    UNIT,
    choose_canny,
    open_panel,
    open_unit,
    set_number,
    unit_id,
    upload,
)

VIEW: Final = {"width": 1300, "height": 820}
SIZE: Final = (512, 512)


def main() -> None:
    """Take the pictures."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, address() as url, tempfile.TemporaryDirectory() as folder:
        installed = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(
            executable_path=installed, args=["--no-sandbox", "--disable-gpu"]
        )
        file = Path(folder) / "photograph.png"
        Image.fromarray(photographs.load("astronaut")).save(file)
        for number, (name, take) in enumerate(PICTURES.items()):
            page = browser.new_page(viewport=VIEW)
            page.goto(f"{url}/?__theme={('light', 'dark')[number % 2]}")
            page.wait_for_selector("#txt2img_generate")
            open_panel(page, SIZE)
            forget_maps(page)
            upload(page, file)
            save(name, take(page))
            page.close()
        browser.close()


def save(name: str, picture: bytes) -> None:
    """Write one of them."""
    path = DOCS / "images" / f"editor-{name}.jpg"
    Image.open(io.BytesIO(picture)).convert("RGB").save(path, quality=QUALITY, optimize=True)
    print(f"{path} {path.stat().st_size // 1024} kB")  # noqa: T201


def press(page: Any, *names: str) -> None:
    """Press buttons of the open editor."""
    for name in names:
        page.click(f"{BOX} button:text-is('{name}')")


def shot(page: Any) -> bytes:
    """The open editor."""
    page.mouse.move(1, 1)
    page.wait_for_timeout(600)
    return page.locator(BOX).screenshot()


def draw_scribble(page: Any) -> bytes:
    """Outlines of the person on a layer, a horizon on another."""
    open_editor(page, "Scribble")
    stroke(page, (190, 330), (170, 240), (150, 150), (190, 60), (250, 40), (310, 70), (330, 150))
    stroke(page, (330, 150), (320, 240), (310, 330))
    stroke(page, (190, 330), (100, 370), (40, 500))
    stroke(page, (310, 330), (420, 380), (470, 500))
    page.keyboard.press("n")
    page.keyboard.press("l")
    stroke(page, (0, 300), (150, 290))
    stroke(page, (340, 280), (511, 270))
    return shot(page)


def paint_segmentation(page: Any) -> bytes:
    """Wall, person and floor."""
    open_editor(page, "Segmentation")
    for name, corners in (
        ("wall", ((0, 0), (511, 0), (511, 340), (0, 340))),
        ("floor", ((0, 340), (511, 340), (511, 511), (0, 511))),
        ("person", ((190, 330), (150, 150), (200, 50), (300, 60), (330, 150), (310, 330),
                    (440, 390), (480, 511), (40, 511), (90, 380))),
    ):  # fmt: skip
        page.keyboard.press("/")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        page.keyboard.press("p")
        for corner in corners:
            page.mouse.click(*place(page, *corner)[0])
        page.keyboard.press("Enter")
    return shot(page)


def pose_figures(page: Any) -> bytes:
    """Two figures of the library with a hand and a face, side by side."""
    open_editor(page, "Pose")
    for name in ("Waving", "Sitting"):
        page.click(f"{BOX} .cnet-pose-library button:has-text('{name}') >> nth=0")
        press(page, "Face", "Right hand")
        for _ in range(9):
            page.keyboard.press("Shift+ArrowLeft" if name == "Waving" else "Shift+ArrowRight")
    return shot(page)


def paint_regions(page: Any) -> bytes:
    """Three units with parts of the picture that overlap."""
    for index in (1, 2):
        open_unit(page, index)
        choose_canny(page, unit_id(index))
    open_unit(page, 0)
    choose_canny(page)
    open_editor(page, "Regions of all units")
    page.select_option(f"{BOX} select:has(option[value=columns3])", "columns3")
    stroke(page, (80, 180), (250, 140), (430, 190))
    return shot(page)


def bend_curves(page: Any) -> bytes:
    """Two units with windows and curves, and the weights of layers."""
    page.set_viewport_size({"width": 1300, "height": 1500})
    choose_canny(page)
    set_number(page, f"{UNIT}_controlnet_ending_control_step_slider", 0.8)
    page.fill(f"{UNIT}_controlnet_weight_curve_textbox input", "0.2@0, 1@0.3, 0.4@0.7")
    open_unit(page, 1)
    choose_canny(page, unit_id(1))
    page.fill(f"{unit_id(1)}_controlnet_weight_curve_textbox input", "ease in")
    open_unit(page, 0)
    page.click(f".cnet-unit:has({UNIT}_input_image) .cnet-layer-weights .label-wrap")
    page.fill(f"{UNIT}_controlnet_advanced_weighting_textbox :is(input, textarea)", "soft")
    page.mouse.move(1, 1)
    page.wait_for_timeout(1000)
    parts = "#txt2img_controlnet_timeline >> nth=0", ".cnet-layer-weights >> visible=true"
    shots = [Image.open(io.BytesIO(page.locator(part).screenshot())) for part in parts]
    size = sum(one.width for one in shots), max(one.height for one in shots)
    sheet = Image.new("RGB", size, "white")
    left = 0
    for one in shots:
        sheet.paste(one, (left, 0))
        left += one.width
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


PICTURES: Final[dict[str, Callable[[Any], bytes]]] = {
    "pose": pose_figures,
    "segmentation": paint_segmentation,
    "scribble": draw_scribble,
    "regions": paint_regions,
    "curves": bend_curves,
}
"""Name of the file -> how its picture comes to be."""

if __name__ == "__main__":
    main()
