"""Depth by ZoeDepth, trained indoors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._tensors import as_array, as_input
from .networks import lend
from .registry import NetworkDetector, register
from .weights import WeightFile

ZOE = WeightFile(
    "ZoeD_M12_N.pt",
    "zoedepth",
    1_443_406_099,
    "MIT",
    sha256="c97f94c4d53c5b788af46c5da0462262aebb37ea116fd70014bcbba93146c33b",
    repo="lllyasviel/Annotators",
)
CENTRE = (0.5, 0.5, 0.5)
NEAREST, FARTHEST = 2, 85
"""Percentiles of the depth that become white and black."""


@register
class DepthZoe(NetworkDetector):
    """Depth indoors: near is white, and a flat depth is black.

    Bhat et al. (2023), arXiv:2302.12288. Runs in full precision everywhere: the exponents that
    decide between its bins reach tens of thousands.
    """

    name = "depth_zoe"
    tags = ("Depth",)
    weights = (ZOE,)

    def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
        from .nets.zoe import build, measure

        with lend(ZOE, build, half=False) as network:
            return as_array(measure(network, as_input(images, network, CENTRE, CENTRE))[:, 0])

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return nearness(seen)


def nearness(metres: np.ndarray) -> np.ndarray:
    """Metres as a map, uint8: the nearest are white, what is far is black."""
    near, far = np.percentile(metres, (NEAREST, FARTHEST))
    if far <= near:
        return np.zeros(metres.shape, np.uint8)
    return ((1 - (metres - near) / (far - near)) * 255).clip(0, 255).astype(np.uint8)
