"""Content shuffling: the picture's colours and textures without its composition."""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Frame, register

WAVE = 256
"""Distance of the random nodes between which the displacement is smooth, pixels."""


@register
class Shuffle(Detector):
    """The picture sampled along two smooth random fields."""

    name = "shuffle"
    tags = ("Shuffle",)
    resolution = None
    frame = Frame.RESIZED
    seeded = True

    def detect(self, image: np.ndarray, *, rng: np.random.RandomState) -> np.ndarray:
        height, width = image.shape[:2]
        x = _smooth_field(height, width, rng) * (width - 1)
        y = _smooth_field(height, width, rng) * (height - 1)
        return cv2.remap(image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)


def _smooth_field(height: int, width: int, rng: np.random.RandomState) -> np.ndarray:
    """Random field (height, width) that spans 0 to 1."""
    nodes = rng.uniform(0, 1, (height // WAVE + 2, width // WAVE + 2))
    size = width + 2 * WAVE, height + 2 * WAVE
    field = cv2.resize(nodes, size, interpolation=cv2.INTER_CUBIC)
    field = field[WAVE : WAVE + height, WAVE : WAVE + width]
    return (field - field.min()) / max(float(np.ptp(field)), np.finfo(np.float32).tiny)
