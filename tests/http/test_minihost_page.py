"""The host's page in a real browser; nothing here is about the extension's panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import click_generate, wait_for_start
from PIL import Image

pytestmark = pytest.mark.browser

INFOTEXT = (
    "a red circle\nNegative prompt: blurry\nSteps: 3, Sampler: Euler a, Schedule type: Karras, "
    "CFG scale: 3.5, Seed: 77, Size: 64x128"
)
IDS = [
    "prompt",
    "neg_prompt",
    "generate",
    "interrupt",
    "skip",
    "interrupting",
    "width",
    "height",
    "steps",
    "sampling",
    "cfg_scale",
    "seed",
    "batch_count",
    "batch_size",
    "gallery",
    "results",
    "settings",
    "script_container",
    "accordions",
]
TXT2IMG_IDS = [
    "txt2img_hr",
    "txt2img_hr_scale",
    "txt2img_hr_resize_x",
    "txt2img_hr_resize_y",
    "txt2img_hr_upscaler",
    "txt2img_hires_steps",
    "txt2img_denoising_strength",
    "script_list",
]
IMG2IMG_IDS = [
    "mode_img2img",
    "img2img_img2img_tab",
    "img2img_img2img_sketch_tab",
    "img2img_inpaint_tab",
    "img2img_inpaint_sketch_tab",
    "img2img_inpaint_upload_tab",
    "img2img_batch_tab",
    "img2img_image",
    "img2img_sketch",
    "img2maskimg",
    "inpaint_sketch",
    "img_inpaint_base",
    "img_inpaint_mask",
    "resize_mode",
    "img2img_mask_blur",
    "img2img_mask_mode",
    "img2img_inpainting_fill",
    "img2img_inpaint_full_res",
    "img2img_inpaint_full_res_padding",
    "img2img_scale",
    "img2img_denoising_strength",
    "img2img_batch_input_dir",
    "img2img_batch_output_dir",
    "img2img_batch_inpaint_mask_dir",
]


@pytest.fixture
def page(kept_page: Any) -> Any:
    """The page of the tests before, on the tab of txt2img."""
    kept_page.evaluate("switch_to_txt2img()")
    kept_page.wait_for_selector("#txt2img_generate", state="visible")
    return kept_page


def number(page: Any, elem_id: str) -> float:
    return float(page.input_value(f"#{elem_id} input[type=number]"))


def set_number(page: Any, elem_id: str, value: float) -> None:
    page.fill(f"#{elem_id} input[type=number]", str(value))
    page.press(f"#{elem_id} input[type=number]", "Tab")


def generate(page: Any, tab: str, button: str | None = None) -> str:
    """Press Generate and return the text under the gallery once the task ended."""
    click_generate(page, tab, button or f"{tab}_generate")
    wait_for_start(page, tab)
    page.wait_for_selector(f"#{tab}_generate", state="visible", timeout=180_000)
    # While the answer is on its way gradio writes "processing" into its outputs.
    page.wait_for_function(
        """(tab) => {
            const text = document.getElementById('html_log_' + tab).innerText;
            return text.includes('Time taken') && !text.includes('processing');
        }""",
        arg=tab,
        timeout=60_000,
    )
    return page.inner_text(f"#html_log_{tab}")


def open_tab(page: Any, name: str) -> None:
    page.click(f"#tabs > .tab-nav > button:text-is('{name}')")


def test_page_has_the_hosts_element_ids(page: Any) -> None:
    ids = [f"{tab}_{name}" for tab in ("txt2img", "img2img") for name in IDS]
    ids += [*TXT2IMG_IDS, *IMG2IMG_IDS, "paste", "settings_json", "html_info_txt2img"]
    missing = [name for name in ids if page.query_selector(f'[id="{name}"]') is None]
    assert missing == []


def test_page_asks_nobody_outside(profile: Any, webui: Any) -> None:
    page = profile.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(webui.url)
    page.wait_for_selector("#txt2img_generate", timeout=120_000)
    outside = [u for u in asked if not u.startswith((webui.url, "data:", "blob:", "ws:"))]
    page.close()
    assert asked
    assert outside == []


def test_script_functions_for_extensions(page: Any) -> None:
    page.wait_for_function("Object.keys(opts).length > 50")
    assert page.evaluate("get_uiCurrentTab().innerText.trim()") == "txt2img"
    assert page.evaluate("get_uiCurrentTabContent().id") == "tab_txt2img"
    page.evaluate(
        """() => {
            window.seen = [];
            onUiTabChange(() => seen.push('tab'));
            onUiUpdate((mutations) => mutations.length && seen.push('update'));
            onAfterUiUpdate(() => seen.push('after'));
        }"""
    )
    page.evaluate("switch_to_inpaint()")
    page.wait_for_function("['tab', 'update', 'after'].every((x) => seen.includes(x))")
    assert page.evaluate("get_tab_index('mode_img2img')") == 2
    assert page.is_visible("#img2img_inpaint_full_res")
    page.evaluate("switch_to_txt2img()")
    page.evaluate(
        """() => {
            const box = gradioApp().querySelector('#txt2img_prompt textarea');
            box.value = 'by a script';
            updateInput(box);
        }"""
    )
    assert page.input_value("#txt2img_prompt textarea") == "by a script"


def test_hires_accordion_is_an_input(page: Any) -> None:
    assert not page.is_checked("#txt2img_hr-visible-checkbox")
    page.evaluate("inputAccordionChecked('txt2img_hr', true)")
    page.wait_for_selector("#txt2img_hr_scale", state="visible")
    assert page.is_checked("#txt2img_hr-visible-checkbox")
    page.click("#txt2img_hr .label-wrap")
    page.wait_for_selector("#txt2img_hr_scale", state="hidden")
    assert not page.is_checked("#txt2img_hr-visible-checkbox")


def test_paste_then_generate_then_send_to_img2img(page: Any) -> None:
    page.fill("#txt2img_prompt textarea", INFOTEXT)
    page.click("#tab_txt2img #paste")
    page.wait_for_function(
        "document.querySelector('#txt2img_prompt textarea').value === 'a red circle'"
    )
    assert number(page, "txt2img_steps") == 3
    assert (number(page, "txt2img_width"), number(page, "txt2img_height")) == (64, 128)
    assert page.input_value("#txt2img_sampling input") == "Euler a"
    assert page.input_value("#txt2img_neg_prompt textarea") == "blurry"
    generate(page, "txt2img")
    info = page.inner_text("#html_info_txt2img")
    assert "Steps: 3, Sampler: Euler a, Schedule type: Karras" in info
    assert "Seed: 77, Size: 64x128" in info
    size = page.evaluate(
        """() => {
            const image = document.querySelector('#txt2img_gallery img');
            return [image.naturalWidth, image.naturalHeight];
        }"""
    )
    assert size == [64, 128]
    page.click("#txt2img_send_to_img2img")
    page.wait_for_selector("#img2img_image img")
    assert page.input_value("#img2img_prompt textarea") == "a red circle"
    set_number(page, "img2img_steps", 3)
    assert "error" not in generate(page, "img2img").lower()
    assert "Denoising strength: 0.75" in page.inner_text("#html_info_img2img")


def test_upscale_button_runs_the_second_pass_on_the_selected_picture(page: Any) -> None:
    page.fill("#txt2img_prompt textarea", "a blue square")
    for name, value in (("steps", 3), ("width", 64), ("height", 64)):
        set_number(page, f"txt2img_{name}", value)
    generate(page, "txt2img")
    generate(page, "txt2img", button="txt2img_upscale")
    page.wait_for_function("document.querySelector('#txt2img_gallery img').naturalWidth === 128")
    assert "Hires upscale: 2" in page.inner_text("#html_info_txt2img")


def test_error_is_shown_under_the_gallery(page: Any) -> None:
    open_tab(page, "img2img")
    page.click("#mode_img2img button:text-is('Inpaint upload')")
    generate(page, "img2img")
    error = page.inner_text("#html_log_img2img .error")
    assert ":" in error, "type and message"


def test_inpaint_with_a_drawn_mask_repaints_only_there(page: Any, tmp_path: Path) -> None:
    picture = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    Image.fromarray(picture).save(tmp_path / "ramp.png")
    page.evaluate("switch_to_inpaint()")
    page.set_input_files("#img2maskimg input[type=file]", str(tmp_path / "ramp.png"))
    canvas = page.wait_for_selector("#img2maskimg canvas[key=interface]")
    page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.45, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.55, middle, steps=6)
    page.mouse.up()
    for name, value in (("steps", 3), ("width", 64), ("height", 64), ("mask_blur", 0)):
        set_number(page, f"img2img_{name}", value)
    generate(page, "img2img")
    source = page.get_attribute("#img2img_gallery img", "src")
    answer = page.request.get(source)
    (tmp_path / "result.png").write_bytes(answer.body())
    result = np.asarray(Image.open(tmp_path / "result.png").convert("RGB"))
    changed = np.abs(result.astype(int) - picture).max(axis=2) > 0
    assert changed[28:36, 28:36].any(), "repainted under the stroke"
    assert not changed[:8].any(), "kept away from it"


def upload_batch(page: Any, files: list[Path]) -> None:
    """Upload pictures in the Batch tab until the page knows where they went.

    gradio drops an upload during which any other answer arrives, and shows it as pending for ever.
    """
    from playwright.sync_api import TimeoutError as StillWaiting

    box = "#img2img_batch_upload"
    arrived = f"document.querySelectorAll('{box} td.download a[href]').length === {len(files)}"
    for _ in range(3):
        page.set_input_files(f"{box} input[type=file]", [str(file) for file in files])
        try:
            page.wait_for_function(arrived, timeout=5000)
        except StillWaiting:
            page.click(f"{box} button[aria-label=Clear]")
        else:
            return
    pytest.fail("the uploaded files never arrived")


def test_batch_tab_makes_one_picture_per_file(page: Any, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in ("first", "second")]
    for path in files:
        Image.new("RGB", (64, 64), "gray").save(path)
    open_tab(page, "img2img")
    page.click("#mode_img2img > .tab-nav button:text-is('Batch')")
    upload_batch(page, files)
    for name, value in (("steps", 3), ("width", 64), ("height", 64)):
        set_number(page, f"img2img_{name}", value)
    generate(page, "img2img")
    page.wait_for_function(
        "document.querySelectorAll('#img2img_gallery .thumbnails > .thumbnail-item').length === 2"
    )


def test_settings_are_saved_and_reach_the_scripts(page: Any, webui: Any) -> None:
    before = webui.get("/sdapi/v1/options").json()["grid_save"]
    page.wait_for_function("Object.keys(opts).length > 50")
    open_tab(page, "Settings")
    for expected in (not before, before):
        page.click("#setting_grid_save input")
        page.click("#settings_submit")
        page.wait_for_function(f"opts.grid_save === {str(expected).lower()}")
        assert webui.get("/sdapi/v1/options").json()["grid_save"] is expected


def test_extensions_are_listed(page: Any) -> None:
    open_tab(page, "Extensions")
    page.wait_for_selector("#extensions", state="visible")
    assert "sd-webui-controlnet" in page.inner_text("#extensions")


def test_title_says_what_this_host_is(page: Any, webui: Any) -> None:
    if webui.is_ours:
        assert page.title() == "Small WebUI host, for trying and testing"
