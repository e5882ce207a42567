"""Straight line segments by M-LSD (Gu et al., AAAI 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ._tensors import as_array, as_planes
from .networks import lend
from .registry import NetworkDetector, Slider, register
from .weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = WeightFile(
    name="mlsd_large_512_fp32.pth",
    folder="mlsd",
    size=6_341_481,
    sha256="5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
    licence="Apache-2.0",
    repo="lllyasviel/Annotators",
)
MOST = 200
"""Segments looked at, the likeliest ones."""
SCALE = 2
"""The network answers at half the size of its input."""


def segments(maps: Tensor, least: float, shortest: float) -> np.ndarray:
    """Line segments of the network's answer.

    Args:
        maps: (1, 9, h, w); channel 0 the logit of a segment's centre, 1 to 4 the way from there
            to its ends.
        least: probability above which a centre counts.
        shortest: length above which a segment counts, in pixels of the maps.

    Returns:
        float32 (n, 4): x and y of both ends, in pixels of the network's input.
    """
    import torch
    import torch.nn.functional as F

    maps = maps.float()
    heat = torch.sigmoid(maps[:, :1])
    heat = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
    scores, places = heat.flatten().topk(min(MOST, heat.numel()))
    ways = as_array(maps[0, 1:5].flatten(1)[:, places].T)
    width = maps.shape[3]
    centres = as_array(torch.stack([places % width, places // width] * 2, dim=1))
    lengths = np.hypot(ways[:, 0] - ways[:, 2], ways[:, 1] - ways[:, 3])
    chosen = (as_array(scores) > least) & (lengths > shortest)
    return (centres + ways)[chosen] * SCALE


@register
class Mlsd(NetworkDetector):
    """White lines of one pixel on black; straight ones only."""

    name = "mlsd"
    tags = ("MLSD",)
    priority = 100
    sliders = (
        Slider("MLSD Value Threshold", 0.01, 2, 0.1, 0.01),
        Slider("MLSD Distance Threshold", 0.01, 20, 0.1, 0.01),
    )
    soft_in_hires = True
    weights = (WEIGHTS,)

    def see(self, images: Sequence[np.ndarray], *_values: float) -> Sequence[Tensor]:
        from .nets.mlsd import build

        # A fourth channel of ones, which is scaled like the colours.
        pictures = [np.dstack([image, np.ones_like(image[:, :, :1])]) for image in images]
        with lend(WEIGHTS, build) as network:
            return network(as_planes(pictures, network) / 127.5 - 1).split(1)

    def draw(self, seen: Tensor, image: np.ndarray, least: float, shortest: float) -> np.ndarray:
        canvas = np.zeros(image.shape[:2], np.uint8)
        for left, top, right, bottom in segments(seen, least, shortest).astype(int).tolist():
            cv2.line(canvas, (left, top), (right, bottom), (255,), 1)
        return canvas
