"""A grid of colours for the T2I colour adapter."""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Frame, register

CELL = 64


@register
class ColorGrid(Detector):
    """The picture in cells of about 64 pixels, one colour each."""

    name = "color"
    label = "t2ia_color_grid"
    tags = ("T2I-Adapter",)
    frame = Frame.AREA

    def detect(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        cells = max(1, width // CELL), max(1, height // CELL)
        small = cv2.resize(image, cells, interpolation=cv2.INTER_CUBIC)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
