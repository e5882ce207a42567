"""What a unit does to the latent beside its residuals: `inpaint_only` keeps the unmasked part.

At every step the predicted clean latent x0 is replaced, outside the mask, by the VAE latent of
the control image, so that the picture can only change where it was masked. A preprocessor that
fills the masked part itself lets sampling start from its picture, under all of the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from lib_controlnet.window import Window

INPAINT_ONLY: Final = "inpaint_only"
"""Effect that the preprocessor of that name declares."""

POOL_KERNEL: Final = 10
POOL_STRIDE: Final = 8
POOL_PADDING: Final = 1


@dataclass(frozen=True)
class KeepUnmasked:
    """Holds x0 to the control image outside the mask.

    Attributes:
        latent: scaled latent of the control image, (1, 4, h, w).
        mask: (1, 1, h, w), 1 where the picture may change.
        window: when it acts.
        images: pictures of the batch it acts on; None means all.
    """

    latent: Tensor
    mask: Tensor
    window: Window
    images: frozenset[int] | None = None

    def apply(self, x0: Tensor) -> Tensor:
        """Blend predicted clean latents (b, 4, h, w); the argument is not changed."""
        latent, mask = self.latent.to(x0), self.mask.to(x0)
        held = x0 * mask + latent * (1.0 - mask)
        if self.images is None:
            return held
        rows = [held[i] if i in self.images else x0[i] for i in range(len(x0))]
        return torch.stack(rows)


@dataclass(frozen=True)
class StartPicture:
    """What the first step finds under the noise.

    The noise of the last training timestep still holds a trace of the picture (0.07 of it in SD),
    and the sampler multiplies both, so the picture shows in the composition.

    Attributes:
        latent: scaled latent of the picture, (1, 4, h, w).
        images: pictures of the batch it acts on; None means all.
    """

    latent: Tensor
    images: frozenset[int] | None = None

    def lay_under(self, noise: Tensor, alpha_bar: float) -> None:
        """Mix the picture into unit noise (b, 4, h, w), in place; another size is left alone.

        Args:
            noise: what the host drew, before it is scaled for the sampler.
            alpha_bar: cumulative product of alphas at the last timestep.
        """
        if noise.shape[1:] != self.latent.shape[1:]:
            return
        rows = range(len(noise)) if self.images is None else sorted(self.images)
        trace = self.latent[0].to(noise) * alpha_bar**0.5
        for row in rows:
            noise[row].mul_((1.0 - alpha_bar) ** 0.5).add_(trace)


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
    pixels, mask = placed[:, :3], (placed[:, 3:] > 0.5).float()  # noqa: PLR2004 - half scale
    if bool(mask.all()):
        return None
    cells = F.max_pool2d(mask, POOL_KERNEL, POOL_STRIDE, POOL_PADDING)
    return KeepUnmasked(encode(pixels), cells, window)


def epsilon_to_x0(x: Tensor, epsilon: Tensor, alpha_bar: Tensor) -> Tensor:
    """Predicted clean latent from noisy latent and predicted noise (Ho et al. 2020, eq. 15).

    Args:
        x: noisy latent (b, 4, h, w), variance preserving.
        epsilon: predicted noise of the same shape.
        alpha_bar: cumulative product of alphas at the step, shape (b, 1, 1, 1).
    """
    return (x - (1.0 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()


def x0_to_epsilon(x: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """Inverse of `epsilon_to_x0`."""
    return (x - alpha_bar.sqrt() * x0) / (1.0 - alpha_bar).sqrt()
