"""The editor of poses, and poses that come into a unit from outside, in a real browser."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import axe_playwright_python
import numpy as np
import pytest
from panel_page import UNIT, Posted, choose_type, gallery, wait_for_value
from PIL import Image

from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

OWN = f".cnet-unit:has({UNIT}_input_image)"
EDITOR = "dialog.cnet-editor[open]"
SIZE = 128
RIGHT_WRIST, LEFT_WRIST = 4, 7
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
STANDING = (
    *((64, 20), (64, 34), (52, 35), (46, 54), (42, 70), (76, 35), (82, 54), (86, 70)),
    *((57, 68), (56, 90), (55, 112), (71, 68), (72, 90), (73, 112)),
    *((61, 17), (67, 17), (58, 19), (70, 19)),
)
"""A person of 18 points on a canvas of 128 x 128 pixels."""
FAKE_EDITOR = """<!doctype html><title>editor</title><script>
  addEventListener("message", ({ data, source, origin }) => {
    if (origin !== location.origin) return;
    parent.told = data;
    const pose = JSON.parse(atob(data.poseURL.split(",")[1]));
    pose.people = JSON.parse(parent.wanted);
    const asUrl = (value) => "data:application/json;base64," + btoa(JSON.stringify(value));
    const tell = new parent.Function("message", "window.postMessage(message, location.origin)");
    tell({ modalId: data.modalId, poseURL: asUrl({}) }); // of another window than this one
    source.postMessage({ modalId: data.modalId + 1, poseURL: asUrl({}) }, origin);
    source.postMessage({ modalId: data.modalId, poseURL: asUrl(pose) }, origin);
  });
  parent.postMessage({ ready: true }, location.origin);
</script>"""


def person(*points: tuple[float, float]) -> dict[str, Any]:
    return {"pose_keypoints_2d": [number for point in points for number in (*point, 1)]}


def pose(*people: dict[str, Any], size: int = SIZE) -> dict[str, Any]:
    return {"people": list(people), "canvas_width": size, "canvas_height": size}


def as_file(text: str | bytes) -> dict[str, Any]:
    data = text.encode() if isinstance(text, str) else text
    return {"name": "pose.json", "mimeType": "application/json", "buffer": data}


def give_file(page: Any, text: str | bytes) -> None:
    """Upload a pose into the unit."""
    page.set_input_files(f"{OWN} .cnet-upload-pose input", files=[as_file(text)])


def says(page: Any, text: str) -> None:
    page.locator(f"{OWN} .cnet-tools-said:has-text({text!r})").wait_for()


def editor_says(page: Any, text: str) -> None:
    page.locator(f"{EDITOR} .cnet-editor-status:has-text({text!r})").wait_for()


def open_editor(page: Any) -> None:
    page.click(f"{OWN} .cnet-edit-pose")
    page.wait_for_selector(f"{EDITOR}:not([aria-busy])")


def use(page: Any) -> None:
    page.click(f"{EDITOR} .cnet-editor-main")
    page.wait_for_selector(EDITOR, state="detached")
    says(page, "What was drawn is")


def screen(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a point of the map is on the screen."""
    return tuple(
        page.evaluate(
            """([x, y]) => {
              const stage = Konva.stages.at(-1);
              const box = stage.container().getBoundingClientRect();
              const scale = stage.scaleX();
              return [box.x + stage.x() + x * scale, box.y + stage.y() + y * scale];
            }""",
            [x, y],
        )
    )


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag with the mouse between two points of the map."""
    page.mouse.move(*screen(page, *start))
    page.mouse.down()
    page.mouse.move(*screen(page, *((a + b) / 2 for a, b in zip(start, end, strict=True))))
    page.mouse.move(*screen(page, *end))
    page.mouse.up()


def save(page: Any) -> dict[str, Any]:
    """The pose as the editor gives it as a file."""
    with page.expect_download() as given:
        page.click(f"{EDITOR} button:text-is('Save a file')")
    return json.loads(Path(given.value.path()).read_text(encoding="utf-8"))


def points(pose: dict[str, Any], number: int = 0) -> np.ndarray:
    """A person's body, float (18, 3), in pixels of the canvas."""
    numbers = np.reshape(pose["people"][number]["pose_keypoints_2d"], (-1, 3))
    return numbers * (pose["canvas_width"], pose["canvas_height"], 1)


def rendered(webui: Any, codec: Any, pose: dict[str, Any]) -> np.ndarray:
    answer = webui.post("/controlnet/render_openpose_json", [pose])
    assert answer.status_code == 200, answer.text
    return codec.decode(answer.json()["images"][0])


@pytest.fixture
def panel(kept_panel: Any) -> Any:
    """A unit that is steered by poses, and an editor of another extension."""
    page = kept_panel
    page.route(
        "**/openpose_editor_index*",
        lambda route: route.fulfill(body=FAKE_EDITOR, content_type="text/html"),
    )
    # A unit that is first seen asks for its models; an answer after the choice would undo that.
    page.wait_for_selector(f"{OWN} .cnet-offers [data-offer]", state="attached")
    choose_type(page, "OpenPose")
    for name in ("preprocessor", "union_control_type"):
        wait_for_value(page, f"{name}_dropdown", "OpenPose" if "type" in name else "openpose")
    page.wait_for_selector(f"{OWN} .cnet-pose-row", state="visible")
    return page


def test_the_engine_gets_the_pose_with_the_wrist_where_it_was_dragged(
    panel: Any, webui: Any, codec: Any
) -> None:
    page, posted = panel, Posted(panel)
    assert page.evaluate("typeof Konva") == "undefined"
    given = pose(person(*STANDING))
    give_file(page, json.dumps(given))
    says(page, "The pose was drawn")
    open_editor(page)
    drag(page, STANDING[RIGHT_WRIST], (20, 40))
    moved = save(page)
    wanted = np.array([(*point, 1) for point in STANDING], np.float64)
    assert np.abs(points(moved)[RIGHT_WRIST] - (20, 40, 1)).max() < 0.5
    wanted[RIGHT_WRIST] = points(moved)[RIGHT_WRIST]
    assert np.allclose(points(moved), wanted, atol=1e-9)
    use(page)
    (unit, *_) = posted.generate(page)
    made = build_unit(unit)
    assert (made.enabled, made.module) == (True, "none")
    drawing = rendered(webui, codec, moved)
    assert np.array_equal(made.image["image"], drawing)
    assert np.array_equal(gallery(page, 2)[1], drawing)
    assert not np.array_equal(drawing, rendered(webui, codec, given))


def test_figures_are_mirrored_copied_hidden_and_taken_back(
    panel: Any, webui: Any, codec: Any
) -> None:
    page = panel
    open_editor(page)
    page.set_input_files(f"{EDITOR} input[type=file]", files=[as_file("{")])
    editor_says(page, "no JSON")
    text = json.dumps(pose(person(*STANDING), size=160))
    page.set_input_files(f"{EDITOR} input[type=file]", files=[as_file(text)])
    editor_says(page, "160 x 160")
    page.click(f"{EDITOR} button:text-is('Mirror')")
    before = np.array(STANDING, np.float64)
    turned = points(save(page))[:, :2]
    assert np.allclose(turned[LEFT_WRIST], (128 - before[RIGHT_WRIST][0], before[RIGHT_WRIST][1]))
    page.click(f"{EDITOR} button:text-is('Copy')")
    assert len(save(page)["people"]) == 2
    drag(page, tuple(turned[RIGHT_WRIST] + (8, 4)), tuple(turned[RIGHT_WRIST] + (20, 4)))
    page.mouse.click(*screen(page, *(turned[0] + (8, 4))), button="right")
    editor_says(page, "Nose: hidden.")
    changed = save(page)
    assert points(changed, 1)[0].tolist() == [0, 0, 0]
    assert points(changed, 0)[0, 2] == 1
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert np.allclose(points(save(page))[:, :2], turned)
    page.keyboard.press("Control+y")
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+y")
    assert save(page) == changed
    assert page.locator(f"{EDITOR} .cnet-editor-foot").inner_text().startswith("160 x 160")
    use(page)
    source = page.get_attribute(f"{UNIT}_input_image img", "src")
    assert np.array_equal(codec.decode(source), rendered(webui, codec, changed))
    open_editor(page)
    assert save(page) == changed
    page.click(f"{EDITOR} button:text-is('Close')")


def test_a_figure_is_made_from_nothing_by_keys(panel: Any) -> None:
    page = panel
    open_editor(page)
    page.click(f"{EDITOR} button:text-is('Start anew')")
    page.wait_for_selector(f"{EDITOR} .cnet-pose-empty")
    page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    for name in ("Waving", "Animal, sitting"):
        page.press(f"{EDITOR} .cnet-pose-entry[aria-label='Add: {name}']", "Enter")
    page.press(f"{EDITOR} .cnet-pose-list button >> nth=0", "Enter")
    for part in ("Right hand", "Face"):
        page.press(f"{EDITOR} .cnet-pose-deeds button:text-is('{part}')", "Enter")
    before = save(page)
    assert len(before["animals"]) == 1
    assert len(before["people"][0]["hand_right_keypoints_2d"]) == 63
    assert len(before["people"][0]["face_keypoints_2d"]) == 210
    assert before["people"][0]["hand_left_keypoints_2d"] is None
    page.focus(f"{EDITOR} .cnet-editor-stage")
    for _ in range(RIGHT_WRIST + 1):
        page.keyboard.press("Tab")
    editor_says(page, "Right wrist:")
    page.keyboard.press("Shift+ArrowRight")
    after = save(page)
    assert np.allclose(points(after)[RIGHT_WRIST] - points(before)[RIGHT_WRIST], (10, 0, 0))
    hands = [
        np.reshape(p["people"][0]["hand_right_keypoints_2d"], (-1, 3)) for p in (before, after)
    ]
    assert np.allclose((hands[1] - hands[0])[:, 0] * SIZE, 10), "the hand goes with its wrist"
    page.keyboard.press("Delete")
    editor_says(page, "Right wrist: hidden.")
    faults = page.evaluate(
        "async (root) => (await axe.run(root)).violations.map((one) => one.id + one.nodes[0].html)",
        EDITOR,
    )
    assert faults == []
    page.click(f"{EDITOR} button:text-is('Close')")


def test_what_other_extensions_write_is_drawn(panel: Any, webui: Any, codec: Any) -> None:
    page = panel
    wanted = [person(*STANDING), person(*((x + 20, y) for x, y in STANDING))]
    page.evaluate("(people) => { window.wanted = people; }", json.dumps(wanted))
    page.click(f"{OWN} .cnet-outside-pose")
    says(page, "The pose was drawn")
    page.wait_for_selector(EDITOR, state="detached")
    drawing = rendered(webui, codec, pose(*wanted))
    source = page.get_attribute(f"{UNIT}_input_image img", "src")
    assert np.array_equal(codec.decode(source), drawing)
    told = page.evaluate("window.told")
    assert set(told) == {"modalId", "imageURL", "poseURL"}
    assert json.loads(base64.b64decode(told["poseURL"].split(",")[1]))["canvas_width"] == SIZE

    # A pose that is none is said, and changes nothing.
    for text, said in (("{", "no JSON"), ("[]", "no JSON object"), ('{"people": 5}', "a list")):
        page.evaluate(
            """([own, text]) => {
              const unit = document.querySelector(own);
              unit.querySelector(".cnet-pose-json textarea").value = text;
              unit.querySelector(".cnet-render-pose").click();
            }""",
            [OWN, text],
        )
        says(page, said)
    give_file(page, b"\x89PNG")
    says(page, "no JSON")
    assert page.get_attribute(f"{UNIT}_input_image img", "src") == source
    assert Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size == (SIZE, SIZE)
