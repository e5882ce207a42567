"""DWPose and animals: decoding, engines and detectors against comfyui_controlnet_aux 1.1.5.

`data/poses/wholebody.json` holds what its functions gave: under "arrays" for the made-up outputs
of `pose_scenes`, under "patches" for the small networks of `data/onnx` in onnxruntime 1.31.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from neural import check_memory_is_given_back
from pose_scenes import patches, picture, put_small_networks, simcc, yolox_rows
from weights import weights_folder

from annotator import _onnx, dw_openpose
from annotator.networks import CACHE, Place
from annotator.pose import wholebody
from annotator.registry import Requirement, RequirementError
from lib_controlnet.detect.pose import drawing, read_pose
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.errors import PreprocessorUnavailableError

DATA = Path(__file__).resolve().parents[1] / "data"
GOLDEN = json.loads((DATA / "poses" / "wholebody.json").read_text(encoding="utf-8"))
SIDE = 640
PARTS = ("body", "left_hand", "right_hand", "face")


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    """The small networks in the place of the published ones."""
    with weights_folder(tmp_path / "weights") as folder:
        put_small_networks(folder)
        yield folder


def assert_part_is(part: np.ndarray | None, wanted: list | None, where: str) -> None:
    assert (part is None) == (wanted is None), where
    if part is not None:
        assert np.abs(part - np.array(wanted)).max() < 1e-3, where


@pytest.mark.parametrize(
    ("classes", "key", "count"), [((0,), "boxes", 18), (range(14, 24), "animal_boxes", 15)]
)
def test_boxes_are_those_of_the_reference(classes: range, key: str, count: int) -> None:
    rows = yolox_rows(2)
    found, something = wholebody.find_boxes(
        np.zeros((480, 640, 3), np.uint8), lambda _: [rows[None]], classes
    )
    wanted = np.array(GOLDEN["arrays"][key])
    assert len(wanted) >= count
    assert something
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 1e-3


@pytest.mark.parametrize(("rows", "kept"), [(45, 2), (46, 1)])
def test_box_that_covers_a_better_one_goes(rows: int, kept: int) -> None:
    """The second box is the upper part of the first, some rows of a hundred."""
    boxes = np.array([[0.0, 0, 99, 99], [0, 0, 99, rows - 1]])
    scores = np.array([[0.9], [0.8]])
    assert len(wholebody.pick_boxes(boxes, scores, (0,))) == kept
    assert len(wholebody.pick_boxes(boxes, np.hstack([scores, scores]), (0, 1))) == 2 * kept


def test_picture_is_seen_without_distortion() -> None:
    seen = []

    def network(given: np.ndarray) -> list[np.ndarray]:
        seen.append(given)
        return [np.zeros((1, 8400, 85), np.float32)]

    given = picture(3, 320, 200)
    boxes, something = wholebody.find_boxes(given, network, (0,))
    assert (len(boxes), something) == (0, False)
    (framed,) = seen
    assert (framed.shape, framed.dtype) == ((1, 3, SIDE, SIDE), np.float32)
    assert (framed[0, :, 400:] == 114).all()
    large = cv2.resize(given, (640, 400), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(framed[0, :, :400].transpose(1, 2, 0), large), "red first, 0 to 255"


def test_points_are_those_of_the_reference() -> None:
    boxes = np.array(GOLDEN["arrays"]["boxes"][:3])
    outputs = [simcc(8, 3, 133, 576), simcc(9, 3, 133, 768)]
    image = np.zeros((480, 640, 3), np.uint8)
    points, scores = wholebody.find_points(image, boxes, lambda _: outputs, (288, 384))
    scores[2, 91:112] = 0.1  # a hand that is not there
    people = GOLDEN["arrays"]["people"]
    assert people[2]["left_hand"] is None
    for person, spots, sure in zip(people, points, scores, strict=True):
        parts = wholebody.openpose_parts(spots, sure)
        assert parts["body"].shape == (18, 3)
        for name in PARTS:
            assert_part_is(parts[name], person[name], name)


def test_crop_shows_the_box_with_its_margin() -> None:
    """Where the picture is a ramp, every pixel says where it was taken from."""
    column, row = np.meshgrid(np.arange(200), np.arange(250))
    ramp = np.stack([column, row, np.full_like(row, 255)], axis=-1).astype(np.uint8)
    crop, centre, extent = wholebody.crop(ramp, np.array([60.0, 80, 120, 160]), (288, 384))
    assert centre.tolist() == [90, 120]
    assert extent.tolist() == [75, 100], "1.25 of 60 x 80, which has the proportions already"
    where = np.array([[100, 100], [288 - 60, 384 - 40]])
    taken = where / (288, 384) * extent + centre - extent / 2
    shown = np.array([crop[y, x, :2] for x, y in where])
    assert np.abs(shown - taken).max() <= 0.6
    wide, _, extent = wholebody.crop(ramp, np.array([0.0, 0, 200, 40]), (288, 384))
    assert extent.tolist() == [250, 250 * 384 / 288]
    assert not wide[:, :20].any(), "black beyond the edge"


def test_neck_needs_both_shoulders() -> None:
    points = np.arange(266, dtype=float).reshape(133, 2)
    scores = np.ones(133)
    neck = wholebody.openpose_parts(points, scores)["body"][1]
    assert neck.tolist() == [11, 12, 1]
    scores[6] = 0.3
    assert not wholebody.openpose_parts(points, scores)["body"][1].any()


def test_people_are_found_drawn_and_written(files: Path) -> None:
    found = run_preprocessor("dw_openpose_full", patches(), SIDE)
    pose = read_pose(found.pose)
    wanted = GOLDEN["patches"]["people"]
    assert len(pose.people) == len(wanted) == 2
    for person, stored in zip(pose.people, wanted, strict=True):
        for name in PARTS:
            part = getattr(person, name)
            if part is not None and drawing.in_fractions(part):
                part = part * (SIDE, SIDE, 1)
            assert_part_is(part, stored[name], name)
    assert found.image.any()
    assert np.array_equal(found.image, drawing.draw_pose(pose)), "the JSON draws another picture"


def test_animals_are_found_drawn_and_written(files: Path) -> None:
    found = run_preprocessor("animal_openpose", patches(), SIDE)
    pose = read_pose(found.pose)
    assert not pose.people
    assert len(pose.animals) == 1
    assert_part_is(pose.animals[0], GOLDEN["patches"]["animals"][0], "animal")
    assert found.image.any()
    assert np.array_equal(found.image, drawing.draw_pose(pose))


def test_picture_of_nothing_is_black(files: Path) -> None:
    for name in ("dw_openpose_full", "animal_openpose"):
        for size in ((61, 83), (1, 3)):
            found = run_preprocessor(name, np.full((*size, 3), 90, np.uint8), 64)
            assert not found.image.any()
            assert found.pose["people"] == found.pose["animals"] == []
            canvas = found.pose["canvas_height"], found.pose["canvas_width"]
            assert canvas == found.image.shape[:2]


def test_picture_of_something_unsure_is_one_person(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = patches()
    given[..., 0] = given[..., 2]  # no red: the dog alone is left
    seen = []

    def find(image: np.ndarray, boxes: np.ndarray, *rest: Any) -> tuple[np.ndarray, np.ndarray]:
        seen.append(boxes.tolist())
        return wholebody.find_points(image, boxes, *rest)

    monkeypatch.setattr(dw_openpose, "find_points", find)
    run_preprocessor("dw_openpose_full", given, SIDE)
    assert seen == [[[0, 0, SIDE, SIDE]]]


def test_damaged_file_is_named(files: Path) -> None:
    (files / "openpose" / "yolox_l.onnx").write_bytes(b"no network")
    with pytest.raises(PreprocessorUnavailableError, match=r"yolox_l\.onnx"):
        run_preprocessor("dw_openpose_full", patches(), SIDE)


def test_opened_files_are_kept_and_given_back(files: Path) -> None:
    run_preprocessor("dw_openpose_full", patches(), SIDE)
    before = [entry.opened for entry in CACHE.values()]
    assert len(before) == 2
    run_preprocessor("dw_openpose_full", patches(), SIDE)
    after = [entry.opened for entry in CACHE.values()]
    assert [a is b for a, b in zip(before, after, strict=True)] == [True] * 2
    del before, after
    CACHE.clear()
    assert CACHE.nbytes == 0
    check_memory_is_given_back("animal_openpose")


@pytest.mark.parametrize("fault", ["missing", "broken"])
def test_opencv_runs_files_without_onnxruntime(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"runtime_{fault}_here"
    if fault == "broken":
        (tmp_path / f"{name}.py").write_text("raise ImportError('no library')")
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_onnx, "ONNXRUNTIME", Requirement(name, "onnxruntime"))
    network = _onnx.open_onnx(DATA / "onnx" / "people.onnx", Place())
    assert network.engine == "OpenCV"
    given = np.random.default_rng(0).random((2, 3, 384, 288), dtype=np.float32)
    both = network(given)
    assert [output.shape for output in both] == [(2, 133, 576), (2, 133, 768)]
    alone = network(given[1:])
    assert all(np.array_equal(a[1:], b) for a, b in zip(both, alone, strict=True))


def test_file_that_opencv_cannot_run_asks_for_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx, "ONNXRUNTIME", Requirement("no_such_runtime", "onnxruntime>=1.17"))
    network = _onnx.open_onnx(DATA / "onnx" / "boxes.onnx", Place())
    with pytest.raises(RequirementError, match=r"OpenCV .* cannot run .*onnxruntime>=1\.17"):
        network(np.zeros((1, 7, 3, 3), np.float32))


def test_file_over_which_opencv_dies_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_onnx, "ONNXRUNTIME", Requirement("no_such_runtime", "onnxruntime>=1.17"))
    whole = (DATA / "onnx" / "people.onnx").read_bytes()
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(whole.replace(b"Reshape", b"\x82eshape", 1))  # no text any more
    with pytest.raises(ValueError, match=r"OpenCV breaks down over it .*onnxruntime>=1\.17"):
        _onnx.open_onnx(damaged, Place())
    monkeypatch.setattr(_onnx.sys, "executable", str(tmp_path / "none"))  # a host without a Python
    assert _onnx.open_onnx(DATA / "onnx" / "people.onnx", Place()).engine == "OpenCV"
