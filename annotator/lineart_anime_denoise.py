"""Lines of manga without its screen tones (Li, Liu, Wong, 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ._tensors import as_array, as_planes
from .networks import lend
from .registry import NetworkDetector, register
from .weights import WeightFile

WEIGHTS = WeightFile(
    name="erika.pth",
    folder="manga_line",
    size=172_789_563,
    sha256="badbd6baf013cefbd98993307b02cc14a26c770d067416e4fdecc8720b88feeb",
    licence="MIT",
    repo="lllyasviel/Annotators",
)


@register
class LineArtAnimeDenoise(NetworkDetector):
    """White lines on black."""

    name = "lineart_anime_denoise"
    tags = ("Lineart",)
    weights = (WEIGHTS,)

    def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
        from .nets.manga_line import build

        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
        # Sums of unscaled pixels may pass the largest number of half precision.
        with lend(WEIGHTS, build, half=False) as network:
            return as_array(network(as_planes(grey, network)))[:, 0]

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return 255 - seen.clip(0, 255).astype(np.uint8)
