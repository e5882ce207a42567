"""The panel in the language of the host's setting "Localization", in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from panel_page import (
    UNIT,
    choose_canny,
    choose_preprocessor,
    choose_type,
    open_panel,
    save_shapes,
    upload,
)

from lib_controlnet.words import WORDS

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
GERMAN = json.loads((ROOT / "localizations/de_DE.json").read_text(encoding="utf-8"))
NOTES = f"{UNIT}_controlnet_notes"
READ = """() => {
  const panel = document.querySelector("#txt2img_controlnet");
  const walk = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT);
  const [found, NAMES] = [[], ["title", "placeholder", "aria-label"]];
  while (walk.nextNode()) {
    const { parentElement, data } = walk.currentNode;
    if (parentElement.checkVisibility()) found.push(data.trim());
  }
  for (const element of panel.querySelectorAll("[title], [placeholder], [aria-label]")) {
    if (!element.checkVisibility()) continue;
    for (const name of NAMES) found.push(element.getAttribute(name));
  }
  return found;
}"""
"""Whatever the panel shows, or says to a screen reader."""


@pytest.fixture
def german(webui: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page in German."""
    if not webui.is_ours:
        pytest.skip("the settings of a foreign server are not ours to change")
    webui.post("/sdapi/v1/options", {"localization": "de_DE"})
    try:
        yield request.getfixturevalue("page")
    finally:
        webui.post("/sdapi/v1/options", {"localization": "None"})


def english(page: Any) -> set[str]:
    """Texts of the table that are shown as they stand there."""
    left = {text for text, one in GERMAN.items() if text != one and "{" not in text}
    return left & set(page.evaluate(READ))


def wait_for(page: Any, selector: str, text: str) -> None:
    page.wait_for_selector(f'{selector}:has-text("{text}")', state="visible")


def test_the_panel_is_german_and_stays_so(german: Any, tmp_path: Path) -> None:
    page = german
    open_panel(page)
    wait_for(page, f"{UNIT}_controlnet_enable_checkbox", GERMAN["Enable"])
    page.wait_for_timeout(500)
    assert english(page) == set()
    # What changes later: labels of sliders, the line of a type, badges, tooltips, messages.
    choose_canny(page)
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    wait_for(page, f"{UNIT}_controlnet_threshold_A_slider", GERMAN["Low Threshold"])
    wait_for(page, ".cnet-type-line", GERMAN[WORDS["type_canny"]])
    wait_for(page, "#txt2img_controlnet .cnet-badge", "1 Einheit")
    wait_for(page, "#txt2img_controlnet_tabs button.selected", "ControlNet-Einheit 0")
    page.click(f'{UNIT}_controlnet_region_radio label:has(input[value="Own mask"])')
    wait_for(page, f"{UNIT}_controlnet_region_feather_slider", GERMAN["Feather (px)"])
    upload(page, save_shapes(tmp_path / "shapes.png"))
    page.click(f"{UNIT}_controlnet_trigger_preprocessor:enabled")
    page.wait_for_selector(f"{UNIT}_generated_image img")
    page.wait_for_timeout(500)
    assert english(page) == set()
    said = page.get_attribute("#txt2img_controlnet_timeline [role=group] >> nth=0", "aria-label")
    assert said.startswith("Zeitleiste. Einheit 0, canny: von 0 % bis 100 % der Schritte, mit")
    # A message with values in it, and one about a type.
    choose_type(page, "Depth")
    choose_preprocessor(page, "depth_leres")
    wait_for(page, NOTES, "Beim ersten Lauf lädt depth_leres res101.pth (531 MB) nach")
    wait_for(page, f"{UNIT}_controlnet_threshold_A_slider", GERMAN["Remove Near %"])
    assert english(page) == set()
