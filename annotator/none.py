"""No preprocessing: the picture is already a control map."""

from __future__ import annotations

import numpy as np

from .registry import Detector, Frame, register


@register
class NoPreprocessor(Detector):
    """Returns the picture as given."""

    name = "none"
    tags = ("InstructP2P",)
    priority = 10
    frame = Frame.AS_GIVEN
    identity = True

    def detect(self, image: np.ndarray) -> np.ndarray:
        return image
