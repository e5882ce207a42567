"""Pictures as CLIP sees them, in place of words. Radford et al. (2021), arXiv:2103.00020."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import ClassVar, Final

import cv2
import numpy as np

from ._tensors import as_input, as_planes
from .embedding import HIDDEN, IMAGE_EMBEDS, LAST, UNCOND_HIDDEN, Embedding
from .networks import lend
from .registry import Detected, Frame, NetworkDetector, Output, Requirement, Slider, register
from .weights import WeightFile

TRANSFORMERS: Final = Requirement("transformers", "transformers>=4.30", "A1111 brings it along")

_encoder = partial(WeightFile, folder="clip_vision")
VIT_L: Final = _encoder(
    "clip_l.safetensors",
    size=1_710_540_580,
    sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
    licence="MIT",
    repo="openai/clip-vit-large-patch14",
    revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
    path="model.safetensors",
    others=("clip_vision/clip_vitl.pth", "clip_vitl.pth", "CLIP-ViT-L.safetensors"),
)
VIT_H: Final = _encoder(
    "clip_h.safetensors",
    size=2_528_373_448,
    sha256="6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030",
    licence="Apache-2.0",
    repo="h94/IP-Adapter",
    path="models/image_encoder/model.safetensors",
    others=(
        *("clip_vision/clip_h.pth", "clip_h.pth", "CLIP-ViT-H-14.safetensors"),
        *("CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",),
    ),
)
VIT_BIGG: Final = _encoder(
    "clip_g.safetensors",
    size=3_689_912_664,
    sha256="657723e09f46a7c3957df651601029f66b1748afb12b419816330f16ed45d64d",
    licence="MIT",
    repo="h94/IP-Adapter",
    path="sdxl_models/image_encoder/model.safetensors",
    others=(
        *("clip_vision/clip_g.pth", "clip_g.pth", "CLIP-ViT-bigG.safetensors"),
        *("CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors",),
    ),
)

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)


class ClipVision(NetworkDetector):
    """What one of CLIP's vision networks makes of a picture.

    Fields:
        gives: names of the tensors that are used.
    """

    frame = Frame.AS_GIVEN
    output = Output.EMBEDDING
    control_mode = False
    requires: ClassVar[tuple[Requirement, ...]] = (TRANSFORMERS,)
    gives: ClassVar[tuple[str, ...]] = ()

    def see(self, images: Sequence[np.ndarray], *_values: float) -> list[Embedding]:
        return embed_all(images, self.weights[0], self.gives, self.name)

    def draw(self, seen: Embedding, image: np.ndarray, *_values: float) -> Detected:
        return Detected(without_masked(image), embedding=seen)


def embed(
    image: np.ndarray, weight: WeightFile, names: Collection[str], maker: str = ""
) -> Embedding:
    """A picture as one of CLIP's vision networks sees it, see `embed_all`."""
    return embed_all([image], weight, names, maker)[0]


def embed_all(
    images: Sequence[np.ndarray], weight: WeightFile, names: Collection[str], maker: str = ""
) -> list[Embedding]:
    """Pictures as one of CLIP's vision networks sees them, each by itself.

    Parity: they are squeezed to a square, by area, not cropped.

    Args:
        images: uint8 (H, W, 3), or all of them (H, W, 4): what is masked in the fourth channel is
            not seen.
        weight: the network's file.
        names: which of its tensors are wanted, see `annotator.embedding`.
        maker: the preprocessor, for messages.
    """
    from .nets.clip_vision import build

    with lend(weight, build) as network:
        side = network.side, network.side
        small = [cv2.resize(image, side, interpolation=cv2.INTER_AREA) for image in images]
        pixels = as_input([image[:, :, :3] for image in small], network, MEAN, STD)
        if small[0].shape[2] == 4:  # RGB and mask
            masks = as_planes([image[:, :, 3] for image in small], network)
            pixels = pixels * (1 - masks / 255)
        seen = network(pixels)
        found = {IMAGE_EMBEDS: seen.pooled, HIDDEN: seen.hidden, LAST: seen.last}
        rows = [
            {name: every[i : i + 1] for name, every in found.items()} for i in range(len(small))
        ]
        for row in rows if UNCOND_HIDDEN in names else ():
            row[UNCOND_HIDDEN] = network.blank(pixels)
        return [Embedding({name: row[name].float().cpu() for name in names}, maker) for row in rows]


def without_masked(image: np.ndarray) -> np.ndarray:
    """What the network sees of a picture, uint8 (H, W, 3): CLIP's mean colour stands for nothing.

    Args:
        image: uint8 (H, W, 3), or (H, W, 4) with a mask.
    """
    if image.shape[2] == 3:  # RGB
        return image
    share = image[:, :, 3:].astype(np.float32) / 255
    mixed = image[:, :, :3] * (1 - share) + np.asarray(MEAN, np.float32) * 255 * share
    return np.rint(mixed).astype(np.uint8)


@register
class StyleAdapter(ClipVision):
    """The last states of CLIP ViT-L, for the T2I style adapter."""

    name = "clip_vision"
    label = "t2ia_style_clipvision"
    tags = ("T2I-Adapter",)
    weights = (VIT_L,)
    gives = (LAST,)


class _Revision(ClipVision):
    """CLIP ViT-bigG in place of SDXL's pooled text."""

    tags = ("Revision",)
    sliders = (Slider("Noise Augmentation", 0, 1, 0, 0.01),)
    needs_model = False
    weights = (VIT_BIGG,)
    gives = (IMAGE_EMBEDS,)


@register
class Revision(_Revision):
    """A picture in place of SDXL's pooled text; the words stay."""

    name = "revision_clipvision"
    priority = 100


@register
class RevisionWithoutPrompt(_Revision):
    """A picture in place of the prompt of an SDXL checkpoint."""

    name = "revision_ignore_prompt"
