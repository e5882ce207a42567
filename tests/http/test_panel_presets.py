"""Presets in a real browser: saved with pictures, loaded, "last used" after a reload, imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    UNIT,
    Posted,
    choose,
    choose_canny,
    draw,
    open_panel,
    open_unit,
    save_shapes,
    set_number,
    unit_id,
    upload,
)
from PIL import Image

from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

SECOND, THIRD = unit_id(1), unit_id(2)
DIALOG = "dialog.cnet-presets[open]"
STATUS = f"{DIALOG} .cnet-presets-status"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_shapes(tmp_path_factory.mktemp("pictures") / "shapes.png")


def say(page: Any, start: str) -> None:
    """Wait until the dialog says something."""
    page.wait_for_selector(f'{STATUS}:has-text("{start}")')


def press(page: Any, name: str, button: str) -> None:
    """Press a button of a preset in the list."""
    page.get_by_role("button", name=f"{button}: {name}", exact=True).click()


def open_dialog(page: Any, unit: str | None = None) -> None:
    page.click(
        "#txt2img_controlnet .cnet-presets-of-all button"
        if unit is None
        else f".cnet-unit:has({unit}_input_image) .cnet-presets-open"
    )
    page.wait_for_selector(DIALOG)
    page.wait_for_selector(f"{DIALOG}:not([aria-busy])")


def wait_for_several(page: Any) -> None:
    """Wait until the third unit's pictures are there again, and it is off."""
    page.wait_for_function(
        """(box) => document.querySelectorAll(`${box}_merge_gallery .thumbnail-item`).length === 2
          && !document.querySelector(`${box}_controlnet_enable_checkbox input`).checked""",
        arg=THIRD,
    )


def close_dialog(page: Any) -> None:
    page.keyboard.press("Escape")
    page.wait_for_selector(DIALOG, state="detached")


def generate(page: Any, posted: Posted) -> list[Any]:
    """What the host gets of the units; several pictures are decoded."""
    units = [build_unit(values) for values in posted.generate(page)]
    for unit in units:
        if isinstance(unit.batch_images, list):
            unit.batch_images = [decode_image(file) for file in unit.batch_images]
    return units


def open_input_tab(page: Any, number: int) -> None:
    """Choose where the third unit's pictures come from."""
    tabs = f".cnet-input-tabs:has({THIRD}_input_image) > .tab-nav > button"
    page.locator(tabs).nth(number).click()


def set_up(page: Any, picture: Path, tmp_path: Path) -> None:
    """Two units with pictures, a drawing and a mask file; numbers that are no defaults."""
    upload(page, picture)
    draw(page, f"{UNIT}_input_image", (0.2, 0.3), (0.8, 0.6))
    choose_canny(page)
    set_number(page, f"{UNIT}_controlnet_control_weight_slider", 0.6)
    set_number(page, f"{UNIT}_controlnet_threshold_A_slider", 64)
    choose(page, f"{UNIT}_controlnet_control_mode_radio", "ControlNet is more important")
    open_unit(page, 1)
    upload(page, picture, SECOND)
    choose_canny(page, SECOND)
    choose(page, f"{SECOND}_controlnet_region_radio", "Own mask")
    mask = np.zeros((64, 96), np.uint8)
    mask[10:50, 20:70] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    page.set_input_files(f"{SECOND}_mask_image input[type=file]", str(tmp_path / "mask.png"))
    page.wait_for_selector(f"{SECOND}_mask_image img[src]")
    open_unit(page, 2)
    open_input_tab(page, 2)
    files = [str(picture), str(tmp_path / "mask.png")]
    page.set_input_files(f"input[type=file]:has(+ {THIRD}_merge_upload)", files)
    page.wait_for_selector(f"{THIRD}_controlnet_enable_checkbox input:checked")
    page.uncheck(f"{THIRD}_controlnet_enable_checkbox input")
    wait_for_several(page)


def spoil(page: Any) -> None:
    """Take everything away again."""
    for unit, number in ((UNIT, 0), (SECOND, 1)):
        open_unit(page, number)
        page.click(f"{unit}_input_image button[aria-label='Remove Image']")
        page.uncheck(f"{unit}_controlnet_enable_checkbox input")
        set_number(page, f"{unit}_controlnet_control_weight_slider", 1.5)
        choose(page, f"{unit}_controlnet_region_radio", "Whole picture")
    open_unit(page, 2)
    page.click(f"{THIRD}_merge_clear")
    open_input_tab(page, 0)
    open_unit(page, 0)


def test_the_dialog(kept_panel: Any, webui: Any, tmp_path: Path) -> None:
    """One unit, without pictures; import, rename, delete; by keyboard, and on a narrow screen."""
    webui.client.put("/controlnet/presets/of a program", json={"units": [{"module": "depth"}]})
    old = "Module: canny, Model: None, Weight: 0.45, Control Mode: My prompt is more important"
    (tmp_path / "Old edges.txt").write_text(old)
    page = kept_panel
    open_unit(page, 1)
    open_dialog(page, SECOND)
    assert page.evaluate("document.activeElement.type") == "search"
    assert page.input_value(f"{DIALOG} select") == "1"
    page.set_input_files(f"{DIALOG} input[type=file]", str(tmp_path / "Old edges.txt"))
    say(page, "Imported: Old edges.")
    press(page, "Old edges", "Load")
    say(page, "Loaded: Old edges.")
    weight = f"{SECOND}_controlnet_control_weight_slider input[type=number]"
    assert page.input_value(weight) == "0.45"
    assert page.is_checked(f"{SECOND}_controlnet_enable_checkbox input")
    assert not page.is_checked(f"{UNIT}_controlnet_enable_checkbox input")

    press(page, "Old edges", "Rename")
    page.keyboard.type("New edges")
    page.keyboard.press("Enter")
    say(page, "Renamed to New edges.")
    press(page, "New edges", "Delete")
    page.keyboard.press("Enter")  # No has the focus
    assert page.get_by_role("button", name="Delete: New edges").count() == 1
    press(page, "New edges", "Save over")
    page.get_by_role("button", name="Yes", exact=True).click()
    say(page, "Saved: New edges.")
    (saved,) = webui.get("/controlnet/presets/New edges").json()["units"]
    assert (saved["module"], saved["weight"]) == ("canny", 0.45)
    for name in ("New edges", "of a program"):
        press(page, name, "Delete")
        page.get_by_role("button", name="Yes", exact=True).click()
        say(page, f"Deleted: {name}.")
        assert webui.get(f"/controlnet/presets/{name}").status_code == 404
    page.fill(f"{DIALOG} form input[type=text]", "a/b")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{STATUS}.cnet-fault:has-text('holds /')")
    page.set_viewport_size({"width": 390, "height": 800})
    cut = page.evaluate(
        """(dialog) => [...document.querySelectorAll(`${dialog} *`)].filter((one) => {
          const box = one.getBoundingClientRect();
          const small = one.tagName === "BUTTON" && box.width && box.height < 28;
          return box.width && (box.right > 390.5 || box.left < -0.5 || small);
        }).map((one) => one.outerHTML)""",
        DIALOG,
    )
    page.set_viewport_size({"width": 1500, "height": 1400})
    assert not cut
    unnamed = page.evaluate(
        """(dialog) => [...document.querySelectorAll(`${dialog} :is(button, input, select)`)]
          .filter((one) => !one.hidden && !(one.ariaLabel || one.textContent || one.labels.length))
          .map((one) => one.outerHTML)""",
        DIALOG,
    )
    assert not unnamed
    close_dialog(page)
    assert page.evaluate("document.activeElement.className") == "cnet-presets-open"


def test_all_units_come_back_with_their_pictures(
    kept_panel: Any, picture: Path, tmp_path: Path
) -> None:
    page = kept_panel
    set_up(page, picture, tmp_path)
    posted = Posted(page)
    before = generate(page, posted)
    assert [unit.enabled for unit in before] == [True, True, False]
    assert len(before[2].batch_images) == 2
    open_dialog(page)
    page.fill(f"{DIALOG} form input[type=text]", "Two edges")
    page.keyboard.press("Enter")
    say(page, "Saved: Two edges.")
    close_dialog(page)
    spoil(page)
    open_dialog(page)
    page.fill(f"{DIALOG} input[type=search]", "CANNY edges")
    press(page, "Two edges", "Load")
    say(page, "Loaded: Two edges.")
    close_dialog(page)
    wait_for_several(page)
    page.wait_for_selector("#txt2img_controlnet .cnet-badge:has-text('2 units')")
    again = generate(page, posted)
    assert again == before
    assert page.is_checked(f"{UNIT}_controlnet_type_filter_radio input[value='Canny']")
    open_unit(page, 1)
    page.wait_for_timeout(500)
    assert generate(page, posted) == before, "a hidden canvas that is shown later"

    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector("#txt2img_generate")
    open_panel(page)
    posted = Posted(page)
    open_dialog(page)
    press(page, "last used", "Load")
    say(page, "Loaded: last used.")
    close_dialog(page)
    wait_for_several(page)
    page.wait_for_selector("#txt2img_controlnet .cnet-badge:has-text('2 units')")
    assert generate(page, posted) == before
