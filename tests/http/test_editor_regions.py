"""Regions of all units, painted in colours, in a real browser: what units and neighbours get."""

from __future__ import annotations

import base64
import colorsys
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accessible import bring_judges, judge_looks
from editor_page import (
    BOX,
    forget_maps,
    open_editor,
    place,
    stroke,
    sweep,
    touch_stroke,
    use_map,
    wait_for_said,
    wait_until_done,
)
from panel_page import (
    UNIT,
    Posted,
    choose_canny,
    open_unit,
    save_shapes,
    unit_id,
    upload,
    wait_for_canvas,
)
from PIL import Image

from lib_controlnet.pictures.colour_areas import split_colours
from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

SIZE = (128, 128)
NAME = "Regions of all units"
ROWS = f"{BOX} .cnet-regions-unit"
NOTE = f"{BOX} .cnet-regions-note"
STAND_IN = """() => {
  window.given = [];
  const room = document.createElement("div");
  room.id = "stand_in";
  room.innerHTML = `
    <div id="RP_modet2i"><div class="tab-nav"><button>Matrix</button><button>Mask</button></div>
      <div class="tabitem"><div id="polymaskt2i"><input type="file"></div>
        <div class="block"><input type="file"></div></div></div>
    <div id="forge_couple_t2i"><input type="radio" value="Basic"><input type="radio" value="Mask">
      <div class="fc_preview_res"><input value="128x128"></div>
      <div class="fc_msk"><div class="logical_image_background"><textarea></textarea></div>
        <button class="round-btn"></button>
        <div class="fc_msk_io">${'<button class="round-btn"></button>'.repeat(3)}</div>
        <div class="fc_masks"></div>
        ${'<button class="round-btn"></button>'.repeat(2)}
        <div class="block" id="fc_msk_upload_mask"><input type="file"></div></div></div>`;
  const take = (block, act) => {
    block.querySelector("input").addEventListener("change", ({ target }) => {
      const reader = new FileReader();
      reader.onload = () => {
        block.append(document.createElement("img"));
        setTimeout(() => {
          block.querySelector("img").remove();
          act(reader.result);
        }, 30);
      };
      reader.readAsDataURL(target.files[0]);
    });
  };
  const [canvas, block] = room.querySelectorAll(".tabitem > div");
  take(block, (url) => {
    window.given.push(url);
    canvas.append(document.createElement("img"));
  });
  room.querySelectorAll("button")[1].onclick = () => window.given.push("tab");
  const masks = room.querySelector(".fc_masks");
  const [, save, , , reset] = room.querySelectorAll(".round-btn");
  let shown = "";
  const kept = ["of an earlier page"];
  const show = () => masks.replaceChildren(
    ...kept.map(() => Object.assign(document.createElement("div"), { className: "fc_mask_row" })),
  );
  room.querySelector("[value=Mask]").onchange = () => setTimeout(() => {
    room.querySelector(".logical_image_background textarea").value = "an empty canvas";
    show();
  }, 200);
  take(room.querySelector("#fc_msk_upload_mask"), (url) => (shown = url));
  reset.onclick = () => {
    kept.length = 0;
    show();
  };
  save.onclick = () => {
    window.given.push(shown);
    kept.push(shown);
    show();
  };
  document.querySelector(".gradio-container").append(room);
}"""
"""Elements as Regional Prompter has them on gradio 3, and Forge Couple, whose masks are saved one
by one, and which tells late of those that it has: a place for files shows one for a moment."""


def press(page: Any, *names: str) -> None:
    for name in names:
        page.click(f"{BOX} button:text-is('{name}')")


def choose_unit(page: Any, index: int) -> None:
    page.locator(ROWS).nth(index).click()


def rows(page: Any) -> list[float]:
    """What part of the picture each unit has, in percent."""
    wait_until_done(page)
    texts = page.locator(ROWS).all_inner_texts()
    return [float(text.rpartition(": ")[2].rstrip(" %")) for text in texts]


def set_slider(page: Any, label: str, value: int) -> None:
    slider = page.locator(f"{BOX} label:has(span:text-is('{label}')) input")
    slider.fill(str(value))
    slider.dispatch_event("change")


def decode(url: str) -> np.ndarray:
    data = base64.b64decode(url.partition(",")[2])
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def received(units: list[dict]) -> list[np.ndarray]:
    """The masks of the units that were sent: bool (H, W)."""
    made = [build_unit(unit) for unit in units]
    assert [unit.region for unit in made] == ["Own mask"] * len(made)
    return [unit.effective_region_mask[..., 0] > 127 for unit in made]


def hue(colour: np.ndarray) -> tuple[float, float, float]:
    return tuple(round(part, 2) for part in colorsys.rgb_to_hsv(*(colour / 255)))


def check_picture(page: Any, painted: list[float]) -> tuple[np.ndarray, Any, list[float]]:
    """As one picture: its colours, read by what reads requests, divide it as it was painted."""
    with page.expect_download() as saved:
        press(page, "Save picture")
    picture = np.array(Image.open(saved.value.path()).convert("RGB"))
    note = page.inner_text(NOTE)
    assert "is in several regions" in note
    colours = [part.split()[1] for part in note.partition(": ")[2].partition(".")[0].split(", ")]
    areas = split_colours(picture, colours)
    shares = [100 * float(np.mean(areas.mask_of(colour) > 0)) for colour in colours]
    assert shares[1:] == pytest.approx(painted[1:], abs=0.1)
    assert shares[0] < painted[0], "what it shares has the colour of the last one"
    return picture, areas, shares


def check_neighbours(page: Any, areas: Any, painted: list[float]) -> None:
    """They get the regions in the hues or masks that they know, in the order of the units."""
    press(page, "To Regional Prompter")
    page.locator(f"{NOTE}:has-text('regions of the units 0, 1, 2')").wait_for()
    tab, given = page.evaluate("window.given")
    assert tab == "tab"
    shown = [decode(given)[areas.labels == k][0] for k in range(3)]
    assert [hue(colour) for colour in shown] == [(0, 0.5, 0.5), (0.5, 0.5, 0.5), (0.25, 0.5, 0.5)]
    assert (decode(given)[areas.labels == 255] == 255).all()
    # Another takes masks one by one, in the place of those that it had.
    press(page, "To Forge Couple")
    page.locator(f"{NOTE}:has-text('masks of the units 0, 1, 2')").wait_for()
    masks = [decode(url)[..., 0] > 0 for url in page.evaluate("window.given.slice(2)")]
    assert [round(1000 * mask.mean()) / 10 for mask in masks] == painted
    assert page.locator("#stand_in .fc_mask_row").count() == 3
    page.evaluate("document.getElementById('stand_in').remove()")


def check_divisions(
    page: Any, painted: list[float], folder: Path, picture: np.ndarray, shares: list[float]
) -> None:
    """Opened again below the units: as it was left. Divided anew, then read from the picture."""
    page.click("#txt2img_controlnet .cnet-regions-open")
    wait_until_done(page)
    assert rows(page) == painted
    page.select_option(f"{BOX} label:has(span:text-is('Divide into')) select", "columns3")
    assert rows(page) == pytest.approx([33.3, 33.3, 33.3], abs=1)
    choose_unit(page, 0)
    page.check(f"{BOX} .cnet-regions-apart input")
    page.keyboard.press("b")
    stroke(page, (64, 64))
    assert sum(rows(page)) == pytest.approx(100, abs=0.2)
    press(page, "Empty", "Take the rest")
    assert sum(rows(page)) == pytest.approx(100, abs=0.2)
    soft = folder / "soft.jpg"
    Image.fromarray(picture).resize((300, 300)).save(soft, quality=80)
    page.set_input_files(f"{BOX} input[type=file]", str(soft))
    offered = page.locator(f"{BOX} .cnet-regions-offered select")
    offered.first.wait_for()
    values = offered.evaluate_all("all => all.map((one) => one.value)")
    assert sorted(values) == ["-1", "0", "1", "2"], "no colour of an edge"
    press(page, "Take over")
    assert rows(page) == pytest.approx(shares, abs=0.7)
    choose_unit(page, 1)
    press(page, "Empty")
    use_map(page)
    said = page.inner_text(f".cnet-unit:has({UNIT}_input_image) .cnet-tools-said")
    assert "Nothing is painted for the units 1" in said


def check_placing(page: Any) -> None:
    """Masks in other proportions lie as a generation lays them: cut off, and gone on with."""
    mask = np.zeros((64, 128, 3), np.uint8)
    mask[:, :48] = 255
    mask[:4] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    page.evaluate(
        """(mask) => controlnetPanel.edit("txt2img", (units) => [1, 2].map((unit, i) => {
          const resize_mode = ["Crop and Resize", "Resize and Fill"][i];
          const values = { ...units[unit].values, region: "Own mask", resize_mode };
          return { unit, pictures: { mask, region: null }, values };
        }))""",
        url,
    )
    forget_maps(page)
    open_editor(page, NAME)
    # 32 of 128 columns and 8 rows of the middle; 48 columns, and 36 rows from the upper edge on.
    wanted = [100 * (1 - (1 - x / 128) * (1 - y / 128)) for x, y in ((32, 8), (48, 36))]
    assert rows(page)[1:] == pytest.approx(wanted, abs=0.1)


def test_three_regions_for_three_units(kept_panel: Any, tmp_path: Path) -> None:
    page, posted = kept_panel, Posted(kept_panel)
    forget_maps(page)
    page.evaluate(STAND_IN)
    photograph = save_shapes(tmp_path / "photograph.png", SIZE)
    for index in reversed(range(3)):
        open_unit(page, index)
        upload(page, photograph, unit_id(index))
        choose_canny(page, unit_id(index))

    # By a finger a stroke and a rectangle that overlaps it, by mouse a polygon; the first has a
    # soft border.
    open_editor(page, NAME)
    bring_judges(page)
    press(page, "Use")
    wait_for_said(page, "No region is painted")
    set_slider(page, "Width", 20)
    ends = touch_stroke(page, (30, 20), (30, 100))
    set_slider(page, "Feather", 12)
    choose_unit(page, 1)
    page.keyboard.press("r")
    corners = touch_stroke(page, (20, 60), (70, 80))
    choose_unit(page, 2)
    page.keyboard.press("p")
    for corner in ((80, 10), (120, 10), (120, 50)):
        page.mouse.click(*place(page, *corner)[0])
    page.keyboard.press("Enter")
    assert judge_looks(page, "painted", BOX) == []
    painted = rows(page)
    assert all(share > 3 for share in painted)
    wanted = sweep(SIZE, *ends, 10)

    picture, areas, shares = check_picture(page, painted)
    check_neighbours(page, areas, painted)
    use_map(page)
    said = page.inner_text(f".cnet-unit:has({UNIT}_input_image) .cnet-tools-said")
    assert "Units 0, 1, 2 act in their painted regions now." in said
    wait_for_canvas(page, f"{UNIT}_region_canvas", SIZE)
    units = posted.generate(page)[:3]
    masks = received(units)
    assert (masks[0] != wanted).sum() <= 2
    (left, top), (right, bottom) = np.floor(corners).astype(int)
    box = np.zeros_like(wanted)
    box[top : bottom + 1, left : right + 1] = True
    assert np.array_equal(masks[1], box)
    assert [round(1000 * mask.mean()) / 10 for mask in masks] == painted
    assert (masks[0] & masks[1]).sum() > 100
    assert [unit["region_feather"] for unit in units] == [12, 0, 0]
    page.wait_for_selector("#html_info_txt2img:has-text('Region Feather: 12.0')")

    check_divisions(page, painted, tmp_path, picture, shares)
    check_placing(page)
