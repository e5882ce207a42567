"""Inversion: a drawing in black on white becomes the white on black that line models expect."""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Frame, register


@register
class Invert(Detector):
    """255 minus the picture."""

    name = "invert"
    label = "invert (from white bg & black line)"
    tags = ("Canny", "Lineart", "Scribble", "MLSD")
    priority = 20
    resolution = None
    frame = Frame.AS_GIVEN

    def detect(self, image: np.ndarray) -> np.ndarray:
        return cv2.bitwise_not(image)
