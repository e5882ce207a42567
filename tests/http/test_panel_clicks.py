"""How much a person has to do: a picture, a control type, windows, and Generate, counted.

A click, a picture or several dropped at once, a stroke, and a number typed into a box each count as
one, from the page as it opens to Generate. What the settings of the picture itself take (size,
steps, prompt) is no part of it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from panel_page import Posted, draw, gallery, save_shapes, set_number, unit_id, wait_for_value

from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

DROP = """([place, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    data.items.add(new File([bytes], name, { type: "image/png" }));
  }
  const target = document.querySelector(place);
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = { bubbles: true, cancelable: true, dataTransfer: data };
    target.dispatchEvent(new DragEvent(kind, event));
  }
}"""


class Hand:
    """A person's hand on the page.

    Attributes:
        count: what it has done so far.
    """

    def __init__(self, page: Any, tab: str) -> None:
        self.page, self.tab, self.count = page, tab, 0
        if tab == "img2img":
            self.click("#tabs > div.tab-nav > button", 1)
        for name, value in (("steps", 2), ("width", 64), ("height", 64)):
            set_number(page, f"#{tab}_{name}", value)

    def click(self, place: str, number: int = 0) -> None:
        self.count += 1
        self.page.locator(place).nth(number).click()

    def drop(self, place: str, *files: Path) -> None:
        self.count += 1
        texts = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in files]
        self.page.evaluate(DROP, [place, texts])

    def put(self, widget: str, path: Path) -> None:
        self.count += 1
        self.page.set_input_files(f"{widget} input[type=file]", str(path))

    def draw(self, widget: str, *points: tuple[float, float]) -> None:
        self.count += 1
        draw(self.page, widget, *points)

    def type(self, index: int, suffix: str, value: float) -> None:
        self.count += 1
        set_number(self.page, f"{unit_id(index, self.tab)}_controlnet_{suffix}_slider", value)

    def add(self, kind: str, index: int, preprocessor: str) -> None:
        """Press a control type under the panel's header; it has to go into a certain unit."""
        self.click(f"#{self.tab}_controlnet .cnet-quick button:text-is('{kind}')")
        unit = unit_id(index, self.tab)
        wait_for_value(self.page, "preprocessor_dropdown", preprocessor, unit)
        self.page.wait_for_selector(f"{unit}_controlnet_enable_checkbox", state="visible")

    def generate(self) -> list[Any]:
        """Press Generate, and return the enabled units as the engine gets them."""
        self.count += 1
        sent = [build_unit(values) for values in Posted(self.page).generate(self.page, self.tab)]
        error = self.page.locator(f"#html_log_{self.tab} .error")
        assert not error.count(), error.inner_text()
        return [unit for unit in sent if unit.enabled]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    folder = tmp_path_factory.mktemp("dropped")
    return [save_shapes(folder / f"{i}.png", (64 + 8 * i, 64)) for i in range(4)]


HEADER = "#txt2img_controlnet .label-wrap"


def wait_for_pictures(page: Any, count: int) -> None:
    for index in range(count):
        page.wait_for_selector(f"{unit_id(index)}_input_image img", state="attached")


@pytest.fixture
def page(kept_panel: Any) -> Any:
    """The page as it opens: the panel is closed, and no unit has anything."""
    kept_panel.locator(HEADER).first.click()
    return kept_panel


def test_canny_from_a_photograph(page: Any, pictures: Sequence[Path]) -> None:
    hand = Hand(page, "txt2img")
    hand.drop(HEADER, pictures[0])
    wait_for_pictures(page, 1)
    hand.add("Canny", 0, "canny")
    wait_for_value(page, "model_dropdown", "control_demo_canny")
    (unit,) = hand.generate()
    assert unit.module == "canny"
    assert unit.model.startswith("control_demo_canny")
    assert unit.image["image"].shape == (64, 64, 3)
    assert len(gallery(page, 2)) == 2
    assert hand.count <= 3


def test_inpainting_with_a_second_control(kept_page: Any, pictures: Sequence[Path]) -> None:
    """The second one takes as many clicks as a pose, which needs files that are not here."""
    page = kept_page
    hand = Hand(page, "img2img")
    hand.click("#mode_img2img > .tab-nav > button", 2)
    hand.put("#img2maskimg", pictures[0])
    page.wait_for_selector("#img2maskimg img", state="attached")
    page.wait_for_timeout(500)
    hand.draw("#img2maskimg", (0.3, 0.3), (0.6, 0.6))
    hand.add("Inpaint", 0, "inpaint")
    hand.add("Reference", 1, "reference")
    first, second = hand.generate()
    assert first.module.startswith("inpaint")
    assert first.model.startswith("control_demo_inpaint")
    assert second.module.startswith("reference")
    assert first.image is None, "both follow the tab's picture"
    assert second.image is None
    assert hand.count <= 8


def test_three_units_with_windows(page: Any, pictures: Sequence[Path]) -> None:
    hand = Hand(page, "txt2img")
    hand.drop(HEADER, *pictures[:3])
    wait_for_pictures(page, 3)
    hand.add("Canny", 0, "canny")
    hand.type(0, "ending_control_step", 0.4)
    hand.add("Reference", 1, "reference")
    hand.type(1, "start_control_step", 0.4)
    hand.type(1, "ending_control_step", 0.7)
    hand.add("Canny", 2, "canny")
    hand.type(2, "start_control_step", 0.7)
    units = hand.generate()
    windows = [(unit.guidance_start, unit.guidance_end) for unit in units]
    assert windows == [(0, 0.4), (0.4, 0.7), (0.7, 1)]
    assert [unit.image["image"].shape[1] for unit in units] == [64, 72, 80]
    assert hand.count <= 10


def test_what_has_no_place_is_said(page: Any, pictures: Sequence[Path], tmp_path: Path) -> None:
    hand = Hand(page, "txt2img")
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    hand.drop(HEADER, *pictures, text)
    said = "#txt2img_controlnet .cnet-quick-said"
    page.wait_for_selector(f"{said}:has-text('no unit without a picture was left')")
    line = page.text_content(said)
    went = [f"{path.name} to unit {index}" for index, path in enumerate(pictures[:3])]
    assert all(one in line for one in (*went, pictures[3].name, f"no picture: {text.name}"))
    for index in range(3):
        hand.add("Canny", index, "canny")
    hand.click("#txt2img_controlnet .cnet-quick button:text-is('Tile')")
    page.wait_for_selector(f"{said}:has-text('All units are in use')")
    # A row that is wider than the page scrolls by itself.
    page.set_viewport_size({"width": 390, "height": 900})
    row = page.locator("#txt2img_controlnet .cnet-quick")
    box = row.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert row.locator("button").first.bounding_box()["height"] >= 28
