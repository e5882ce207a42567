"""Predicted noise and predicted clean latents (x0) of samplers that walk in timesteps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lib_controlnet.engine.step import NoisyLatent

LEAST_ALPHA_BAR: Final = 4.8973451890853435e-08
"""What the host leaves of the signal at the last step of a schedule of zero terminal SNR.

A schedule whose last step holds exactly nothing is taken for it: there would be no x0 to speak of.
"""


def adjust_noise(
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
