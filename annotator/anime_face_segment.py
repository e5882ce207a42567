"""Parts of drawn faces, each in its colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._labels import most_likely
from ._sizes import within_box
from ._tensors import as_planes
from .networks import lend
from .palettes import ANIME_FACE
from .registry import NetworkDetector, register
from .weights import WeightFile

UNET = WeightFile(
    name="UNet.pth",
    folder="anime_face_segment",
    size=6_430_000,
    exact=False,
    licence="code MIT, weights not stated",
    repo="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/UNet.pth",
)

# The network was trained on pictures of this size.
SHORT_SIDE = 512
LONGEST_SIDE = 2048
STEP = 32


@register
class AnimeFaceSegment(NetworkDetector):
    """Hair, eyes, mouth, face, skin, clothes and background of a drawn character.

    The network sees a short side of 512; its probabilities are brought to the resolution, so
    that the map has the size that was asked for (the old extension gave the network's size).
    """

    name = "anime_face_segment"
    label = "seg_anime_face"
    tags = ("Segmentation",)
    weights = (UNET,)
    palette = ANIME_FACE

    def see(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        from .nets.anime_face import build

        seen = [within_box(image, SHORT_SIDE, LONGEST_SIDE, STEP) for image in images]
        with lend(UNET, build) as network:
            parts = network(as_planes(seen, network) / 255.0)
        return [most_likely(row, images[0].shape[:2]) for row in parts.split(1)]

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return ANIME_FACE.paint(seen)
