"""MediaPipe faces: the drawing against comfyui_controlnet_aux 1.1.5 with mediapipe 0.10.21.

`data/poses/faces.png` is what that project drew of `pose_scenes.FACES` with the lines of
`face_rings`; the package itself is replaced here.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pose_scenes import FACE_SETS, FACES, face_rings
from weights import weights_folder

from annotator import mediapipe_face
from annotator.registry import Requirement, discover
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.errors import PreprocessorUnavailableError

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "poses" / "faces.png"
WIDTH, HEIGHT = 256, 192


class Package:
    """What is used of mediapipe, and what it was asked."""

    def __init__(self) -> None:
        self.faces: tuple[np.ndarray, ...] = FACES
        self.asked: dict[str, Any] = {}
        self.fault: Exception | None = None
        self.ImageFormat = types.SimpleNamespace(SRGB="srgb")
        self.tasks = types.SimpleNamespace(BaseOptions=self.options)

    def options(self, **named: Any) -> dict[str, Any]:
        return named

    def Image(self, image_format: str, data: np.ndarray) -> np.ndarray:
        assert image_format == "srgb"
        assert data.flags.c_contiguous
        return data

    def vision(self) -> types.ModuleType:
        module = types.ModuleType("face_landmarker")
        rings = {
            f"FACE_LANDMARKS_{name}": [types.SimpleNamespace(start=a, end=b) for a, b in edges]
            for name, edges in face_rings().items()
        }
        module.FaceLandmarksConnections = types.SimpleNamespace(**rings)
        module.FaceLandmarkerOptions = lambda base, **named: {**base, **named}
        module.FaceLandmarker = types.SimpleNamespace(create_from_options=self.create)
        return module

    def create(self, options: dict[str, Any]) -> Package:
        self.asked = options
        if self.fault is not None:
            raise self.fault
        return self

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def detect(self, image: np.ndarray) -> types.SimpleNamespace:
        self.asked["shape"] = image.shape
        points = [[types.SimpleNamespace(x=x, y=y) for x, y in f.tolist()] for f in self.faces]
        return types.SimpleNamespace(face_landmarks=points)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Package]:
    found = Package()
    monkeypatch.setitem(sys.modules, "mediapipe", found)
    name = "mediapipe.tasks.python.vision.face_landmarker"
    monkeypatch.setitem(sys.modules, name, found.vision())
    with weights_folder(tmp_path / "weights") as folder:
        path = folder / mediapipe_face.BUNDLE.places[0]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"bundle")
        yield found


def test_faces_are_drawn_as_by_the_reference(package: Package) -> None:
    wanted = np.asarray(Image.open(GOLDEN))
    assert (wanted > 0).any(axis=2).mean() > 0.1
    found = run_preprocessor("mediapipe_face", np.zeros((HEIGHT, WIDTH, 3), np.uint8), HEIGHT)
    assert np.array_equal(found.image, wanted)


def test_sliders_and_file_reach_the_package(package: Package) -> None:
    run_preprocessor("mediapipe_face", np.zeros((60, 100, 3), np.uint8), 64, (3, 0.7))
    assert package.asked == {
        "model_asset_buffer": b"bundle",
        "num_faces": 3,
        "min_face_detection_confidence": 0.7,
        "shape": (64, 128, 3),
    }


def test_nobody_is_black(package: Package) -> None:
    package.faces = ()
    found = run_preprocessor("mediapipe_face", np.full((61, 83, 3), 99, np.uint8), 64)
    assert found.image.shape == (64, 87, 3)
    assert not found.image.any()


def test_damaged_bundle_is_named(package: Package) -> None:
    package.fault = RuntimeError("no zip archive")
    with pytest.raises(PreprocessorUnavailableError, match=r"face_landmarker\.task: no zip"):
        run_preprocessor("mediapipe_face", np.zeros((64, 64, 3), np.uint8), 64)


def test_without_the_package_the_reason_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = Requirement("no_such_mediapipe", "mediapipe>=0.10.14")
    monkeypatch.setattr(mediapipe_face.MediaPipeFace, "requires", (absent,))
    assert "mediapipe>=0.10.14" in discover().get("mediapipe_face").unavailable
    with pytest.raises(PreprocessorUnavailableError, match=r"mediapipe>=0\.10\.14"):
        run_preprocessor("mediapipe_face", np.zeros((64, 64, 3), np.uint8), 64)


@pytest.mark.parametrize("side", [63, 64])
def test_small_faces_are_left_out(side: int) -> None:
    face = np.full((478, 2), 0.2)
    face[0] = 0.2 + side / 256
    lines = [([(0, 1)], (1, 2, 3))]
    drawn = mediapipe_face.draw_faces([face], 256, 256, lines)
    assert drawn.any() == (side == 64)


def test_pupils_are_squares_cut_at_the_edge() -> None:
    face = np.random.default_rng(0).random((478, 2))
    face[468], face[473] = (1 / 256, 0.5), (1.0, 0.5)
    drawn = mediapipe_face.draw_faces([face], 256, 256, [])
    wanted = np.zeros((256, 256, 3), np.uint8)
    wanted[126:130, 0:3] = (250, 200, 10)
    assert np.array_equal(drawn, wanted)


def test_every_set_of_lines_has_its_colour() -> None:
    assert set(mediapipe_face._OUTLINES) == set(FACE_SETS)
    assert len(set(mediapipe_face._OUTLINES.values())) == len(FACE_SETS)
