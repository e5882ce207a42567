"""Faces for InstantID. Wang et al. (2024), arXiv:2401.07519."""

from __future__ import annotations

from .registry import Detector, Output, register


@register
class Embedding(Detector):
    """Not available yet: a face as InstantID's recogniser sees it."""

    name = "instant_id_face_embedding"
    tags = ("Instant-ID",)
    output = Output.EMBEDDING
    unavailable = "what it returns drives InstantID models, which cannot be used here yet"
