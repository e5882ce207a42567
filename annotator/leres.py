"""Depth by LeReS, with what is near or far cut off at will."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ._boost import boost
from ._tensors import as_array, as_input
from .networks import lend, place_of
from .registry import Detector, NetworkDetector, Slider, register
from .weights import WeightFile

if TYPE_CHECKING:
    from torch import nn

RES101 = WeightFile(
    "res101.pth",
    "leres",
    530_760_553,
    "not stated (AdelaiDepth)",
    sha256="1d696b2ef3e8336b057d0c15bc82d2fecef821bfebe5ef9d7671a5ec5dde520b",
    repo="lllyasviel/Annotators",
)
MERGE = WeightFile(
    "latest_net_G.pth",
    "leres",
    318_000_000,
    "BoostingMonocularDepth terms, academic use only",
    sha256="50ec735d74ed6499562d898f41b49343e521808b8dae589aa3c2f5c9ac9f7462",
    exact=False,
    repo="lllyasviel/Annotators",
)
SLIDERS = (
    Slider("Remove Near %", 0, 100, 0, 0.1),
    Slider("Remove Background %", 0, 100, 0, 0.1),
)


@register
class DepthLeres(NetworkDetector):
    """Depth: near is white; what is nearest or farthest can be cut off.

    Yin et al. (2021), arXiv:2012.09365. Sees RGB scaled like the pictures it was trained on. The
    old extension gave it blue first and numbers of up to 255, so its maps look different.
    """

    name = "depth_leres"
    tags = ("Depth",)
    sliders = SLIDERS
    weights = (RES101,)

    def see(self, images: Sequence[np.ndarray], *_values: float) -> np.ndarray:
        from .nets.leres import build

        with lend(RES101, build) as network:
            return as_array(network(as_input(images, network))[:, 0])

    def draw(
        self, seen: np.ndarray, _image: np.ndarray, near: float, background: float
    ) -> np.ndarray:
        return cut(seen, near, background)


@register
class DepthLeresBoosted(Detector):
    """Depth with finer details: near is white. Takes minutes on a CPU.

    LeReS by the method of Miangoleh et al. (2021), arXiv:2105.14021, which runs two networks many
    times.
    """

    name = "depth_leres++"
    tags = ("Depth",)
    sliders = SLIDERS
    weights = (RES101, MERGE)

    def detect(self, image: np.ndarray, near: float, background: float) -> np.ndarray:
        from .nets.leres import build
        from .nets.pix2pix import build as build_merge

        with lend(RES101, build) as network, lend(MERGE, build_merge) as merger:
            depth = boost(image, partial(_see_at, network), partial(_merge, merger))
        return cut(depth, near, background)


def _see_at(network: nn.Module, image: np.ndarray, side: int) -> np.ndarray:
    """Depth of a picture that the network sees as a square, float32 (H, W)."""
    square = cv2.resize(image, (side, side))
    depth = as_array(network(as_input(square, network))[0, 0])
    return cv2.resize(depth, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def _merge(network: nn.Module, whole: np.ndarray, details: np.ndarray) -> np.ndarray:
    """Two depths in 0 to 1 as one, float32 of the same shape."""
    import torch

    device, dtype = place_of(network)
    pair = torch.from_numpy(np.stack([whole, details])[None].astype(np.float32) * 2 - 1)
    return (as_array(network(pair.to(device, dtype))[0, 0]) + 1) / 2


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
