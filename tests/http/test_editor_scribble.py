"""Scribbles: drawn on layers in the editor, kept by the browser, and what the engine receives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accessible import bring_judges, judge_looks
from editor_page import (
    BOX,
    close_editor,
    forget_maps,
    open_editor,
    place,
    steer,
    stroke,
    sweep,
    use_map,
    wait_for_said,
    wait_until_done,
)
from panel_page import (
    SHOWN,
    UNIT,
    Posted,
    choose_canny,
    gallery,
    open_panel,
    save_shapes,
    shown_picture,
    upload,
    wait_for_canvas,
    wait_for_value,
)
from PIL import Image

pytestmark = pytest.mark.browser

SIZE = (128, 128)
INPUT = f"{UNIT}_input_image img"
ROWS = f"{BOX} .cnet-scribble-layer"


def press(page: Any, *names: str) -> None:
    """Press buttons of the editor, one after the other."""
    for name in names:
        page.click(f"{BOX} button:text-is('{name}')")


def set_width(page: Any, width: int) -> None:
    page.locator(f"{BOX} .cnet-editor-bar input[type=range]").fill(str(width))


def layers(page: Any) -> list[tuple[str, bool]]:
    """Names of the layers from the top down, and whether they are shown."""
    wait_until_done(page)
    return [
        (row.locator("button").nth(1).inner_text(), is_pressed(row.locator("button").nth(0)))
        for row in page.locator(ROWS).all()
    ]


def is_pressed(button: Any) -> bool:
    return button.get_attribute("aria-pressed") == "true"


def used(page: Any) -> np.ndarray:
    """Use the map, and what the unit's picture is then: bool (H, W) of what is white."""
    use_map(page)
    wait_for_canvas(page, f"{UNIT}_input_image", SIZE)
    picture = shown_picture(page, INPUT)
    assert picture.shape == (*SIZE, 3)
    assert set(np.unique(picture)) <= {0, 255}
    return picture[..., 0] > 0


def assert_alike(drawn: np.ndarray, wanted: np.ndarray) -> None:
    """The same but for pixels whose centre lies on the very edge."""
    assert wanted.sum() > 50
    assert (drawn != wanted).sum() <= 2


def test_lines_fills_and_layers(kept_panel: Any, tmp_path: Path) -> None:
    page = kept_panel
    forget_maps(page)
    open_editor(page, "Scribble")
    press(page, "Use")
    wait_for_said(page, "No visible layer has lines")
    bring_judges(page)
    assert judge_looks(page, "scribble", BOX) == []

    # Straight lines make a triangle on one layer; another is filled as far as they go.
    set_width(page, 4)
    page.keyboard.press("l")
    ends = [stroke(page, (24, 20), (100, 20)), stroke(page, (100, 20), (62, 90))]
    ends.append(stroke(page, (62, 90), (24, 20)))
    edges = np.logical_or.reduce([sweep(SIZE, *pair, 2) for pair in ends])
    page.keyboard.press("n")
    press(page, "Fill")
    page.mouse.click(*place(page, 62, 40)[0])
    inside = used(page)
    assert (inside & edges).sum() >= edges.sum() - 2
    assert inside[40, 62]
    assert not inside[110, 62]
    y, x = np.nonzero(inside)
    assert 0.9 < inside.sum() / (0.5 * 80 * 74) < 1.15
    assert (x.min(), y.min()) == (22, 18)

    # Without the lines only the fill is left; inverted, what it left.
    open_editor(page, "Scribble")
    wait_for_said(page, "As it was left")
    page.locator(ROWS).last.locator("button").first.click()
    press(page, "Invert layer")
    assert layers(page) == [("Layer 2", True), ("Layer 1", False)]
    press(page, "Start anew")
    assert layers(page) == [("Layer 1", True)]
    page.keyboard.press("Control+z")
    assert layers(page) == [("Layer 2", True), ("Layer 1", False)]
    assert_alike(used(page), ~(inside & ~edges))

    # Shift draws from where the last stroke ended; merged with the lines; a file that is black on
    # white comes as white on black.
    open_editor(page, "Scribble")
    press(page, "Delete layer")
    assert layers(page) == [("Layer 1", False)]
    press(page, "Brush")
    page.keyboard.press("]")
    (start,) = stroke(page, (10, 110))
    wait_for_said(page, "Layer 1 was hidden")
    page.keyboard.down("Shift")
    (end,) = stroke(page, (110, 118))
    page.keyboard.up("Shift")
    ink = Image.new("L", SIZE, 255)
    ink.paste(0, (5, 40, 15, 60))
    ink.save(tmp_path / "ink.png")
    page.set_input_files(f"{BOX} input[type=file]", str(tmp_path / "ink.png"))
    wait_for_said(page, "ink.png was black on white")
    press(page, "Merge down")
    assert layers(page) == [("Layer 1", True)]
    wanted = edges | sweep(SIZE, start, end, 2.5) | draw_by_keys(page)
    wanted[40:60, 5:15] = True
    assert_alike(used(page), wanted)


def draw_by_keys(page: Any) -> np.ndarray:
    """A stroke of width 5, and one that is taken back: bool (H, W) of what is left."""
    steer(page, 90, 60)
    page.keyboard.press("Enter")
    wait_for_said(page, "Pressed at 90, 60")
    steer(page, 110, 60)
    page.keyboard.press("Enter")
    wait_for_said(page, "Let go at 110, 60")
    steer(page, 64, 100)
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Escape")
    wait_for_said(page, "Let go at 54, 100")
    return sweep(SIZE, (90.5, 60.5), (110.5, 60.5), 2.5)


def pen(page: Any, *points: tuple[float, float, float]) -> None:
    """Draw with a pen, (x, y, pressure) in the map."""
    session = page.context.new_cdp_session(page)
    kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 2), "mouseReleased"]
    for kind, (x, y, force) in zip(kinds, points, strict=True):
        at = dict(zip("xy", place(page, x, y)[0], strict=True))
        how = {"pointerType": "pen", "button": "left", "buttons": 1, "clickCount": 1}
        session.send("Input.dispatchMouseEvent", {"type": kind, "force": force, **at, **how})
    session.detach()


def test_a_pen_that_presses_harder_draws_wider(kept_panel: Any) -> None:
    page = kept_panel
    forget_maps(page)
    open_editor(page, "Scribble")
    set_width(page, 30)
    press(page, "Brush")
    pen(page, *[(x, 64, 0.1 if x < 64 else 0.9) for x in range(20, 108, 8)])
    drawn = used(page).sum(axis=0)
    assert 5 <= drawn[36] <= 9
    assert 26 <= drawn[92] <= 29


def test_two_layers_from_the_first_stroke_to_the_engine(kept_panel: Any, tmp_path: Path) -> None:
    page, posted = kept_panel, Posted(kept_panel)
    forget_maps(page)
    open_editor(page, "Scribble")
    set_width(page, 8)
    press(page, "Brush")
    ways = {"across": stroke(page, (20, 40), (108, 40))}
    page.keyboard.press("n")
    ways["down"] = stroke(page, (64, 10), (64, 118))
    page.keyboard.press("v")  # hides it
    page.locator(ROWS).last.locator("button").nth(1).click()
    press(page, "Eraser")
    ways["gone"] = stroke(page, (84, 20), (84, 60))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert layers(page) == [("Layer 2", True), ("Layer 1", True)]
    page.keyboard.press("Control+y")
    page.keyboard.press("Control+Shift+z")
    close_editor(page)
    assert not page.locator(f"{UNIT}_input_image {SHOWN}").count()

    wanted = sweep(SIZE, *ways["across"], 4) & ~sweep(SIZE, *ways["gone"], 4)
    kept = [("Layer 2", False), ("Layer 1", True)]
    open_editor(page, "Scribble")
    assert layers(page) == kept
    close_editor(page)
    page.reload()
    page.wait_for_selector("#txt2img_generate")
    open_panel(page, SIZE)
    upload(page, save_shapes(tmp_path / "photograph.png", SIZE))
    photograph = shown_picture(page, INPUT)
    choose_canny(page)
    open_editor(page, "Scribble")
    wait_for_said(page, "As it was left")
    assert layers(page) == kept
    assert (shown_picture(page, INPUT) == photograph).all()

    assert_alike(used(page), wanted)
    wait_for_value(page, "preprocessor_dropdown", "none")
    assert page.is_checked(f"{UNIT}_controlnet_enable_checkbox input")
    assert [one["enabled"] for one in posted.generate(page)].count(True) == 1
    _made, received = gallery(page, 2)
    assert_alike(received[..., 0] > 127, wanted)
    assert set(np.unique(received)) <= {0, 255}

    page.click("button:text-is('Picture back')")
    wait_for_value(page, "preprocessor_dropdown", "canny")
    assert (shown_picture(page, INPUT) == photograph).all()
