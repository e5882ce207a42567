"""Pictures as CLIP sees them, in place of words. Radford et al. (2021), arXiv:2103.00020."""

from __future__ import annotations

from .registry import Detector, Frame, Output, Slider, register


class _Vision(Detector):
    """What CLIP makes of a picture."""

    frame = Frame.AS_GIVEN
    output = Output.EMBEDDING
    control_mode = False


@register
class StyleAdapter(_Vision):
    """Not available yet: CLIP ViT-L image prompt of the T2I style adapter."""

    name = "clip_vision"
    label = "t2ia_style_clipvision"
    tags = ("T2I-Adapter",)
    unavailable = "what it returns drives the T2I style adapter, which cannot be used here yet"


class _Revision(_Vision):
    """CLIP ViT-bigG in place of SDXL's pooled text."""

    tags = ("Revision",)
    sliders = (Slider("Noise Augmentation", 0, 1, 0, 0.01),)
    needs_model = False
    unavailable = "the Revision control it belongs to cannot be used here yet"


@register
class Revision(_Revision):
    """Not available yet: a picture beside the prompt of an SDXL checkpoint."""

    name = "revision_clipvision"
    priority = 100


@register
class RevisionWithoutPrompt(_Revision):
    """Not available yet: a picture in place of the prompt of an SDXL checkpoint."""

    name = "revision_ignore_prompt"
