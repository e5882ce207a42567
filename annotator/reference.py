"""Reference: the picture itself steers the attention of the U-Net, without a control model."""

from __future__ import annotations

import numpy as np

from .registry import Detector, Frame, Slider, register


class _Reference(Detector):
    """The picture as it came."""

    tags = ("Reference",)
    sliders = (Slider("Style Fidelity (only for Balanced mode)", 0, 1, 0.5, 0.01),)
    frame = Frame.AS_GIVEN
    needs_model = False
    identity = True

    def detect(self, image: np.ndarray, _fidelity: float) -> np.ndarray:
        return image


@register
class ReferenceOnly(_Reference):
    """The picture as it came; the attention of the picture that is made sees it."""

    name = "reference_only"
    priority = 100


@register
class ReferenceAdain(_Reference):
    """The picture as it came; features take its mean and spread, channel by channel."""

    name = "reference_adain"


@register
class ReferenceAdainAttention(_Reference):
    """The picture as it came, for attention and features: both of the others."""

    name = "reference_adain+attn"
