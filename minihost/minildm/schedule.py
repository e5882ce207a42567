"""Noise schedule of Stable Diffusion: 1000 steps, square roots of beta evenly spaced."""

from __future__ import annotations

import torch
from torch import Tensor


def betas(
    timesteps: int = 1000, linear_start: float = 0.00085, linear_end: float = 0.0120
) -> Tensor:
    """Variance added by every step, float64 (timesteps,)."""
    return torch.linspace(linear_start**0.5, linear_end**0.5, timesteps, dtype=torch.float64) ** 2


def alphas_cumprod(
    timesteps: int = 1000, linear_start: float = 0.00085, linear_end: float = 0.0120
) -> Tensor:
    """Share of the clean signal's variance left at each timestep, float32 (timesteps,)."""
    steps = betas(timesteps, linear_start, linear_end)
    return torch.cumprod(1.0 - steps, dim=0).float()


def add_noise(latent: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor) -> Tensor:
    """Noisy latent (b, c, h, w) at integer timesteps (b,)."""
    alpha = alphas[timesteps][:, None, None, None]
    return alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
