"""Parts of drawn faces, each in its colour."""

from __future__ import annotations

import cv2
import numpy as np

from ._tensors import as_planes
from .networks import lend
from .palettes import ANIME_FACE
from .registry import Detector, register
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
class AnimeFaceSegment(Detector):
    """Hair, eyes, mouth, face, skin, clothes and background of a drawn character.

    The network sees a short side of 512; its probabilities are brought to the resolution, so
    that the map has the size that was asked for (the old extension gave the network's size).
    """

    name = "anime_face_segment"
    label = "seg_anime_face"
    tags = ("Segmentation",)
    weights = (UNET,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        from torch.nn.functional import interpolate  # noqa: PLC0415

        from .nets.anime_face import build  # noqa: PLC0415

        with lend(UNET, build) as network:
            parts = network(as_planes(_trained_size(image), network) / 255.0).float()
        labels = interpolate(parts, image.shape[:2], mode="bilinear").argmax(dim=1)[0]
        return ANIME_FACE.paint(labels.cpu().numpy())


def _trained_size(image: np.ndarray) -> np.ndarray:
    """The short side brought to 512, a strip's long side to 2048 instead; multiples of 32."""
    height, width = image.shape[:2]
    factor = min(SHORT_SIDE / min(height, width), LONGEST_SIDE / max(height, width))
    size = [max(round(side * factor / STEP), 1) * STEP for side in (width, height)]
    if size == [width, height]:
        return image
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)
