"""Inpainting: the picture goes to the model as it is, with the mask as a fourth channel."""

from __future__ import annotations

import numpy as np

from .registry import Detector, Effect, Frame, MaskUse, Output, register


class _Inpaint(Detector):
    tags = ("Inpaint",)
    resolution = None
    frame = Frame.AS_GIVEN
    output = Output.MASKED
    mask = MaskUse.REQUIRED
    identity = True

    def detect(self, image: np.ndarray) -> np.ndarray:
        return image

    def display(self, detection: np.ndarray) -> np.ndarray:
        """The masked part half transparent."""
        shown = detection.copy()
        shown[:, :, 3] = 255 - shown[:, :, 3] // 2
        return shown


@register
class InpaintOnly(_Inpaint):
    """Repaints inside the mask; what is outside is put back after decoding."""

    name = "inpaint_only"
    priority = 100
    effect = Effect.INPAINT_ONLY
    held_as = "inpaint"


@register
class InpaintGlobalHarmonious(_Inpaint):
    """Repaints inside the mask and lets the rest of the picture change to fit."""

    name = "inpaint"
    label = "inpaint_global_harmonious"


@register
class InpaintNoobAI(_Inpaint):
    """Repaints inside the mask, which is black in the hint whatever the model (NoobAI, ProMax)."""

    name = "inpaint_noobai_xl"
    masked = 0.0

    def display(self, detection: np.ndarray) -> np.ndarray:
        """As the model sees it."""
        shown = detection.copy()
        shown[shown[:, :, 3] > 127] = 0  # half scale
        shown[:, :, 3] = 255
        return shown
