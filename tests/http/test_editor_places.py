"""What was made in an editor goes where its unit goes; layers of scribbles bear names."""

from __future__ import annotations

from typing import Any

import pytest
from editor_page import (
    BOX,
    close_editor,
    forget_maps,
    open_editor,
    stroke,
    wait_for_said,
    wait_until_done,
)
from panel_page import UNIT, open_unit, unit_id

pytestmark = pytest.mark.browser

SECOND, THIRD = unit_id(1), unit_id(2)
LAYERS = f"{BOX} .cnet-scribble-layer"
NAMES = f"{LAYERS} .cnet-scribble-name"
REGIONS = f"{BOX} .cnet-regions-unit"
DATABASES = "async () => (await indexedDB.databases()).map(({ name }) => name)"
LOADED = """performance.getEntriesByType("resource")
  .filter(({ name }) => name.includes("/editors/")).length"""


def tools(page: Any, unit: str) -> Any:
    return page.locator(f".cnet-unit:has({unit}_input_image)")


def move(page: Any, unit: str, other: str) -> None:
    """Press a unit's arrow to the right, and wait until the next one says so."""
    tools(page, unit).locator(".cnet-tool-right").click()
    says(page, other, "have changed places")


def says(page: Any, unit: str, text: str) -> None:
    tools(page, unit).locator(f".cnet-tools-said:has-text({text!r})").wait_for()


def undo(page: Any, unit: str) -> None:
    open_unit(page, int(unit[-1]))
    tools(page, unit).locator(".cnet-tools-said button").click()
    says(page, unit, "As it was before.")


def drawn(page: Any, unit: str) -> list[str]:
    """Names of the layers that a unit's editor of scribbles shows, from the top down."""
    open_unit(page, int(unit[-1]))
    open_editor(page, "Scribble", unit)
    names = page.locator(NAMES).all_inner_texts()
    close_editor(page)
    return names


def shares(page: Any) -> list[bool]:
    """Which units have a region in the editor of all of them."""
    open_unit(page, 0)
    open_editor(page, "Regions of all units")
    texts = page.locator(REGIONS).all_inner_texts()
    close_editor(page)
    return [not text.endswith(": 0 %") for text in texts]


def rename(page: Any) -> None:
    """Give layers names: by the key, by pressing a name twice, and by the button."""
    page.keyboard.press("F2")
    field = page.locator(f"{NAMES}:is(input)")
    assert field.get_attribute("maxlength") == "60"
    field.fill(" <b>Hair</b> ")
    field.press("Enter")
    assert page.locator(NAMES).all_inner_texts() == ["<b>Hair</b>"]
    assert page.evaluate("document.activeElement.innerText") == "<b>Hair</b>"
    page.keyboard.press("n")
    page.locator(NAMES).last.dblclick()
    field.fill("Face")
    page.locator(f"{BOX} button:text-is('Add layer')").focus()
    assert page.locator(NAMES).all_inner_texts() == ["Layer 2", "Face"]
    page.click(f"{BOX} button:text-is('Rename layer')")
    field.fill("not taken")
    field.press("Escape")
    assert page.locator(NAMES).all_inner_texts() == ["Layer 2", "Face"]
    page.locator(f"{BOX} .cnet-editor-stage").press("Control+z")
    wait_until_done(page)
    assert page.locator(NAMES).all_inner_texts() == ["Layer 2", "<b>Hair</b>"]
    page.locator(f"{BOX} .cnet-editor-stage").press("Control+y")
    wait_until_done(page)


def test_drawings_follow_their_units(kept_panel: Any, webui: Any) -> None:
    page = kept_panel
    move(page, UNIT, SECOND)
    assert page.evaluate(DATABASES) == []
    assert page.evaluate(LOADED) == 0
    open_unit(page, 0)

    open_editor(page, "Scribble")
    rename(page)
    stroke(page, (20, 40), (100, 40))
    close_editor(page)
    open_editor(page, "Regions of all units")
    page.locator(f"{BOX} label:has-text('Divide') select").select_option("columns2")
    wait_until_done(page)
    close_editor(page)
    mine, empty = ["Layer 2", "Face"], ["Layer 1"]
    assert shares(page) == [True, True, False]

    move(page, UNIT, SECOND)
    move(page, SECOND, THIRD)
    assert drawn(page, THIRD) == mine
    assert shares(page) == [True, False, True]
    assert drawn(page, UNIT) == empty
    undo(page, THIRD)
    assert shares(page) == [True, True, False]
    assert drawn(page, SECOND) == mine
    assert drawn(page, THIRD) == empty

    menu = tools(page, SECOND).locator(".cnet-menu:has(summary:text-is('Copy to'))")
    open_unit(page, 1)
    menu.locator("summary").click()
    menu.locator("button:text-is('Unit 0')").click()
    says(page, SECOND, "was copied to unit 0")
    tools(page, SECOND).locator(".cnet-tool-clear").click()
    says(page, SECOND, "The unit was cleared")
    assert drawn(page, UNIT) == mine
    assert shares(page) == [True, False, False]
    assert drawn(page, SECOND) == empty
    undo(page, SECOND)
    assert drawn(page, SECOND) == mine

    # What a preset brings is another unit; what was drawn before is a step behind.
    webui.client.put("/controlnet/presets/edges", json={"units": [{"module": "canny"}]})
    tools(page, SECOND).locator(".cnet-presets-open").click()
    page.locator("dialog.cnet-presets button[aria-label='Load: edges']").click()
    page.locator(".cnet-presets-status:has-text('Loaded: edges.')").wait_for()
    page.keyboard.press("Escape")
    webui.client.delete("/controlnet/presets/edges")
    assert drawn(page, SECOND) == empty
    open_editor(page, "Scribble", SECOND)
    wait_for_said(page, "A preset was loaded into the unit")
    page.keyboard.press("Control+z")
    wait_until_done(page)
    assert page.locator(NAMES).all_inner_texts() == mine
    close_editor(page)
    open_editor(page, "Scribble", SECOND)
    wait_for_said(page, "As it was left")
    assert page.locator(NAMES).all_inner_texts() == mine
    close_editor(page)
    assert drawn(page, UNIT) == mine
    forget_maps(page)
