"""The frame of the editors in a real browser: what it loads, keeps and shows."""

from __future__ import annotations

from typing import Any

from panel_page import UNIT

LOADED = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/editors/')).length"
VIEW = """() => {
  const { view } = document.querySelector('.cnet-editor').frame;
  return [view.scale(), view.stage.x(), view.stage.y()];
}"""


def open_editor(page: Any, tool: str, unit: str = UNIT) -> Any:
    """Open an editor from a unit's tools; the dialog."""
    menu = page.locator(f".cnet-unit:has({unit}_input_image) .cnet-editors")
    menu.locator("summary").click()
    menu.locator("button", has_text=tool).first.click()
    box = page.locator("dialog.cnet-editor")
    box.and_(page.locator(":not([aria-busy])")).wait_for()
    return box


def test_nothing_of_an_editor_is_loaded_before_it_is_opened(kept_panel: Any) -> None:
    page = kept_panel
    before = page.evaluate(LOADED)

    open_editor(page, "Scribble")

    assert before == 0
    assert page.evaluate(LOADED) >= 5
