"""Image prompts. Ye et al. (2023), "IP-Adapter", arXiv:2308.06721."""

from __future__ import annotations

from .clip_vision import TRANSFORMERS, VIT_BIGG, VIT_H, ClipVision
from .embedding import HIDDEN, IMAGE_EMBEDS, UNCOND_HIDDEN
from .registry import Detector, Frame, MaskUse, Output, register


class ImagePrompt(Detector):
    """A picture as a prompt."""

    tags = ("IP-Adapter",)
    frame = Frame.AS_GIVEN
    output = Output.EMBEDDING
    control_mode = False
    several = True


class _Clip(ClipVision, ImagePrompt):
    """A picture as CLIP sees it; what is masked is not seen."""

    mask = MaskUse.ACCEPTED
    gives = (IMAGE_EMBEDS, HIDDEN, UNCOND_HIDDEN)


@register
class Automatic(ImagePrompt):
    """The image prompt that the chosen model is made for."""

    name = "ip-adapter-auto"
    priority = 1000
    requires = (TRANSFORMERS,)
    follows_model = True


@register
class ClipH(_Clip):
    """CLIP ViT-H image prompt, for most IP-Adapter models."""

    name = "ip-adapter_clip_sd15"
    label = "ip-adapter_clip_h"
    priority = 100
    weights = (VIT_H,)


@register
class ClipG(_Clip):
    """CLIP ViT-bigG image prompt."""

    name = "ip-adapter_clip_sdxl"
    label = "ip-adapter_clip_g"
    weights = (VIT_BIGG,)


@register
class ClipHPlus(_Clip):
    """CLIP ViT-H image prompt of the SDXL plus models."""

    name = "ip-adapter_clip_sdxl_plus_vith"
    weights = (VIT_H,)
