"""Samplers over noise levels, with guidance: the functions of `k_sampling`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from modules import (
    devices,
    k_denoiser,
    k_sampling,
    sd_samplers_cfg_denoiser,
    sd_samplers_common,
    sd_schedulers,
    shared,
)
from modules.sd_samplers_common import SamplerData
from torch import Tensor, nn

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
    (
        "DPM2",
        "sample_dpm_2",
        ["k_dpm_2"],
        {
            "scheduler": "karras",
            "discard_next_to_last_sigma": True,
            "second_order": True,
            "uses_ensd": True,
        },
    ),
]


class CFGDenoiserKDiffusion(sd_samplers_cfg_denoiser.CFGDenoiser):
    """Guidance round a denoiser over noise levels."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The wrapper for what the checkpoint predicts, or for the sampler's kind of checkpoint."""
        if self.sampler.funcname == "sample_lcm":
            return k_denoiser.LCMCompVisDenoiser(model)
        is_v = getattr(model, "parameterization", "eps") == "v"
        wrap = k_denoiser.CompVisVDenoiser if is_v else k_denoiser.CompVisDenoiser
        return wrap(model, quantize=shared.opts.enable_quantization)


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
        self.options = options or {}
        self.func = funcname if callable(funcname) else getattr(k_sampling, funcname)

    def make_denoiser(self) -> sd_samplers_cfg_denoiser.CFGDenoiser:
        """The guided denoiser of this kind of sampler."""
        return CFGDenoiserKDiffusion(self)

    def get_sigmas(self, p: object, steps: int) -> Tensor:
        """Falling noise levels (steps + 1,), the last one 0, on the CPU."""
        discard = self.options.get("discard_next_to_last_sigma", False)
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
        kwargs = {"sigma_min": low, "sigma_max": high}
        info = p.extra_generation_params
        if scheduler.label != "Automatic" and not p.is_hr_pass:
            info["Schedule type"] = scheduler.label
        elif scheduler.label != info.get("Schedule type"):
            info["Hires schedule type"] = scheduler.label
        if scheduler.need_inner_model:
            kwargs["inner_model"] = self.model_wrap
        return kwargs

    get_schedule = get_sigmas

    def scaled_noise(self, p: object, x: Tensor, sigmas: Tensor) -> Tensor:
        """Unit noise `x` at the first noise level."""
        del p
        return x * sigmas[0]

    def noised(
        self, x: Tensor, noise: Tensor, sigmas: Tensor, counts: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(noise levels that are walked, clean `x` at the first of them)."""
        steps, t_enc = counts
        part = sigmas[steps - t_enc - 1 :]
        return part, x + noise * part[0]

    def schedule_arguments(
        self, p: object, x: Tensor, schedule: Tensor, all_sigmas: Tensor
    ) -> dict:
        """What the sampling function is told about noise levels and noise."""
        kwargs: dict = {"sigmas": schedule}
        if self.options.get("brownian_noise", False):
            kwargs["noise_sampler"] = self.create_noise_sampler(x, all_sigmas, p)
        return kwargs


def _list_entries(table: list[tuple[str, str, list[str], dict]]) -> list[SamplerData]:
    return [
        SamplerData(
            label,
            lambda model, name=funcname, options=options: KDiffusionSampler(name, model, options),
            aliases,
            options,
        )
        for label, funcname, aliases, options in table
    ]


samplers_data_k_diffusion = _list_entries(samplers_k_diffusion)
samplers_data_lcm = _list_entries([("LCM", "sample_lcm", ["k_lcm"], {})])
