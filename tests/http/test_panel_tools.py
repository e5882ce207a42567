"""Tools of units: moved, copied, cleared, muted and alone; pictures that come in by other ways."""

from __future__ import annotations

import base64
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
    finish,
    gallery,
    generate,
    save_shapes,
    set_file,
    set_number,
    shown_picture,
    unit_id,
    upload,
    wait_for_canvas,
    wait_for_value,
)

from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

TOOLS = ".cnet-unit:has({}_input_image)"
SAID = ".cnet-tools-said"
TABS = "#txt2img_controlnet_tabs > div.tab-nav > button"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_shapes(tmp_path_factory.mktemp("pictures") / "shapes.png", (192, 128))


def tools(page: Any, unit: str = UNIT) -> Any:
    return page.locator(TOOLS.format(unit))


def press(page: Any, name: str, unit: str = UNIT) -> None:
    tools(page, unit).locator(f".cnet-tool-{name}").click()


def pick(page: Any, menu: str, item: str) -> None:
    page.click(f"{menu} > summary")
    page.click(f"{menu}[open] button:text-is('{item}')")


def says(page: Any, text: str, unit: str = UNIT) -> None:
    tools(page, unit).locator(f"{SAID}:has-text({text!r})").wait_for()


def enabled(page: Any) -> list[bool]:
    boxes = [f"{unit_id(i)}_controlnet_enable_checkbox input" for i in range(3)]
    return [page.is_checked(box) for box in boxes]


def drop(page: Any, widget: str, *files: Path) -> None:
    """Drop files onto a widget."""
    data = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in files]
    page.evaluate(
        """([widget, files]) => {
          const dropped = new DataTransfer();
          for (const [name, text] of files) {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const type = name.endsWith("png") ? "image/png" : "text/plain";
            dropped.items.add(new File([bytes], name, { type }));
          }
          const place = document.querySelector(`${widget} button, ${widget} div`);
          const how = { bubbles: true, cancelable: true, dataTransfer: dropped };
          place.dispatchEvent(new DragEvent("drop", how));
        }""",
        [widget, data],
    )


def show_unit(page: Any, index: int) -> None:
    page.locator(TABS).nth(index).click()
    page.wait_for_selector(f"{unit_id(index)}_controlnet_enable_checkbox", state="visible")


def test_a_unit_moves_with_all_that_is_its_own(panel: Any, picture: Path, tmp_path: Path) -> None:
    page, posted = panel, Posted(panel)
    upload(page, picture)
    choose_canny(page)
    draw(page, f"{UNIT}_input_image", (0.1, 0.2), (0.9, 0.7))
    choose(page, f"{UNIT}_controlnet_region_radio", "Own mask")
    wait_for_canvas(page, f"{UNIT}_region_canvas", (192, 128))
    draw(page, f"{UNIT}_region_canvas", (0.2, 0.5), (0.6, 0.5))
    set_number(page, f"{UNIT}_controlnet_control_weight_slider", 0.85)
    set_number(page, f"{UNIT}_controlnet_threshold_A_slider", 55)
    before, pictures = posted.generate(page), gallery(page, 2)
    press(page, "right")
    after = posted.generate(page)  # waits until the unit is where it goes
    says(page, "have changed places", unit_id(1))
    _assert_same(build_unit(before[0]), build_unit(after[1]))
    assert build_unit(after[0]).image is None
    assert not after[0]["enabled"]
    assert all((one == other).all() for one, other in zip(pictures, gallery(page, 2), strict=True))
    assert page.locator(TABS).nth(1).get_attribute("class").count("selected")
    tab = page.locator(TABS).nth(1)
    assert tab.locator(".cnet-thumbnail").count() == 1
    assert "Canny" in tab.inner_text()

    # Into a tab that has not been seen; what is there is taken back by "Undo".
    assert not tools(page, unit_id(2)).locator(".cnet-unit-tools").count()
    pick(page, f"{TOOLS.format(unit_id(1))} .cnet-menu", "Unit 2")
    says(page, "was copied to unit 2", unit_id(1))
    copied = read(page)
    _assert_same(build_unit(copied[2]), build_unit(after[1]))
    show_unit(page, 2)
    wait_for_canvas(page, f"{unit_id(2)}_input_image", (192, 128))
    page.wait_for_timeout(1500)  # laid out anew, and the drawing again
    _assert_same(build_unit(read(page)[2]), build_unit(after[1]))
    show_unit(page, 0)
    show_unit(page, 2)
    _assert_same(build_unit(read(page)[2]), build_unit(after[1]))
    press(page, "clear", unit_id(2))
    says(page, "was cleared", unit_id(2))
    cleared = build_unit(read(page)[2])
    assert (cleared.image, cleared.module, cleared.weight, cleared.enabled) == (
        None,
        "none",
        1,
        False,
    )
    assert cleared.effective_region_mask is None
    tools(page, unit_id(2)).locator(f"{SAID} button").click()
    says(page, "As it was before", unit_id(2))
    _assert_same(build_unit(read(page)[2]), build_unit(after[1]))


def read(page: Any, tab: str = "txt2img") -> list[dict]:
    """The raw values of a tab's units, as the next Generate would send them."""
    return page.evaluate(
        """async (tab) => {
          const found = [];
          await controlnetPanel.edit(tab, (units) => {
            found.push(...units);
            return [];
          });
          return found.map(({ pictures, values: { control_type, ...values } }) => ({
            ...values,
            image: pictures.image && { image: pictures.image, mask: pictures.drawing },
            effective_region_mask: pictures.mask,
            region_canvas: pictures.region && { image: pictures.region, mask: pictures.region },
          }));
        }""",
        tab,
    )


def _assert_same(unit: Any, other: Any) -> None:
    """Two units ask for the same."""
    assert unit.image is not None
    for name, value in vars(unit).items():
        mine, theirs = value, getattr(other, name)
        pairs = [(mine, theirs)]
        if isinstance(mine, dict):
            pairs = [(mine[part], theirs[part]) for part in ("image", "mask")]
        for one, another in pairs:
            if isinstance(one, np.ndarray):
                assert np.array_equal(one, another), name
            else:
                assert one == another, name


def test_units_are_muted_alone_and_get_what_is_dropped(
    panel: Any, picture: Path, tmp_path: Path
) -> None:
    page = panel
    (text := tmp_path / "notes.txt").write_text("no picture")
    others = [save_shapes(tmp_path / f"{name}.png", (96, 64)) for name in "abcd"]
    drop(page, f"{UNIT}_input_image", picture, others[0], text, others[1])
    says(page, "shapes.png to unit 0; a.png to unit 1; b.png to unit 2; no picture: notes.txt")
    assert enabled(page) == [True] * 3
    show_unit(page, 1)
    drop(page, f"{unit_id(1)}_input_image", others[2], others[3])
    says(page, "c.png to unit 1; no unit without a picture was left for d.png", unit_id(1))

    show_unit(page, 0)
    press(page, "mute")
    assert enabled(page) == [False, True, True]
    page.wait_for_selector(f"{TABS} >> nth=0 >> text=muted")
    assert tools(page).locator(".cnet-tool-mute").get_attribute("aria-pressed") == "true"
    press(page, "mute")
    assert enabled(page) == [True] * 3
    press(page, "mute")
    press(page, "solo")
    assert enabled(page) == [True, False, False]
    page.wait_for_selector(f"{TABS} >> nth=1 >> text=off by solo")
    page.wait_for_selector(f"{TABS} >> nth=0 >> text=solo")
    show_unit(page, 2)
    press(page, "solo", unit_id(2))
    assert enabled(page) == [False, False, True]
    press(page, "solo", unit_id(2))
    assert enabled(page) == [True] * 3
    assert page.locator(".cnet-tab-state").count() == 0
    press(page, "solo", unit_id(2))
    page.uncheck(f"{unit_id(2)}_controlnet_enable_checkbox input")
    page.wait_for_selector(f"{TABS} >> nth=1 >> text=muted")
    show_unit(page, 0)
    page.check(f"{UNIT}_controlnet_enable_checkbox input")
    page.wait_for_selector(f"{TABS} >> nth=0 >> text=muted", state="detached")


def test_pictures_are_mirrored_and_taken_with_the_camera(panel: Any, picture: Path) -> None:
    page = panel
    button = f"{UNIT}_controlnet_webcam_"
    page.click(f"{button}mirror")
    says(page, "There is no picture to mirror")
    upload(page, picture)
    draw(page, f"{UNIT}_input_image", (0.1, 0.5), (0.3, 0.5))
    drawn = build_unit(read(page)[0]).image
    page.click(f"{button}mirror")
    page.wait_for_function(
        "([box, old]) => document.querySelector(box).src !== old",
        arg=[f"{UNIT}_input_image img", page.get_attribute(f"{UNIT}_input_image img", "src")],
    )
    turned = build_unit(read(page)[0]).image
    assert drawn["mask"].any()
    for part in ("image", "mask"):
        assert np.array_equal(turned[part], drawn[part][:, ::-1]), part

    page.click(f"{button}enable")
    page.wait_for_function("() => document.querySelector('.cnet-camera video')?.videoWidth > 0")
    size = page.eval_on_selector(".cnet-camera video", "(v) => [v.videoWidth, v.videoHeight]")
    page.keyboard.press("Enter")  # "Take picture" has the focus
    page.wait_for_selector(".cnet-camera", state="detached")
    wait_for_canvas(page, f"{UNIT}_input_image", tuple(size))
    taken = build_unit(read(page)[0]).image
    assert taken["image"].shape[:2] == tuple(size[::-1])
    assert not taken["mask"].any(), "what was drawn went with its picture"
    for name, said in (
        ("NotFoundError", "No camera was found"),
        ("NotAllowedError", "does not allow the camera"),
        ("NotReadableError", "close other programs"),
    ):
        page.evaluate(
            """(name) => {
              const refuse = () => Promise.reject(new DOMException("", name));
              navigator.mediaDevices.getUserMedia = refuse;
            }""",
            name,
        )
        page.click(f"{button}enable")
        says(page, said)


def test_maps_and_results_are_sent_used_and_compared(panel: Any, picture: Path) -> None:
    page = panel
    upload(page, picture)
    choose_canny(page)
    page.click(f"{UNIT}_controlnet_trigger_preprocessor")
    page.wait_for_selector(f"{UNIT}_generated_image img")
    made = shown_picture(page, f"{UNIT}_generated_image img")
    generate(page)
    finish(page)
    result = gallery(page, 2)[0]
    group = f"{TOOLS.format(UNIT)} .cnet-generated-image-control-group"
    pick(page, f"{group} .cnet-send", "txt2img: unit 1")
    says(page, "The picture is in unit 1 of txt2img")
    rows = page.locator('[id^="image_buttons_"]')
    assert rows.count() == page.locator('[id^="image_buttons_"] > .cnet-send').count() > 1
    row = "#image_buttons_txt2img"
    pick(page, f"{row} .cnet-send", "txt2img: unit 2")
    page.wait_for_selector(f"{row} .cnet-send-said:has-text('unit 2 of txt2img')")
    pick(page, f"{row} .cnet-send", "img2img: unit 0")
    page.wait_for_selector(f"{row} .cnet-send-said:has-text('unit 0 of img2img')")
    units = read(page)
    assert np.array_equal(build_unit(units[1]).image["image"], made)
    assert np.array_equal(build_unit(units[2]).image["image"], result)
    assert enabled(page) == [True] * 3
    other = build_unit(read(page, "img2img")[0])
    assert other.enabled
    assert np.array_equal(other.image["image"], result)
    assert page.locator(f"{TABS} >> nth=0 >> .cnet-thumbnail").count() == 2, "picture and map"

    tools(page).locator(".cnet-tool-compare").click()
    line = tools(page).locator(".cnet-compare input[type=range]")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert line.input_value() == "60"
    frame = tools(page).locator(".cnet-compare-frame")
    assert frame.evaluate("(box) => box.style.getPropertyValue('--cnet-cut')") == "60%"
    kinds = frame.locator("img").evaluate_all("(images) => images.map((image) => image.alt)")
    assert kinds == ["Last result", "Picture"]
    tools(page).locator(".cnet-compare select").nth(0).select_option("map")
    assert frame.locator(".cnet-compare-over").get_attribute("alt") == "Map"
    page.keyboard.press("Escape")
    assert tools(page).locator(".cnet-compare").count() == 0

    page.click(f"{group} .cnet-use-map")
    says(page, "The map is the unit's picture now")
    wait_for_value(page, "preprocessor_dropdown", "none")
    used = build_unit(read(page)[0])
    assert (used.module, used.enabled) == ("none", True)
    assert used.model.startswith("control_demo_canny")
    assert np.array_equal(used.image["image"], made)


def test_img2img_units_take_pictures_of_their_own(kept_img2img: Any, picture: Path) -> None:
    page, unit = kept_img2img, unit_id(0, "img2img")
    set_file(page, "#img2img_image input[type=file]", picture)
    page.wait_for_selector("#img2img_image img")
    for name, value in (("steps", 1), ("width", 64), ("height", 64)):
        set_number(page, f"#img2img_{name}", value)
    generate(page, "img2img")
    finish(page, "img2img")
    result = gallery(page, 1, "img2img")[0]
    pick(page, "#image_buttons_img2img .cnet-send", "img2img: unit 1")
    page.wait_for_selector(".cnet-send-said:has-text('unit 1 of img2img')")
    sent = build_unit(read(page, "img2img")[1])
    assert sent.enabled
    assert np.array_equal(sent.image["image"], result)
    assert page.is_checked(f"{unit_id(1, 'img2img')}_controlnet_same_img2img_checkbox input")
    assert not page.is_checked(f"{unit}_controlnet_same_img2img_checkbox input")
