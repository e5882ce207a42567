"""The largest face of a picture, and whose it is, by the networks that the package insightface has.

They are two ONNX files, a detector and a recogniser. The package itself is not used: it has to be
compiled where it is installed, and what of it is needed here are an alignment and a division.
"""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

import numpy as np

from ._onnx import open_onnx
from .networks import lend_opened
from .pose.arcface import SIDE, recognise, turn_upright
from .pose.scrfd import find_faces
from .registry import NothingFoundError
from .weights import WeightFile

_LICENCE: Final = "InsightFace: non-commercial research"
_antelope = partial(
    WeightFile,
    folder="insightface/models/antelopev2",
    licence=_LICENCE,
    repo="DIAMONIK7777/antelopev2",
)
FACES: Final = _antelope(
    "scrfd_10g_bnkps.onnx",
    size=16_923_827,
    sha256="5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
    others=("insightface/models/buffalo_l/det_10g.onnx",),  # the same file
)
GLINT: Final = _antelope(
    "glintr100.onnx",
    size=260_665_334,
    sha256="4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf",
)
WEB_FACE: Final = WeightFile(
    "w600k_r50.onnx",
    "insightface/models/buffalo_l",
    174_383_860,
    _LICENCE,
    sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    repo="public-data/insightface",
    path="models/buffalo_l/w600k_r50.onnx",
)

NO_FACE: Final = "no face is found in the picture"


class Face(NamedTuple):
    """One face of a picture.

    Attributes:
        points: (5, 2), the eyes, the nose and the corners of the mouth, in pixels.
        notes: what to tell of how it was chosen.
    """

    points: np.ndarray
    notes: tuple[str, ...]


def find_face(image: np.ndarray) -> Face:
    """The largest face of a picture, uint8 (h, w, 3).

    Raises:
        NothingFoundError: there is none.
    """
    with lend_opened(FACES, open_onnx) as network:
        boxes, points = find_faces(image, network)
    if not len(boxes):
        raise NothingFoundError(NO_FACE)
    largest = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).argmax()
    several = f"the picture shows {len(boxes)} faces, and the largest is taken"
    return Face(points[largest], (several,) if len(boxes) > 1 else ())


def recognise_face(image: np.ndarray, face: Face, weight: WeightFile) -> np.ndarray:
    """Whose a face is by a recogniser's file: float32 (1, 512), as the network gives it."""
    upright = turn_upright(image, face.points, SIDE)
    with lend_opened(weight, open_onnx) as network:
        return recognise(upright, network)[None]
