"""Scene segmentation with OneFormer, in the colours of ADE20K or of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np

from ._sizes import within_box
from ._tensors import as_input
from .networks import lend
from .palettes import ADE20K, COCO, Palette
from .registry import NetworkDetector, Requirement, register
from .weights import WeightFile

ADE20K_FILE = WeightFile(
    name="250_16_swin_l_oneformer_ade20k_160k.pth",
    folder="oneformer",
    size=949_729_587,
    sha256="f7ac095c28ddea4715e854a587eaee24327c624cbbdb17095bc9903c51930b16",
    licence="MIT",
    repo="lllyasviel/Annotators",
)
COCO_FILE = WeightFile(
    name="150_16_swin_l_oneformer_coco_100ep.pth",
    folder="oneformer",
    size=949_602_739,
    sha256="0684dfc39720c772b81d43639c3ae1896b5c15aa9ee9a76f4c593b19dfa33855",
    licence="MIT",
    repo="lllyasviel/Annotators",
)

STEP = 32


class _OneFormer(NetworkDetector):
    """Flat areas, each in the colour of its class.

    Plain areas, without the light outlines that the old extension drew between them: control
    models know no such colour.

    Fields:
        short_side, long_side: the box that pictures were fitted into for training.
    """

    tags = ("Segmentation",)
    requires = (Requirement("transformers", "transformers>=4.30"),)
    palette: ClassVar[Palette]  # classes of the data set it was trained on
    short_side: ClassVar[int]
    long_side: ClassVar[int]

    def see(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        from .nets.oneformer import TASK, build, semantic

        box = self.short_side, self.long_side, STEP, cv2.INTER_LINEAR, cv2.INTER_AREA
        seen = [within_box(image, *box) for image in images]
        # The class mixes float32 positions into its sums.
        with lend(self.weights[0], build, half=False) as network:
            pixels = as_input(seen, network)
            found = network(pixels, torch.tensor([TASK] * len(images), device=pixels.device))
            every = zip(found.class_queries_logits, found.masks_queries_logits, strict=True)
            return [semantic(*row, images[0].shape[:2]).cpu().numpy() for row in every]

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return self.palette.paint(seen)


@register
class OneFormerAde20k(_OneFormer):
    """OneFormer trained on ADE20K, 150 classes: what segmentation models were trained on."""

    name = "oneformer_ade20k"
    label = "seg_ofade20k"
    priority = 100
    weights = (ADE20K_FILE,)
    palette, short_side, long_side = ADE20K, 640, 2560


@register
class OneFormerCoco(_OneFormer):
    """OneFormer trained on COCO, 133 classes."""

    name = "oneformer_coco"
    label = "seg_ofcoco"
    weights = (COCO_FILE,)
    palette, short_side, long_side = COCO, 800, 1333
