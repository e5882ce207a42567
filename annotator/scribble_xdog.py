"""Scribbles by a difference of Gaussians.

Winnemoeller, Kyprianidis, Olsen, "XDoG: An eXtended difference-of-Gaussians compendium including
advanced image stylization", Computers & Graphics 36(6), 2012.
"""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Slider, register


@register
class ScribbleXDoG(Detector):
    """White where the picture is darker than its surroundings in every channel.

    The old extension doubled the difference in eight bits, so the very strongest strokes (a
    difference of 128 and more) wrapped round and vanished. Here they stay.
    """

    name = "scribble_xdog"
    tags = ("Scribble", "SparseCtrl")
    sliders = (Slider("XDoG Threshold", 1, 64, 32, 0.01),)

    def detect(self, image: np.ndarray, threshold: float) -> np.ndarray:
        picture = image.astype(np.float32)
        fine = cv2.GaussianBlur(picture, (0, 0), 0.5)
        coarse = cv2.GaussianBlur(picture, (0, 0), 5.0)
        # Parity: the difference is inverted and cut to whole numbers before it is doubled.
        inverted = (255 - (coarse - fine).min(axis=2)).clip(0, 255).astype(np.uint8)
        difference = 255 - inverted.astype(np.int32)
        return np.where(2 * difference > threshold, np.uint8(255), np.uint8(0))
