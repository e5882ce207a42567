"""Inpainting that begins with a guess: LaMa fills the masked part before the model repaints it."""

from __future__ import annotations

import cv2
import numpy as np

from ._sizes import within_box
from ._tensors import as_array, as_planes
from .networks import lend
from .registry import Detector, Effect, Frame, MaskUse, Output, register
from .weights import WeightFile

LAMA = WeightFile(
    name="ControlNetLama.pth",
    folder="lama",
    size=204_597_536,
    sha256="3b54044a23222eb835b549d61b480c444c06cf36df0ca86ea97aa9b14b001150",
    licence="Apache-2.0",
    repo="lllyasviel/Annotators",
)

# What the network was made for: it sees a small picture, and only the guess is enlarged.
SHORT_SIDE = 256
LONGEST_SIDE = 2048
PAD_STEP = 64
_STRIP = 1 << 20
"""Pixels blended in one go: the picture keeps its size, and floats take four times its memory."""


@register
class InpaintOnlyLama(Detector):
    """Fills the masked part from its surroundings; for removing things, and for outpainting.

    The picture comes back in its own size with the mask as it was given.
    """

    name = "inpaint_only+lama"
    tags = ("Inpaint",)
    resolution = None
    frame = Frame.AS_GIVEN
    output = Output.MASKED
    mask = MaskUse.REQUIRED
    effect = Effect.INPAINT_ONLY
    fills = True
    weights = (LAMA,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        if not image[:, :, 3].any():
            return image
        height, width = image.shape[:2]
        guess = cv2.resize(fill(image), (width, height), interpolation=cv2.INTER_LINEAR)
        guess, made = guess.reshape(height, width, 3), image.copy()
        step = max(_STRIP // width, 1)
        for rows in (slice(top, top + step) for top in range(0, height, step)):
            share = image[rows, :, 3:].astype(np.float32) / 255.0
            blended = guess[rows] * share + image[rows, :, :3] * (1.0 - share)
            made[rows, :, :3] = blended.clip(0, 255)
        return made

    def display(self, detection: np.ndarray) -> np.ndarray:
        """The filled picture."""
        return np.ascontiguousarray(detection[:, :, :3])


def fill(image: np.ndarray) -> np.ndarray:
    """The network's picture, at its working size; what is not masked is the given picture.

    Args:
        image: uint8 (H, W, 4), the mask last.

    Returns:
        uint8 (h, w, 3) with a short side of 256.
    """
    import torch

    from .nets.lama import build

    small = within_box(image, SHORT_SIDE, LONGEST_SIDE)
    height, width = small.shape[:2]
    bottom, right = -height % PAD_STEP, -width % PAD_STEP
    padded = cv2.copyMakeBorder(small, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    with lend(LAMA, build) as network:
        planes = as_planes(padded, network) / 255.0
        hole = (planes[:, 3:] > 0.5).to(planes)
        shown = planes[:, :3] * (1.0 - hole)
        filled = shown + network(torch.cat((shown, hole), dim=1)) * hole
        pixels = as_array(filled[0].permute(1, 2, 0)) * 255.0
    return pixels[:height, :width].clip(0, 255).astype(np.uint8)
