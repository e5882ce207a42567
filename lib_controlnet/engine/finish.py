"""After decoding: what a unit's preprocessor still owes the finished picture.

`inpaint_only` pastes the untouched pixels back around the mask; recolouring puts the brightness of
the control image back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from lib_controlnet.engine.effects import INPAINT_ONLY, RECOLOR_INTENSITY, RECOLOR_LUMINANCE

_LARGEST_BOX: Final = 1024
"""Of the setting's pixels; requests may bring settings of their own."""

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.injection import RegionMask


def finished(
    image: Tensor, placed: np.ndarray, effect: str | None, area: RegionMask | None, sigma: int
) -> Tensor:
    """The picture after a unit's effect on it.

    Args:
        image: (3, H, W) in [0, 1], the generated picture.
        placed: uint8 (H, W, 3 or 4), the unit's map at the picture's size.
        effect: name of the effect; those on sampling alone leave the picture as it is.
        area: where recolouring acts; None means everywhere.
        sigma: see `paste_back`.
    """
    if effect == INPAINT_ONLY:
        return paste_back(image, placed, sigma)
    if effect not in (RECOLOR_LUMINANCE, RECOLOR_INTENSITY):
        return image
    merged = with_brightness(image, placed[:, :, 0], by_value=effect == RECOLOR_INTENSITY)
    if area is None:
        return merged
    return image.lerp(merged, area.at(image.shape[-2:], image)[0])


def with_brightness(image: Tensor, brightness: np.ndarray, *, by_value: bool) -> Tensor:
    """A picture with another brightness and its own colours.

    Args:
        image: (3, H, W) in [0, 1].
        brightness: uint8 (H, W), full scale for white.
        by_value: it is the V of HSV, else the L of CIELAB.
    """
    import torch

    height, width = image.shape[-2:]
    if brightness.shape != (height, width):
        brightness = cv2.resize(brightness, (width, height), interpolation=cv2.INTER_AREA)
    scaled = brightness.astype(np.float32) / 255.0
    pixels = image.permute(1, 2, 0).float().cpu().numpy()
    if by_value:
        planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        planes[:, :, 2] = scaled
        merged = cv2.cvtColor(planes, cv2.COLOR_HSV2RGB)
    else:
        planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        planes[:, :, 0] = scaled * 100.0
        merged = cv2.cvtColor(planes, cv2.COLOR_LAB2RGB)
    return torch.from_numpy(merged).permute(2, 0, 1).clamp(0, 1).to(image)


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
    sigma = min(sigma, _LARGEST_BOX)
    hard = (mask > 127).astype(np.float32)  # half of uint8
    if sigma <= 0:
        return hard
    # With room to grow into, the border of the picture is a place like any other.
    wide = np.pad(hard, sigma)
    # A box of even side has no middle: the blur leans the other way than the growth did.
    grown = cv2.dilate(wide, np.ones((sigma, sigma), np.uint8))
    lean = (sigma - 1) // 2
    soft = cv2.blur(grown, (sigma, sigma), anchor=(lean, lean))
    return soft[sigma:-sigma, sigma:-sigma]
