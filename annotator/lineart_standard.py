"""Line art by subtracting the picture from its blur; no model needed."""

from __future__ import annotations

import numpy as np

from ._edges import darkness
from .registry import Detector, register

SIGMA = 6.0
FAINT = 8
"""Differences up to this are paper, not line, when the strength of lines is measured."""
WEAKEST = 16.0
STRENGTH = 127.0


def dark_lines(image: np.ndarray, sigma: float, faint: float) -> np.ndarray:
    """Where a picture is darker than its surroundings in every channel.

    Args:
        image: uint8 (H, W, 3).
        sigma: of the blur that stands for the surroundings, in pixels.
        faint: differences up to this do not count when the strength of lines is measured.

    Returns:
        uint8 (H, W), white on black; the median line is STRENGTH.
    """
    dark = darkness(image, sigma)
    np.clip(dark, 0, 255, out=dark)
    strokes = dark[dark > faint]
    typical = float(np.median(strokes)) if strokes.size else 0.0
    dark /= max(WEAKEST, typical)
    dark *= STRENGTH
    return np.clip(dark, 0, 255, out=dark).astype(np.uint8)


@register
class LineartStandard(Detector):
    """Grey lines on black, where the picture is darker than its surroundings in every channel.

    The median line comes out at half of full brightness; pictures with hardly any line are not
    amplified without bound.
    """

    name = "lineart_standard"
    label = "lineart_standard (from white bg & black line)"
    tags = ("Lineart",)
    priority = 100

    def detect(self, image: np.ndarray) -> np.ndarray:
        return dark_lines(image, SIGMA, FAINT)
