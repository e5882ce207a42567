"""Binarisation at a fixed level."""

from __future__ import annotations

import numpy as np

from .registry import Detector, Slider, register


@register
class Threshold(Detector):
    """White where all three channels are above the level, black elsewhere."""

    name = "threshold"
    sliders = (Slider("Binarization Threshold", 0, 255, 127, 0.01),)

    def detect(self, image: np.ndarray, level: float) -> np.ndarray:
        return np.where(image.min(axis=2) > level, np.uint8(255), np.uint8(0))
