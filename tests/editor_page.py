"""What a person does in the editors of maps, for tests that drive them in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
from panel_page import UNIT

BOX = "dialog.cnet-editor"
STAGE = f"{BOX} .cnet-editor-stage"

FORGET = """async (name) => {
  if (!(await indexedDB.databases()).some((one) => one.name === name)) return;
  await new Promise((done) => {
    indexedDB.open(name).onsuccess = ({ target: { result: database } }) => {
      const stores = Array.from(database.objectStoreNames);
      const change = database.transaction(stores, "readwrite");
      for (const store of stores) change.objectStore(store).clear();
      change.oncomplete = done;
      database.close();
    };
  });
}"""
"""Empties what the editors have kept in the browser."""


def forget_maps(page: Any) -> None:
    """Leave nothing that editors have kept in the browser; none is open."""
    page.evaluate(FORGET, "controlnet-editors")


def open_editor(page: Any, tool: str, unit: str = UNIT) -> Any:
    """Open an editor from a unit's tools, by its name there; the dialog, once it is ready."""
    menu = page.locator(f".cnet-unit:has({unit}_input_image) .cnet-editors")
    menu.locator("summary").click()
    menu.locator(f"button:text-is('{tool}')").click()
    wait_until_done(page)
    return page.locator(BOX)


def wait_until_done(page: Any) -> None:
    """Wait until the editor has done what it was told."""
    page.wait_for_selector(f"{BOX}:not([aria-busy])")


def close_editor(page: Any) -> None:
    page.click(f"{BOX} button:text-is('Close')")
    page.wait_for_selector(BOX, state="detached")


def use_map(page: Any) -> None:
    """Press "Use", twice as hasty people do, and wait until the unit has the map."""
    page.dblclick(f"{BOX} button:text-is('Use')")
    page.wait_for_selector(BOX, state="detached")


def wait_for_said(page: Any, text: str) -> None:
    """Wait until the line at the foot of the editor says something."""
    page.locator(f"{BOX} .cnet-editor-status:has-text({text!r})").wait_for()


def place(page: Any, x: float, y: float) -> tuple[tuple[int, int], tuple[float, float]]:
    """A point of the map in whole pixels of the screen, and where in the map these are."""
    wait_until_done(page)
    left, top, scale = page.evaluate(
        """(selector) => {
          const box = document.querySelector(selector).getBoundingClientRect();
          const stage = Konva.stages[Konva.stages.length - 1];
          return [box.left + stage.x(), box.top + stage.y(), stage.scaleX()];
        }""",
        STAGE,
    )
    screen = round(left + x * scale), round(top + y * scale)
    return screen, ((screen[0] - left) / scale, (screen[1] - top) / scale)


def stroke(page: Any, *points: tuple[float, float], steps: int = 6) -> list[tuple[float, float]]:
    """Drag the mouse through points of the map; where it was in the map exactly."""
    places = [place(page, *point) for point in points]
    page.mouse.move(*places[0][0])
    page.mouse.down()
    for screen, _ in places[1:]:
        page.mouse.move(*screen, steps=steps)
    page.mouse.up()
    return [at for _, at in places]


Point = tuple[float, float]


@contextmanager
def fingers(page: Any) -> Iterator[Callable[..., None]]:
    """A screen that is touched: `touch("Start" | "Move" | "End", *points)` says which fingers are
    down, in pixels of the window."""
    screen = page.context.new_cdp_session(page)
    screen.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})

    def touch(kind: str, *points: Point) -> None:
        down = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        screen.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": down})

    try:
        yield touch
    finally:
        screen.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
        screen.detach()


def drag_finger(page: Any, *points: Point, steps: int = 4) -> None:
    """Drag a finger through points of the window; with one point it taps."""
    with fingers(page) as touch:
        touch("Start", points[0])
        for one, other in pairwise(points):
            for part in np.linspace(0, 1, steps + 1)[1:]:
                touch("Move", tuple(np.add(one, part * np.subtract(other, one)).tolist()))
        touch("End")


def touch_stroke(page: Any, *points: Point) -> list[Point]:
    """As `stroke`, by a finger; with one point it taps."""
    places = [place(page, *point) for point in points]
    drag_finger(page, *(screen for screen, _ in places))
    return [at for _, at in places]


def spread_fingers(page: Any, x: float, y: float) -> None:
    """Put one finger down, another beside it, and move them twice as far apart."""
    with fingers(page) as touch:
        touch("Start", (x, y))
        touch("Start", (x, y), (x + 100, y))
        touch("Move", (x - 50, y), (x + 150, y))
        touch("End")


def steer(page: Any, x: int, y: int) -> None:
    """Move the cursor of the keys to a pixel of the map; what is pressed is drawn on the way."""
    page.focus(STAGE)
    page.keyboard.press("ArrowRight")
    said = page.inner_text(f"{BOX} .cnet-editor-status").rpartition(": ")[2]
    here = [int(number) for number in said.split(", ")]
    for by, keys in ((x - here[0], ("Left", "Right")), (y - here[1], ("Up", "Down"))):
        tens, ones = divmod(abs(by), 10)
        for key in ["Shift+Arrow"] * tens + ["Arrow"] * ones:
            page.keyboard.press(key + keys[by > 0])


def sweep(
    size: tuple[int, int], one: tuple[float, float], other: tuple[float, float], radius: float
) -> np.ndarray:
    """Pixels of (width, height) whose centre is within a radius of a straight way: bool (H, W)."""
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    dx, dy = other[0] - one[0], other[1] - one[1]
    part = ((x - one[0]) * dx + (y - one[1]) * dy) / max(dx * dx + dy * dy, 1e-9)
    part = part.clip(0, 1)
    return np.hypot(x - one[0] - part * dx, y - one[1] - part * dy) <= radius
