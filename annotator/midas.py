"""Depth by MiDaS 3.0 hybrid, and surface directions read off the depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from ._tensors import as_array, as_input, spread
from .networks import lend
from .registry import NetworkDetector, Slider, register
from .weights import WeightFile

MIDAS = WeightFile(
    "dpt_hybrid-midas-501f0c75.pt",
    "midas",
    492_757_791,
    "MIT",
    sha256="501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
    repo="lllyasviel/Annotators",
)
CENTRE = (0.5, 0.5, 0.5)

STEEPNESS = 2 * math.pi
"""Depth differences of so much between neighbours are a slope of 45 degrees."""


class _Midas(NetworkDetector):
    """Sees the inverse depth: float32 (H, W), 0 and above, near is large.

    In full precision everywhere: depths reach thousands, where half precision knows only every
    second number, and directions are made of the differences. Both sides are multiples of 32.
    """

    weights = (MIDAS,)

    def see(self, images: Sequence[np.ndarray], *_values: float) -> np.ndarray:
        from .nets.midas import build

        with lend(MIDAS, build, half=False) as network:
            return as_array(network(as_input(images, network, CENTRE, CENTRE))[:, 0])


@register
class DepthMidas(_Midas):
    """Depth: near is white, and a flat depth is black.

    Ranftl et al. (2021), arXiv:2103.13413.
    """

    name = "depth"
    label = "depth_midas"
    tags = ("Depth",)
    priority = 100

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return spread(seen)


@register
class NormalMidas(_Midas):
    """Directions from the slopes of the inverse depth; what is far away faces the viewer.

    Parity: the channels are (towards the viewer, down, right), the order that the old extension's
    models were trained on.
    """

    name = "normal_map"
    label = "normal_midas"
    tags = ("NormalMap",)
    sliders = (Slider("Normal Background Threshold", 0, 1, 0.4, 0.01),)

    def draw(self, seen: np.ndarray, _image: np.ndarray, background: float) -> np.ndarray:
        return directions(seen, background)


def directions(depth: np.ndarray, background: float) -> np.ndarray:
    """Surface directions as colours.

    Args:
        depth: float32 (H, W), near is large.
        background: share of the range of depths; what lies below it counts as flat.

    Returns:
        uint8 (H, W, 3).
    """
    low, high = float(depth.min()), float(depth.max())
    slopes = [cv2.Sobel(depth, cv2.CV_32F, 1, 0), cv2.Sobel(depth, cv2.CV_32F, 0, 1)]
    for slope in slopes:
        slope[depth - low < background * (high - low)] = 0
    vectors = np.stack([np.full_like(depth, STEEPNESS), *reversed(slopes)], axis=2)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return (vectors * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
