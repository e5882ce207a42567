"""Downloads in the panel: a model for a unit without one, the files of a preprocessor."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import downloads_probe
import pytest
import torch
from panel_page import (
    UNIT,
    Posted,
    choose_canny,
    choose_option,
    choose_preprocessor,
    choose_type,
    chosen,
    save_shapes,
    set_number,
    shown_picture,
    upload,
    wait_for_value,
)
from random_weights import random_state, read_keys

pytestmark = pytest.mark.browser

OPENER = f".cnet-unit:has({UNIT}_input_image) .cnet-download-open"
LIST = "dialog.cnet-downloads"
NOTES = f"{UNIT}_controlnet_notes"
HALF = downloads_probe.MODEL.stat().st_size // 2
STEM = downloads_probe.NAME.removesuffix(".safetensors")


@pytest.fixture
def hub(webui: Any) -> Iterator[Any]:
    """What the WebUI downloads from; what came is taken away again."""
    if not webui.is_ours:
        pytest.skip("a foreign server downloads from the real hub")
    yield webui.hub
    downloads_probe.forget(webui.log_file.parent)
    webui.get("/controlnet/model_list")


def test_a_model_is_downloaded_chosen_and_generates(
    hub: Any, kept_panel: Any, tmp_path: Path
) -> None:
    page = kept_panel
    posted = Posted(page)
    upload(page, save_shapes(tmp_path / "shapes.png"))
    choose_canny(page)
    choose_option(page, "model_dropdown", "None")
    asked = len(hub.asked)
    page.click(OPENER)
    row = page.locator(f'{LIST} li[data-model="{downloads_probe.NAME}"]')
    row.wait_for()
    assert len(hub.asked) == asked, "a list asks nobody"
    names = page.locator(f"{LIST} li b").all_inner_texts()
    assert "control_v11p_sd15_canny_fp16.safetensors" in names
    assert not [name for name in names if "depth" in name or name == downloads_probe.XL]
    page.check(f"{LIST} label:has-text('Other base models') input")
    other = page.locator(f'{LIST} li[data-model="{downloads_probe.XL}"]')
    assert "SDXL, your checkpoint is SD1" in other.inner_text()
    page.fill(f"{LIST} input[type=search]", "BROUGHT")
    assert page.locator(f"{LIST} li").count() == 2
    assert "licence: MIT" in row.inner_text()

    stop_while_silent(page, hub, row)
    row.locator("button").click()
    row.locator("button:has-text('In your folder')").wait_for()
    assert f"{downloads_probe.NAME} is complete" in page.inner_text(f"{LIST} [role=status]")
    (*_, begin) = [asked for path, asked in hub.asked if path.endswith(downloads_probe.NAME)]
    assert int(begin.removeprefix("bytes=").removesuffix("-")) > HALF / 2, "that half was kept"

    page.set_viewport_size({"width": 390, "height": 800})
    for theme in ("dark", "light"):
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")
        cut = page.evaluate(
            f"""() => {{
              const list = document.querySelector("{LIST}");
              const low = [...list.querySelectorAll("button, label, input[type=search]")]
                .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 28);
              return [list.scrollWidth > list.clientWidth, low.map((one) => one.textContent)];
            }}"""
        )
        assert cut == [False, []], theme
    page.set_viewport_size({"width": 1500, "height": 1400})
    page.keyboard.press("Escape")
    page.wait_for_selector(LIST, state="hidden")
    wait_for_value(page, "model_dropdown", STEM)
    assert page.evaluate("document.activeElement.className") == "cnet-download-open"
    (unit,) = [one for one in posted.generate(page) if one["enabled"]]
    assert unit["model"].startswith(STEM)
    info = page.inner_text("#html_info_txt2img")
    assert STEM in info


def stop_while_silent(page: Any, hub: Any, row: Any) -> None:
    """Order a model and stop it before its server answers, and again in the middle of the file."""
    button = row.locator("button")
    hub.wait.clear()
    button.click()
    row.locator("button:has-text('Stop')").wait_for()
    assert row.locator("progress").is_visible()
    button.click()
    row.locator("button:has-text('Continue')").wait_for()
    assert not hub.wait.is_set(), "the server has not said a word"
    assert row.locator("progress").is_hidden()
    hub.wait.set()
    hub.stall = HALF  # then it sends a half, and no more
    button.focus()
    page.keyboard.press("Enter")
    row.locator("progress[value]:not([value='0'])").wait_for()
    row.locator("button:has-text('Stop')").click()
    row.locator("button:has-text('Continue')").wait_for()
    assert not hub.wait.is_set(), "it is silent in the middle of the file"
    hub.wait.set()


def test_files_of_a_preprocessor_are_fetched_by_a_button(
    hub: Any, kept_panel: Any, tmp_path: Path
) -> None:
    page = kept_panel
    upload(page, save_shapes(tmp_path / "shapes.png"))
    choose_type(page, "SoftEdge")
    page.wait_for_selector(f'{NOTES}:has-text("The first run of")')
    choose_preprocessor(page, "softedge_teed")
    button = page.locator(f'{NOTES} .cnet-fetch[data-module="softedge_teed"] button')
    button.wait_for()
    assert button.inner_text() == "Download 247 kB"
    button.click()
    page.wait_for_selector(f'{NOTES}:has-text("does not have it (404)")')
    assert "put it into" in page.inner_text(NOTES)
    hub.files |= {downloads_probe.WEIGHTS: weights_of_teed()}
    button.click()
    page.wait_for_selector(NOTES, state="hidden")
    set_number(page, f"{UNIT}_controlnet_preprocessor_resolution_slider", 64)
    asked = len(hub.asked)
    page.click(f"{UNIT}_controlnet_trigger_preprocessor")
    page.wait_for_selector(f"{UNIT}_generated_image img")
    assert shown_picture(page, f"{UNIT}_generated_image img").max() > 0
    assert len(hub.asked) == asked, "it is there"
    assert chosen(page, "preprocessor_dropdown") == "softedge_teed"


def weights_of_teed() -> bytes:
    stream = io.BytesIO()
    torch.save(random_state(read_keys("teed"), 0, 1.7), stream)
    return stream.getvalue()
