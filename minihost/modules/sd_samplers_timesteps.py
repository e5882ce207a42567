"""Samplers over discrete timesteps, with guidance: DDIM and UniPC."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from modules import (
    devices,
    script_callbacks,
    sd_samplers_cfg_denoiser,
    sd_samplers_common,
    sd_samplers_timesteps_impl,
    shared,
)
from modules.sd_samplers_common import SamplerData
from modules.shared import opts
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

    def forward(self, input: Tensor, timesteps: Tensor, **kwargs: object) -> Tensor:  # noqa: A002
        """Noise (b, c, h, w) in `input` at `timesteps` (b,)."""
        return self.inner_model.apply_model(input, timesteps, **kwargs)


class CompVisTimestepsVDenoiser(CompVisTimestepsDenoiser):
    """For U-Nets that predict v; gives the noise."""

    def forward(self, input: Tensor, timesteps: Tensor, **kwargs: object) -> Tensor:  # noqa: A002
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

    @property
    def inner_model(self) -> nn.Module:
        """Wrapper for what the checkpoint predicts; made again after a model change."""
        if self.model_wrap is None:
            is_v = getattr(shared.sd_model, "parameterization", "eps") == "v"
            kind = CompVisTimestepsVDenoiser if is_v else CompVisTimestepsDenoiser
            self.model_wrap = kind(shared.sd_model)
        return self.model_wrap


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
        self.eta_option_field = "eta_ddim"
        self.eta_infotext_field = "Eta DDIM"
        self.eta_default = 0.0
        self.model_wrap_cfg = CFGDenoiserTimesteps(self)
        self.model_wrap = self.model_wrap_cfg.inner_model

    def get_timesteps(self, p: object, steps: int) -> Tensor:
        """Rising timesteps, 1 to 999; as many as `range(0, 1000, 1000 // steps)` has."""
        discard = self.config is not None and self.config.options.get(
            "discard_next_to_last_sigma", False
        )
        if opts.always_discard_next_to_last_sigma and not discard:
            discard = True
            p.extra_generation_params["Discard penultimate sigma"] = True
        steps += 1 if discard else 0
        steps_list = list(range(0, 1000, 1000 // steps))
        timesteps = torch.clip(torch.asarray(steps_list, device=devices.device) + 1, 0, 999)
        if discard:
            timesteps = torch.cat([timesteps[:-2], timesteps[-1:]])
        return timesteps

    def sample_img2img(
        self,
        p: object,
        x: Tensor,
        noise: Tensor,
        conditioning: object,
        unconditional_conditioning: object,
        steps: int | None = None,
        image_conditioning: Tensor | None = None,
    ) -> Tensor:
        """Latents from a noised `x`; arguments as for `KDiffusionSampler.sample_img2img`."""
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        timesteps = self.get_timesteps(p, steps)
        alpha = shared.sd_model.alphas_cumprod[timesteps[t_enc]]
        xi = x * alpha.sqrt() + noise * (1 - alpha).sqrt()
        if opts.img2img_extra_noise > 0:
            p.extra_generation_params["Extra noise"] = opts.img2img_extra_noise
            params = script_callbacks.ExtraNoiseParams(noise, x, xi)
            script_callbacks.extra_noise_callback(params)
            xi = xi + params.noise * opts.img2img_extra_noise * alpha.sqrt()

        kwargs = self.initialize(p)
        kwargs["timesteps"] = timesteps[:t_enc]
        if "is_img2img" in inspect.signature(self.func).parameters:
            kwargs["is_img2img"] = True
        self.model_wrap_cfg.init_latent = x
        self.last_latent = x
        self._remember_conditions(p, conditioning, unconditional_conditioning, image_conditioning)
        samples = self.launch_sampling(t_enc + 1, lambda: self._walk(xi, kwargs))
        self.add_infotext(p)
        return samples

    def sample(
        self,
        p: object,
        x: Tensor,
        conditioning: object,
        unconditional_conditioning: object,
        steps: int | None = None,
        image_conditioning: Tensor | None = None,
    ) -> Tensor:
        """Latents from unit noise `x`; arguments as for `KDiffusionSampler.sample`."""
        steps = steps or p.steps
        timesteps = self.get_timesteps(p, steps)
        kwargs = self.initialize(p)
        kwargs["timesteps"] = timesteps
        self.last_latent = x
        self._remember_conditions(p, conditioning, unconditional_conditioning, image_conditioning)
        samples = self.launch_sampling(steps, lambda: self._walk(x, kwargs))
        self.add_infotext(p)
        return samples

    def _walk(self, x: Tensor, kwargs: dict) -> Tensor:
        return self.func(
            self.model_wrap_cfg,
            x,
            extra_args=self.sampler_extra_args,
            disable=False,
            callback=self.callback_state,
            **kwargs,
        )

    def _remember_conditions(
        self, p: object, cond: object, uncond: object, image_cond: Tensor | None
    ) -> None:
        self.sampler_extra_args = {
            "cond": cond,
            "image_cond": image_cond,
            "uncond": uncond,
            "cond_scale": p.cfg_scale,
            "s_min_uncond": self.s_min_uncond,
        }


samplers_data_timesteps = [
    SamplerData(
        label, lambda model, funcname=funcname: CompVisSampler(funcname, model), aliases, options
    )
    for label, funcname, aliases, options in samplers_timesteps
]
