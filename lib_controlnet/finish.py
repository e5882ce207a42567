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

    mask = (placed[:, :, 3] > 127).astype(np.float32)  # noqa: PLR2004 - half of uint8
    if sigma > 0:
        mask = cv2.dilate(mask, np.ones((sigma, sigma), np.uint8))
        mask = cv2.blur(mask, (sigma, sigma))
    height, width = image.shape[-2:]
    if mask.shape != (height, width):
        mask = cv2.resize(mask, (width, height))
        placed = cv2.resize(placed, (width, height), interpolation=cv2.INTER_AREA)
    raw = torch.from_numpy(np.ascontiguousarray(placed[:, :, :3])).to(image) / 255.0
    weight = torch.from_numpy(mask).to(image)[None]
    blended = image * weight + raw.permute(2, 0, 1) * (1.0 - weight)
    return torch.where(weight == 0.0, raw.permute(2, 0, 1), blended)
