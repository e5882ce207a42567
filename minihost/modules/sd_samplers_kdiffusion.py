"""Samplers over noise levels, with guidance: the functions of `k_sampling`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from modules import (
    devices,
    k_denoiser,
    k_sampling,
    script_callbacks,
    sd_samplers_cfg_denoiser,
    sd_samplers_common,
    sd_schedulers,
    shared,
)
from modules.sd_samplers_common import SamplerData
from modules.shared import opts
from torch import Tensor, nn

_CHURN = ["s_churn", "s_tmin", "s_tmax", "s_noise"]
_SECOND = {"scheduler": "karras", "discard_next_to_last_sigma": True, "second_order": True}

# name, function, aliases, options; the first one is what an unknown name falls back to
samplers_k_diffusion = [
    ("DPM++ 2M", "sample_dpmpp_2m", ["k_dpmpp_2m"], {"scheduler": "karras"}),
    (
        "DPM++ SDE",
        "sample_dpmpp_sde",
        ["k_dpmpp_sde"],
        {"scheduler": "karras", "second_order": True, "brownian_noise": True},
    ),
    ("Euler a", "sample_euler_ancestral", ["k_euler_a", "k_euler_ancestral"], {"uses_ensd": True}),
    ("Euler", "sample_euler", ["k_euler"], {}),
    ("Heun", "sample_heun", ["k_heun"], {"second_order": True}),
    ("DPM2", "sample_dpm_2", ["k_dpm_2"], {**_SECOND, "uses_ensd": True}),
    ("DPM2 a", "sample_dpm_2_ancestral", ["k_dpm_2_a"], {**_SECOND, "uses_ensd": True}),
]

sampler_extra_params = {
    "sample_euler": _CHURN,
    "sample_heun": _CHURN,
    "sample_dpm_2": _CHURN,
    "sample_euler_ancestral": ["s_noise"],
    "sample_dpm_2_ancestral": ["s_noise"],
    "sample_dpmpp_sde": ["s_noise"],
}


class CFGDenoiserKDiffusion(sd_samplers_cfg_denoiser.CFGDenoiser):
    """Guidance round a denoiser over noise levels."""

    @property
    def inner_model(self) -> nn.Module:
        """Wrapper for what the checkpoint predicts; made again after a model change."""
        if self.model_wrap is None:
            is_v = getattr(shared.sd_model, "parameterization", "eps") == "v"
            kind = k_denoiser.CompVisVDenoiser if is_v else k_denoiser.CompVisDenoiser
            self.model_wrap = kind(shared.sd_model, quantize=opts.enable_quantization)
        return self.model_wrap


class KDiffusionSampler(sd_samplers_common.Sampler):
    """A function of `k_sampling`, run with guidance.

    Args:
        funcname: its name, or a function with the same arguments.
        sd_model: the checkpoint.
        options: those of the sampler's list entry.
    """

    def __init__(
        self,
        funcname: str | Callable[..., Tensor],
        sd_model: nn.Module,
        options: dict | None = None,
    ) -> None:
        super().__init__(funcname)
        del sd_model
        self.extra_params = sampler_extra_params.get(funcname, [])
        self.options = options or {}
        self.func = funcname if callable(funcname) else getattr(k_sampling, funcname)
        self.model_wrap_cfg = self.make_denoiser()
        self.model_wrap = self.model_wrap_cfg.inner_model

    def make_denoiser(self) -> sd_samplers_cfg_denoiser.CFGDenoiser:
        """The guided denoiser of this kind of sampler."""
        return CFGDenoiserKDiffusion(self)

    def get_sigmas(self, p: object, steps: int) -> Tensor:
        """Falling noise levels (steps + 1,), the last one 0, on the CPU."""
        discard = self.config is not None and self.config.options.get(
            "discard_next_to_last_sigma", False
        )
        if opts.always_discard_next_to_last_sigma and not discard:
            discard = True
            p.extra_generation_params["Discard penultimate sigma"] = True
        steps += 1 if discard else 0

        name = (p.hr_scheduler if p.is_hr_pass else p.scheduler) or "Automatic"
        if name == "Automatic":
            name = self.config.options.get("scheduler") if self.config is not None else None
        scheduler = sd_schedulers.schedulers_map.get(name)

        if p.sampler_noise_scheduler_override:
            sigmas = p.sampler_noise_scheduler_override(steps)
        elif scheduler is None or scheduler.function is None:
            sigmas = self.model_wrap.get_sigmas(steps)
        else:
            sigmas = scheduler.function(
                n=steps, **self._schedule_arguments(p, scheduler), device=devices.cpu
            )
        if discard:
            sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
        return sigmas.cpu()

    def _schedule_arguments(self, p: object, scheduler: sd_schedulers.Scheduler) -> dict:
        low, high = self.model_wrap.sigmas[0].item(), self.model_wrap.sigmas[-1].item()
        old = opts.use_old_karras_scheduler_sigmas
        kwargs = {"sigma_min": 0.1 if old else low, "sigma_max": 10.0 if old else high}
        info = p.extra_generation_params
        if scheduler.label != "Automatic" and not p.is_hr_pass:
            info["Schedule type"] = scheduler.label
        elif scheduler.label != info.get("Schedule type"):
            info["Hires schedule type"] = scheduler.label
        for option, label, model_value in (
            ("sigma_min", "Schedule min sigma", low),
            ("sigma_max", "Schedule max sigma", high),
        ):
            value = getattr(opts, option)
            if value not in (0, model_value):
                kwargs[option] = value
                info[label] = value
        if scheduler.default_rho != -1 and opts.rho not in (0, scheduler.default_rho):
            kwargs["rho"] = opts.rho
            info["Schedule rho"] = opts.rho
        if scheduler.need_inner_model:
            kwargs["inner_model"] = self.model_wrap
        return kwargs

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
        """Latents (B, c, h, w) from `x` with `noise` added up to the denoising strength.

        Args:
            p: the processing object.
            x: clean latents (B, c, h, w).
            noise: unit noise (B, c, h, w).
            conditioning: conditions of the prompts.
            unconditional_conditioning: conditions of the negative prompts.
            steps: exactly so many steps; None: `p.steps` times the denoising strength.
            image_conditioning: latents for inpainting models.
        """
        steps, t_enc = sd_samplers_common.setup_img2img_steps(p, steps)
        sigmas = self.get_sigmas(p, steps).to(x.device)
        sigma_sched = sigmas[steps - t_enc - 1 :]
        xi = x + noise * sigma_sched[0]
        if opts.img2img_extra_noise > 0:
            p.extra_generation_params["Extra noise"] = opts.img2img_extra_noise
            params = script_callbacks.ExtraNoiseParams(noise, x, xi)
            script_callbacks.extra_noise_callback(params)
            xi = xi + params.noise * opts.img2img_extra_noise

        kwargs = self.initialize(p)
        kwargs.update(self._schedule_kwargs(sigma_sched, sigmas, x, p))
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
        """Latents (B, c, h, w) from unit noise `x`; arguments as in `sample_img2img`."""
        steps = steps or p.steps
        sigmas = self.get_sigmas(p, steps).to(x.device)
        if opts.sgm_noise_multiplier:
            p.extra_generation_params["SGM noise multiplier"] = True
            x = x * torch.sqrt(1.0 + sigmas[0] ** 2.0)
        else:
            x = x * sigmas[0]
        kwargs = self.initialize(p)
        kwargs.update(self._schedule_kwargs(sigmas, sigmas, x, p))
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

    def _schedule_kwargs(self, schedule: Tensor, all_sigmas: Tensor, x: Tensor, p: object) -> dict:
        accepted = inspect.signature(self.func).parameters
        kwargs: dict = {"sigmas": schedule} if "sigmas" in accepted else {}
        if "n" in accepted:
            kwargs["n"] = len(schedule) - 1
        if "sigma_min" in accepted:
            positive = all_sigmas[all_sigmas > 0]
            kwargs["sigma_min"], kwargs["sigma_max"] = positive.min().item(), schedule[0].item()
        if self.config is not None and self.config.options.get("brownian_noise", False):
            noise_sampler = self.create_noise_sampler(x, all_sigmas, p)
            if noise_sampler is not None:
                kwargs["noise_sampler"] = noise_sampler
        return kwargs

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


def build_constructor(
    funcname: str | Callable[..., Tensor], options: dict
) -> Callable[[nn.Module], KDiffusionSampler]:
    """A constructor for a sampler list entry."""
    return lambda model: KDiffusionSampler(funcname, model, options)


samplers_data_k_diffusion = [
    SamplerData(label, build_constructor(funcname, options), aliases, options)
    for label, funcname, aliases, options in samplers_k_diffusion
]
k_diffusion_samplers_map = {item.name: item for item in samplers_data_k_diffusion}
