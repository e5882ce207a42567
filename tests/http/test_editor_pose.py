"""The editor of poses, and poses that come into a unit from outside, in a real browser."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accessible import bring_judges, judge, judge_looks
from editor_page import (
    BOX,
    STAGE,
    close_editor,
    fingers,
    forget_maps,
    place,
    spread_fingers,
    stroke,
    touch_stroke,
    use_map,
    wait_for_said,
    wait_until_done,
)
from panel_page import (
    UNIT,
    Posted,
    choose_canny,
    choose_option,
    choose_preprocessor,
    choose_type,
    chosen,
    gallery,
    shown_picture,
    upload,
    wait_for_value,
)
from PIL import Image
from pose_scenes import patches, put_small_networks

from lib_controlnet.ui.unit_value import build_unit

pytestmark = pytest.mark.browser

OWN = f".cnet-unit:has({UNIT}_input_image)"
SIZE = 128
RIGHT_WRIST, LEFT_WRIST = 4, 7
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


def give_file(page: Any, data: str | bytes, picker: str = f"{OWN} .cnet-upload-pose input") -> None:
    """Choose a file of a pose, in the unit or elsewhere."""
    data = data.encode() if isinstance(data, str) else data
    file = {"name": "pose.json", "mimeType": "application/json", "buffer": data}
    page.set_input_files(picker, files=[file])


def says(page: Any, text: str) -> None:
    page.locator(f"{OWN} .cnet-tools-said:has-text({text!r})").wait_for()


def edit_pose(page: Any) -> None:
    page.click(f"{OWN} .cnet-edit-pose")
    wait_until_done(page)


def press(page: Any, name: str) -> None:
    page.click(f"{BOX} button:text-is('{name}')")


def save(page: Any) -> dict[str, Any]:
    """The pose as the editor gives it as a file."""
    with page.expect_download() as given:
        page.evaluate(
            "(button) => document.querySelector(button).click()", f"{BOX} .cnet-pose-save"
        )
    return json.loads(Path(given.value.path()).read_text(encoding="utf-8"))


def points(pose: dict[str, Any], number: int = 0) -> np.ndarray:
    """A person's body, float (18, 3), in pixels of the canvas."""
    numbers = np.reshape(pose["people"][number]["pose_keypoints_2d"], (-1, 3))
    return numbers * (pose["canvas_width"], pose["canvas_height"], 1)


def render(webui: Any, codec: Any, pose: dict[str, Any]) -> np.ndarray:
    answer = webui.post("/controlnet/render_openpose_json", [pose])
    assert answer.status_code == 200, answer.text
    return codec.decode(answer.json()["images"][0])


@pytest.fixture
def panel(kept_panel: Any, webui: Any) -> Any:
    """A unit that is steered by poses, and an editor of another extension; nothing is drawn yet."""
    page = kept_panel
    page.route(
        "**/openpose_editor_index*",
        lambda route: route.fulfill(body=FAKE_EDITOR, content_type="text/html"),
    )
    forget_maps(page)
    # A unit that is first seen asks for its models; an answer after the choice would undo that.
    page.wait_for_selector(f"{OWN} .cnet-offers [data-offer]", state="attached")
    choose_type(page, "OpenPose")
    wait_for_value(page, "preprocessor_dropdown", "openpose")
    if webui.is_ours:  # its models are a Union's
        wait_for_value(page, "union_control_type_dropdown", "OpenPose")
    page.wait_for_selector(f"{OWN} .cnet-pose-row", state="visible")
    return page


def choose_some_model(page: Any) -> None:
    """One for edges, where there is none for poses."""
    choose_canny(page)
    model = chosen(page, "model_dropdown")
    choose_type(page, "All")
    choose_option(page, "model_dropdown", model)
    choose_preprocessor(page, "none")


def test_the_engine_gets_the_pose_with_the_wrist_where_it_was_dragged(
    panel: Any, webui: Any, codec: Any
) -> None:
    page, posted = panel, Posted(panel)
    assert page.evaluate("typeof Konva") == "undefined"
    given = pose(person(*STANDING))
    give_file(page, json.dumps(given))
    says(page, "The pose was drawn")
    edit_pose(page)
    start, end = stroke(page, STANDING[RIGHT_WRIST], (20, 40))
    moved = save(page)
    wanted = np.array([(*point, 1) for point in STANDING], np.float64)
    wanted[RIGHT_WRIST, :2] += np.subtract(end, start)
    assert np.allclose(points(moved), wanted, atol=1e-6)
    use_map(page)
    if not webui.is_ours:
        choose_some_model(page)
    (unit, *_) = posted.generate(page)
    made = build_unit(unit)
    assert (made.enabled, made.module) == (True, "none")
    drawing = render(webui, codec, moved)
    assert np.array_equal(made.image["image"], drawing)
    assert np.array_equal(gallery(page, 2)[1], drawing)
    assert not np.array_equal(drawing, render(webui, codec, given))


def test_figures_are_mirrored_copied_hidden_and_taken_back(
    panel: Any, webui: Any, codec: Any
) -> None:
    page, picker = panel, f"{BOX} input[type=file]"
    edit_pose(page)
    press(page, "Use")
    wait_for_said(page, "No figure yet")
    give_file(page, "{", picker)
    wait_for_said(page, "no JSON")
    give_file(page, json.dumps(pose(person(*STANDING), size=160)), picker)
    wait_for_said(page, "160 x 160")
    press(page, "Mirror")
    before = np.array(STANDING, np.float64)
    turned = points(save(page))[:, :2]
    assert np.allclose(turned[LEFT_WRIST], (128 - before[RIGHT_WRIST][0], before[RIGHT_WRIST][1]))
    press(page, "Copy")
    assert len(save(page)["people"]) == 2
    stroke(page, *(tuple(turned[RIGHT_WRIST] + (by, 4)) for by in (8, 20)))
    page.mouse.click(*place(page, *(turned[0] + (8, 4)))[0], button="right")
    wait_for_said(page, "Nose: hidden.")
    changed = save(page)
    assert points(changed, 1)[0].tolist() == [0, 0, 0]
    assert points(changed, 0)[0, 2] == 1
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert np.allclose(points(save(page))[:, :2], turned)
    for _ in range(3):
        page.keyboard.press("Control+y")
    assert save(page) == changed
    use_map(page)
    shown = shown_picture(page, f"{UNIT}_input_image img")
    assert np.array_equal(shown, render(webui, codec, changed))
    edit_pose(page)
    assert save(page) == changed
    check_limb_whole_corner_and_knob(page)
    check_fingers(page)
    close_editor(page)


def check_limb_whole_corner_and_knob(page: Any) -> None:
    """Take hold of the first figure in every other way; what moves, and by how much."""
    page.click(f"{BOX} .cnet-pose-list button >> nth=0")
    before = points(save(page))[:, :2]
    start, end = stroke(page, tuple(before[[9, 10]].mean(axis=0)), (15, 100))
    after = points(save(page))[:, :2]
    wanted = before.copy()
    wanted[[9, 10]] += np.subtract(end, start)
    assert np.allclose(after, wanted, atol=1e-6), "a limb moves with both ends"

    low, high = after.min(axis=0), after.max(axis=0)
    start, end = stroke(page, (low[0] + 3, low[1] + 3), (low[0] + 23, low[1] + 8))
    before, after = after, points(save(page))[:, :2]
    assert np.allclose(after, before + np.subtract(end, start), atol=1e-6), "all of it moves"

    gap = 14 / page.evaluate("Konva.stages.at(-1).scaleX()")
    low, high = after.min(axis=0) - gap, after.max(axis=0) + gap
    start, end = stroke(page, tuple(high), tuple(high - 15))
    factor = np.hypot(*np.subtract(end, low)) / np.hypot(*np.subtract(start, low))
    before, after = after, points(save(page))[:, :2]
    assert np.allclose(after, low + (before - low) * factor, atol=1e-4), "it shrinks"

    low, high = after.min(axis=0), after.max(axis=0)
    middle = (low + high) / 2
    knob = (middle[0], low[1] - gap / 14 * (14 + 30))
    start, end = stroke(page, knob, tuple(middle + (40, 0)))
    first, last = (np.arctan2(*(np.subtract(at, middle)[::-1])) for at in (start, end))
    cos, sin = np.cos(last - first), np.sin(last - first)
    before, after = after, points(save(page))[:, :2]
    turned = middle + (before - middle) @ np.array([[cos, sin], [-sin, cos]])
    assert np.allclose(after, turned, atol=1e-4), "it turns about its middle"


def check_fingers(page: Any) -> None:
    """A finger drags a joint and a whole figure, hides a joint by resting on it; two change the
    view alone."""
    page.keyboard.press("0")
    before = points(save(page))
    wrist = before[RIGHT_WRIST, :2]
    start, end = touch_stroke(page, tuple(wrist), tuple(wrist - (20, 10)))
    wanted = before.copy()
    wanted[RIGHT_WRIST, :2] += np.subtract(end, start)
    after = points(save(page))
    assert np.allclose(after, wanted, atol=1e-6), "the joint moves alone"

    # Of the whole figure it takes hold where no limb is near.
    shown = after[after[:, 2] > 0, :2]
    low, high = shown.min(axis=0), shown.max(axis=0)
    spots = np.stack(np.meshgrid(*np.linspace(low + 2, high - 2, 20).T), -1).reshape(-1, 2)
    near = np.linalg.norm(spots[:, None] - shown, axis=2).min(axis=1)
    spot = spots[near.argmax()]
    start, end = touch_stroke(page, tuple(spot), tuple(spot + (9, 6)))
    wanted = after[:, :2] + np.subtract(end, start)
    after = points(save(page))
    assert np.allclose(after[:, :2], wanted, atol=1e-6), "all of it moves"

    scale = "Konva.stages.at(-1).scaleX()"
    (x, y), _at = place(page, *after[RIGHT_WRIST, :2])
    before = page.evaluate(scale)
    spread_fingers(page, x, y)
    assert page.evaluate(scale) == pytest.approx(2 * before, rel=0.05)
    assert np.array_equal(points(save(page)), after), "nothing moves"
    page.keyboard.press("0")
    with fingers(page) as touch:
        touch("Start", place(page, *after[RIGHT_WRIST, :2])[0])
        wait_for_said(page, "Right wrist: hidden.")
        touch("End")
    assert points(save(page))[RIGHT_WRIST, 2] == 0


def test_a_figure_is_made_from_nothing_by_keys(panel: Any) -> None:
    page = panel
    bring_judges(page)
    assert judge(page, "the row", f"{OWN} .cnet-pose-row") == []
    edit_pose(page)
    for name in ("Waving", "Animal, sitting"):
        page.press(f"{BOX} .cnet-pose-entry[aria-label='Add: {name}']", "Enter")
    page.press(f"{BOX} .cnet-pose-list button >> nth=0", "Enter")
    for part in ("Right hand", "Face"):
        page.press(f"{BOX} .cnet-pose-deeds button:text-is('{part}')", "Enter")
    before = save(page)
    assert len(before["animals"]) == 1
    (one,) = before["people"]
    assert (len(one["hand_right_keypoints_2d"]), len(one["face_keypoints_2d"])) == (63, 210)
    assert one["hand_left_keypoints_2d"] is None
    page.focus(STAGE)
    for _ in range(RIGHT_WRIST + 1):
        page.keyboard.press("Tab")
    wait_for_said(page, "Right wrist:")
    page.keyboard.press("Shift+ArrowRight")
    after = save(page)
    assert np.allclose(points(after)[RIGHT_WRIST] - points(before)[RIGHT_WRIST], (10, 0, 0))
    hands = [
        np.reshape(one["people"][0]["hand_right_keypoints_2d"], (-1, 3)) for one in (before, after)
    ]
    assert np.allclose((hands[1] - hands[0])[:, 0] * SIZE, 10), "the hand goes with its wrist"
    page.keyboard.press("Delete")
    wait_for_said(page, "Right wrist: hidden.")
    for name in ("Joints", "JSON"):
        page.click(f"{BOX} summary:text-is('{name}')")
    assert judge_looks(page, "poses", BOX) == []
    close_editor(page)


def test_the_map_of_a_detected_pose_is_made_again_to_the_byte(
    panel: Any, webui: Any, tmp_path: Path
) -> None:
    if not webui.is_ours:
        pytest.skip("small networks stand for those of DWPose")
    put_small_networks(webui.log_file.parent / "weights")
    page, picture = panel, tmp_path / "people.png"
    Image.fromarray(patches()).save(picture)
    upload(page, picture)
    choose_preprocessor(page, "dw_openpose_full")
    page.click(f"{UNIT}_controlnet_trigger_preprocessor:enabled")
    page.wait_for_selector(f"{OWN} .cnet-download-pose a")
    detected = shown_picture(page, f"{UNIT}_generated_image img")
    assert detected.any()
    edit_pose(page)
    assert len(save(page)["people"]) == page.locator(f"{BOX} .cnet-pose-list button").count() > 0
    use_map(page)
    says(page, "What was drawn is")
    assert np.array_equal(shown_picture(page, f"{UNIT}_input_image img"), detected)


def test_row_15_what_pose_editors_and_senders_of_others_give_is_drawn(
    panel: Any, webui: Any, codec: Any
) -> None:
    page = panel
    wanted = [person(*STANDING), person(*((x + 20, y) for x, y in STANDING))]
    page.evaluate("(people) => { window.wanted = people; }", json.dumps(wanted))
    page.click(f"{OWN} .cnet-outside-pose")
    says(page, "The pose was drawn")
    page.wait_for_selector(BOX, state="detached")
    drawing = render(webui, codec, pose(*wanted))
    assert np.array_equal(shown_picture(page, f"{UNIT}_input_image img"), drawing)
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
    for is_off in (True, False):
        page.evaluate("(is) => { opts.controlnet_disable_openpose_edit = is; }", is_off)
        page.evaluate("controlnetPanel.page.noteChange()")
        state = "hidden" if is_off else "visible"
        for name in ("edit", "outside"):
            page.wait_for_selector(f"{OWN} .cnet-{name}-pose", state=state)
    give_file(page, b"\x89PNG")
    says(page, "no JSON")
    assert np.array_equal(shown_picture(page, f"{UNIT}_input_image img"), drawing)
