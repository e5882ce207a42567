"""The frame of the editors in a real browser: what it loads, its view, keys, and the way out."""

from __future__ import annotations

from typing import Any

import pytest
from editor_page import BOX, drag_finger, forget_maps, open_editor, spread_fingers

pytestmark = pytest.mark.browser

LOADED = """performance.getEntriesByType("resource")
  .filter(({ name }) => name.includes("/editors/")).length"""
VIEW = "(() => { const [s] = Konva.stages.slice(-1); return [s.scaleX(), s.x(), s.y()]; })()"
PRESSED = "window.pressed = []; addEventListener('keydown', ({ key }) => pressed.push(key))"


def check_fingers(page: Any, x: float, y: float) -> None:
    """Two fingers zoom, and draw nothing; one draws."""
    before = page.evaluate(VIEW)
    undo = page.locator(f"{BOX} [aria-label^=Undo]")
    spread_fingers(page, x, y)
    assert page.evaluate(VIEW)[0] == pytest.approx(2 * before[0], rel=0.02)
    assert undo.is_disabled()
    drag_finger(page, (x, y), (x + 40, y + 30))
    undo.and_(page.locator(":enabled")).wait_for()


def test_it_is_loaded_when_opened_and_moves_and_zooms(kept_panel: Any) -> None:
    page = kept_panel
    before = page.evaluate(LOADED)
    page.evaluate(PRESSED)

    open_editor(page, "Scribble")

    assert before == 0
    assert page.evaluate(LOADED) >= 5
    fitted = page.evaluate(VIEW)
    box = page.locator(f"{BOX} .cnet-editor-stage").bounding_box()
    x, y = box["x"] + 60, box["y"] + 40
    held = [(60 - fitted[1]) / fitted[0], (40 - fitted[2]) / fitted[0]]  # what lies there
    page.mouse.move(x, y)
    page.mouse.wheel(0, -240)
    scale, left, top = page.evaluate(VIEW)
    assert scale > fitted[0]
    assert [(60 - left) / scale, (40 - top) / scale] == pytest.approx(held, abs=0.01)

    page.keyboard.down(" ")
    page.mouse.down()
    page.mouse.move(x + 30, y + 20)
    page.mouse.up()
    page.keyboard.up(" ")
    assert page.evaluate(VIEW) == pytest.approx([scale, left + 30, top + 20], abs=0.5)
    page.mouse.down(button="middle")
    page.mouse.move(x, y)
    page.mouse.up(button="middle")
    assert page.evaluate(VIEW) == pytest.approx([scale, left, top], abs=0.5)
    assert page.locator(f"{BOX} [aria-label^=Undo]").is_disabled()  # nothing was drawn meanwhile

    page.keyboard.press("0")
    assert page.evaluate(VIEW) == pytest.approx(fitted)
    page.keyboard.press("-")
    assert page.evaluate(VIEW)[0] == pytest.approx(fitted[0] / 1.25)
    assert not page.locator(f"{BOX} .cnet-editor-slider:has-text('Photograph')").is_visible()
    page.keyboard.press("0")
    check_fingers(page, x + 200, y + 200)
    page.keyboard.press("Escape")
    page.locator(BOX).wait_for(state="detached")
    assert page.evaluate("pressed") == []  # no key is the host's
    assert page.evaluate("document.activeElement.closest('.cnet-editors') !== null")
    assert page.evaluate("Konva.stages.length") == 0
    forget_maps(page)
