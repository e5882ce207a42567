"""Buttons that send a picture to another tab: its units arrive there as "Paste" restores them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from checklist import MODEL, pictures, shapes
from panel_page import (
    PATIENCE,
    UNIT,
    Posted,
    choose,
    choose_canny,
    choose_type,
    open_panel,
    open_unit,
    save_shapes,
    set_number,
    unit_id,
    upload,
    wait_for_value,
)

pytestmark = pytest.mark.browser

TARGET = unit_id(0, "img2img")
OTHER = unit_id(2, "img2img")
TABS = "#tabs > div.tab-nav > button"
PICTURES = {"img2img": "#img2img_image img", "inpaint": "#img2maskimg img"}
NUMBERS = {
    "control_weight_slider": "0.6",
    "start_control_step_slider": "0.1",
    "ending_control_step_slider": "0.8",
    "preprocessor_resolution_slider": "640",
    "threshold_A_slider": "64",
    "threshold_B_slider": "150",
}


def enabled(unit: str) -> str:
    return f"{unit}_controlnet_enable_checkbox input"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_shapes(tmp_path_factory.mktemp("pictures") / "shapes.png", (128, 128))


@pytest.fixture
def panel(page: Any) -> Any:
    """txt2img with its panel open; in img2img another unit is on that takes no part."""
    page.locator(TABS).nth(1).click()
    page.click("#img2img_controlnet .label-wrap")
    switch(page, OTHER, "check")
    page.locator(TABS).nth(0).click()
    open_panel(page)
    return page


def switch(page: Any, unit: str, how: str) -> None:
    """Check or uncheck the box of a unit of img2img, and go back to the first one."""
    units = page.locator("#img2img_controlnet_tabs > div.tab-nav > button")
    units.nth(int(unit[-1])).click()
    getattr(page, how)(enabled(unit))
    units.nth(0).click()
    page.wait_for_selector(enabled(TARGET), state="visible")


def set_up(page: Any, picture: Path, unit: str = UNIT) -> None:
    """Every field of a unit differs from its default."""
    upload(page, picture, unit)
    choose_canny(page, unit)
    for suffix, value in NUMBERS.items():
        set_number(page, f"{unit}_controlnet_{suffix}", float(value))
    choose(page, f"{unit}_controlnet_control_mode_radio", "ControlNet is more important")
    page.check(enabled(unit))


def choose_grid(page: Any, *weights: float) -> None:
    """Let the X/Y/Z plot make a picture for each weight of the units."""
    script = "#txt2img_script_container"
    page.click(f"{script} #script_list input")
    page.click(f"{script} #script_list ul.options li:has-text('X/Y/Z plot')")
    axis = "#script_txt2img_xyz_plot_x"
    page.click(f"{axis}_type input")
    page.click(f"{axis}_type ul.options li:has-text('[ControlNet] Weight')")
    page.wait_for_selector(f"{axis}_values textarea", state="visible")
    page.fill(f"{axis}_values textarea", ", ".join(str(weight) for weight in weights))
    page.check(f"{script} label:has-text('Include Sub Images') input")


def assert_restored(page: Any, unit: str, **others: str) -> None:
    """The fields of `set_up` are in another panel's unit, but for the other values given."""
    page.wait_for_function("(box) => document.querySelector(box).checked", arg=enabled(unit))
    wait_for_value(page, "preprocessor_dropdown", "canny", unit)
    wait_for_value(page, "model_dropdown", "control_demo_canny [", unit)
    for suffix, value in {**NUMBERS, **others}.items():
        wait_for_value(page, suffix, value, unit)
    mode = "ControlNet is more important"
    assert page.is_checked(f"{unit}_controlnet_control_mode_radio input[value='{mode}']")
    assert page.is_checked(f"{unit}_controlnet_type_filter_radio input[value='Canny']")


def spoil(page: Any, unit: str) -> None:
    """Change a panel after its picture was made: what is restored must come from the picture."""
    set_number(page, f"{unit}_controlnet_control_weight_slider", 1.7)
    choose_type(page, "Tile", unit)
    wait_for_value(page, "preprocessor_dropdown", "tile", unit)
    page.uncheck(enabled(unit))


def is_on(page: Any, name: str) -> bool:
    return page.is_checked(enabled(unit_id(int(name[-1]), name[:-1])))


def test_units_of_a_txt2img_picture_arrive_in_img2img_and_inpaint(
    panel: Any, picture: Path
) -> None:
    page = panel
    posted = Posted(page)
    posted.generate(page)
    page.click("#txt2img_send_to_img2img")
    page.wait_for_selector(PICTURES["img2img"], state="attached")
    page.wait_for_timeout(500)
    assert is_on(page, "img2img2"), "a picture without units changes nothing"
    assert not is_on(page, "img2img0")
    assert page.input_value("#img2img_width input[type=number]") == "128", "its size came along"

    page.locator(TABS).nth(0).click()
    set_up(page, picture)
    open_unit(page, 1)
    upload(page, picture, unit_id(1))
    choose_canny(page, unit_id(1))
    page.check(enabled(unit_id(1)))
    page.locator("#txt2img_controlnet_tabs > div.tab-nav > button").nth(0).click()
    choose_grid(page, 0.6, 0.9)
    posted.generate(page)
    spoil(page, UNIT)
    # The grid has the parameters of its first cell; the last thumbnail is the second cell.
    for (target, shown), place, weight in zip(
        PICTURES.items(), (0, 2), ("0.6", "0.9"), strict=True
    ):
        page.locator(TABS).nth(0).click()
        page.locator("#txt2img_gallery .thumbnails > .thumbnail-item").nth(place).click()
        page.click(f"#txt2img_send_to_{target}")
        page.wait_for_selector(shown, state="attached")
        assert_restored(page, TARGET, control_weight_slider=weight)
        assert is_on(page, "img2img1")
        assert not is_on(page, "img2img2"), "it took no part"
        spoil(page, TARGET)
    assert not is_on(page, "txt2img0"), "the source tab is left alone"


def test_units_of_an_img2img_picture_come_back(panel: Any, picture: Path) -> None:
    page = panel
    page.locator(TABS).nth(1).click()
    for name, value in (("steps", 2), ("width", 128), ("height", 128)):
        set_number(page, f"#img2img_{name}", value)
    page.set_input_files("#img2img_image input[type=file]", str(picture))
    page.wait_for_selector(PICTURES["img2img"], state="attached")
    switch(page, OTHER, "uncheck")
    page.check(f"{TARGET}_controlnet_same_img2img_checkbox input")
    set_up(page, picture, TARGET)
    Posted(page).generate(page, "img2img")
    spoil(page, TARGET)
    switch(page, OTHER, "check")
    page.click("#img2img_send_to_inpaint")
    page.wait_for_selector(PICTURES["inpaint"], state="attached")
    assert_restored(page, TARGET)
    assert not is_on(page, "img2img2")


def test_units_of_a_file_arrive_from_png_info(
    panel: Any, webui: Any, tmp_path: Path, codec: Any
) -> None:
    page = panel
    unit = {
        **{"module": "canny", "model": MODEL, "image": codec.encode(shapes()), "weight": 0.6},
        **{"guidance_start": 0.1, "guidance_end": 0.8, "processor_res": 640, "threshold_a": 64},
        **{"threshold_b": 150, "control_mode": "ControlNet is more important"},
    }
    path = tmp_path / "made.png"
    path.write_bytes(base64.b64decode(pictures(webui, unit)[0]))
    page.locator(f"{TABS}:has-text('PNG Info')").click()
    page.set_input_files("#pnginfo_image input[type=file]", str(path))
    page.wait_for_selector("#tab_pnginfo :text('control_demo_canny')", timeout=PATIENCE)
    for target, arrived in (("txt2img", UNIT), ("img2img", TARGET), ("inpaint", TARGET)):
        page.locator(f"{TABS}:has-text('PNG Info')").click()
        page.click(f"#tab_pnginfo button#{target}_tab")
        assert_restored(page, arrived)
        spoil(page, arrived)
    assert not is_on(page, "img2img2")
