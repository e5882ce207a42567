"""After decoding: `inpaint_only` pastes the untouched pixels back around the mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def paste_back(image: Tensor, placed: np.ndarray, sigma: int) -> Tensor:
    """Keep the control image's own pixels outside the mask.

    Args:
        image: (3, H, W) in [0, 1], the generated picture.
        placed: uint8 (H, W, 4), control image and mask at the picture's size.
        sigma: side of the box that grows and then blurs the mask, pixels; 0 leaves it hard
            (setting `control_net_inpaint_blur_sigma`).

    Returns:
        (3, H, W); where the grown mask is 0 it holds the control image's pixels exactly.
    """
    import torch

    mask = soft_mask(placed[:, :, 3], sigma)
    height, width = image.shape[-2:]
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height))
        placed = cv2.resize(placed, (width, height), interpolation=cv2.INTER_AREA)
    raw = torch.from_numpy(np.ascontiguousarray(placed[:, :, :3])).to(image) / 255.0
    weight = torch.from_numpy(mask).to(image)[None]
    # Exact at both ends, and where both pictures agree (another unit has pasted already).
    return torch.lerp(raw.permute(2, 0, 1), image, weight)


def soft_mask(mask: np.ndarray, sigma: int) -> np.ndarray:
    """The share of the generated picture: float32 (H, W), 1 inside the mask.

    The mask grows by half a box, and the box blur takes that back: it is 1 in the whole mask, and
    exactly 0 from `sigma` pixels beyond it.

    Args:
        mask: uint8 (H, W), above 127 where the picture is repainted.
        sigma: side of both boxes, pixels; 0 and less leave the mask hard.
    """
    hard = (mask > 127).astype(np.float32)  # noqa: PLR2004 - half of uint8
    if sigma <= 0:
        return hard
    # With room to grow into, the border of the picture is a place like any other.
    wide = np.pad(hard, sigma)
    # A box of even side has no middle: the blur leans the other way than the growth did.
    grown = cv2.dilate(wide, np.ones((sigma, sigma), np.uint8))
    lean = (sigma - 1) // 2
    soft = cv2.blur(grown, (sigma, sigma), anchor=(lean, lean))
    return soft[sigma:-sigma, sigma:-sigma]
