"""What is wrong with a part of a page for keys, screen readers and narrow windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import axe_playwright_python

AXE: Final = Path(axe_playwright_python.__file__).with_name("axe.min.js")
FIND: Final = Path(__file__).parent / "data/panel_access.js"
SETTLED: Final = 600
"""Milliseconds in which the page's scripts have answered to a change."""
TARGET: Final = 28
"""Pixels of whatever is pressed, each way."""


LOOKS: Final = (
    ("light", (1440, 900), None),
    ("dark", (1024, 768), ["color-contrast"]),
    ("light", (390, 844), []),
)
"""Theme, size of the window, and axe's rules that a look may break: None for all of them."""


def bring_judges(page: Any) -> None:
    """Load what `judge` asks into a page."""
    for script in (AXE, FIND):
        page.add_script_tag(content=script.read_text(encoding="utf-8"))


def judge(page: Any, state: str, root: str) -> list[str]:
    """What is wrong with an element and all that is in it, as it is shown.

    Args:
        page: a page with the judges.
        state: what the page shows, for the sentences.
        root: selector of the element.
    """
    page.wait_for_timeout(SETTLED)
    found = page.evaluate("([root, least]) => panelAccess(root, least)", [root, TARGET])
    return [f"{state}: {one}" for one in found]


def judge_looks(page: Any, state: str, root: str) -> list[str]:
    """What is wrong with an element in both themes and at each width, see `judge`."""
    found, before = [], page.viewport_size
    for theme, (width, height), rules in LOOKS:
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")
        page.wait_for_timeout(SETTLED)
        asked = [root, TARGET, rules]
        said = page.evaluate("([root, least, rules]) => panelAccess(root, least, rules)", asked)
        found += [f"{state}, {theme}, {width}: {one}" for one in said]
    page.set_viewport_size(before)
    return found
