"""Depth by Depth Anything, versions 1 and 2, in the size that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np

from ._tensors import as_array, as_input, spread
from .networks import lend
from .registry import NetworkDetector, register
from .store import STORE
from .weights import WeightFile

SIDE = 518
"""Short side of what the network sees, as in training."""
PATCH = 14
LONGEST = 4
"""Pictures longer than so many times their short side are squeezed: the time grows with the
square of the area."""

_WORDS = {"s": "Small", "b": "Base", "l": "Large"}


def _v1(size: str, nbytes: int, sha256: str) -> WeightFile:
    name = f"depth_anything_vit{size}14.pth"
    return WeightFile(
        name,
        "depth_anything",
        nbytes,
        "Apache-2.0",
        sha256=sha256,
        exact=size == "l",
        repo="spaces/LiheYoung/Depth-Anything",
        path=f"checkpoints/{name}",
        variable="CONTROLNET_DEPTH_ANYTHING_MODEL_URL" if size == "l" else "",
    )


def _v2(size: str, nbytes: int, sha256: str) -> WeightFile:
    stem = f"depth_anything_v2_vit{size}"
    return WeightFile(
        f"{stem}.pth",
        "depth_anything_v2",
        nbytes,
        "Apache-2.0" if size == "s" else "CC-BY-NC-4.0",
        sha256=sha256,
        repo=f"depth-anything/Depth-Anything-V2-{_WORDS[size]}",
        variable="CONTROLNET_DEPTH_ANYTHING_V2_MODEL_URL" if size == "l" else "",
        others=(f"depth_anything_v2/{stem}.safetensors",),
    )


class _DepthAnything(NetworkDetector):
    """Near is white. Sees RGB (the old extension swapped red and blue); a flat depth is black.

    Uses the largest file that is there, or whose environment variable says where to get it.
    """

    tags = ("Depth",)
    version: ClassVar[int]

    def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
        from torch.nn import functional

        from .nets.depth_anything import BUILDS

        with lend(self._weight(), BUILDS[self.version]) as network:
            depth = network(as_input([as_seen(image) for image in images], network)).float()
            depth = functional.interpolate(depth, images[0].shape[:2], mode="bilinear")
            return as_array(depth[:, 0])

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return spread(seen)

    def _weight(self) -> WeightFile:
        for file in (*self.larger, *self.weights):
            if file.replaced or STORE.locate(file):
                return file
        return self.weights[0]


@register
class DepthAnythingV1(_DepthAnything):
    """Depth: near is white.

    Yang et al. (2024), arXiv:2401.10891.
    """

    name = "depth_anything"
    version = 1
    weights = (
        _v1("s", 99_000_000, "59afe57cfd9f4284deaf5b753d954723d7136ae842fba3e068ba03537ca1e60e"),
    )
    larger = (
        _v1("l", 1_341_401_882, "6c6a383e33e51c5fdfbf31e7ebcda943973a9e6a1cbef1564afe58d7f2e8fe63"),
        _v1("b", 390_000_000, "64ae214ae4e27424b644c49464c0aa243016f6f753d95097c8eb9ad0b9cb2d9b"),
    )


@register
class DepthAnythingV2(_DepthAnything):
    """Depth with finer details than version 1: near is white.

    Yang et al. (2024), arXiv:2406.09414.
    """

    name = "depth_anything_v2"
    version = 2
    weights = (
        _v2("s", 99_218_434, "715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378"),
    )
    larger = (
        _v2("l", 1_341_395_338, "a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345"),
        _v2("b", 389_961_218, "0d2b7002e62d39d655571c371333340bd88f67ab95050c03591555aa05645328"),
    )


def as_seen(image: np.ndarray) -> np.ndarray:
    """The picture at the size the network works at: short side 518, both multiples of 14.

    Args:
        image: uint8 (H, W, 3).

    Returns:
        float32 (h, w, 3), 0 to 1 but for what cubic interpolation overshoots.
    """
    scale = SIDE / min(image.shape[:2])
    height, width = (
        PATCH * min(round(side * scale / PATCH), LONGEST * SIDE // PATCH)
        for side in image.shape[:2]
    )
    unit = image.astype(np.float32) / 255
    return cv2.resize(unit, (width, height), interpolation=cv2.INTER_CUBIC)
