"""Sampling functions over discrete timesteps.

Each takes a guided noise predictor `model(x, t, **extra_args)`, a latent `x` (b, c, h, w),
and rising `timesteps`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from modules.uni_pc import ORDER, UniPC
from torch import Tensor

NoiseSampler = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def ddim(
    model: Callable[..., Tensor],
    x: Tensor,
    timesteps: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Song et al. (2021), arXiv:2010.02502; `len(timesteps) - 1` evaluations."""
    del disable
    alphas_cumprod = model.inner_model.inner_model.alphas_cumprod
    alphas = alphas_cumprod[timesteps]
    # float64: with eta 0 the square roots below cancel almost completely near the end.
    alphas_prev = alphas_cumprod[torch.nn.functional.pad(timesteps[:-1], pad=(1, 0))].double()
    ones, shape = x.new_ones(x.shape[0]), (x.shape[0], 1, 1, 1)
    wide = alphas.double()
    sigmas = eta * ((1 - alphas_prev) / (1 - wide) * (1 - wide / alphas_prev)).sqrt()

    for i in range(len(timesteps) - 1):
        index = len(timesteps) - 1 - i
        noise_predicted = model(x, timesteps[index].item() * ones, **(extra_args or {}))
        alpha = x.new_full(shape, alphas[index].item())
        alpha_prev = x.new_full(shape, alphas_prev[index].item())
        sigma = x.new_full(shape, sigmas[index].item())
        root_noise = x.new_full(shape, (1 - alphas[index]).sqrt().item())
        pred_x0 = (x - root_noise * noise_predicted) / alpha.sqrt()
        direction = (1.0 - alpha_prev - sigma**2).sqrt() * noise_predicted
        # Drawn even when sigma is 0: the pictures' generators advance all the same.
        fresh = torch.randn_like(x) if noise_sampler is None else noise_sampler(sigma, sigma)
        x = alpha_prev.sqrt() * pred_x0 + direction + sigma * fresh
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": pred_x0})
    return x


@torch.no_grad()
def unipc(
    model: Callable[..., Tensor],
    x: Tensor,
    timesteps: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    is_img2img: bool = False,
) -> Tensor:
    """Zhao et al. (2023), arXiv:2302.04867; `len(timesteps)` evaluations."""
    del disable
    steps = len(timesteps)
    if steps < ORDER:
        msg = (
            f"UniPC of order {ORDER} needs at least {ORDER} steps and has {steps}; "
            "raise the number of steps or the denoising strength"
        )
        raise ValueError(msg)
    solver = UniPC(
        lambda latent, t: model(latent, t, **(extra_args or {})),
        model.inner_model.inner_model.alphas_cumprod,
        callback,
    )
    start = timesteps[-1].item() / 1000 + 1 / 1000 if is_img2img else 1.0
    return solver.sample(x, steps, start)
