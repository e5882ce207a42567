"""Soft edges by TEED (Soria et al., 2023), which is small and its licence permissive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._edges import SAFE_STEPS, as_bytes, in_steps, soft_edges
from .registry import NetworkDetector, Slider, register
from .weights import WeightFile

WEIGHTS = WeightFile(
    name="7_model.pth",
    folder="TEED",
    size=247_232,
    sha256="b9037964149c55156c6adbffdfbd7e8ca7d2ef2a4d90573520efa7f3a1aacf06",
    licence="MIT",
    repo="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/7_model.pth",
    variable="CONTROLNET_TEED_MODEL_URL",
)


@register
class SoftEdgeTeed(NetworkDetector):
    """White soft edges on black, cut to a few grey levels; 0 steps leave them smooth."""

    name = "softedge_teed"
    tags = ("SoftEdge",)
    sliders = (Slider("Safe Steps", 0, 10, SAFE_STEPS),)
    weights = (WEIGHTS,)

    def see(self, images: Sequence[np.ndarray], _steps: float) -> list[np.ndarray]:
        from .nets.teed import build

        return soft_edges(images, WEIGHTS, build)

    def draw(self, seen: np.ndarray, _image: np.ndarray, steps: float) -> np.ndarray:
        return as_bytes(in_steps(seen, int(steps)))
