"""Scribbles by a difference of Gaussians.

Winnemoeller, Kyprianidis, Olsen, "XDoG: An eXtended difference-of-Gaussians compendium including
advanced image stylization", Computers & Graphics 36(6), 2012.
"""

from __future__ import annotations

import numpy as np

from ._edges import darkness
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
        least = darkness(image, 5.0, 0.5)
        # Parity: the difference is inverted and cut to whole numbers before it is doubled.
        inverted = np.clip(np.subtract(255, least, out=least), 0, 255, out=least).astype(np.uint8)
        return np.where(255 - inverted > threshold / 2, np.uint8(255), np.uint8(0))
