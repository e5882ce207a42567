"""Line drawings of photographs (Chan, Durand, Isola, CVPR 2022), fine and coarse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._edges import as_bytes
from ._tensors import as_array, as_planes
from .networks import lend
from .registry import NetworkDetector, register
from .weights import WeightFile

FINE = WeightFile(
    name="sk_model.pth",
    folder="lineart",
    size=17_173_511,
    sha256="c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
    licence="MIT",
    repo="lllyasviel/Annotators",
)
COARSE = WeightFile(
    name="sk_model2.pth",
    folder="lineart",
    size=17_173_511,
    sha256="30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
    licence="MIT",
    repo="lllyasviel/Annotators",
)


class _LineArt(NetworkDetector):
    """White lines on black."""

    tags = ("Lineart",)

    def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
        from .nets.lineart import build

        with lend(self.weights[0], build) as network:
            return as_array(network(as_planes(images, network) / 255))[:, 0]

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return 255 - as_bytes(seen)


@register
class LineArt(_LineArt):
    """White lines on black, as fine as the picture's detail."""

    name = "lineart"
    label = "lineart_realistic"
    weights = (FINE,)


@register
class LineArtCoarse(_LineArt):
    """White lines on black, fewer and broader than the fine ones."""

    name = "lineart_coarse"
    weights = (COARSE,)
