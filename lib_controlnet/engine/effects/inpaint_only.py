"""`inpaint_only`: what is not masked stays as it was.

At every step the predicted clean latent x0 is replaced, outside the mask, by the VAE latent of the
control image, so that the picture can only change where it was masked. The finished picture gets
the control image's own pixels around the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib_controlnet.detect.preprocess import declarations
from lib_controlnet.engine.effects import Effect

if TYPE_CHECKING:
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.unit_pass import UnitPass
    from lib_controlnet.engine.window import Window

BLUR_SIGMA: Final = 7
POOL_KERNEL: Final = 10
POOL_STRIDE: Final = 8
POOL_PADDING: Final = 1
_LARGEST_BOX: Final = 1024
"""Of the setting's pixels; requests may bring settings of their own."""


@dataclass(frozen=True, eq=False)
class KeepUnmasked(Effect):
    """Holds x0 to the control image outside the mask.

    Attributes:
        latent: scaled latent of the control image, (1, 4, h, w).
        mask: (1, 1, h, w), 1 where the picture may change.
        window: when it acts.
        images: pictures of the batch it acts on; None means all.
        sigma: see `paste_back`.
    """

    names = frozenset({declarations.Effect.INPAINT_ONLY})

    latent: Tensor
    mask: Tensor
    window: Window
    images: frozenset[int] | None = None
    sigma: int = BLUR_SIGMA

    @classmethod
    def bind(cls, part: UnitPass, host: Host) -> Effect | None:
        """Of units whose preprocessor asks for it, unless all of the picture is masked."""
        placed = part.placed
        kept = keep_unmasked(
            placed.pixels(), lambda _pixels: placed.latent(host), part.terms.window
        )
        if kept is None:
            return None
        sigma = int(str(host.option("control_net_inpaint_blur_sigma")))
        return replace(kept, images=part.terms.images, sigma=sigma)

    def after_guidance(self, x0: Tensor) -> Tensor:
        """Blend predicted clean latents (b, 4, h, w); the argument is not changed."""
        latent, mask = self.latent.to(x0), self.mask.to(x0)
        held = x0 * mask + latent * (1.0 - mask)
        if self.images is None:
            return held
        rows = [held[i] if i in self.images else x0[i] for i in range(len(x0))]
        return torch.stack(rows)

    def finish(self, image: Tensor, placed: np.ndarray) -> Tensor:
        """Paste the control image's own pixels around the mask, see `Effect.finish`."""
        return paste_back(image, placed, self.sigma)


def keep_unmasked(
    placed: Tensor, encode: Callable[[Tensor], Tensor], window: Window
) -> KeepUnmasked | None:
    """Build the effect for one pass.

    Args:
        placed: (1, 4, H, W) in [0, 1]: RGB and mask at the pass's size.
        encode: VAE encoder for (1, 3, H, W) pixels.
        window: when the unit acts.

    Returns:
        None if the mask covers the whole picture: nothing is to be kept.
    """
    pixels, mask = placed[:, :3], (placed[:, 3:] > 0.5).float()  # half scale
    if bool(mask.all()):
        return None
    cells = F.max_pool2d(mask, POOL_KERNEL, POOL_STRIDE, POOL_PADDING)
    return KeepUnmasked(encode(pixels), cells, window)


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
