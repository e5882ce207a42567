"""Binary edges. Canny, "A Computational Approach to Edge Detection", IEEE TPAMI 8(6), 1986."""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Slider, register


@register
class Canny(Detector):
    """Thin white edges on black; the strongest gradient of the three channels counts."""

    name = "canny"
    tags = ("Canny",)
    priority = 100
    sliders = (Slider("Low Threshold", 1, 255, 100), Slider("High Threshold", 1, 255, 200))
    soft_in_hires = True

    def detect(self, image: np.ndarray, low: float, high: float) -> np.ndarray:
        return cv2.Canny(image, int(low), int(high))
