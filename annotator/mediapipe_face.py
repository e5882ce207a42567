"""Faces as coloured outlines, from the landmarks of Google's MediaPipe.

Kartynnik et al., "Real-time Facial Surface Geometry", arXiv:1907.06724; eyes and lips refined as
in Grishchenko et al., arXiv:2006.10962. The drawing is the one that the control models of
CrucibleAI/ControlNetMediaPipeFace were trained on.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import cv2
import numpy as np

from .networks import reason
from .registry import Detector, Requirement, Slider, register
from .store import STORE
from .weights import WeightFile, WeightsError

BUNDLE: Final = WeightFile(
    "face_landmarker.task",
    "mediapipe",
    3_758_596,
    "Apache-2.0",
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    url=(
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/"
        "float16/1/face_landmarker.task"
    ),
)
MEDIAPIPE: Final = Requirement("mediapipe", "mediapipe>=0.10.14")

Colour = tuple[int, int, int]
Edges = Iterable[tuple[int, int]]

# What the package calls a set of lines, and its colour, in the order in which they are drawn.
_OUTLINES: Final[dict[str, Colour]] = {
    "FACE_OVAL": (10, 200, 10),
    "LEFT_EYE": (10, 200, 180),
    "LEFT_EYEBROW": (10, 220, 180),
    "RIGHT_EYE": (180, 200, 10),
    "RIGHT_EYEBROW": (180, 220, 10),
    "LIPS": (10, 180, 10),
}
_PUPILS: Final[dict[int, Colour]] = {468: (250, 200, 10), 473: (10, 200, 250)}
_LINE: Final = 2
_REACH: Final = 2
_SMALLEST: Final = 64
"""Faces with a side below this, in pixels, are left out."""


@register
class MediaPipeFace(Detector):
    """Outlines of faces, brows, eyes and lips, and a dot for each pupil, on black."""

    name = "mediapipe_face"
    sliders = (
        Slider("Max Faces", 1, 10, 1),
        Slider("Min Face Confidence", 0.01, 1, 0.5, 0.01),
    )
    weights = (BUNDLE,)
    requires = (MEDIAPIPE,)

    def detect(self, image: np.ndarray, most: float, confidence: float) -> np.ndarray:
        package = MEDIAPIPE.load()
        tasks = importlib.import_module("mediapipe.tasks.python.vision.face_landmarker")
        path = STORE.fetch(BUNDLE)
        # The file is read here: the package cannot open every path there is.
        options = tasks.FaceLandmarkerOptions(
            package.tasks.BaseOptions(model_asset_buffer=path.read_bytes()),
            num_faces=int(most),
            min_face_detection_confidence=confidence,
        )
        given = package.Image(
            image_format=package.ImageFormat.SRGB, data=np.ascontiguousarray(image)
        )
        try:
            with tasks.FaceLandmarker.create_from_options(options) as finder:
                found = finder.detect(given).face_landmarks
        except (RuntimeError, ValueError) as error:
            msg = f"{path} is damaged or no {BUNDLE.name}: {reason(error)}"
            raise WeightsError(msg) from error
        faces = [np.array([(point.x, point.y) for point in face]) for face in found]
        return draw_faces(faces, image.shape[1], image.shape[0], outlines(tasks))


def outlines(tasks: Any) -> list[tuple[Edges, Colour]]:
    """The package's sets of lines, with their colours."""
    sets = tasks.FaceLandmarksConnections
    return [
        ([(edge.start, edge.end) for edge in getattr(sets, f"FACE_LANDMARKS_{name}")], colour)
        for name, colour in _OUTLINES.items()
    ]


def draw_faces(
    faces: Sequence[np.ndarray], width: int, height: int, lines: Sequence[tuple[Edges, Colour]]
) -> np.ndarray:
    """Draw faces that are large enough.

    Args:
        faces: float (478, 2) each, x and y in fractions of the picture.
        width, height: of the picture.
        lines: pairs of points to join, and their colour, set by set.

    Returns:
        uint8 (height, width, 3), black where nothing is.
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    for face in faces:
        if (np.ptp(face, axis=0) * (width, height)).min() < _SMALLEST:
            continue
        pixels = [_pixel(point, width, height) for point in face.tolist()]
        for edges, colour in lines:
            for start, end in ((pixels[first], pixels[second]) for first, second in edges):
                if start is not None and end is not None:
                    cv2.line(canvas, start, end, colour, _LINE)
        for index, colour in _PUPILS.items():
            x, y = face[index]
            if 0 <= x < 1 and 0 <= y < 1:
                _dot(canvas, int(x * width), int(y * height), colour)
    return canvas


def _pixel(point: Sequence[float], width: int, height: int) -> tuple[int, int] | None:
    """The pixel of a point in fractions, None outside the picture."""
    x, y = point
    if not (0 <= x <= 1 and 0 <= y <= 1):
        return None
    return min(math.floor(x * width), width - 1), min(math.floor(y * height), height - 1)


def _dot(canvas: np.ndarray, x: int, y: int, colour: Colour) -> None:
    """A square of four pixels."""
    rows = slice(max(y - _REACH, 0), y + _REACH)
    canvas[rows, max(x - _REACH, 0) : x + _REACH] = colour
