"""Previews that follow the sliders, and those that take their time, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_page import (
    UNIT,
    choose_canny,
    choose_preprocessor,
    needs_gradio_3,
    save_shapes,
    set_number,
    shown_picture,
    upload,
)
from PIL import Image

from lib_controlnet.detect.preprocess import run_preprocessor

pytestmark = pytest.mark.browser

RUN = f"{UNIT}_controlnet_trigger_preprocessor"
FRAME = f"{UNIT}_generated_image"
PREVIEW = f"{FRAME} img"
STATUS = f"{UNIT}_controlnet_status"
SLIDER = f"{UNIT}_controlnet_threshold_A_slider"
WATCH = """() => {
  window.seen = { asked: 0, open: 0, most: 0, pictures: new Set(), gone: 0 };
  document.addEventListener("controlnetasked", () => {
    window.seen.asked += 1;
    window.seen.open += 1;
    window.seen.most = Math.max(window.seen.most, window.seen.open);
  });
  document.addEventListener("controlnetanswered", () => (window.seen.open -= 1));
  const group = document.querySelector("#txt2img_controlnet_ControlNet-0_generated_image");
  new MutationObserver(() => {
    const picture = group.querySelector("img");
    if (picture) window.seen.pictures.add(picture.src);
    else window.seen.gone += 1;
  }).observe(group, { childList: true, subtree: true, attributes: true, attributeFilter: ["src"] });
}"""


def save_hills(path: Path) -> Path:
    """Write a picture of 192 x 128 in which thresholds matter."""
    coarse = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    Image.fromarray(coarse).resize((192, 128), Image.Resampling.BICUBIC).save(path)
    return path


def seen(page: Any) -> dict[str, Any]:
    return page.evaluate("() => ({ ...window.seen, pictures: window.seen.pictures.size })")


def wait_for_rest(page: Any) -> None:
    """Wait until nothing is asked for, nor about to be."""
    page.evaluate("window.since = Date.now()")
    page.wait_for_function(
        """() => {
          if (window.seen.open || window.seen.last !== window.seen.asked) window.since = Date.now();
          window.seen.last = window.seen.asked;
          return Date.now() - window.since > 400;
        }""",
        polling=50,
    )


def expect_map(page: Any, picture: Path, resolution: int, low: float) -> None:
    wait_for_rest(page)
    made = run_preprocessor("canny", np.asarray(Image.open(picture)), resolution, (low, 200))
    assert (shown_picture(page, PREVIEW) == made.display).all()


def test_a_quick_preview_follows_what_its_sliders_say(kept_panel: Any, tmp_path: Path) -> None:
    page = kept_panel
    picture = save_hills(tmp_path / "hills.png")
    upload(page, picture)
    page.evaluate(WATCH)
    choose_canny(page)
    set_number(page, SLIDER, 90)
    wait_for_rest(page)
    assert seen(page)["asked"] == 0, "nothing is asked for while no preview is open"
    page.click(RUN)
    page.wait_for_selector(PREVIEW)
    set_number(page, f"{UNIT}_controlnet_preprocessor_resolution_slider", 256)
    expect_map(page, picture, 256, 90)

    # While the mouse holds the slider, with at most one request under way.
    before = seen(page)
    slider = page.locator(f"{SLIDER} input[type=range]")
    slider.scroll_into_view_if_needed()  # the mouse finds only what is in the window
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.35, middle)
    page.mouse.down()
    for step in range(40):
        page.mouse.move(box["x"] + box["width"] * (0.35 + step / 100), middle)
        page.wait_for_timeout(10)
    wait_for_rest(page)
    held = float(page.input_value(f"{SLIDER} input[type=number]"))
    assert held != 90, "the mouse holds the slider"
    expect_map(page, picture, 256, held)
    during = seen(page)
    page.mouse.up()
    wait_for_rest(page)
    expect_map(page, picture, 256, held)
    assert during["pictures"] > before["pictures"], "the map changed before the mouse let go"
    assert during["most"] == 1
    assert during["asked"] - before["asked"] < 40
    assert during["gone"] == before["gone"], "the frame stayed"

    # Pixel perfect works at the size of what would be made: 128 pixels.
    page.check(f"{UNIT}_controlnet_pixel_perfect_checkbox input")
    expect_map(page, picture, 128, held)
    assert page.is_visible(FRAME)

    # What was closed meanwhile is not shown, and another preprocessor is not run unasked.
    page.evaluate(
        """([run, frame]) => {
          document.querySelector(run).click();
          setTimeout(() => document.querySelector(".cnet-close-preview").click(), 0);
        }""",
        [RUN, FRAME],
    )
    wait_for_rest(page)
    assert not page.is_visible(FRAME)
    page.click(RUN)
    page.wait_for_selector(PREVIEW)
    asked = seen(page)["asked"]
    choose_preprocessor(page, "invert (from white bg & black line)")
    page.wait_for_selector(FRAME, state="hidden")
    wait_for_rest(page)
    assert seen(page)["asked"] == asked


class Held:
    """What the server sends about previews, held back until it is let go."""

    def __init__(self, page: Any) -> None:
        self._waiting: list[Callable[[], None]] | None = []
        page.route_web_socket(re.compile("queue/join"), self._connect)

    def _connect(self, socket: Any) -> None:
        server = socket.connect_to_server()
        socket.on_message(server.send)
        server.on_close(lambda _code, _reason: None)  # the page closes it, after the last message
        server.on_message(lambda message: self._pass(partial(socket.send, message), message))

    def _pass(self, send: Callable[[], None], message: str) -> None:
        if self._waiting is None or "process_completed" not in message:
            send()
        else:
            self._waiting.append(send)

    def let_go(self) -> None:
        for send in self._waiting or ():
            send()
        self._waiting = None


def test_a_slow_preview_says_what_it_is_and_stops(kept_panel: Any, tmp_path: Path) -> None:
    page = kept_panel
    needs_gradio_3(page)  # gradio 4 has no socket
    held = Held(page)
    upload(page, save_shapes(tmp_path / "shapes.png"))
    choose_preprocessor(page, "softedge_pidinet")
    stops: list[str] = []
    page.on("request", lambda request: stops.append(request.post_data or ""))
    page.click(RUN)
    line = page.locator(".cnet-run-line")
    line.wait_for()
    assert line.inner_text().startswith("softedge_pidinet (2.87 MB) is at work")
    button = page.locator(".cnet-stop-preview")
    assert button.bounding_box()["height"] >= 28
    number = page.get_attribute(f".cnet-unit:has({UNIT}_input_image)", "data-run")
    button.click()
    assert line.inner_text() == "Stopping."
    page.wait_for_selector(".cnet-run-line:has-text('It ends with')")
    assert any(f'"data":[{number}]' in text.replace(" ", "") for text in stops), "it was asked to"
    held.let_go()
    page.wait_for_selector(f"{STATUS}:has-text('The preview was stopped.')")
    assert not line.count()
    assert not page.is_visible(FRAME)
    page.close()  # its messages go through this test
