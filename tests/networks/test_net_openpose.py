"""OpenPose: networks, decoding and detectors against the package controlnet_aux 0.0.10.

`data/networks/openpose_*.npz` hold what its classes gave with the random weights of
`random_weights` (seed 3, gain 1.4); `data/poses/openpose_scenes.json` holds the points that its
detector found in the scenes of `pose_scenes`. That package lists the points of a face without
the missing ones and with a 71st for the background; the comparison allows for both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from neural import check_memory_is_given_back
from pose_scenes import PatchNet, SceneNet, picture
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from weights import weights_folder

from annotator.nets import openpose
from annotator.networks import CACHE
from annotator.openpose import BODY, FACE, HAND
from annotator.pose.body import Peaks, find_bodies, find_links, find_peaks
from annotator.pose.parts import Box, face_box, face_points, find_hands, hand_boxes, hand_points
from annotator.registry import discover
from annotator.weights import WeightFile
from lib_controlnet.detect.pose import drawing, read_pose
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.errors import PreprocessorUnavailableError

SCENES = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "poses" / "openpose_scenes.json").read_text()
)
WIDTH, HEIGHT = 512, 384
NETS: dict[str, tuple[Callable, Callable, tuple[int, ...]]] = {
    "openpose_body": (openpose.body_net, openpose.build_body, (2, 3, 48, 64)),
    "openpose_hand": (openpose.hand_net, openpose.build_hand, (2, 3, 48, 56)),
    "openpose_face": (openpose.face_net, openpose.build_face, (2, 3, 40, 48)),
}
SIZES = {"openpose_body": 52_311_446, "openpose_hand": 36_832_324, "openpose_face": 38_425_706}
VARIANTS = {  # id -> files, drawn parts
    "openpose": ((BODY,), {"body"}),
    "openpose_face": ((BODY, FACE), {"body", "face"}),
    "openpose_faceonly": ((BODY, FACE), {"face"}),
    "openpose_hand": ((BODY, HAND), {"body", "left_hand", "right_hand"}),
    "openpose_full": ((BODY, HAND, FACE), {"body", "left_hand", "right_hand", "face"}),
}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", NETS)
def test_published_file_fits_strictly(name: str) -> None:
    shapes = read_keys(name)
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
    network = NETS[name][1](state)
    assert sum(p.numel() for p in network.parameters()) == SIZES[name]
    wrapped = {f"model0.{key}": value for key, value in state.items()}
    assert set(NETS[name][1](wrapped).state_dict()) == set(state)
    del state["conv1_1.bias"]
    with pytest.raises(RuntimeError, match=r"conv1_1\.bias"):
        NETS[name][1](state)


@pytest.mark.parametrize("name", NETS)
def test_output_equals_the_reference(name: str) -> None:
    _, build, shape = NETS[name]
    network = build(random_state(read_keys(name), seed=3, gain=1.4)).eval()
    given = random_input(shape, -0.5, 0.5)
    output = torch.cat(network(given), dim=1)
    assert relative_error(output, read_output(name)) <= 1e-5
    half = torch.cat(network.half()(given[1:].half()), dim=1)
    # One picture of the two alone; ten bits of mantissa through some forty layers.
    assert relative_error(half.float(), read_output(name)[1:]) <= 0.01


def parts_of(person: dict[str, Any]) -> dict[str, np.ndarray | None]:
    """A stored person's parts, (points, 2), zeros for missing points."""
    parts = {}
    for name in ("left_hand", "right_hand", "face"):
        points = person[name] and np.array(person[name], float)
        if name == "face" and points is not None:
            points = np.insert(points, 5, 0, axis=0)[:70]  # map 5 is empty
        parts[name] = points
    parts["body"] = np.array(person["body"], float)[:, :2]
    return parts


@pytest.mark.parametrize("seed", [3, 16])  # people in front of each other in both
def test_bodies_are_those_of_the_reference(seed: int) -> None:
    found = find_bodies(picture(seed, WIDTH, HEIGHT), SceneNet(seed, WIDTH, HEIGHT))
    wanted = np.array([person["body"] for person in SCENES[str(seed)]["people"]])
    assert len(wanted) >= 2
    assert np.array_equal(np.array(found), wanted)


@pytest.mark.parametrize(
    ("strength", "pointing", "height", "is_limb"),
    [(1, 10, 100, True), (1, 9, 100, True), (1, 8, 100, False), (0.3, 10, 100, False)]
    + [(0.3, 10, 400, True), (0.04, 10, 400, False), (-1, 10, 400, False)],
)
def test_limb_is_where_the_field_points_along_it(
    strength: float, pointing: int, height: int, is_limb: bool
) -> None:
    """Joints 90 pixels apart: far in a picture 100 pixels high, near in one of 400."""
    field = np.zeros((2, height, 120), np.float32)
    field[0, 50, 10 : 10 + 10 * pointing] = strength
    starts = Peaks(np.array([[10, 50]]), np.ones(1), 5)
    ends = Peaks(np.array([[100, 50], [100, 90]]), np.ones(2), 7)
    links = find_links(field, starts, ends)
    assert [(link.start, link.end) for link in links] == ([(5, 7)] if is_limb else [])


def test_peaks_are_above_a_tenth_once_smoothed() -> None:
    spots = np.zeros((18, 80, 120))
    for x, height in ((20, 0.13), (60, 0.09), (100, 1.0)):
        blob = np.zeros((80, 120))
        blob[40, x] = 1
        blob = cv2.GaussianBlur(blob, (0, 0), 6)
        # A second blur, of sigma 3, lowers the peak by 36 / (36 + 9).
        spots[4] += height * blob / blob.max() * 45 / 36
    peaks = find_peaks(spots)
    assert peaks[4].points.tolist() == [[20, 40], [100, 40]]
    assert (peaks[3].first, peaks[4].first, peaks[5].first) == (0, 0, 2)


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Weight files that stand for the scene with seed 1."""
    monkeypatch.setattr(openpose, "build_body", lambda _: SceneNet(1, WIDTH, HEIGHT))
    monkeypatch.setattr(openpose, "build_hand", lambda _: PatchNet(22, 1))
    monkeypatch.setattr(openpose, "build_face", lambda _: PatchNet(71, 2))
    with weights_folder(tmp_path / "weights") as folder:
        yield folder


def put(folder: Path, *files: WeightFile, **tensors: torch.Tensor) -> None:
    """Write weight files; without tensors, those that the stubs do not read."""
    for file in files:
        path = folder / file.folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors or {"anchor": torch.zeros(1)}, path)


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_finds_and_draws_its_parts(name: str, stubs: Path) -> None:
    files, shown = VARIANTS[name]
    put(stubs, *files)
    assert discover().get(name).weights == files
    # The reference was given the picture with red and blue in the network's order.
    given = np.ascontiguousarray(picture(1, WIDTH, HEIGHT)[:, :, ::-1])
    found = run_preprocessor(name, given, HEIGHT)
    pose = read_pose(found.pose)
    assert (pose.width, pose.height) == (WIDTH, HEIGHT)
    people = SCENES["1"]["people"]
    assert len(pose.people) == len(people) == 2
    for person, stored in zip(pose.people, people, strict=True):
        for part, wanted in parts_of(stored).items():
            points = getattr(person, part)
            if part in shown:
                pixels = points[:, :2] * (WIDTH, HEIGHT)
                assert np.array_equal(np.floor(pixels), wanted), part
                assert np.array_equal(points[:, 2] > 0, (wanted > 0).any(axis=1))
            else:
                assert points is None or not points.any()
    assert found.image.any()
    assert np.array_equal(found.image, drawing.draw_pose(pose)), "the JSON draws another picture"


def test_padding_is_no_part_of_the_canvas(stubs: Path) -> None:
    put(stubs, BODY)
    given = picture(1, 500, 380)
    found = run_preprocessor("openpose", given, 380)
    assert found.image.shape == given.shape
    assert (found.pose["canvas_width"], found.pose["canvas_height"]) == (500, 380)
    assert found.pose["people"]
    assert np.array_equal(found.image, drawing.draw_pose(read_pose(found.pose)))


def test_memory_is_given_back(stubs: Path) -> None:
    put(stubs, BODY)
    check_memory_is_given_back("openpose")


def test_missing_file_of_a_part_is_named(stubs: Path) -> None:
    put(stubs, BODY)
    with pytest.raises(PreprocessorUnavailableError, match=r"hand_pose_model\.pth"):
        run_preprocessor("openpose_hand", picture(1, WIDTH, HEIGHT), HEIGHT)


@pytest.mark.parametrize("size", [(96, 64), (83, 61), (3, 1)], ids=str)
def test_whole_file_and_nobody_give_black(size: tuple[int, int], tmp_path: Path) -> None:
    """A file in the published form whose numbers are all zero; tiny, as they share storage."""
    shapes = read_keys("openpose_body")
    zeros = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    with weights_folder(tmp_path) as folder:
        put(folder, BODY, **zeros)
        given = np.full((size[1], size[0], 3), 128, np.uint8)
        found = run_preprocessor("openpose", given, 64)
        assert len(CACHE) == 1
    assert not len(CACHE)
    assert not found.image.any()
    assert found.pose["people"] == []
    assert (found.pose["canvas_height"], found.pose["canvas_width"]) == found.image.shape[:2]


def body(**joints: tuple[float, float]) -> np.ndarray:
    """A body of which some joints are there, `j4=(x, y)`."""
    part = np.zeros((18, 3))
    for name, point in joints.items():
        part[int(name[1:])] = (*point, 1)
    return part


@pytest.mark.parametrize(
    ("arm", "wanted"),
    [
        ({"j2": (200, 100), "j3": (200, 160), "j4": (200, 200)}, Box(159, 172, 81, 81)),
        ({"j2": (40, 100), "j3": (30, 160), "j4": (10, 200)}, Box(0, 172, 82, 82)),
        ({"j2": (200, 300), "j3": (200, 340), "j4": (200, 383)}, None),  # 19 pixels are left
        ({"j2": (200, 100), "j4": (200, 200)}, None),
    ],
    ids=["inside", "cut at the left", "too little left", "no elbow"],
)
def test_hand_is_looked_for_beyond_the_wrist(arm: dict, wanted: Box | None) -> None:
    # 0.33 of the forearm beyond the wrist; 1.5 times the longer of forearm and 0.9 upper arms.
    left, right = hand_boxes(body(**arm), WIDTH, HEIGHT)
    assert left is None
    assert right == wanted


@pytest.mark.parametrize(
    ("face", "wanted"),
    [
        ({"j0": (200, 100), "j14": (190, 95)}, Box(170, 70, 60, 60)),
        ({"j0": (200, 100), "j14": (190, 95), "j17": (230, 100)}, Box(155, 55, 90, 90)),
        ({"j0": (500, 100), "j14": (490, 95)}, Box(470, 70, 42, 60)),
        ({"j0": (10, 10), "j14": (0, 5)}, Box(0, 0, 60, 60)),
        ({"j0": (200, 100), "j14": (197, 100)}, None),
        ({"j0": (200, 100)}, None),
        ({"j14": (190, 95), "j15": (210, 95)}, None),
    ],
    ids=["one eye", "an ear", "cut at the right", "corner", "tiny", "nose alone", "no nose"],
)
def test_face_is_looked_for_round_the_nose(face: dict, wanted: Box | None) -> None:
    assert face_box(body(**face), WIDTH, HEIGHT) == wanted


def test_hand_point_is_in_the_strongest_blob() -> None:
    maps = np.zeros((21, 128, 128))
    maps[0, 30, 20] = 30  # a spike that is weaker in sum than the broad blob
    maps[0, 60:100, 50:90] = 0.3
    maps[0, 70, 80] = 0.4
    part = hand_points(maps, Box(100, 200, 64, 64))
    assert part[0].tolist() == [100 + 40, 200 + 35, 1]
    assert not part[1:].any()
    assert hand_points(np.zeros((21, 128, 128)), Box(0, 0, 64, 64)) is None


def test_face_points_keep_their_places() -> None:
    maps = np.zeros((70, 40, 30))
    maps[3, 10, 20], maps[69, 5, 7], maps[8, 0, 9] = 0.5, 0.06, 0.9
    maps[12, 5, 5] = 0.05
    part = face_points(maps, Box(100, 200, 30, 40))
    assert np.flatnonzero(part[:, 2]).tolist() == [3, 69], "weak ones and the edge are missing"
    assert part[3].tolist() == [120, 210, 1]
    assert part[69].tolist() == [107, 205, 1]


def test_hands_of_one_picture_share_their_batches() -> None:
    class Counting(PatchNet):
        shapes: list[tuple[int, ...]]

        def forward(self, given: torch.Tensor) -> list[torch.Tensor]:
            self.shapes.append(tuple(given.shape))
            return super().forward(given)

    network = Counting(22, 1)
    network.shapes = []
    boxes = [Box(10 * i, 20, 60, 60) for i in range(3)]
    image = picture(5, WIDTH, HEIGHT)
    together = find_hands(image, boxes, network)
    assert network.shapes == [(3, 3, side, side) for side in (184, 368, 552, 736)]
    alone = [find_hands(image, [box], network)[0] for box in boxes]
    assert np.array_equal(together, alone)
