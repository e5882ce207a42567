"""The five points of a face that InstantID's control model follows.

Wang et al. (2024), "InstantID", arXiv:2401.07519.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ._onnx import open_onnx
from .networks import lend_opened
from .pose.scrfd import find_faces
from .pose_drawing import draw_face_keys
from .registry import Detector, NothingFoundError, register
from .weights import WeightFile

FACES: Final = WeightFile(
    "scrfd_10g_bnkps.onnx",
    "insightface/models/antelopev2",
    16_923_827,
    "InsightFace: non-commercial research",
    exact=False,
    repo="DIAMONIK7777/antelopev2",
)


@register
class InstantIdKeypoints(Detector):
    """Eyes, nose and mouth of the largest face; without a face there is nothing to follow.

    The file is the detector of the collection antelopev2; the package insightface is not needed.
    """

    name = "instant_id_face_keypoints"
    tags = ("Instant-ID",)
    weights = (FACES,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        with lend_opened(FACES, open_onnx) as network:
            boxes, points = find_faces(image, network)
        if not len(boxes):
            msg = "no face is found in the picture"
            raise NothingFoundError(msg)
        largest = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).argmax()
        return draw_face_keys(points[largest], image.shape[1], image.shape[0])
