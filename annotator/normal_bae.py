"""Surface directions by the estimator of Bae, Budvytis and Cipolla."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._tensors import as_array, as_input, as_normal_map
from .networks import lend
from .registry import NetworkDetector, register
from .weights import WeightFile

SCANNET = WeightFile(
    "scannet.pt",
    "normal_bae",
    291_000_000,
    "MIT",
    sha256="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
    exact=False,
    repo="lllyasviel/Annotators",
)


@register
class NormalBae(NetworkDetector):
    """Surface directions: x, y and z as red, green and blue.

    Bae et al. (2021), arXiv:2109.09881.
    """

    name = "normal_bae"
    tags = ("NormalMap",)
    priority = 100
    weights = (SCANNET,)

    def see(self, images: Sequence[np.ndarray]) -> np.ndarray:
        from .nets.normal_bae import build

        with lend(SCANNET, build) as network:
            return as_array(network(as_input(images, network))[:, :3])

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return as_normal_map(seen)
