"""The five points of a face that InstantID's control model follows.

Wang et al. (2024), "InstantID", arXiv:2401.07519.
"""

from __future__ import annotations

import numpy as np

from ._faces import FACES, find_face
from .pose_drawing import draw_face_keys, shows_face_keys
from .registry import Detected, Detector, register


@register
class InstantIdKeypoints(Detector):
    """Eyes, nose and mouth of the largest face; without a face there is nothing to follow."""

    name = "instant_id_face_keypoints"
    tags = ("Instant-ID",)
    partner = "InstantID"
    weights = (FACES,)

    def knows(self, image: np.ndarray) -> bool:
        return shows_face_keys(image)

    def detect(self, image: np.ndarray) -> Detected:
        face = find_face(image)
        drawn = draw_face_keys(face.points, image.shape[1], image.shape[0])
        return Detected(drawn, notes=face.notes)
