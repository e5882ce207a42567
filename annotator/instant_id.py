"""Faces for InstantID. Wang et al. (2024), arXiv:2401.07519."""

from __future__ import annotations

import numpy as np

from ._faces import FACES, GLINT, find_face, recognise_face
from .embedding import ANTELOPE, Embedding
from .pose.arcface import SIDE, turn_upright
from .registry import Detected, Detector, Frame, Output, register


@register
class FaceEmbedding(Detector):
    """The largest face as the recogniser of antelopev2 sees it."""

    name = "instant_id_face_embedding"
    tags = ("Instant-ID",)
    frame = Frame.AS_GIVEN
    output = Output.EMBEDDING
    several = True
    weights = (FACES, GLINT)

    def detect(self, image: np.ndarray) -> Detected:
        import torch

        face = find_face(image)
        vector = torch.from_numpy(recognise_face(image, face, GLINT))
        shown = turn_upright(image, face.points, 2 * SIDE)
        return Detected(shown, embedding=Embedding({ANTELOPE: vector}, self.name), notes=face.notes)
