"""The brightness of a picture, which a recolouring model paints over.

After decoding the result gets this very brightness back, so only its colours are new.
"""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Effect, Frame, Slider, register

GAMMA = Slider("Gamma Correction", 0.1, 2, 1, 0.001)


class _Recolor(Detector):
    tags = ("Recolor",)
    frame = Frame.AS_GIVEN
    sliders = (GAMMA,)


@register
class RecolorLuminance(_Recolor):
    """Lightness L of CIELAB.

    The old extension read the picture's red as blue here (pure red had the lightness of pure
    blue); this is the lightness that a viewer sees.
    """

    name = "recolor_luminance"
    priority = 100
    effect = Effect.RECOLOR_LUMINANCE

    def detect(self, image: np.ndarray, gamma: float) -> np.ndarray:
        return _correct(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[:, :, 0], gamma)


@register
class RecolorIntensity(_Recolor):
    """Value V of HSV, the strongest channel."""

    name = "recolor_intensity"
    effect = Effect.RECOLOR_INTENSITY

    def detect(self, image: np.ndarray, gamma: float) -> np.ndarray:
        return _correct(image.max(axis=2), gamma)


def _correct(brightness: np.ndarray, gamma: float) -> np.ndarray:
    """uint8 (H, W) to the power of gamma, white staying white."""
    levels = (np.arange(256, dtype=np.float32) / 255.0) ** gamma
    return cv2.LUT(brightness, (levels * 255.0).clip(0, 255).astype(np.uint8))
