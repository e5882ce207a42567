"""Samplers over discrete timesteps, with guidance: DDIM and UniPC."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from modules import (
    devices,
    sd_samplers_cfg_denoiser,
    sd_samplers_common,
    sd_samplers_timesteps_impl,
    shared,
)
from modules.sd_samplers_common import SamplerData
from torch import Tensor, nn

samplers_timesteps = [
    ("DDIM", sd_samplers_timesteps_impl.ddim, ["ddim"], {}),
    ("UniPC", sd_samplers_timesteps_impl.unipc, ["unipc"], {}),
]


class CompVisTimestepsDenoiser(nn.Module):
    """For U-Nets that predict the noise; gives the noise.

    Args:
        model: has `apply_model(x, t, cond=...)` and `alphas_cumprod`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner_model = model

    def forward(self, input: Tensor, timesteps: Tensor, **kwargs: object) -> Tensor:
        """Noise (b, c, h, w) in `input` at `timesteps` (b,)."""
        return self.inner_model.apply_model(input, timesteps, **kwargs)


class CompVisTimestepsVDenoiser(CompVisTimestepsDenoiser):
    """For U-Nets that predict v; gives the noise."""

    def forward(self, input: Tensor, timesteps: Tensor, **kwargs: object) -> Tensor:
        """Noise (b, c, h, w) in `input` at `timesteps` (b,)."""
        v = self.inner_model.apply_model(input, timesteps, **kwargs)
        alpha = self.inner_model.alphas_cumprod[timesteps.to(torch.int64)][:, None, None, None]
        return alpha.sqrt() * v + (1 - alpha).sqrt() * input


class CFGDenoiserTimesteps(sd_samplers_cfg_denoiser.CFGDenoiser):
    """Guidance on predicted noise."""

    def __init__(self, sampler: sd_samplers_common.Sampler) -> None:
        super().__init__(sampler)
        self.alphas = shared.sd_model.alphas_cumprod
        self.mask_before_denoising = True

    def get_pred_x0(self, x_in: Tensor, x_out: Tensor, sigma: Tensor) -> Tensor:
        """The clean latent that predicted noise stands for; `sigma` holds timesteps."""
        alpha = self.alphas[sigma.to(dtype=torch.int64)][:, None, None, None]
        return (x_in - (1 - alpha).sqrt() * x_out) / alpha.sqrt()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The wrapper for what the checkpoint predicts."""
        is_v = getattr(model, "parameterization", "eps") == "v"
        return (CompVisTimestepsVDenoiser if is_v else CompVisTimestepsDenoiser)(model)


class CompVisSampler(sd_samplers_common.Sampler):
    """A function of `sd_samplers_timesteps_impl`, run with guidance.

    Args:
        funcname: the function.
        sd_model: the checkpoint.
    """

    def __init__(self, funcname: Callable[..., Tensor], sd_model: nn.Module) -> None:
        super().__init__(funcname)
        del sd_model
        self.func = funcname
        self.eta_infotext_field = "Eta DDIM"
        self.eta_default = 0.0

    def make_denoiser(self) -> CFGDenoiserTimesteps:
        """The guided predictor of noise."""
        return CFGDenoiserTimesteps(self)

    def get_timesteps(self, p: object, steps: int) -> Tensor:
        """Rising timesteps, 1 to 999; as many as `range(0, 1000, 1000 // steps)` has."""
        del p
        timesteps = torch.asarray(list(range(0, 1000, 1000 // steps)), device=devices.device)
        return torch.clip(timesteps + 1, 0, 999)

    get_schedule = get_timesteps

    def scaled_noise(self, p: object, x: Tensor, timesteps: Tensor) -> Tensor:
        """Unit noise `x`, which is what the first timestep is taken for."""
        del p, timesteps
        return x

    def noised(
        self, x: Tensor, noise: Tensor, timesteps: Tensor, counts: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(timesteps that are walked, clean `x` before the first)."""
        t_enc = counts[1]
        alpha = shared.sd_model.alphas_cumprod[timesteps[t_enc]]
        return timesteps[:t_enc], x * alpha.sqrt() + noise * (1 - alpha).sqrt()

    def schedule_arguments(
        self, p: object, x: Tensor, schedule: Tensor, all_timesteps: Tensor
    ) -> dict:
        """What the sampling function is told about timesteps."""
        del p, x
        accepted = inspect.signature(self.func).parameters
        is_img2img = "is_img2img" in accepted and schedule is not all_timesteps
        return {"timesteps": schedule, **({"is_img2img": True} if is_img2img else {})}


samplers_data_timesteps = [
    SamplerData(
        label, lambda model, funcname=funcname: CompVisSampler(funcname, model), aliases, options
    )
    for label, funcname, aliases, options in samplers_timesteps
]
