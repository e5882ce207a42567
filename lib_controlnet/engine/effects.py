"""What a unit does to the latent beside its residuals.

`inpaint_only` keeps the unmasked part: at every step the predicted clean latent x0 is replaced,
outside the mask, by the VAE latent of the control image, so that the picture can only change where
it was masked. A preprocessor that fills the masked part itself lets sampling start from its
picture, under all of the noise.

`tile_colorfix` keeps the colours: the low frequencies of x0 are those of the control image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import RegionMask
    from lib_controlnet.engine.step import NoisyLatent, Row
    from lib_controlnet.engine.window import Window

INPAINT_ONLY: Final = "inpaint_only"
TILE_COLORFIX: Final = "tile_colorfix"
RECOLOR_LUMINANCE: Final = "recolor_luminance"
RECOLOR_INTENSITY: Final = "recolor_intensity"
"""Effects, named after the preprocessors that declare them."""

POOL_KERNEL: Final = 10
POOL_STRIDE: Final = 8
POOL_PADDING: Final = 1


@dataclass(frozen=True, eq=False)
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


@dataclass(frozen=True, eq=False)
class MaskChannels:
    """What an inpainting checkpoint is told of the picture in its further input channels.

    Attributes:
        condition: (1, 5, h, w): the mask, 1 where it is to be repainted, and the scaled latent of
            the picture without its masked part.
        window: when it is told.
        images: pictures of the batch it is about; None means all.
    """

    condition: Tensor
    window: Window
    images: frozenset[int] | None = None

    def apply(self, given: Tensor, rows: Sequence[Row]) -> Tensor:
        """Replace what the host tells, (n, 5, h, w); the argument is not changed.

        Its size may be another one where all rows are told: with a latent upscaler the host sizes
        it by the first pass, and could not go on.
        """
        told = [self.images is None or row.image in self.images for row in rows]
        if all(told):
            return self.condition.to(given).expand(len(given), -1, -1, -1)
        if given.shape[1:] != self.condition.shape[1:] or len(given) != len(rows):
            return given
        chosen = torch.tensor(told, device=given.device)[:, None, None, None]
        return torch.where(chosen, self.condition.to(given), given)


def mask_channels(
    placed: Tensor, encode: Callable[[Tensor], Tensor], hidden: float, window: Window
) -> MaskChannels | None:
    """Build the condition for one pass, as the host builds it of a mask of its own.

    Args:
        placed: (1, 4, H, W) in [0, 1]: RGB and mask at the pass's size.
        encode: VAE encoder for (1, 3, H, W) pixels.
        hidden: how much of the masked part is hidden, 0 to 1 (setting `inpainting_mask_weight`).
        window: when the unit acts.

    Returns:
        None if nothing is masked: the unit does not say what is to be repainted.
    """
    pixels, mask = placed[:, :3], (placed[:, 3:] > 0.5).float()  # half scale
    if not bool(mask.any()):
        return None
    latent = encode(torch.lerp(pixels, torch.lerp(pixels, mask.new_tensor(0.5), mask), hidden))
    cells = F.interpolate(mask.to(latent), latent.shape[-2:])
    return MaskChannels(torch.cat([cells, latent], dim=1), window)


@dataclass(frozen=True, eq=False)
class HoldColours:
    """Gives every row's x0 the low frequencies of the control image.

    Attributes:
        low: blurred scaled latent of the control image, (1, 4, h, w).
        radius: of the blur, latent pixels.
        sharpness: share of blur in the unconditional rows, which guidance moves away from.
        weight: share of the corrected prediction, 0 to 1.
        window: when it acts.
        region: where it acts; None means everywhere.
        images: pictures of the batch it acts on; None means all.
    """

    low: Tensor
    radius: int
    sharpness: float
    weight: float
    window: Window
    region: RegionMask | None = None
    images: frozenset[int] | None = None

    def apply(self, x0: Tensor, rows: Sequence[Row]) -> Tensor:
        """Correct predicted clean latents (n, 4, h, w); the argument is not changed."""
        held = x0 - box_blur(x0, self.radius) + self.low.to(x0)
        if self.sharpness:
            uncond = [i for i, row in enumerate(rows) if not row.is_cond]
            blurred = box_blur(held[uncond], self.radius)
            held[uncond] = torch.lerp(held[uncond], blurred, self.sharpness)
        share = torch.full_like(x0[:1, :1], self.weight)
        if self.region is not None:
            share = share * self.region.at(x0.shape[-2:], x0)
        mixed = torch.lerp(x0, held, share)
        if self.images is None:
            return mixed
        picked = [mixed[i] if row.image in self.images else x0[i] for i, row in enumerate(rows)]
        return torch.stack(picked)


def box_blur(latent: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1) squared latent pixels (n, c, h, w), borders repeated."""
    padded = F.pad(latent, (radius, radius, radius, radius), mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, 1)


@dataclass(frozen=True, eq=False)
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
    pixels, mask = placed[:, :3], (placed[:, 3:] > 0.5).float()  # half scale
    if bool(mask.all()):
        return None
    cells = F.max_pool2d(mask, POOL_KERNEL, POOL_STRIDE, POOL_PADDING)
    return KeepUnmasked(encode(pixels), cells, window)


LEAST_ALPHA_BAR: Final = 4.8973451890853435e-08
"""What the host leaves of the signal at the last step of a schedule of zero terminal SNR.

A schedule whose last step holds exactly nothing is taken for it: there would be no x0 to speak of.
"""


def adjusted_noise(
    noise: Tensor, noisy: NoisyLatent, alphas: Tensor, adjust: Callable[[Tensor], Tensor]
) -> Tensor:
    """Predicted noise whose clean latent was adjusted, float32 (b, 4, h, w).

    For every kind of prediction: the host has made noise of v before it gets here.

    Args:
        noise: predicted noise (b, 4, h, w).
        noisy: what it was predicted from.
        alphas: cumulative product of alphas at each of the training's timesteps.
        adjust: maps clean latents to what they shall be.
    """
    # In half precision the difference below would keep nothing of x0 where little signal is left.
    x, noise = noisy.x.float(), noise.float()
    table = alphas.float().cpu().clamp(min=LEAST_ALPHA_BAR)
    alpha_bar = alpha_bar_at(table, noisy.timesteps.float().cpu()).to(x.device)
    alpha_bar = alpha_bar[:, None, None, None]
    x0 = adjust(epsilon_to_x0(x, noise, alpha_bar))
    return x0_to_epsilon(x, x0, alpha_bar)


def alpha_bar_at(alphas: Tensor, timesteps: Tensor) -> Tensor:
    """Cumulative product of alphas (b,) at timesteps (b,), which may lie between two of training.

    Between them it is linear in the logarithm, as UniPC, which walks there, has it (Zhao et al.
    2023, arXiv:2302.04867).
    """
    last = len(alphas) - 1
    timesteps = timesteps.clamp(0, last)
    low = timesteps.floor().long()
    share = timesteps - low
    between = torch.lerp(alphas[low].log(), alphas[(low + 1).clamp(max=last)].log(), share).exp()
    return torch.where(share == 0, alphas[low], between)


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
