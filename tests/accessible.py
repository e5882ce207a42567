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
