"""Faces for IP-Adapter-FaceID (tencent-ailab, 2023): whose they are, and how CLIP sees them."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np

from ._faces import FACES, WEB_FACE, find_face, recognise_face
from .clip_vision import TRANSFORMERS, VIT_H, embed
from .embedding import FACE, HIDDEN, RAW_FACE, UNCOND_HIDDEN, Embedding
from .ip_adapter import ImagePrompt
from .pose.arcface import turn_upright
from .registry import Detected, register
from .weights import WeightFile

SHOWN: Final = 224
"""Side of the upright face that CLIP and the user see."""


@register
class FaceId(ImagePrompt):
    """The largest face as the recogniser of buffalo_l sees it."""

    name = "ip-adapter_face_id"
    weights: ClassVar[tuple[WeightFile, ...]] = (FACES, WEB_FACE)
    gives: ClassVar[tuple[str, ...]] = ()

    def detect(self, image: np.ndarray) -> Detected:
        import torch

        face = find_face(image)
        raw = recognise_face(image, face, WEB_FACE)
        vector = raw / max(float(np.linalg.norm(raw)), 1e-6)
        upright = turn_upright(image, face.points, SHOWN)
        tensors = {FACE: torch.from_numpy(vector), RAW_FACE: torch.from_numpy(raw)}
        if self.gives:
            tensors |= embed(upright, VIT_H, self.gives).tensors
        return Detected(upright, embedding=Embedding(tensors, self.name), notes=face.notes)


@register
class FaceIdPlus(FaceId):
    """The same, and the upright face as CLIP ViT-H sees it."""

    name = "ip-adapter_face_id_plus"
    weights = (FACES, WEB_FACE, VIT_H)
    requires = (TRANSFORMERS,)
    gives = (HIDDEN, UNCOND_HIDDEN)
