"""The picture as it is for tile models; sampling then holds the colours to it."""

from __future__ import annotations

import numpy as np

from .registry import Detector, Effect, Frame, Slider, register

VARIATION = Slider("Variation", 3, 32, 8)
"""Radius, in latent pixels, of the blur that tells colours from details."""


class _ColorFix(Detector):
    tags = ("Tile",)
    frame = Frame.AS_GIVEN
    identity = True

    def detect(self, image: np.ndarray, *values: float) -> np.ndarray:
        return image


@register
class TileColorFix(_ColorFix):
    """Every predicted picture gets the colours of the control picture."""

    name = "tile_colorfix"
    sliders = (VARIATION,)
    effect = Effect.TILE_COLORFIX


@register
class TileColorFixSharp(_ColorFix):
    """The same, and the unconditional prediction is blurred, so that guidance sharpens."""

    name = "tile_colorfix+sharp"
    sliders = (VARIATION, Slider("Sharpness", 0, 2, 1, 0.01))
    effect = Effect.TILE_COLORFIX
