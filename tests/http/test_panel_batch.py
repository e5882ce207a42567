"""Batches and movies in a real browser: folders, several pictures, and the script m2m."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    UNIT,
    Posted,
    choose_canny,
    finish,
    gallery,
    generate,
    open_img2img,
    open_panel,
    open_unit,
    save_shapes,
    set_number,
    unit_id,
)
from PIL import Image

pytestmark = pytest.mark.browser

SINGLE, BATCH, MERGE = 0, 1, 2
LOOPBACK = "_controlnet_automatically_send_generated_images_checkbox"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures."""
    folder = tmp_path_factory.mktemp("control")
    for number, size in ((2, (128, 128)), (10, (192, 128)), (1, (128, 192))):
        save_shapes(folder / f"shape{number}.png", size)
    return folder


@pytest.fixture
def panel(kept_panel: Any) -> Any:
    """The panel of txt2img, open and as it is at first, with a small picture asked for."""
    open_panel(kept_panel, (64, 64))
    return kept_panel


def open_input(page: Any, number: int, unit: str = UNIT) -> None:
    """Open one of the tabs above a unit's picture."""
    group = f".cnet-input-image-group:has({unit}_input_image)"
    page.locator(f"{group} .cnet-input-tabs > .tab-nav > button").nth(number).click()


def folder_of(page: Any, folder: Path, unit: str = UNIT) -> None:
    open_input(page, BATCH, unit)
    page.fill(f"{unit}_batch_image_dir textarea", str(folder))


def message(page: Any, tab: str = "txt2img") -> str:
    return page.inner_text(f"#html_log_{tab}")


def test_folder_is_generated_and_saved_under_its_names(
    panel: Any, pictures: Path, tmp_path: Path
) -> None:
    page = panel
    folder_of(page, pictures)
    page.fill(f"{UNIT}_batch_output_dir textarea", str(tmp_path / "out"))
    choose_canny(page)
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    (sent, *_) = Posted(page).generate(page)
    assert (sent["input_mode"], sent["batch_images"]) == ("batch", str(pictures))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "shape1.png", "shape10.png", "shape2.png",
    ]  # fmt: skip
    assert f"3 of 3 pictures made, saved in {tmp_path / 'out'}" in message(page)
    gallery(page, 0)
    made = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    assert (made[0] != made[1]).any()

    open_input(page, SINGLE)
    generate(page)
    page.wait_for_selector("#html_log_txt2img .error:has-text('no input image is given')")


def test_folder_that_is_missing_is_named(panel: Any, tmp_path: Path) -> None:
    page = panel
    folder_of(page, tmp_path / "absent")
    choose_canny(page)
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    generate(page)
    said = "unit 0: batch_images: the folder"
    error = page.wait_for_selector(f"#html_log_txt2img .error:has-text('{said}')")
    assert "does not exist" in error.inner_text()


def test_loopback_shows_while_a_unit_is_a_batch(panel: Any, pictures: Path) -> None:
    page = panel
    boxes = [f"{unit_id(index)}{LOOPBACK}" for index in (0, 1)]
    assert not page.is_visible(boxes[0])
    open_unit(page, 1)
    folder_of(page, pictures, unit_id(1))
    page.wait_for_selector(boxes[1], state="visible")
    open_unit(page, 0)
    page.wait_for_selector(boxes[0], state="visible")
    page.check(f"{boxes[0]} input")
    open_unit(page, 1)
    open_input(page, SINGLE, unit_id(1))
    page.wait_for_selector(boxes[1], state="hidden")


def test_several_pictures_act_together_in_one_unit(panel: Any, pictures: Path) -> None:
    page = panel
    open_input(page, MERGE)
    files = [str(pictures / f"shape{number}.png") for number in (1, 2)]
    thumbnails = ".cnet-input-image-group .grid-container img"
    for count, file in enumerate(files, 1):
        page.set_input_files(f"input[type=file]:has(+ {UNIT}_merge_upload)", file)
        page.wait_for_function(
            "([selector, count]) => document.querySelectorAll(selector).length === count",
            arg=[thumbnails, count],
        )
    assert page.is_checked(f"{UNIT}_controlnet_enable_checkbox input")
    choose_canny(page)
    (sent, *_) = Posted(page).generate(page)
    assert sent["input_mode"] == "merge"
    assert len(gallery(page, 3)) == 3, "the picture and two maps"
    text = page.inner_text("#html_info_txt2img")
    assert text.count("Weight: 0.5") == 2
    assert "ControlNet 1" in text

    page.click(f"{UNIT}_merge_clear")
    page.wait_for_selector(thumbnails, state="detached")
    generate(page)
    page.wait_for_selector("#html_log_txt2img .error:has-text('no pictures are given')")


def test_img2img_batch_takes_control_pictures_from_its_box(
    kept_page: Any, pictures: Path, tmp_path: Path
) -> None:
    page, unit = kept_page, open_img2img(kept_page)
    for name, value in (("steps", 2), ("width", 64), ("height", 64)):
        set_number(page, f"#img2img_{name}", value)
    page.check(f"{unit}_controlnet_same_img2img_checkbox input")
    open_input(page, BATCH, unit)
    choose_canny(page, unit)
    page.check(f"{unit}_controlnet_enable_checkbox input")
    page.locator("#mode_img2img > .tab-nav > button").nth(5).click()
    sources = page.locator("#img2img_batch_source > .tab-nav > button")
    if sources.count():  # members of the Forge family may know folders only
        sources.nth(1).click()
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for number in (1, 2):
        save_shapes(inputs / f"in{number}.png", (64, 64))
    page.fill("#img2img_batch_input_dir textarea", str(inputs))
    page.fill("#img2img_batch_output_dir textarea", str(tmp_path / "out"))
    page.fill("#controlnet_batch_input_dir textarea", str(pictures))
    generate(page, "img2img")
    finish(page, "img2img")
    assert "error" not in message(page, "img2img").lower()
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert "ControlNet 0" in page.inner_text("#html_info_img2img")


def test_movie_becomes_frames_and_an_animation(panel: Any, tmp_path: Path) -> None:
    page = panel
    clip = tmp_path / "clip.gif"
    frames = [Image.open(save_shapes(tmp_path / f"{n}.png", (64, 64))) for n in range(3)]
    frames = [frame.rotate(40 * number) for number, frame in enumerate(frames)]
    frames[0].save(clip, save_all=True, append_images=frames[1:], duration=50)
    choose_canny(page)
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    scripts = "#txt2img_script_container"
    page.click(f"{scripts} #script_list input")
    page.click(f"{scripts} #script_list ul.options li:has-text('controlnet m2m')")
    page.wait_for_selector(f"{scripts} #video_0", state="visible")
    page.set_input_files(f"{scripts} input[type=file]:has(+ #gif_0)", str(clip))
    page.wait_for_selector(f"{scripts} #video_0 video", state="attached")
    generate(page)
    finish(page)
    assert "controlnet m2m: 3 frames, saved as" in message(page)
    assert "-animation.gif" in message(page)
    gallery(page, 1)
