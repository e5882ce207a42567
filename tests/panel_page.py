"""What a person does in the panel, for tests that drive it in a real browser."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

UNIT = "#txt2img_controlnet_ControlNet-0"
LAYER = ":is(canvas[key=mask], canvas[id^=drawingCanvas_])"
"""What is drawn: gradio 3's layer, or that of a canvas of the host's own."""
SURFACE = ":is(canvas[key=interface], canvas[id^=drawingCanvas_])"
"""What the mouse draws on."""
SHOWN = 'img[src]:not([src=""])'
"""A picture; an empty canvas of a host's has an element for one."""
PATIENCE = 300_000
"""Milliseconds for a generation on a busy machine; waiting ends as soon as it is done."""
POLLING = 50
"""Milliseconds between two looks at what takes longer. Looks at every frame have each one drawn."""


def unit_id(index: int, tab: str = "txt2img") -> str:
    """Selector prefix of a unit's elements."""
    return f"#{tab}_controlnet_ControlNet-{index}"


def save_shapes(path: Path, size: tuple[int, int] = (192, 128)) -> Path:
    """Write a picture of two shapes, (width, height), by default 192 x 128."""
    array = np.full((128, 192, 3), 220, np.uint8)
    array[30:90, 20:80] = (200, 30, 30)
    array[60:110, 110:170] = (20, 60, 200)
    Image.fromarray(array).resize(size).save(path)
    return path


def needs_gradio_3(page: Any) -> None:
    """Leave a test out that is about the canvases of gradio 3."""
    if int(page.evaluate("parseInt(gradio_config.version)")) > 3:
        pytest.skip("the host draws on canvases of its own")


def set_number(page: Any, element: str, value: float) -> None:
    page.fill(f"{element} input[type=number]", str(value))


def open_accordion(page: Any, tab: str) -> None:
    """Open the panel of a tab, unless it is."""
    bar = page.locator(f"#{tab}_controlnet .label-wrap").first
    if "open" not in (bar.get_attribute("class") or "").split():
        bar.click()


def open_panel(page: Any, size: tuple[int, int] = (128, 128), steps: int = 2) -> None:
    """Open the panel of txt2img and ask for a small picture."""
    set_number(page, "#txt2img_width", size[0])
    set_number(page, "#txt2img_height", size[1])
    set_number(page, "#txt2img_steps", steps)
    page.fill("#txt2img_seed input", "7")
    page.fill("#txt2img_prompt textarea", "a red circle")
    open_accordion(page, "txt2img")
    page.wait_for_selector(f"{UNIT}_input_image")


FIRST_VALUES = """() => {
  window.firstValues = gradio_config.components
    .map(({ type, props }) => ({ type, id: props.elem_id, value: props.value }));
}"""
"""Notes the values of a fresh page: gradio writes later ones over those of its configuration."""
START_OVER = """([tab, round]) => {
  const differs = [];
  const differ = (place, is, set) => { if (!is) { differs.push(place.id); set(); } };
  const write = (box, value) => {
    box.value = value;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const press = (selector) => {
    for (const button of document.querySelectorAll(selector)) {
      if (button.checkVisibility()) differ(button, false, () => button.click());
    }
  };
  const turn = (list) => { // a type, and in the next round the first one again, empties it
    const types = list.closest(".cnet-unit")?.querySelectorAll("[id$=_type_filter_radio] input");
    if (types) types[1].click();
  };
  const isEmpty = ({ id }) => { // a canvas of a host's own always has the button
    const [, name] = id.match(/^removeButton_(.+)/) || [];
    const texts = name ? document.querySelectorAll(`[id="${name}"] textarea`) : [];
    return texts.length > 0 && Array.from(texts).every((text) => !text.value);
  };
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  const isOurs = (id) => id?.startsWith(`${tab}_controlnet_`)
    || id === "script_list"
    || (tab === "img2img" && /^img2img_(inpaint|mask)/.test(id));
  for (const { type, id, value } of window.firstValues) {
    if (!isOurs(id) || value === null || value === undefined) continue;
    const place = document.getElementById(id);
    const boxes = Array.from(place?.querySelectorAll("input, textarea") || []);
    if (!boxes.length) continue;
    const choice = boxes.find((box) => box.value === value);
    if (type === "checkbox") differ(place, boxes[0].checked === value, () => boxes[0].click());
    if (type === "radio") differ(place, !choice || choice.checked, () => choice.click());
    if (type === "textbox") differ(place, choice, () => write(boxes[0], value));
    if (type === "slider") {
      differ(place, Number(boxes[0].value) === value, () => write(boxes[0], value));
    }
    if (type === "dropdown") differ(place, choice, () => round % 8 === 3 && turn(place));
  }
  const panel = `#${tab}_controlnet`;
  const places = tab === "img2img" ? `:is(${panel}, #mode_img2img)` : panel;
  const remove = ":is([aria-label='Remove Image'], [aria-label='Clear'], [id^=removeButton_])";
  for (const button of document.querySelectorAll(`${places} ${remove}`)) {
    differ(button, isEmpty(button), () => button.click());
  }
  press(`${panel} .cnet-compare button`);
  press(`${panel} .cnet-close-preview`);
  press(`${panel} [id$=_controlnet_canvas_cancel_button]`);
  press(`${panel} .cnet-input-image-group:has(.thumbnail-item) [id$=_merge_clear]`);
  press(`${panel} :is(.cnet-layer-weights, #controlnet_batch_options) .label-wrap.open`);
  press(`${panel} .cnet-input-tabs > .tab-nav > button:first-child:not(.selected)`);
  if (tab === "img2img") press("#mode_img2img > .tab-nav > button:first-child:not(.selected)");
  const hires = document.getElementById(`${tab}_hr-visible-checkbox`);
  if (hires) differ(hires, !hires.checked, () => hires.click());
  // What was done to units is no more; nor is what was said of it.
  for (const unit of document.querySelectorAll(`${panel} .cnet-unit`)) {
    for (const note of ["muted", "aside", "solo"]) delete unit.dataset[note];
  }
  for (const line of document.querySelectorAll(`${panel} .cnet-tools-said`)) line.hidden = true;
  for (const line of document.querySelectorAll(`${panel} .cnet-quick-said`)) line.textContent = "";
  document.dispatchEvent(new CustomEvent("controlnetchange"));
  for (const one of document.querySelectorAll(`${panel} [data-testid=status-tracker]`)) {
    if (one.innerText.trim()) differs.push("an answer that is on its way");
  }
  return differs;
}"""
"""Sets what differs from those and tells what did; closes and forgets what scripts keep."""
LOOK = """(tab) => {
  const panel = document.getElementById(`${tab}_controlnet`);
  const text = panel.innerText.replace(/\\s+/g, " ");
  const texts = [text.replace(/ \\(\\d+ more\\)/, "")]; // asked for when a list is first seen
  const places = ":is(canvas, .cnet-compare, .cnet-run-line, .cnet-camera, .cnet-fault)";
  for (const one of panel.querySelectorAll(places)) {
    if (one.checkVisibility()) texts.push(one.className);
  }
  for (const box of document.querySelectorAll("dialog[open]")) texts.push(box.className);
  for (const unit of panel.querySelectorAll(".cnet-unit")) {
    const { muted, aside, solo, following } = unit.dataset;
    texts.push([muted, aside, solo, following].join());
  }
  return texts;
}"""
"""What the panel shows, and what its scripts note on its units."""


STILL, LOOKS = 300, 6
"""Milliseconds after which the page's scripts have seen that it is calm, and so often is waited."""


def look(page: Any, tab: str) -> list[list[str]]:
    """What the panel shows with the tab of each unit that has been seen, the first one last."""
    seen = []
    for index in reversed(range(page.locator(f"#{tab}_controlnet .cnet-unit").count())):
        unit = page.locator(f"#{tab}_controlnet .cnet-unit").nth(index)
        if index and not unit.locator(".cnet-unit-tools").count():
            continue  # nobody was there
        page.locator(f"#{tab}_controlnet_tabs > div.tab-nav > button").nth(index).click()
        unit.locator(".cnet-unit-tools").wait_for()
        page.wait_for_timeout(50)
        seen.append(page.evaluate(LOOK, tab))
    return seen


def choose_no_script(page: Any, tab: str) -> None:
    """Choose the first of the host's scripts, which is none."""
    place = f"#{tab}_script_container #script_list"
    if page.is_visible(f"{place} input"):
        page.click(f"{place} input")
        page.locator(f"{place} ul.options li").first.click()


def start_over(page: Any, tab: str, looks: dict[str, list[str]], is_fresh: bool = False) -> bool:
    """Put every unit of a tab back to what the page began with, as a person would.

    Args:
        page: one that has noted its `FIRST_VALUES`.
        tab: whose panel.
        looks: what the panel of a tab shows in a fresh page.
        is_fresh: whether nothing was done in it so far: what its panel shows is noted there.

    Returns:
        Whether it is, by its values and by what the panel shows; else only a fresh page is.
    """
    if not page.evaluate("Boolean(window.firstValues)"):
        return False  # it was loaded again
    if not is_fresh and tab not in looks:
        return False
    page.unroute_all()
    page.locator("#tabs > div.tab-nav > button").nth(0 if tab == "txt2img" else 1).click()
    open_accordion(page, tab)
    page.locator(f"#{tab}_controlnet_tabs > div.tab-nav > button").nth(0).click()
    settled = 0
    for number in range(20):
        differs = page.evaluate(START_OVER, [tab, number])
        if "script_list" in differs:
            choose_no_script(page, tab)
        settled = 0 if differs else settled + 1
        if settled == 2:  # no answer was on its way that changed it again
            break
        page.wait_for_timeout(150)
    if settled < 2:
        return False
    seen = look(page, tab)
    for _ in range(LOOKS):
        if not is_fresh and all(one == looks.get(tab) for one in seen):
            return True
        # Some of the page's scripts wait until it is calm; until then a fresh one is not all there.
        page.wait_for_timeout(STILL)
        before, seen = seen, look(page, tab)
        if is_fresh and seen == before:
            looks[tab] = seen[-1]
            return True
    return False


def open_img2img(page: Any) -> str:
    """Open the panel of img2img and return its first unit's prefix."""
    page.locator("#tabs > div.tab-nav > button").nth(1).click()
    open_accordion(page, "img2img")
    unit = unit_id(0, "img2img")
    page.wait_for_selector(f"{unit}_controlnet_enable_checkbox", state="visible")
    return unit


def open_unit(page: Any, index: int) -> None:
    page.locator("#txt2img_controlnet_tabs > div.tab-nav > button").nth(index).click()
    page.wait_for_selector(f"{unit_id(index)}_controlnet_enable_checkbox", state="visible")


def offered(page: Any, dropdown: str = "model_dropdown", unit: str = UNIT) -> list[str]:
    """What a list offers when it is opened."""
    box = f"{unit}_controlnet_{dropdown}"
    page.click(f"{box} input")
    names = page.locator(f"{box} ul.options li").all_inner_texts()
    page.keyboard.press("Escape")
    page.locator(f"{box} input").blur()
    return [name.replace("✓", "").strip() for name in names]


def set_file(page: Any, picker: str, path: Path) -> None:
    """Choose a file, be it the same again: of that a browser says nothing.

    So gradio empties its field when a person clicks.
    """
    page.locator(picker).first.evaluate("(picker) => { picker.value = ''; }")
    page.set_input_files(picker, str(path))


def upload(page: Any, path: Path, unit: str = UNIT) -> None:
    """Put a picture into a unit and wait until its drawing canvas has the picture's size."""
    set_file(page, f"{unit}_input_image input[type=file]", path)
    wait_for_canvas(page, f"{unit}_input_image", Image.open(path).size)


def remove_picture(page: Any, widget: str) -> None:
    """Take the picture out of a widget that can be drawn on."""
    page.click(f"{widget} :is(button[aria-label='Remove Image'], [id^=removeButton_])")


def undo_stroke(page: Any, widget: str) -> None:
    page.click(f"{widget} :is(button[aria-label='Undo'], [id^=undoButton_])")


def wait_for_canvas(page: Any, widget: str, size: tuple[int, int]) -> None:
    """Wait until a drawing canvas has its picture's size."""
    page.wait_for_function(
        """([layer, width, height]) => {
          const canvas = document.querySelector(layer);
          return canvas && canvas.width === width && canvas.height === height;
        }""",
        arg=[f"{widget} {LAYER}", *size],
    )


IS_STILL = """(element) => {
  const [box, now] = [JSON.stringify(element.getBoundingClientRect()), Date.now()];
  if (element.cnetBox !== box) Object.assign(element, { cnetBox: box, cnetSince: now });
  return now - element.cnetSince > 200;
}"""
"""Whether an element has stayed where it is for a while."""


def wait_until_still(page: Any, element: Any) -> Any:
    """Wait until an element (a locator) has a place of its own; where that is, as a hand sees it.

    What the server tells of a page that was just opened, or of a picture that just came, adds lines
    and takes some away; a hand waits for that.
    """
    element.scroll_into_view_if_needed()
    page.wait_for_function(IS_STILL, arg=element.element_handle(), polling=50)
    return element.bounding_box()


def draw(page: Any, widget: str, *points: tuple[float, float]) -> None:
    """Draw a line through points given as fractions of the canvas.

    A1111's zoom extension hides a canvas for some milliseconds when the mouse first moves over it,
    and may lay it out anew. A press in that moment would go to what lies behind, so the mouse
    waits for the canvas as a hand does. A host's own canvas has a toolbar over a corner of it,
    which a hand would push away.
    """
    bars = page.locator(f"{widget} [id^=toolbar_]")
    bars.evaluate_all("(found) => found.forEach((bar) => { bar.style.pointerEvents = 'none'; })")
    canvas = page.locator(f"{widget} {SURFACE}")
    box = wait_until_still(page, canvas)

    def place(x: float, y: float) -> tuple[float, float]:
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    page.mouse.move(*place(*points[0]))
    page.wait_for_function(
        "([x, y, canvas]) => document.elementFromPoint(x, y) === canvas",
        arg=[*place(*points[0]), canvas.element_handle()],
    )
    box = canvas.bounding_box()
    page.mouse.move(*place(*points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(*point), steps=8)
    page.mouse.up()
    bars.evaluate_all("(found) => found.forEach((bar) => { bar.style.pointerEvents = ''; })")


def choose_type(page: Any, name: str, unit: str = UNIT) -> None:
    page.click(f"{unit}_controlnet_type_filter_radio label:has(input[value='{name}'])")


def choose(page: Any, radio: str, value: str) -> None:
    """Click one choice of a radio."""
    page.click(f'{radio} label:has(input[value="{value}"])')


def choose_canny(page: Any, unit: str = UNIT) -> None:
    """Choose the control type Canny and wait for its model."""
    choose_type(page, "Canny", unit)
    wait_for_value(page, "model_dropdown", "control_", unit)


def choose_preprocessor(page: Any, title: str, unit: str = UNIT) -> None:
    """Choose a preprocessor by its label among those that are listed."""
    choose_option(page, "preprocessor_dropdown", title, unit)


def choose_option(page: Any, suffix: str, text: str, unit: str = UNIT) -> None:
    """Choose in one of the unit's dropdowns."""
    box = f"{unit}_controlnet_{suffix}"
    page.click(f"{box} input")
    page.fill(f"{box} input", text)
    page.click(f'{box} ul.options li[aria-label="{text}"]')
    wait_for_value(page, suffix, text, unit)


def chosen(page: Any, suffix: str, unit: str = UNIT) -> str:
    """What a dropdown or number box shows."""
    return page.input_value(f"{unit}_controlnet_{suffix} input >> nth=0")


def wait_for_value(page: Any, suffix: str, start: str, unit: str = UNIT) -> None:
    page.wait_for_function(
        "([box, start]) => document.querySelector(box).value.startsWith(start)",
        arg=[f"{unit}_controlnet_{suffix} input", start],
    )


def shown_picture(page: Any, selector: str) -> np.ndarray:
    """Pixels of a picture element, uint8 (H, W, 3)."""
    source = page.get_attribute(selector, "src")
    if source.startswith("data:"):
        data = base64.b64decode(source.partition(",")[2])
    else:
        data = page.request.get(source).body()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def click_generate(page: Any, tab: str, button: str) -> None:
    """Press a button, and have the page note that the generation has begun, however short it is."""
    page.evaluate(
        """(tab) => {
          const button = document.getElementById(tab + "_interrupt");
          delete button.dataset.seen;
          new MutationObserver((_changes, observer) => {
            if (!button.offsetParent) return;
            button.dataset.seen = "yes";
            observer.disconnect();
          }).observe(button, { attributes: true, attributeFilter: ["style", "class"] });
        }""",
        tab,
    )
    page.click(f"#{button}")


def wait_for_start(page: Any, tab: str) -> None:
    """Wait until the generation that has just been asked for has begun."""
    page.wait_for_selector(f"#{tab}_interrupt[data-seen]", state="attached")


def generate(page: Any, tab: str = "txt2img") -> None:
    click_generate(page, tab, f"{tab}_generate")


def finish(page: Any, tab: str = "txt2img") -> None:
    """Wait until the generation that has just been asked for is shown."""
    wait_for_start(page, tab)
    page.wait_for_selector(f"#{tab}_interrupt", state="hidden", timeout=PATIENCE)
    page.wait_for_selector(f"#{tab}_generate", state="visible", timeout=PATIENCE)
    # While the answer is on its way gradio writes "processing" into its outputs.
    page.wait_for_function(
        """(tab) => {
          const text = document.getElementById("html_log_" + tab).innerText;
          return /Time taken|error/i.test(text) && !text.includes("processing");
        }""",
        arg=tab,
        polling=POLLING,
        timeout=PATIENCE,
    )


def gallery(page: Any, count: int, tab: str = "txt2img") -> list[np.ndarray]:
    """The pictures of the gallery once there are so many."""
    thumbnails = f"#{tab}_gallery .grid-container img"
    page.wait_for_function(
        "([selector, count]) => document.querySelectorAll(selector).length === count",
        arg=[thumbnails, count],
        polling=POLLING,
        timeout=PATIENCE,
    )
    images = page.locator(thumbnails)
    return [
        np.asarray(
            Image.open(io.BytesIO(page.request.get(images.nth(i).get_attribute("src")).body()))
        )
        for i in range(count)
    ]


class Posted:
    """Watches what the page sends: the edited units of every Generate, and the count of events."""

    def __init__(self, page: Any) -> None:
        self.generations: list[list[dict]] = []
        self.events = 0
        page.on("websocket", lambda socket: socket.on("framesent", self._read))
        page.on("request", lambda request: self._read(request.post_data or ""))

    def _read(self, text: str | bytes) -> None:
        try:
            message = json.loads(text)
        except ValueError:
            return
        if not isinstance(message, dict) or "fn_index" not in message:
            return
        self.events += 1
        values = message.get("data") or [None]
        if str(values[0]).startswith("task("):
            units = [value for value in values if isinstance(value, dict)]
            self.generations.append([unit for unit in units if "batch_option" in unit])

    def generate(self, page: Any, tab: str = "txt2img") -> list[dict]:
        """Click Generate, wait for the pictures, and return the units that were sent.

        They are the page's raw values, as `lib_controlnet.ui.unit_value.build_unit` takes them.
        """
        known = len(self.generations)
        generate(page, tab)
        finish(page, tab)
        assert len(self.generations) == known + 1
        return self.generations[-1]
