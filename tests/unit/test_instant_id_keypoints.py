"""InstantID's face points: the detector against insightface, the drawing against InstantID.

`data/poses/scrfd.json` holds what insightface's SCRFD class found in `pose_scenes.scrfd_outputs`;
`data/poses/face_keys.png` what InstantID's own function drew of the largest of those faces.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pose_scenes import patches, picture, scrfd_outputs
from weights import weights_folder

from annotator import _onnx
from annotator._faces import FACES
from annotator.pose.scrfd import find_faces
from annotator.pose_drawing import draw_face_keys
from annotator.registry import Requirement
from lib_controlnet.detect.preprocess import find_maker, run_preprocessor
from lib_controlnet.errors import ImageError, PreprocessorUnavailableError

DATA = Path(__file__).resolve().parents[1] / "data"
GOLDEN = json.loads((DATA / "poses" / "scrfd.json").read_text(encoding="utf-8"))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A small network in the place of the published one."""
    with weights_folder(tmp_path / "weights") as folder:
        path = folder / FACES.places[0]
        path.parent.mkdir(parents=True)
        shutil.copy(DATA / "onnx" / "faces.onnx", path)
        yield path


def test_faces_are_those_of_the_reference() -> None:
    outputs = scrfd_outputs(4)
    boxes, points = find_faces(picture(11, 320, 240), lambda _: outputs[::-1])
    assert len(boxes) == len(GOLDEN["boxes"]) == 30
    assert np.abs(boxes - np.array(GOLDEN["boxes"])).max() < 2e-3
    assert np.abs(points - np.array(GOLDEN["points"])).max() < 2e-3


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (700, 700)], ids=str)
def test_picture_is_seen_in_the_corner(size: tuple[int, int]) -> None:
    seen = []

    def network(given: np.ndarray) -> list[np.ndarray]:
        seen.append(given)
        return scrfd_outputs(4)

    find_faces(np.full((size[1], size[0], 3), (255, 127, 0), np.uint8), network)
    (given,) = seen
    assert (given.shape, given.dtype) == ((1, 3, 640, 640), np.float32)
    width, height = (round(640 * side / max(size)) for side in size)
    colour = (np.array([255, 127, 0]) - 127.5) / 128
    shown = given[0, :, :height, :width].transpose(1, 2, 0)
    assert np.allclose(shown, colour, atol=1e-6), "red first"
    assert np.allclose(given[0, :, height:], -127.5 / 128)
    assert np.allclose(given[0, :, :, width:], -127.5 / 128)


def test_drawing_equals_that_of_instant_id() -> None:
    wanted = np.asarray(Image.open(DATA / "poses" / "face_keys.png"))
    drawn = draw_face_keys(np.array(GOLDEN["points"][GOLDEN["largest"]]), 320, 240)
    assert drawn.any()
    assert np.array_equal(drawn, wanted)


def test_largest_face_is_drawn(file: Path) -> None:
    given = patches()
    found = run_preprocessor("instant_id_face_keypoints", given, 640).image
    # The points of the network's first face, of which both are equally large.
    steps = np.linspace(-1, 1, 20)[:10].reshape(5, 2) * 32
    wanted = draw_face_keys((128, 288) + steps, 640, 640)
    assert np.array_equal(found, wanted)


def test_picture_without_a_face_is_refused(file: Path) -> None:
    grey = np.full((64, 96, 3), 128, np.uint8)
    with pytest.raises(ImageError, match="no face is found"):
        run_preprocessor("instant_id_face_keypoints", grey, 64)


def test_file_that_cannot_be_read_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx, "ONNXRUNTIME", Requirement("no_such_runtime", "onnxruntime>=1.17"))
    file.write_bytes(b"no network")
    with pytest.raises(PreprocessorUnavailableError, match=r"scrfd_10g.*onnxruntime>=1\.17"):
        run_preprocessor("instant_id_face_keypoints", patches(), 64)


EYES_NOSE_MOUTH = np.array([[400, 380], [560, 390], [480, 470], [420, 560], [550, 565]], float)


def keys(size: int = 1024, spread: float = 1.0) -> np.ndarray:
    middle = EYES_NOSE_MOUTH.mean(axis=0)
    points = (middle + (EYES_NOSE_MOUTH - middle) * spread) * size / 1024
    return draw_face_keys(points, size, size)


def resized(size: int, how: int) -> np.ndarray:
    return cv2.resize(keys(), (size, size), interpolation=how)


def as_jpeg() -> np.ndarray:
    _done, data = cv2.imencode(".jpg", resized(512, cv2.INTER_AREA)[:, :, ::-1])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1]


def golden(name: str) -> np.ndarray:
    return np.array(Image.open(DATA / "poses" / f"{name}.png").convert("RGB"))


def same_colours(shape: str) -> np.ndarray:
    """Patches, stripes or strokes in the five colours of face points."""
    canvas = np.zeros((512, 512, 3), np.uint8)
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
    for number, colour in enumerate(colours):
        place = 50 + 60 * number
        across, far = {"patches": (50, 100), "stripes": (0, 512)}.get(shape, (0, 0))
        canvas[place : place + 40, across:far] = colour
        if shape == "strokes":
            cv2.line(canvas, (place, 40), (350 - place, 470), colour, 5)
    return canvas


MASK = np.full((1024, 1024, 1), 255, np.uint8)
READY_MADE = {
    "as drawn": (keys, True),
    "by InstantID": (lambda: golden("face_keys"), True),
    "a small face": (lambda: keys(spread=0.5), True),
    "a large picture": (lambda: keys(2048), True),
    "halved": (lambda: resized(512, cv2.INTER_AREA), True),
    "doubled": (lambda: resized(2048, cv2.INTER_CUBIC), True),
    "as JPEG": (as_jpeg, True),
    "with a mask": (lambda: np.dstack([keys(), MASK]), True),
    "mirrored": (lambda: keys()[:, ::-1], True),
    "inverted": (lambda: 255 - keys(), False),
    "grey": (lambda: keys().mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8), False),
    "without eyes": (lambda: keys()[500:], False),
    "poses": (lambda: golden("people"), False),
    "upright poses": (lambda: golden("upright"), False),
    "faces": (lambda: golden("faces"), False),
    "dense pose": (lambda: golden("densepose"), False),
    **{name: (partial(same_colours, name), False) for name in ("patches", "stripes", "strokes")},
    "black": (lambda: np.zeros((64, 64, 3), np.uint8), False),
    "white": (lambda: np.full((64, 64, 3), 255, np.uint8), False),
    "a picture": (lambda: picture(1, 64, 64), False),
}


@pytest.mark.parametrize("name", READY_MADE)
def test_a_ready_made_map_is_known_by_its_colours(name: str) -> None:
    make, is_known = READY_MADE[name]
    maker = find_maker(make())
    assert (maker is not None) is is_known
    assert maker is None or (maker.name, maker.partner) == (
        "instant_id_face_keypoints",
        "InstantID",
    )
