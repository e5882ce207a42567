"""What the editor of poses asks the server: tables, poses of any text, their picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_web import decode, served

from lib_controlnet.detect.pose import drawing
from lib_controlnet.detect.pose_layouts import LAYOUTS
from lib_controlnet.limits import MAX_POSE_BODY
from lib_controlnet.ui.editors import answer_editor
from lib_controlnet.words import WORDS

DATA = Path(__file__).resolve().parents[1] / "data" / "poses"
PEOPLE = json.loads((DATA / "people.json").read_text(encoding="utf-8"))
CANVAS = {"canvas_width": 320, "canvas_height": 240}
ANIMAL = [number for i in range(17) for number in (20 + 11 * i, 60 + 37 * (i % 4), 1)]


def ask(kind: str, value: Any = None) -> Any:
    answer = answer_editor({"do": kind, "value": value}, None)
    assert "value" in answer, answer
    return answer["value"]


def faults(text: Any, **more: Any) -> str:
    """The sentence that refuses a text, the same for each question."""
    said = {
        answer_editor({"do": kind, "value": {"text": text, **more}}, None)["fault"]
        for kind in ("read_pose", "write_pose", "render_pose")
    }
    (sentence,) = said
    return sentence


def points(figure: dict[str, Any], part: str) -> np.ndarray:
    """float (points, 2), -1 where there is none."""
    return np.array([point or (-1, -1) for point in figure[part]])


@pytest.mark.parametrize("more", [{}, {"animals": [ANIMAL]}, {"people": []}], ids=str)
def test_picture_equals_that_of_the_route(tmp_path: Path, more: dict[str, Any]) -> None:
    pose = {**PEOPLE, **CANVAS, **more}
    with served(tmp_path) as (client, _):
        answer = client.post("/controlnet/render_openpose_json", json=[pose])
    wanted = decode(answer.json()["images"][0])
    text = json.dumps(pose)
    assert np.array_equal(decode(ask("render_pose", text).partition(",")[2]), wanted)
    # In pixels as the editor has it, and in the form that it gives as a file.
    written = ask("write_pose", text)
    assert np.array_equal(decode(ask("render_pose", written).partition(",")[2]), wanted)
    assert json.loads(written).keys() == {"people", "animals", *CANVAS}


@pytest.mark.parametrize("count", sorted(LAYOUTS))
def test_bodies_of_every_order_become_figures_of_18(count: int) -> None:
    layout = LAYOUTS[count][0]
    numbers = np.zeros((count, 3))
    numbers[list(layout)] = [(10 + i, 20 + 2 * i, 0.9) for i in range(18)]
    text = json.dumps({"people": [{"pose_keypoints_2d": numbers.ravel().tolist()}]})
    found = ask("read_pose", {"text": text, "width": 90, "height": 70})
    (figure,) = found["figures"]
    assert (found["width"], found["height"]) == (90, 70)
    assert points(figure, "body").tolist() == [[10 + i, 20 + 2 * i] for i in range(18)]


def test_hidden_points_are_none_and_lists_of_poses_give_their_first() -> None:
    body = [0.5, 0.25, 1] * 17 + [0.1, 0.1, 0]
    text = json.dumps([{"people": [{"pose_keypoints_2d": body}], **CANVAS}, PEOPLE])
    (figure,) = ask("read_pose", text)["figures"]
    assert figure == {"body": [[160, 60]] * 17 + [None]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is empty"),
        (["[]"], "is empty"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("9" * 5000, "is no JSON"),
        ("[]", "no JSON object"),
        ('"people"', "no JSON object"),
        ("{}", "neither people nor animals"),
        ('{"people": 1}', "expected a list"),
        ('{"people": [1]}', "canvas_width is missing"),
        ('{"people": [{"pose_keypoints_2d": 7}]}', "is 7; expected a list"),
        ('{"people": [{"pose_keypoints_2d": {"a": 1}}]}', "expected a list"),
        ('{"people": [{"pose_keypoints_2d": "abc"}]}', "expected a list"),
        ('{"people": [{"pose_keypoints_2d": [[[1, 1], [2, 2], [3, 3]]]}]}', "not a number"),
        ('{"animals": [5]}', "expected a list"),
        ('{"people": [], "canvas_width": 1e9, "canvas_height": 5}', "canvas"),
        ("[" + "1," * 1_000_001 + "1]", "values"),
        (" " * MAX_POSE_BODY + "{}", "larger than 4 MB"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_pose_is_refused_in_a_sentence(text: Any, said: str) -> None:
    size = {} if "missing" in said else {"width": 64, "height": 64}
    assert said in faults(text, **size)


def test_tables_tell_what_is_drawn() -> None:
    given = ask("pose_tables")
    assert json.loads(json.dumps(given))["tables"].keys() == {"body", "hand", "face", "animal"}
    assert set(given["names"]["body"] + given["names"]["animal"]) <= WORDS.keys()
    parts = {"body": "body", "hand": "left_hand", "face": "face", "animal": None}
    for name, table in given["tables"].items():
        count = table["points"]
        assert len(given["names"].get(name, range(count))) == count
        for index, (first, second) in enumerate(table["limbs"]):
            shown = np.zeros((count, 3))
            shown[first], shown[second] = (30, 50, 1), (70, 50, 1)
            figure = {parts[name]: shown} if parts[name] else {}
            people = (drawing.Person(**figure),) if figure else ()
            drawn = drawing.draw_pose(drawing.Pose(100, 100, people, () if people else (shown,)))
            colours = {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()} - {(0, 0, 0)}
            dots = {tuple(table["dots"][i]) for i in (first, second) if table["dots"]}
            assert colours == {tuple(table["lines"][index]), *dots}
            width = int(drawn[:, 50].any(axis=1).sum())
            assert abs(width - table["width"]) <= 2
        pairs = [point for pair in table["pairs"] for point in pair]
        assert len(pairs) == len(set(pairs))
        assert all(0 <= point < count for point in pairs)
