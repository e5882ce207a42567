"""Curves over the steps and weights per layer, drawn in the panel, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from editor_page import drag_finger
from panel_page import (
    UNIT,
    Posted,
    choose_canny,
    open_unit,
    save_shapes,
    set_number,
    unit_id,
    upload,
    wait_for_value,
)

from lib_controlnet.units.weight_curve import parse_weight_curve

pytestmark = pytest.mark.browser

TIMELINE = "#txt2img_controlnet_timeline"
CURVE = f"{UNIT}_controlnet_weight_curve_textbox"
CURVE_BOX = f"{CURVE} :is(input, textarea)"
WEIGHTS = f"{UNIT}_controlnet_advanced_weighting_textbox :is(input, textarea)"
EDGES = ("start_control_step_slider", "ending_control_step_slider")
LAYERS = f"{UNIT}_controlnet_advanced_weighting_textbox .cnet-layer"
HIRES = "#txt2img_hr-visible-checkbox"


def strip(unit: int = 0, of_pass: int = 0) -> str:
    return f'{TIMELINE} .cnet-timeline-track[data-unit="{unit}"][data-pass="{of_pass}"]'


def hand(kind: str, point: int | None = None, of_pass: int = 0) -> str:
    """Selector of what is dragged on the first unit's strip."""
    end = "" if point is None else f'[data-point="{point}"]'
    return f"{strip(0, of_pass)} [data-hand={kind}]{end}"


def drag(
    page: Any,
    selector: str,
    steps: float,
    strength: float = 0,
    inside: float = 0.5,
    then: str | None = None,
    by_finger: bool = False,
) -> None:
    """Drag a hand by a share of the steps and a strength.

    Args:
        page: the page.
        selector: the hand.
        steps: share of the steps.
        strength: upwards.
        inside: where it is taken hold of, as a share of its width.
        then: a key that is pressed before the mouse lets go.
        by_finger: and not by mouse.
    """
    track = page.locator(selector).locator("..")
    track.scroll_into_view_if_needed()
    area, top = track.bounding_box(), float(track.get_attribute("data-top"))
    box = page.locator(selector).bounding_box()
    x, y = box["x"] + box["width"] * inside, box["y"] + box["height"] / 2
    end = x + steps * area["width"], y - strength * area["height"] / top
    if by_finger:
        drag_finger(page, (x, y), end)
        return
    page.mouse.move(x, y)
    page.mouse.down()
    before = page.get_attribute(selector, "aria-valuetext")
    page.mouse.move(*end, steps=4)
    if then:
        assert page.get_attribute(selector, "aria-valuetext") != before
        page.keyboard.press(then)
    page.mouse.up()


def near(text: str, *points: tuple[float, float]) -> bool:
    """Whether a text has these points (share, factor), as near as a mouse comes."""
    curve = parse_weight_curve(text)
    return len(curve.first) == len(points) and all(
        abs(a - b) < 0.03
        for found, wanted in zip(curve.first, points, strict=True)
        for a, b in zip(found, wanted, strict=True)
    )


def wait_for_text(page: Any, box: str, text: str) -> None:
    has = "([box, text]) => document.querySelector(box).value === text"
    page.wait_for_function(has, arg=[box, text])


def edges(page: Any) -> list[float]:
    return [
        float(page.input_value(f"{UNIT}_controlnet_{name} input[type=number]")) for name in EDGES
    ]


def choose_curve(page: Any, name: str, of_pass: int = 0) -> None:
    lists = f'{TIMELINE} .cnet-timeline-list[data-unit="0"][data-pass="{of_pass}"]'
    page.select_option(lists, name)


def infotext(page: Any) -> str:
    return page.inner_text("#html_info_txt2img")


@pytest.fixture
def canny(panel: Any, tmp_path: Path) -> Any:
    """The panel with a picture in the first unit, which is enabled, with a ControlNet."""
    upload(panel, save_shapes(tmp_path / "shapes.png"))
    choose_canny(panel)
    panel.wait_for_selector(hand("end"))
    return panel


def test_window_and_curve_are_dragged_and_reach_the_engine(canny: Any) -> None:
    page, posted = canny, Posted(canny)
    drag(page, hand("end"), -0.3, inside=0.9, then="Escape")
    assert edges(page) == [0, 1], "Escape takes it back"
    drag(page, hand("end"), -0.4, inside=0.9)
    drag(page, hand("start"), 0.2, inside=0.1)
    assert edges(page) == pytest.approx([0.2, 0.6], abs=0.02)
    length = edges(page)[1] - edges(page)[0]
    drag(page, hand("window"), 0.1)
    start, end = edges(page)
    assert start == pytest.approx(0.3, abs=0.03)
    assert end - start == pytest.approx(length), "the window keeps its length"
    # Keys: a hundredth each, a tenth with Shift.
    page.focus(hand("end"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert edges(page)[1] == pytest.approx(end + 0.11)
    assert page.get_attribute(hand("end"), "aria-valuetext").startswith(f"{(end + 0.11) * 100:.0f}")
    assert page.evaluate("document.activeElement.dataset.hand") == "end", "it is still focused"
    # A preset, one of its points dragged, one added and one thrown away.
    choose_curve(page, "pulse")
    wait_for_text(page, CURVE_BOX, "0@0, 1@0.5, 0@1")
    drag(page, hand("point", 1), -0.1, -0.5)
    assert near(page.input_value(CURVE_BOX), (0, 0), (0.4, 0.5), (1, 0))
    box = page.locator(strip()).bounding_box()
    page.mouse.dblclick(box["x"] + 0.8 * box["width"], box["y"] + 0.25 * box["height"])
    assert near(page.input_value(CURVE_BOX), (0, 0), (0.4, 0.5), (0.8, 0.75), (1, 0))
    drag(page, hand("point", 3), 0, -2.5)
    assert near(page.input_value(CURVE_BOX), (0, 0), (0.4, 0.5), (0.8, 0.75))
    page.focus(hand("point", 0))
    page.keyboard.press("ArrowUp")
    assert page.input_value(CURVE_BOX).startswith("0.01@0,")
    page.keyboard.press("Delete")
    text = page.input_value(CURVE_BOX)
    assert near(text, (0.4, 0.5), (0.8, 0.75))
    text = check_fingers(page)
    start, end = edges(page)
    (unit, *_rest) = posted.generate(page)
    assert (unit["guidance_start"], unit["guidance_end"]) == (start, end)
    assert unit["weight_curve"] == text
    said = infotext(page)
    assert f"Guidance Start: {start}" in said
    for point in text.split(", "):
        assert point in said


def check_fingers(page: Any) -> str:
    """A finger drags the ends and a point, a tap on the line adds one, which is then dragged out;
    the text of the curve."""
    start, end = edges(page)
    drag(page, hand("end"), 0.1, inside=0.9, by_finger=True)
    drag(page, hand("start"), -0.2, inside=0.1, by_finger=True)
    assert edges(page) == pytest.approx([start - 0.2, end + 0.1], abs=0.02)
    drag(page, hand("point", 0), 0.1, 0.3, by_finger=True)
    assert near(page.input_value(CURVE_BOX), (0.5, 0.8), (0.8, 0.75))
    box = page.locator(strip()).bounding_box()
    tap = box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"]
    drag_finger(page, tap)
    assert near(page.input_value(CURVE_BOX), (0.3, 0.8), (0.5, 0.8), (0.8, 0.75))
    drag(page, hand("point", 1), 0, -2.5, by_finger=True)
    text = page.input_value(CURVE_BOX)
    assert near(text, (0.3, 0.8), (0.8, 0.75))
    return text


def test_passes_have_curves_of_their_own_and_text_and_picture_agree(canny: Any) -> None:
    page, posted = canny, Posted(canny)
    page.fill(CURVE_BOX, ", ".join(f"1@{place / 126:.3f}" for place in range(64)))
    page.focus(hand("point", 63))
    page.keyboard.press("Enter")
    page.locator(".cnet-tools-said:has-text('at most 64 points')").wait_for()
    page.fill(CURVE_BOX, "0.5@0, 1.5@1")
    page.wait_for_selector(hand("point", 1))
    assert page.get_attribute(strip(), "data-top") == "2", "above 1 the strip is higher"
    assert "along a curve" in page.get_attribute(strip(), "title")
    page.check(HIRES)
    page.wait_for_selector(hand("point", 1, of_pass=1))
    page.focus(hand("point", 1, of_pass=1))
    page.keyboard.press("End")
    wait_for_text(page, CURVE_BOX, "0.5@0, 1.5@1 | 0.5@0, 2@1")
    choose_curve(page, "none")
    wait_for_text(page, CURVE_BOX, "| 0.5@0, 2@1")
    (unit, *_rest) = posted.generate(page)
    assert unit["weight_curve"] == "| 0.5@0, 2@1"
    assert "2@1" in infotext(page)
    choose_curve(page, "same", of_pass=1)
    wait_for_text(page, CURVE_BOX, "")
    # By touch or key a point is set without the text.
    page.focus(hand("window"))
    page.keyboard.press("Enter")
    wait_for_text(page, CURVE_BOX, "1@0, 1@0.5, 1@1")
    assert page.evaluate("document.activeElement.dataset.point") == "1"
    page.keyboard.press("Delete")
    wait_for_text(page, CURVE_BOX, "")
    page.fill(CURVE_BOX, "0.2@0.1, soon@0.5")
    page.wait_for_selector(f"{CURVE} .cnet-curve-fault:has-text('soon@0.5 cannot be read')")
    assert "cannot be read" in page.get_attribute(strip(), "title")
    page.fill(CURVE_BOX, "Ease  In")
    page.wait_for_selector(f"{CURVE} .cnet-curve-fault", state="detached")
    assert page.locator(hand("point")).count() == 5
    assert page.locator(f"{TIMELINE} select >> nth=0").input_value() == "ease in"
    compare_readers(page)


TEXTS = [
    *("", "none", " None ", "|", "linear", "Ease  Out", "PULSE | ", "| linear", "none | pulse"),
    *("0.2@0.1, 0.8@0.5", "0.8@0.5, 0.2@0.1", " 1 @ .5 ,, 2@1. ,", "1e-1@5e-1", "1@0,1@0.5,0@0.5"),
    *("2.1@0", "1@1.01", "-1@0", "1@-0.1", "a@0", "1", "1@", "@1", "1@0@1", "1@0 | 1@1 | 1@1"),
    *("constructor", "__proto__ | 1@0", "１@0", "0.٥@0", "1_0@0", "9" * 7000 + "x@0"),
    *("1@0,1@0,1@0", "ease", "inf@0", "nan@0", "0x1@0", "1@0;0@1", ",".join(["1@0.5"] * 65)),
]


def compare_readers(page: Any) -> None:
    """The page reads texts as the server does, and what it writes of them means the same."""
    script = """(texts) => texts.map((text) => {
      const { fault, passes } = controlnetPanel.curves.read(text);
      return { fault, passes, written: controlnetPanel.curves.writeAll(passes) };
    })"""
    for text, found in zip(TEXTS, page.evaluate(script, TEXTS), strict=True):
        try:
            curve = parse_weight_curve(text)
        except ValueError:
            assert found["fault"], text
            continue
        assert not found["fault"], text
        passes = [tuple(map(tuple, points or ())) for points in found["passes"]]
        assert (passes[0], passes[-1]) == ((curve.first, curve.hires) if curve else ((), ())), text
        assert parse_weight_curve(found["written"]) == curve, text


def test_weights_per_layer_are_dragged_and_reach_the_engine(canny: Any) -> None:
    page, posted = canny, Posted(canny)
    page.click(f".cnet-unit:has({UNIT}_input_image) .cnet-layer-weights .label-wrap")
    page.wait_for_selector(f"{LAYERS} >> nth=6")
    names = [one.get_attribute("aria-label") for one in page.locator(LAYERS).all()]
    assert names == [*(f"Input layer {i}" for i in range(6)), "Middle layer"]
    set_number(page, f"{UNIT}_controlnet_control_weight_slider", 0.8)
    page.wait_for_selector(f"{LAYERS}[aria-valuenow='0.8'] >> nth=6")

    def values() -> list[float]:
        return [float(one.get_attribute("aria-valuenow")) for one in page.locator(LAYERS).all()]

    # Two bars in one stroke.
    tracks = page.locator(f"{LAYERS} .cnet-layer-track")
    tracks.nth(2).scroll_into_view_if_needed()
    for number, height in ((2, 0.25), (3, 0.25), (3, 0.75)):
        box = tracks.nth(number).bounding_box()  # a line above may have come meanwhile
        page.mouse.move(box["x"] + 10, box["y"] + box["height"] * height)
        if number == 2:
            page.mouse.down()
    page.mouse.up()
    box = tracks.nth(4).bounding_box()
    x = box["x"] + 10
    drag_finger(page, (x, box["y"] + 0.5 * box["height"]), (x, box["y"] + 0.9 * box["height"]))
    assert values()[2] == pytest.approx(1.5, abs=0.03)
    assert values()[3] == pytest.approx(0.5, abs=0.03)
    assert values()[4] == pytest.approx(0.2, abs=0.03)
    assert values()[5:] == [0.8] * 2
    page.locator(LAYERS).nth(6).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    assert values()[5:] == [0, 0.85]
    text = page.input_value(WEIGHTS)
    assert [float(number) for number in text.split()] == values()
    (unit, *_rest) = posted.generate(page)
    assert unit["advanced_weighting"] == text
    assert f"Advanced Weighting: {' '.join(map(repr, map(float, text.split())))}" in infotext(page)
    # A preset spreads the weight, the bars follow; a text of another length is said.
    kind = f"{UNIT}_controlnet_weight_type_dropdown"
    page.click(f"{kind} input")
    page.click(f'{kind} ul.options li[aria-label="only middle"]')
    wait_for_text(page, WEIGHTS, "only middle")
    page.wait_for_selector(f"{LAYERS}[aria-valuenow='0'] >> nth=5")
    assert values() == [0] * 6 + [0.8]
    page.fill(WEIGHTS, "1 0.5")
    said = page.locator(".cnet-layers-said >> visible=true")
    assert "2 numbers, and the model 7 layers" in said.inner_text()
    wait_for_value(page, "weight_type_dropdown", "normal")
    for text in ("constructor", "soft 0.5", "0x1"):  # neither types nor numbers
        page.fill(WEIGHTS, text)
        page.wait_for_selector(f".cnet-layers-said:has-text('{text}') >> visible=true")
    page.fill(WEIGHTS, "soft")
    wait_for_value(page, "weight_type_dropdown", "soft")
    page.click("button:has-text('All as Control Weight') >> visible=true")
    wait_for_text(page, WEIGHTS, "")
    page.wait_for_selector(f"{LAYERS}[aria-valuenow='0.8'] >> nth=6")
    # A unit without a model has none.
    open_unit(page, 1)
    page.click(f".cnet-unit:has({unit_id(1)}_input_image) .cnet-layer-weights .label-wrap")
    assert said.inner_text() == "No model is chosen, so there are no layers to show."
