"""Image prompts. Ye et al. (2023), "IP-Adapter", arXiv:2308.06721; Guo et al. (2024), PuLID,
arXiv:2404.16022.

Declared so that units which name them are understood; what they return is of use only to models
of the IP-Adapter family.
"""

from __future__ import annotations

from .registry import Detector, Frame, MaskUse, Output, register

REASON = "what it returns drives IP-Adapter models, which cannot be used here yet"


class _ImagePrompt(Detector):
    """A picture as a prompt."""

    tags = ("IP-Adapter",)
    frame = Frame.AS_GIVEN
    output = Output.EMBEDDING
    control_mode = False
    unavailable = REASON


@register
class Automatic(_ImagePrompt):
    """Not available yet: the image prompt that fits the chosen IP-Adapter model."""

    name = "ip-adapter-auto"
    priority = 1000


@register
class ClipH(_ImagePrompt):
    """Not available yet: CLIP ViT-H image prompt, for most IP-Adapter models."""

    name = "ip-adapter_clip_sd15"
    label = "ip-adapter_clip_h"
    priority = 100
    mask = MaskUse.ACCEPTED


@register
class ClipG(_ImagePrompt):
    """Not available yet: CLIP ViT-bigG image prompt."""

    name = "ip-adapter_clip_sdxl"
    label = "ip-adapter_clip_g"
    mask = MaskUse.ACCEPTED


@register
class ClipHPlus(_ImagePrompt):
    """Not available yet: CLIP ViT-H image prompt of the SDXL plus models."""

    name = "ip-adapter_clip_sdxl_plus_vith"
    mask = MaskUse.ACCEPTED


@register
class FaceId(_ImagePrompt):
    """Not available yet: a face as insightface recognises it."""

    name = "ip-adapter_face_id"


@register
class FaceIdPlus(_ImagePrompt):
    """Not available yet: a face as insightface and CLIP ViT-H see it."""

    name = "ip-adapter_face_id_plus"


@register
class PuLid(_ImagePrompt):
    """Not available yet: a face for PuLID models."""

    name = "ip-adapter_pulid"
    resolution = None
    control_mode = True
    unavailable = "what it returns drives PuLID models, which cannot be used here yet"
