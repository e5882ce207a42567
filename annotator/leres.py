"""Depth by LeReS, with what is near or far cut off at will."""

from __future__ import annotations

import numpy as np

from ._tensors import as_array, as_input
from .networks import lend
from .registry import Detector, Slider, register
from .weights import WeightFile

RES101 = WeightFile(
    "res101.pth",
    "leres",
    530_760_553,
    "AdelaiDepth terms",
    sha256="1d696b2ef3e8336b057d0c15bc82d2fecef821bfebe5ef9d7671a5ec5dde520b",
    repo="lllyasviel/Annotators",
)
SLIDERS = (
    Slider("Remove Near %", 0, 100, 0, 0.1),
    Slider("Remove Background %", 0, 100, 0, 0.1),
)


@register
class DepthLeres(Detector):
    """Yin et al. (2021), arXiv:2012.09365. Near is white.

    Sees RGB scaled like the pictures it was trained on. The old extension gave it blue first and
    numbers of up to 255, so its maps look different.
    """

    name = "depth_leres"
    tags = ("Depth",)
    sliders = SLIDERS
    weights = (RES101,)

    def detect(self, image: np.ndarray, near: float, background: float) -> np.ndarray:
        from .nets.leres import build  # noqa: PLC0415

        with lend(RES101, build) as network:
            depth = as_array(network(as_input(image, network))[0, 0])
        return cut(depth, near, background)


def cut(depth: np.ndarray, near: float, background: float) -> np.ndarray:
    """A depth as a map, without its nearest and its farthest part.

    Args:
        depth: float32 (H, W), far is large.
        near: per cent of the range, counted from the nearest point, that becomes white.
        background: per cent of the range, counted from the farthest point, that becomes black.

    Returns:
        uint8 (H, W), near is white; all white where the depth is the same everywhere.
    """
    low, high = float(depth.min()), float(depth.max())
    share = (depth - low) / (high - low) if high > low else np.zeros_like(depth)
    # Parity: through 16 bits, cut down, to 8 bits, rounded.
    levels = np.rint(np.floor(share * 65535) / 257).astype(np.uint8)
    levels[levels <= near / 100 * 255] = 0
    inverse = 255 - levels
    inverse[inverse <= background / 100 * 255] = 0
    return inverse
