"""Gaussian blur, for tile and blur models."""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Frame, Slider, register


@register
class BlurGaussian(Detector):
    """The picture blurred by a Gaussian of the given standard deviation in pixels."""

    name = "blur_gaussian"
    tags = ("Tile",)
    sliders = (Slider("Sigma", 0.01, 64, 9, 0.01),)
    frame = Frame.RESIZED

    def detect(self, image: np.ndarray, sigma: float) -> np.ndarray:
        return cv2.GaussianBlur(image, (0, 0), sigmaX=sigma)
