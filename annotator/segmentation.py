"""Scene segmentation with UniFormer, one colour per ADE20K class."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ._labels import most_likely
from ._sizes import within_box
from ._tensors import as_input
from .networks import lend
from .palettes import ADE20K
from .registry import NetworkDetector, register
from .weights import WeightFile

UPERNET = WeightFile(
    name="upernet_global_small.pth",
    folder="uniformer",
    size=206_000_000,
    exact=False,
    sha256="bebfa1264c10381e389d8065056baaadbdadee8ddc6e36770d1ec339dc84d970",
    licence="Apache-2.0",
    repo="lllyasviel/Annotators",
)

# The box that pictures were fitted into for training, and the network's coarsest cell.
SHORT_SIDE = 512
LONG_SIDE = 2048
STEP = 32


@register
class Segmentation(NetworkDetector):
    """Flat areas in the colours of ADE20K's 150 classes.

    The network sees RGB, as it was trained; the old extension gave it blue first.
    """

    name = "segmentation"
    label = "seg_ufade20k"
    tags = ("Segmentation",)
    weights = (UPERNET,)
    palette = ADE20K

    def see(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        from .nets.uniformer import build

        box = SHORT_SIDE, LONG_SIDE, STEP, cv2.INTER_LINEAR, cv2.INTER_LINEAR
        seen = [within_box(image, *box) for image in images]
        with lend(UPERNET, build) as network:
            scores = network(as_input(seen, network))
        return [most_likely(row, images[0].shape[:2]) for row in scores.split(1)]

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return ADE20K.paint(seen)
