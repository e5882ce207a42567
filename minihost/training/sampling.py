"""Plain DDIM sampling (Song et al., arXiv 2010.02502) for sample grids and measurements."""

from __future__ import annotations

from collections.abc import Callable

import torch
from minildm.schedule import alphas_cumprod
from minildm.text import TextEncoder, tokenize
from minildm.vae import AutoencoderKL
from torch import Tensor

from .assets import SCALE_FACTOR

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def sample(
    predict: Predict, cond: Tensor, uncond: Tensor, latent: Tensor, steps: int = 20, cfg: float = 3
) -> Tensor:
    """Denoise latents with classifier-free guidance.

    Args:
        predict: noise prediction (2b, 4, h, w) from (x, timesteps, context); the first b rows
            are conditional.
        cond, uncond: context (b, n, d) and (1, n, d).
        latent: unit noise (b, 4, h, w).
        steps: evaluations.
        cfg: guidance scale.

    Returns:
        scaled latents (b, 4, h, w).
    """
    alphas = alphas_cumprod().double()
    times = torch.linspace(999, 0, steps + 1).round().long()
    context = torch.cat([cond, uncond.expand(len(cond), -1, -1)])
    for now, then in zip(times[:-1], times[1:], strict=True):
        rows = torch.full((len(context),), float(now))
        both = predict(torch.cat([latent, latent]), rows, context)
        yes, no = both.chunk(2)
        noise = no + cfg * (yes - no)
        alpha = float(alphas[now])
        after = float(alphas[then]) if then > 0 else 1.0
        clean = (latent - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        latent = after**0.5 * clean + (1 - after) ** 0.5 * noise
    return latent


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures (b, 3, 8h, 8w) in [-1, 1] of scaled latents (b, 4, h, w)."""
    return torch.cat([vae.decode(z[None] / SCALE_FACTOR) for z in latents])


@torch.no_grad()
def embed(text: TextEncoder, tokenizer: object, prompts: list[str]) -> Tensor:
    """Context (b, 77, d) of prompts."""
    return text(tokenize(tokenizer, prompts))


def seeded_noise(seeds: list[int], size: int) -> Tensor:
    """Unit noise (b, 4, size/8, size/8), one generator a row."""
    side = size // 8
    rows = [torch.randn(4, side, side, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows)
