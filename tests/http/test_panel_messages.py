"""What the panel says, and that it stays said, in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sdxl_models
import support
from panel_models import file_of_ours, network_of
from panel_page import (
    SHOWN,
    UNIT,
    choose,
    choose_canny,
    choose_option,
    choose_preprocessor,
    choose_type,
    chosen,
    draw,
    offered,
    open_panel,
    open_unit,
    remove_picture,
    save_shapes,
    set_file,
    set_number,
    shown_picture,
    undo_stroke,
    upload,
    wait_for_canvas,
    wait_for_value,
)

from lib_controlnet.families.ip_adapter import IPAdapterFamily
from lib_controlnet.families.union import UnionFamily

pytestmark = pytest.mark.browser

NOTES = f"{UNIT}_controlnet_notes"
STATUS = f"{UNIT}_controlnet_status"
RUN = f"{UNIT}_controlnet_trigger_preprocessor"
FRAME = f"{UNIT}_generated_image"
ENABLED = f"{UNIT}_controlnet_enable_checkbox input"
SETTLED = 300
"""Milliseconds in which whatever a choice sets off has long happened."""
EVENTS = re.compile(r"/run/predict$|/queue/join\b")
"""Where gradio 3 and 4 send the values of events."""
TRIES = 40
"""For what the server finds out beside: so often is looked again, each time after that long."""


def says(page: Any, line: str, text: str) -> None:
    """Wait until a line says something, and see that it goes on doing so."""
    page.wait_for_selector(f'{line}:has-text("{text}")', state="visible")
    page.wait_for_timeout(SETTLED)
    assert page.is_visible(line), f"{text!r} has vanished"


def is_silent(page: Any, line: str) -> None:
    page.wait_for_selector(line, state="hidden")
    page.wait_for_timeout(SETTLED)
    assert not page.is_visible(line)


def input_tabs(page: Any) -> Any:
    """The tabs above the unit's picture: one picture, a folder, several pictures."""
    group = f".cnet-input-image-group:has({UNIT}_input_image)"
    return page.locator(f"{group} .cnet-input-tabs > .tab-nav > button")


def test_notes_stay_as_long_as_the_choice(panel: Any) -> None:
    page = panel
    choose_type(page, "Revision")
    says(page, NOTES, "The first run of revision_clipvision downloads")
    choose_type(page, "Depth")
    says(page, NOTES, "The first run of depth_")  # its preprocessors are on offer then
    choose_preprocessor(page, "depth_leres")  # its sliders are others
    says(page, NOTES, "The first run of depth_leres downloads")
    set_number(page, f"{UNIT}_controlnet_control_weight_slider", 0.5)
    page.check(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    says(page, NOTES, "The first run of depth_leres downloads")
    choose_canny(page)
    is_silent(page, NOTES)


def test_what_is_pasted_is_said(panel: Any) -> None:
    page = panel
    page.fill(
        "#txt2img_prompt textarea",
        "a blue square\nSteps: 3, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 128x128, "
        'ControlNet 0: "Module: no_such_one, Model: gone_canny [12345678], Weight: 1"',
    )
    page.click("#paste")
    says(page, NOTES, "gone_canny [12345678]' is not found")
    says(page, NOTES, "'no_such_one' is no preprocessor here")
    wait_for_value(page, "preprocessor_dropdown", "no_such_one")
    wait_for_value(page, "model_dropdown", "gone_canny [12345678]")
    assert page.is_checked(ENABLED)
    choose_canny(page)
    is_silent(page, NOTES)


def foreign_control(path: Path) -> None:
    """Write the header of a ControlNet for SDXL, with next to no weights."""
    shapes = {
        "input_blocks.0.0.weight": (4, 4, 3, 3),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (1, 2048),
        "zero_convs.0.0.weight": (4, 4, 1, 1),
        "input_hint_block.0.weight": (4, 3, 3, 3),
    }
    support.save_sparse(path, shapes)


@pytest.fixture
def foreign(webui: Any) -> Iterator[str]:
    """A control model for SDXL in the models folder, while SD1.5 is loaded."""
    with file_of_ours(webui, "a_v11_canny_xl", foreign_control) as stem:
        yield stem


def test_models_that_fit_are_offered_and_refreshing_keeps_the_type(
    panel: Any, foreign: str, webui: Any
) -> None:
    page = panel
    listed = webui.get("/controlnet/model_list").json()["model_list"]
    assert any(name.startswith(foreign) for name in listed)
    choose_canny(page)
    assert chosen(page, "model_dropdown").startswith("control_demo_canny")
    before = offered(page)
    assert not any(name.startswith(foreign) for name in before)
    assert before[0] == "None"
    assert all("demo_canny" in name or name.startswith("union_demo") for name in before[1:])
    page.click(f"{UNIT}_controlnet_refresh_models")
    page.wait_for_timeout(SETTLED)
    assert offered(page) == before
    assert chosen(page, "model_dropdown").startswith("control_demo_canny")
    choose_type(page, "All")
    wait_for_value(page, "model_dropdown", "None")
    assert not any(name.startswith(foreign) for name in offered(page))
    box = f"{UNIT}_controlnet_show_all_checkbox"
    page.wait_for_selector(f"{box}:has-text('more)')")
    choose_type(page, "Canny")
    wait_for_value(page, "model_dropdown", "control_demo_canny")
    page.check(f"{box} input")
    page.wait_for_selector(f"{box}:not(:has-text('more)'))")
    page.click(f"{UNIT}_controlnet_model_dropdown input")
    entry = page.locator(f"{UNIT}_controlnet_model_dropdown ul.options li").last
    assert entry.get_attribute("aria-label").startswith(foreign)
    assert entry.get_attribute("title") == "SDXL, your checkpoint is SD1"
    shown = entry.evaluate("(li) => getComputedStyle(li, '::after').content")
    assert shown == '"SDXL, your checkpoint is SD1"'
    entry.click()
    wait_for_value(page, "model_dropdown", f"{foreign} [")
    says(page, NOTES, "is made for SDXL")
    assert page.is_visible("#txt2img_controlnet_tabs button.cnet-unit-misfit")
    page.click(f"{UNIT}_controlnet_refresh_models")
    page.wait_for_timeout(SETTLED)
    assert chosen(page, "model_dropdown").startswith(foreign)
    assert page.is_checked(f"{UNIT}_controlnet_type_filter_radio input[value=Canny]")
    page.uncheck(f"{box} input")
    choose_type(page, "All")
    wait_for_value(page, "model_dropdown", "None")
    choose_canny(page)
    is_silent(page, NOTES)
    assert not page.is_visible("#txt2img_controlnet_tabs button.cnet-unit-misfit")
    page.fill(
        "#txt2img_prompt textarea",
        f'Steps: 3, Seed: 5, Size: 128x128, ControlNet 0: "Module: canny, Model: {foreign}"',
    )
    page.click("#paste")
    says(page, NOTES, "is made for SDXL")


@pytest.fixture
def sdxl(webui: Any) -> Iterator[str]:
    """A checkpoint of SDXL's kind, and a control model for it; gives the model's stem."""
    if not webui.is_ours:
        pytest.skip("the models folder of a foreign server is not ours to fill")
    models = webui.log_file.parent / "models"
    before = webui.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    written = [*sdxl_models.write(models / "Stable-diffusion")]
    written.append(sdxl_models.write_control(models / "ControlNet", "a_v11_canny_sdxl"))
    webui.post("/sdapi/v1/refresh-checkpoints")
    webui.get("/controlnet/model_list")
    try:
        yield "a_v11_canny_sdxl"
    finally:
        webui.post("/sdapi/v1/options", {"sd_model_checkpoint": before})
        for path in written:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        webui.post("/sdapi/v1/refresh-checkpoints")
        webui.get("/controlnet/model_list")


def test_models_follow_a_switch_of_the_checkpoint(sdxl: str, page: Any) -> None:
    open_panel(page)
    choose_canny(page)
    open_unit(page, 1)
    second = UNIT.replace("-0", "-1")
    choose_canny(page, second)
    # A unit that nobody looks at says so, too.
    choose_setting(page, "sd_model_checkpoint", sdxl_models.BASE)
    marked = "#txt2img_controlnet_tabs > div.tab-nav > button.cnet-unit-misfit"
    page.wait_for_function(f"() => document.querySelectorAll('{marked}').length === 2")
    says(page, f"{second}_controlnet_notes", "is made for SD1")
    stays = chosen(page, "model_dropdown", second)
    for _ in range(TRIES):  # files that are not yet looked into count as fitting
        ours, *rest = offered(page, unit=second)[1:]
        if rest == [stays]:
            break
        page.wait_for_timeout(SETTLED)
    assert (ours.startswith(sdxl), rest) == (True, [stays])
    choose_type(page, "Depth", second)
    choose_type(page, "Canny", second)
    wait_for_value(page, "model_dropdown", sdxl, second)
    page.wait_for_function(f"() => document.querySelectorAll('{marked}').length === 1")


def choose_setting(page: Any, key: str, start: str) -> None:
    """Choose in one of the lists above the tabs."""
    page.click(f"#setting_{key} input")
    page.click(f'#setting_{key} ul.options li[aria-label^="{start}"]')


@pytest.fixture
def union(webui: Any) -> Iterator[str]:
    """A Union in the models folder."""
    with file_of_ours(webui, "z_union", network_of(UnionFamily())) as stem:
        yield stem


@pytest.fixture
def adapter(webui: Any) -> Iterator[str]:
    """An IP-Adapter in the models folder."""
    with file_of_ours(webui, "z_ip_adapter", network_of(IPAdapterFamily())) as stem:
        yield stem


def test_a_union_shows_its_types_and_other_models_do_not(
    panel: Any, union: str, webui: Any
) -> None:
    page = panel
    kind, apart = (f"{UNIT}_controlnet_union_{name}" for name in ("control_type_dropdown", "apart"))
    listed = webui.get("/controlnet/model_list").json()["model_list"]
    ours, plain = (
        next(name for name in listed if name.startswith(start))
        for start in (union, "control_demo_")
    )
    assert not page.is_visible(kind)
    choose_type(page, "Canny")
    wait_for_value(page, "model_dropdown", ours)
    wait_for_value(page, "union_control_type_dropdown", "Hard Edge")
    assert offered(page, "union_control_type_dropdown")[-2:] == ["Tile", "Inpaint"]
    assert page.is_visible(f"{apart}_checkbox")
    choose_option(page, "union_control_type_dropdown", "Tile")
    page.click(f"{UNIT}_controlnet_refresh_models")
    page.wait_for_timeout(SETTLED)
    assert chosen(page, "union_control_type_dropdown") == "Tile", "what is chosen stays"
    choose_option(page, "model_dropdown", plain)
    page.wait_for_selector(kind, state="hidden")
    assert not page.is_visible(f"{apart}_checkbox")
    choose_option(page, "model_dropdown", ours)
    wait_for_value(page, "union_control_type_dropdown", "Hard Edge")


def test_a_weight_type_stands_in_the_weights_of_models_that_heed_it(
    panel: Any, adapter: str, webui: Any
) -> None:
    page = panel
    weights = f"{UNIT}_controlnet_advanced_weighting_textbox :is(input, textarea)"
    speed = f"{UNIT}_controlnet_speed_radio"
    composition = f"{UNIT}_controlnet_composition_weight_slider"
    listed = webui.get("/controlnet/model_list").json()["model_list"]
    ours, plain = (
        next(name for name in listed if name.startswith(start))
        for start in (adapter, "control_demo_")
    )

    def stands(text: str) -> None:
        has = "([box, text]) => document.querySelector(box).value === text"
        page.wait_for_function(has, arg=[weights, text])

    page.click(f"{UNIT}_controlnet_refresh_models")
    page.click(".cnet-layer-weights .label-wrap >> nth=0")
    choose_option(page, "model_dropdown", plain)
    page.wait_for_selector(speed, state="visible")
    page.fill(weights, "1 0.5")
    choose_option(page, "model_dropdown", ours)
    page.wait_for_selector(speed, state="hidden")
    stands("1 0.5")
    choose_option(page, "weight_type_dropdown", "ease in")
    stands("ease in")
    page.wait_for_selector(".cnet-layer-weights .cnet-badge:has-text('ease in')")
    page.wait_for_selector(composition, state="hidden")
    choose_option(page, "weight_type_dropdown", "style and composition")
    stands("style and composition")
    set_number(page, composition, 0.5)
    stands("style and composition 0.5")
    choose_option(page, "model_dropdown", plain)  # it has types, but not this one
    stands("")
    wait_for_value(page, "weight_type_dropdown", "normal")
    page.wait_for_selector(composition, state="hidden")
    page.wait_for_selector(".cnet-layer-weights .cnet-badge", state="detached")


def test_pictures_that_are_none_strokes_and_new_canvases(panel: Any, tmp_path: Path) -> None:
    page = panel
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    file = f"{UNIT}_input_image input[type=file]"
    set_file(page, file, bad)
    says(page, f"{UNIT}_controlnet_picture_note", "This file is no picture")
    assert page.locator(f"{UNIT}_input_image {SHOWN}").count() == 0
    assert not page.is_checked(ENABLED)
    page.set_input_files(f"input[type=file]:has(+ {UNIT}_merge_upload)", [str(bad)])
    says(page, f"{UNIT}_controlnet_picture_note", "bad.png cannot be used")
    assert not page.is_checked(ENABLED)
    drawn = f"{UNIT}_controlnet_drawing_note"
    upload(page, save_shapes(tmp_path / "shapes.png"))
    is_silent(page, f"{UNIT}_controlnet_picture_note")
    choose_canny(page)
    draw(page, f"{UNIT}_input_image", (0.2, 0.5), (0.6, 0.5))
    says(page, drawn, "What is drawn is the control picture now")
    choose_type(page, "Inpaint")
    is_silent(page, drawn)
    choose_canny(page)
    says(page, drawn, "What is drawn is the control picture now")
    input_tabs(page).nth(1).click()
    is_silent(page, drawn)
    input_tabs(page).nth(0).click()
    says(page, drawn, "What is drawn is the control picture now")
    undo_stroke(page, f"{UNIT}_input_image")
    is_silent(page, drawn)

    remove_picture(page, f"{UNIT}_input_image")
    page.uncheck(ENABLED)
    page.click(f"{UNIT}_controlnet_open_new_canvas_button")
    page.click(f"{UNIT}_controlnet_canvas_create_button")
    wait_for_canvas(page, f"{UNIT}_input_image", (512, 512))
    assert page.is_checked(ENABLED)
    assert shown_picture(page, f"{UNIT}_input_image img").max() == 0, "the brush is white"
    draw(page, f"{UNIT}_input_image", (0.2, 0.5), (0.6, 0.5))
    is_silent(page, drawn)


def test_region_outlives_its_picture(panel: Any, tmp_path: Path) -> None:
    page = panel
    canvas, status = f"{UNIT}_region_canvas", f"{UNIT}_controlnet_region_status"
    upload(page, save_shapes(tmp_path / "first.png", (128, 128)))
    choose(page, f"{UNIT}_controlnet_region_radio", "Own mask")
    wait_for_canvas(page, canvas, (128, 128))
    draw(page, canvas, (0.25, 0.25), (0.25, 0.75))
    remove_picture(page, f"{UNIT}_input_image")
    upload(page, save_shapes(tmp_path / "second.png", (256, 128)))
    wait_for_canvas(page, canvas, (256, 128))
    says(page, status, "The region that was drawn is kept as the mask")
    mask = shown_picture(page, f"{UNIT}_mask_image img")
    assert (mask[64, 20:40] == 255).all()
    assert (mask[:, 70:] == 0).all()


def test_preview_goes_with_its_settings_and_leaves_no_frame(panel: Any, tmp_path: Path) -> None:
    page = panel
    picture = f"{FRAME} img"
    allowed = f"{UNIT}_controlnet_preprocessor_preview_checkbox input"
    page.check(allowed)
    page.wait_for_timeout(SETTLED)
    assert not page.is_visible(FRAME), "there is nothing to show yet"
    upload(page, save_shapes(tmp_path / "shapes.png"))
    choose_canny(page)
    page.click(RUN)
    page.wait_for_selector(picture)
    upload(page, save_shapes(tmp_path / "other.png", (128, 64)))
    page.wait_for_selector(FRAME, state="hidden")
    assert page.is_checked(allowed)
    # The settings change while the answer is under way.
    page.evaluate(
        """([run, box]) => {
          document.querySelector(run).click();
          document.querySelector(box).click();
        }""",
        [RUN, f"{UNIT}_controlnet_pixel_perfect_checkbox input"],
    )
    says(page, STATUS, "The settings were changed while the preview was made")
    assert not page.is_visible(FRAME)
    page.click(RUN)
    page.wait_for_selector(picture)
    assert not page.is_visible(STATUS)

    # What cannot run leaves a sentence and no frame.
    choose_type(page, "All")
    wait_for_value(page, "model_dropdown", "None")  # its preprocessors are on offer then
    choose_preprocessor(page, "depth_hand_refiner")
    page.click(RUN)
    says(page, STATUS, "depth_hand_refiner cannot run")
    assert not page.is_visible(FRAME)

    # A batch previews its own pictures, not the single one that its tab hides.
    choose_preprocessor(page, "none")
    page.locator(f"{UNIT}_input_image").scroll_into_view_if_needed()
    tabs = input_tabs(page)
    tabs.nth(1).click()
    page.wait_for_selector(f"{RUN}:disabled")
    folder = tmp_path / "folder"
    folder.mkdir()
    save_shapes(folder / "1.png", (64, 32))
    page.fill(f"{UNIT}_batch_image_dir textarea", str(folder))
    page.click(f"{RUN}:enabled")
    page.wait_for_selector(picture)
    assert shown_picture(page, picture).shape == (32, 64, 3)
    tabs.nth(2).click()
    page.wait_for_selector(FRAME, state="hidden")
    page.wait_for_selector(f"{RUN}:disabled")


CONTRASTS = """(roots) => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], below) => below.map((c, i) => [r, g, b][i] * a + c * (1 - a));
  const light = (rgb) => rgb.map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = {};
  for (const element of roots.flatMap((root) => [...document.querySelectorAll(root)])) {
    if (element.offsetParent === null || !element.textContent.trim()) continue;
    const line = [];
    for (let at = element; at; at = at.parentElement) line.unshift(getComputedStyle(at));
    let ground = [255, 255, 255], opacity = 1;
    for (const style of line) {
      const colour = numbers(style.backgroundColor);
      if (style.backgroundImage !== "none") continue;
      ground = over(colour, ground);
    }
    for (const style of line) opacity *= Number(style.opacity);
    const [r, g, b, a = 1] = numbers(getComputedStyle(element).color);
    const text = over([r, g, b, a * opacity], ground);
    const [low, high] = [light(text), light(ground)].sort((x, y) => x - y);
    found[element.className + ": " + element.textContent.trim().slice(0, 40)] =
      (high + 0.05) / (low + 0.05);
  }
  return found;
}"""
"""Selectors -> contrast of every seen text with its ground, by WCAG 2."""
TEXTS = (
    ".cnet-badge",
    ".cnet-unit-active",
    ".control-type-suffix",
    ".controlnet_invert_warning",
    ".cnet-region-hint",
    ".cnet-status",
    ".cnet-full-name",
    ".cnet-timeline-name",
    ".cnet-timeline-weight",
    ".cnet-timeline-pass",
    ".cnet-timeline-mark",
)


def test_texts_are_readable_and_names_whole_on_a_narrow_page(panel: Any) -> None:
    page = panel
    page.set_viewport_size({"width": 390, "height": 900})
    page.check(ENABLED)
    choose_canny(page)
    choose(page, f"{UNIT}_controlnet_region_radio", "Inside the inpaint mask")
    model = f"{UNIT}_controlnet_model_dropdown"
    name = chosen(page, "model_dropdown")
    page.wait_for_function(
        """([box, name]) => {
          const input = document.querySelector(`${box} input`);
          const line = document.querySelector(`${box} .cnet-full-name`);
          const whole = input.scrollWidth <= input.clientWidth;
          return input.title === name && (whole || line?.textContent === name);
        }""",
        arg=[model, name],
    )
    width = page.evaluate(f"document.querySelector('{model}').getBoundingClientRect().width")
    assert width > 150, "the model has a line of its own"
    choose_type(page, "Revision")
    page.wait_for_selector(NOTES, state="visible")
    page.wait_for_timeout(SETTLED)
    for theme in ("dark", "light"):
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", theme == "dark")
        page.wait_for_timeout(SETTLED)
        contrasts = page.evaluate(CONTRASTS, list(TEXTS))
        assert len(contrasts) >= 8
        faint = {text: ratio for text, ratio in contrasts.items() if ratio < 4.5}
        assert faint == {}, theme
