"""Down-sampling for tile models, which add detail to what they are shown."""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Frame, Slider, register


@register
class TileResample(Detector):
    """The picture, smaller by the given rate; below 1.1 as it came."""

    name = "tile_resample"
    tags = ("Tile",)
    priority = 100
    sliders = (Slider("Down Sampling Rate", 1, 8, 1, 0.01),)
    frame = Frame.AS_GIVEN

    def detect(self, image: np.ndarray, rate: float) -> np.ndarray:
        if rate < 1.1:
            return image
        height, width = image.shape[:2]
        smaller = max(1, int(width / rate)), max(1, int(height / rate))
        return cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
