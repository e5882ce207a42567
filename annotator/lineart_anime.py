"""Lines of painted pictures, by a pix2pix U-Net.

Trained in the anime branch of "informative drawings" (Chan, Durand, Isola 2022, arXiv:2203.12691).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ._tensors import as_array, as_planes
from .networks import lend
from .registry import NetworkDetector, register
from .weights import WeightFile

WEIGHTS = WeightFile(
    name="netG.pth",
    folder="lineart_anime",
    size=217_631_959,
    sha256="ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488",
    licence="MIT",
    repo="lllyasviel/Annotators",
)
STEP = 256
"""The network halves the picture eight times."""


@register
class LineArtAnime(NetworkDetector):
    """White lines on black."""

    name = "lineart_anime"
    tags = ("Lineart",)
    weights = (WEIGHTS,)

    def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
        from .nets.pix2pix import build

        height, width = images[0].shape[:2]
        size = width + -width % STEP, height + -height % STEP
        stretched = [cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in images]
        with lend(WEIGHTS, build) as network:
            return as_array(network(as_planes(stretched, network) / 127.5 - 1))[:, 0]

    def draw(self, seen: np.ndarray, image: np.ndarray) -> np.ndarray:
        size = image.shape[1], image.shape[0]
        levels = cv2.resize(seen * 127.5 + 127.5, size, interpolation=cv2.INTER_CUBIC)
        return 255 - levels.clip(0, 255).astype(np.uint8)
