"""InstantID's face points: the detector against insightface, the drawing against InstantID.

`data/poses/scrfd.json` holds what insightface's SCRFD class found in `pose_scenes.scrfd_outputs`;
`data/poses/face_keys.png` what InstantID's own function drew of the largest of those faces.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

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
from lib_controlnet.detect.preprocess import run_preprocessor
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
