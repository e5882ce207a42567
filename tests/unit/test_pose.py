"""Poses: their JSON form, and their picture against an independent drawing.

`data/poses/people*.png` were drawn from `people.json` by the package controlnet_aux 0.0.10
(`open_pose.util`), which shares no code with this repository, in three sizes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lib_controlnet.detect import pose as pose_module
from lib_controlnet.detect.pose import drawing, pose_json, read_pose
from lib_controlnet.errors import ControlNetError

DATA = Path(__file__).resolve().parents[1] / "data" / "poses"
PARTS = ("pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")
ANIMAL_LIMBS = {  # 1-based, as published with the AP-10K skeleton
    **{(1, 2): "ffffff", (2, 3): "64ff64", (1, 3): "96ffff", (3, 4): "6432ff", (4, 9): "3296c8"},
    **{(9, 10): "00ffff", (10, 11): "009600", (4, 6): "0000ff", (6, 7): "000096"},
    **{(7, 8): "ff32ff", (4, 5): "ff00ff", (5, 15): "ff0000", (15, 16): "960000"},
    **{(16, 17): "ffff64", (5, 12): "009600", (12, 13): "ffff00", (13, 14): "969696"},
}


@pytest.fixture
def people() -> dict[str, Any]:
    return json.loads((DATA / "people.json").read_text(encoding="utf-8"))


def flat(points: dict[int, tuple[float, float]], count: int) -> list[float]:
    """Flat list with some points present."""
    numbers = np.zeros((count, 3))
    for index, (x, y) in points.items():
        numbers[index] = (x, y, 1)
    return numbers.ravel().tolist()


def scene(**changes: Any) -> dict[str, Any]:
    """A canvas of 100 x 80 with nobody in it."""
    return {"people": [], "canvas_width": 100, "canvas_height": 80, **changes}


def drawn(**changes: Any) -> np.ndarray:
    return drawing.draw_pose(read_pose(scene(**changes)))


@pytest.mark.parametrize(("size", "least"), [("", 0.08), ("_161x97", 0.2), ("_777x1033", 0.02)])
def test_drawing_equals_an_independent_one_to_the_byte(
    people: dict, size: str, least: float
) -> None:
    wanted = np.asarray(Image.open(DATA / f"people{size}.png"))
    assert (wanted > 0).any(axis=2).mean() > least, "the picture shows people"
    canvas = {"canvas_width": wanted.shape[1], "canvas_height": wanted.shape[0]}
    assert np.array_equal(drawing.draw_pose(read_pose({**people, **canvas})), wanted)


def test_drawing_in_pixels_is_that_in_fractions(people: dict) -> None:
    pixels = json.loads(json.dumps(people))
    size = np.array([people["canvas_width"], people["canvas_height"], 1])
    for person in pixels["people"]:
        for key in (*PARTS, "face_keypoints_2d"):
            if person[key] is not None:
                points = np.array(person[key]).reshape(-1, 3) * size
                assert points[:, :2].max() > 1
                person[key] = points.ravel().tolist()
    assert np.array_equal(
        drawing.draw_pose(read_pose(pixels)), drawing.draw_pose(read_pose(people))
    )


@pytest.mark.parametrize("left_out", ["body", "hands", "face"])
def test_drawing_leaves_out_what_is_not_wanted(people: dict, left_out: str) -> None:
    pose = read_pose(people)
    whole, partly = drawing.draw_pose(pose), drawing.draw_pose(pose, **{left_out: False})
    white = (partly == 255).all(axis=2).any()
    assert white is np.bool_(left_out != "face")
    assert (whole != partly).any()
    alone = {name: name == left_out for name in ("body", "hands", "face")}
    assert drawing.draw_pose(pose, **alone).any()


def test_body_limb_is_a_dark_ellipse_between_bright_joints() -> None:
    image = drawn(
        people=[{"pose_keypoints_2d": flat({2: (20, 40), 3: (80, 40)}, 18)}]
    )  # right shoulder to elbow
    assert image[40, 50].tolist() == [153, 102, 0], "ffaa00 times 0.6, cut"
    assert image[40, 20].tolist() == [255, 170, 0]
    assert image[40, 80].tolist() == [255, 255, 0]
    assert image[44, 50].any(), "half as thick as 4 pixels"
    assert not image[45, 50].any()
    assert not image[44, 26].any(), "slimmer towards its ends"


@pytest.mark.parametrize(
    ("confidence", "seen"), [(0.92, True), (0.1, True), (0.01, False), (-1, False)]
)
def test_measured_confidence_is_that_of_a_point(confidence: float, seen: bool) -> None:
    numbers = flat({2: (20, 40), 3: (80, 40)}, 18)
    numbers[3 * 3 + 2] = confidence
    image = drawn(people=[{"pose_keypoints_2d": numbers}])
    assert image[40, 20].any()
    assert image[:, 40:].any() == seen


@pytest.mark.parametrize("key", ["hand_left_keypoints_2d", "face_keypoints_2d"])
def test_hand_and_face_points_at_the_edge_are_missing(key: str) -> None:
    part = flat({0: (0.4, 30), 1: (30, 0), 2: (30, 30)}, 21 if "hand" in key else 70)
    image = drawn(people=[{"pose_keypoints_2d": flat({}, 18), key: part}])
    assert image[30, 30].any()
    assert not image[:, :5].any()
    assert not image[:5].any()


def test_extra_points_of_a_body_are_ignored() -> None:
    numbers = flat({2: (20, 40), 3: (80, 40)}, 18)
    longer = numbers + [50.0, 10.0, 1.0] * 6
    assert np.array_equal(
        drawn(people=[{"pose_keypoints_2d": longer}]),
        drawn(people=[{"pose_keypoints_2d": numbers}]),
    )


@pytest.mark.parametrize(("limb", "colour"), ANIMAL_LIMBS.items(), ids=str)
def test_animal_limb_has_its_colour_and_width(limb: tuple[int, int], colour: str) -> None:
    ends = {limb[0] - 1: (10, 40), limb[1] - 1: (90, 50)}
    image = drawn(people=None, animals=[flat(ends, 17)])
    line = cv2.line(np.zeros_like(image), (10, 40), (90, 50), tuple(bytes.fromhex(colour)), 5)
    assert np.array_equal(image, line)


def test_nobody_is_black_and_of_canvas_size() -> None:
    image = drawn()
    assert (image.shape, image.dtype) == ((80, 100, 3), np.uint8)
    assert not image.any()


def test_json_round_trip_keeps_every_point(people: dict) -> None:
    people["animals"] = [flat({0: (12.5, 30), 16: (319, 200)}, 17)]
    assert pose_json(read_pose(people)) == people


def test_json_of_pixels_is_in_fractions_that_draw_the_same() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        width, height = (int(side) for side in rng.integers(40, 700, 2))
        body = np.column_stack(
            [rng.integers(0, width, 18), rng.integers(0, height, 18), rng.random(18) > 0.3]
        )
        body[body[:, 2] == 0] = 0
        pose = drawing.Pose(width, height, (drawing.Person(body.astype(float)),))
        told = json.loads(json.dumps(pose_json(pose)))
        assert max(map(abs, told["people"][0]["pose_keypoints_2d"])) <= 1
        assert np.array_equal(drawing.draw_pose(read_pose(told)), drawing.draw_pose(pose))


def test_json_of_points_outside_the_canvas_stays_in_pixels() -> None:
    body = np.array(flat({2: (20, 40), 3: (130, 40)}, 18)).reshape(-1, 3)
    pose = drawing.Pose(100, 80, (drawing.Person(body),))
    told = pose_json(pose)
    assert max(told["people"][0]["pose_keypoints_2d"]) == 130
    assert np.array_equal(drawing.draw_pose(read_pose(told)), drawing.draw_pose(pose))


def test_json_of_a_missing_point_is_zeros() -> None:
    body = np.array(flat({2: (20, 40), 3: (60, 40)}, 18)).reshape(-1, 3)
    body[3, 2] = 0.01
    told = pose_json(drawing.Pose(100, 80, (drawing.Person(body),)))["people"][0]
    assert told["pose_keypoints_2d"][6:12] == [0.2, 0.5, 1, 0, 0, 0]
    assert told["face_keypoints_2d"] is None


def test_json_of_people_is_in_one_form() -> None:
    """One joint beyond the canvas, and everybody is written in pixels."""
    far = np.array(flat({2: (20, 40), 3: (130, 40)}, 18)).reshape(-1, 3)
    near = np.array(flat({2: (0.2, 0.5), 3: (0.6, 0.5)}, 18)).reshape(-1, 3)
    hand = np.array(flat({0: (30, 40), 1: (35, 50)}, 21)).reshape(-1, 3)
    people = (drawing.Person(near), drawing.Person(far, left_hand=hand))
    pose = drawing.Pose(100, 80, people)
    told = pose_json(pose)["people"]
    assert told[0]["pose_keypoints_2d"][6:9] == [20, 40, 1]
    assert told[1]["hand_left_keypoints_2d"][:3] == [30, 40, 1]
    assert np.array_equal(drawing.draw_pose(read_pose(pose_json(pose))), drawing.draw_pose(pose))
    inside = drawing.Pose(100, 80, (people[0], drawing.Person(near, left_hand=hand)))
    told = pose_json(inside)["people"]
    assert told[0]["pose_keypoints_2d"][6:9] == [0.2, 0.5, 1]
    assert told[1]["hand_left_keypoints_2d"][:3] == [0.3, 0.5, 1]


def test_json_of_animal_fractions_is_in_pixels() -> None:
    told = pose_json(read_pose(scene(animals=[flat({4: (0.5, 0.25)}, 17)])))
    assert told["animals"][0][12:15] == [50, 20, 1]


FULL = flat({0: (0.5, 0.5)}, 18)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"people": None}, "here has neither people nor animals"),
        ({"canvas_width": 0}, "here: the canvas cannot be used: it is empty (0 x 80 pixels)"),
        ({"canvas_height": -3}, "here: the canvas cannot be used"),
        ({"canvas_width": 20000}, "here: the canvas is 20000 x 80 pixels; at most"),
        ({"canvas_width": -(10**4000)}, "is a very long number; expected a whole number"),
        ({"canvas_width": 1.5}, "here.canvas_width is 1.5; expected a whole number"),
        ({"canvas_width": "8"}, "here.canvas_width is '8'; expected a whole number"),
        ({"canvas_width": float("nan")}, "here.canvas_width is nan; expected a whole number"),
        (
            {"people": [{"pose_keypoints_2d": FULL}, {"pose_keypoints_2d": FULL[:-1]}]},
            "here.people[1].pose_keypoints_2d has 53 numbers; expected x, y and confidence of "
            "18 points, 54 numbers",
        ),
        ({"people": [{"pose_keypoints_2d": [*FULL, 0.5]}]}, "has 55 numbers; expected x, y and"),
        (
            {"people": [{"pose_keypoints_2d": FULL[:-3]}]},
            "here.people[0].pose_keypoints_2d has 51 numbers; expected",
        ),
        (
            {"people": [{"pose_keypoints_2d": []}]},
            "here.people[0].pose_keypoints_2d has 0 numbers; expected",
        ),
        (
            {"people": [{"pose_keypoints_2d": FULL, "hand_left_keypoints_2d": FULL}]},
            "here.people[0].hand_left_keypoints_2d has 54 numbers; expected x, y and confidence "
            "of 21 points, 63 numbers",
        ),
        (
            {"people": [{"pose_keypoints_2d": FULL, "face_keypoints_2d": [1.0]}]},
            "here.people[0].face_keypoints_2d has 1 numbers",
        ),
        ({"animals": [FULL[:48]]}, "here.animals[0] has 48 numbers; expected x, y and"),
        (
            {"people": [{"pose_keypoints_2d": [float("nan"), *FULL[1:]]}]},
            "here.people[0].pose_keypoints_2d holds a number beyond 163840",
        ),
        ({"people": [{"pose_keypoints_2d": [1e30, *FULL[1:]]}]}, "holds a number beyond 163840"),
        ({"people": [{"pose_keypoints_2d": ["x", *FULL[1:]]}]}, "something that is not a number"),
        ({"people": {"pose_keypoints_2d": FULL}}, "here.people is {'pose_keypoints_2d'"),
        ({"people": [FULL]}, "here.people[0] has none of pose_keypoints_2d, face_keypoints_2d"),
        ({"people": [{"keypoints": FULL}]}, "here.people[0] has none of pose_keypoints_2d"),
        ({"people": [{"pose_keypoints_3d": [*FULL, *FULL[:18]]}]}, "has none of pose_keypoints_2d"),
        ({"canvas_width": None}, "here.canvas_width is missing; files of OpenPose do not tell it"),
        (
            {"people": [{"pose_keypoints_2d": [30, 40, 50, 1] * 18}]},
            "here.people[0].pose_keypoints_2d holds the confidence 50; expected x, y and",
        ),
        (
            {"people": [{"pose_keypoints_2d": [[30, 40, 50, 1]] * 18}]},
            "here.people[0].pose_keypoints_2d holds points that are not x, y and confidence",
        ),
        ({"people": [{"pose_keypoints_2d": [[1, 2, 1], 5] * 9}]}, "points that are not x, y and"),
        (
            {"people": [{"pose_keypoints_2d": [1, 2, 1] * 135}]},
            "numbers, or OpenPose's 25, 75 numbers",
        ),
        ({"people": [{"pose_keypoints_2d": FULL}] * 1001}, "has 1001 people and animals; at most"),
    ],
    ids=lambda value: value[:48] if isinstance(value, str) else "",
)
def test_malformed_pose_is_told_where_and_what(changes: dict, sentence: str) -> None:
    with pytest.raises(ControlNetError) as caught:
        read_pose(scene(**changes), "here")
    assert sentence in str(caught.value)
    assert caught.value.status_code == 422


def test_missing_parts_are_null_or_empty() -> None:
    face = {"pose_keypoints_2d": [], "face_keypoints_2d": [30, 40, 1]}
    first, second = read_pose(scene(people=[face, {"face_keypoints_2d": None}])).people
    assert first.body is None
    assert vars(second) == vars(drawing.Person())
    assert first.face.tolist() == [[30, 40, 1]]
    assert read_pose(scene(animals=[None, []])).animals == ()
    person = {"pose_keypoints_2d": FULL, "hand_left_keypoints_2d": [], "face_keypoints_2d": None}
    read = read_pose(scene(people=[person])).people[0]
    assert (read.left_hand, read.right_hand, read.face) == (None, None, None)
    assert read_pose(scene(people=[{"pose_keypoints_2d": None}])).people[0].body is None


def test_drawing_is_found_beside_the_declarations() -> None:
    assert pose_module.drawing.__package__ == pose_module.preprocess.declarations.__package__


# ---- what other programs write ---------------------------------------------------------------

PERSON = (
    *((100, 40), (100, 70), (70, 72), (60, 110), (55, 140), (130, 72), (140, 110), (145, 140)),
    *((80, 150), (78, 190), (76, 230), (120, 150), (122, 190), (124, 230), (95, 35), (105, 35)),
    *((90, 38), (110, 38)),
)
"""The 18 points in pixels, of a canvas of 200 x 256."""
HIPS, HEAD, TOES = (100, 150), (100, 10), ((130, 240), (125, 242), (120, 236))
FEET = (*TOES, (70, 240), (75, 242), (80, 236))


def points_of(places: dict[int, tuple], count: int, spare: tuple) -> list[tuple]:
    """A list in which PERSON's i-th point stands in `places[i]`; what is left is filled up."""
    listed = dict(places)
    rest = iter(spare)
    return [listed[i] if i in listed else next(rest) for i in range(count)]


def in_order(order: tuple[int, ...], count: int, *spare: tuple) -> list[tuple]:
    return points_of({place: PERSON[i] for i, place in enumerate(order)}, count, spare)


# Where each of the 18 stands, as the programs' documents list their points.
BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
BODY_25B = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
BODIES = {
    "coco-18": list(PERSON),
    "coco-18-feet": [*PERSON, *FEET],
    "body-19": in_order(BODY_25, 19, HIPS),
    "body-25": in_order(BODY_25, 25, HIPS, *FEET),
    "body-25b": in_order(BODY_25B, 25, HEAD, *FEET),
    "halpe-26": in_order((0, 18, *BODY_25B[2:]), 26, HEAD, HIPS, *FEET),
}


def canvas(points: list, confidence: float = 1, form: str = "flat", **person: Any) -> dict:
    rows = [[*point, confidence] for point in points]
    if form == "fractions":
        rows = [[x / 200, y / 256, sure] for x, y, sure in rows]
    numbers = {"nested": rows, "pairs": [row[:2] for row in rows]}.get(form, sum(rows, []))
    people = [{"pose_keypoints_2d": numbers, **person}]
    return {"people": people, "canvas_width": 200, "canvas_height": 256}


WANTED = drawing.draw_pose(read_pose(canvas(list(PERSON))))


@pytest.mark.parametrize("form", ["flat", "fractions", "nested", "pairs"])
@pytest.mark.parametrize("confidence", [1, 0.4])
@pytest.mark.parametrize("name", BODIES)
def test_person_in_any_order_of_points_is_drawn_alike(
    name: str, confidence: float, form: str
) -> None:
    assert np.array_equal(
        drawing.draw_pose(read_pose(canvas(BODIES[name], confidence, form))), WANTED
    )


@pytest.mark.parametrize("seen", [range(8), (*range(8), 14, 15, 16, 17), ()], ids=str)
@pytest.mark.parametrize("name", ["body-25", "body-25b"])
def test_part_of_a_person_keeps_its_order(name: str, seen: Any) -> None:
    order = BODY_25 if name == "body-25" else BODY_25B
    told = canvas(BODIES[name])
    numbers = told["people"][0]["pose_keypoints_2d"]
    for place in {*range(25)} - {order[i] for i in seen}:
        numbers[3 * place : 3 * place + 3] = [0, 0, 0]
    body = read_pose(told).people[0].body
    assert [tuple(body[i, :2]) for i in seen] == [PERSON[i] for i in seen]
    assert body[:, 2].sum() == len(seen)


def test_people_of_one_file_have_one_order() -> None:
    """Somebody of whom only the head is there does not tell."""
    whole, told = canvas(BODIES["body-25b"]), canvas(BODIES["body-25b"])
    numbers = told["people"][0]["pose_keypoints_2d"]
    numbers[5 * 3 :] = [0] * (20 * 3)
    both = {**whole, "people": [*told["people"], *whole["people"]]}
    assert tuple(read_pose(both).people[0].body[14, :2]) == PERSON[14]


def test_null_points_are_missing() -> None:
    for gap in ([None], [[None, None, 0]]):
        rows = [[*point, 1] for point in PERSON]
        rows[4:5] = gap
        told = {**canvas([]), "people": [{"pose_keypoints_2d": rows}]}
        assert not read_pose(told).people[0].body[4].any()
    flat = canvas(list(PERSON))
    flat["people"][0]["pose_keypoints_2d"][12:15] = [None, None, None]
    assert not read_pose(flat).people[0].body[4].any()


def test_file_of_openpose_is_drawn_with_hands_and_face() -> None:
    """All keys that it writes, in pixels, with measured confidences."""
    hand = sum(([60 + i, 140 + i % 5, 0.2 + i / 100] for i in range(21)), [])
    face = sum(([80 + i % 40, 20 + i // 4, 0.5] for i in range(70)), [])
    person = {
        "person_id": [-1],
        "face_keypoints_2d": face,
        "hand_left_keypoints_2d": hand,
        "hand_right_keypoints_2d": [0] * 63,
        **dict.fromkeys(("pose_keypoints_3d", "face_keypoints_3d", "hand_left_keypoints_3d"), []),
    }
    told = {"version": 1.3, **canvas(BODIES["body-25"], 0.83, **person)}
    image = drawing.draw_pose(read_pose(told))
    body = drawing.draw_pose(read_pose(told), hands=False, face=False)
    assert np.array_equal(body, WANTED)
    assert (image == 255).all(axis=2).any(), "the face"
    assert (image == (0, 0, 255)).all(axis=2).sum() > (WANTED == (0, 0, 255)).all(axis=2).sum()


def test_fractions_that_leave_the_canvas_are_fractions() -> None:
    """One wrist beyond the edge."""
    person = list(PERSON)
    person[4] = (-20, 300)
    inside, told = canvas(person), canvas(person, form="fractions")
    wanted = drawing.draw_pose(read_pose(inside))
    assert np.array_equal(drawing.draw_pose(read_pose(told)), wanted)
    again = pose_json(read_pose(told))
    assert again["people"][0]["pose_keypoints_2d"][13] == pytest.approx(300), "for older readers"
    assert np.array_equal(drawing.draw_pose(read_pose(again)), wanted)


@pytest.mark.parametrize("nested", [False, True])
def test_animals_of_other_programs_are_drawn_alike(nested: bool) -> None:
    rows = [[10 + 4 * i, 70 - 3 * i, 0.6] for i in range(17)]
    wanted = drawn(animals=[flat({i: row[:2] for i, row in enumerate(rows)}, 17)])
    assert wanted.any()
    assert np.array_equal(drawn(animals=[rows if nested else sum(rows, [])]), wanted)
