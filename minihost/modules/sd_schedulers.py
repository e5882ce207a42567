"""Noise schedules: from a number of steps to falling noise levels that end in 0."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from modules.k_denoiser import append_zero
from torch import Tensor, nn


@dataclasses.dataclass
class Scheduler:
    """One schedule.

    Args:
        name: short name, used by samplers and infotext.
        label: name people see.
        function: `f(n, sigma_min, sigma_max, device=..., [inner_model=...], [rho=...])`.
        default_rho: -1 when the schedule has no such parameter.
        need_inner_model: the function wants the denoiser.
        aliases: further names accepted.
    """

    name: str
    label: str
    function: Callable[..., Tensor] | None
    default_rho: float = -1
    need_inner_model: bool = False
    aliases: list[str] | None = None


def uniform(
    n: int, sigma_min: float, sigma_max: float, inner_model: nn.Module, device: object
) -> Tensor:
    """Even steps in the model's own timesteps."""
    del sigma_min, sigma_max, device
    return inner_model.get_sigmas(n)


def get_sigmas_karras(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0, device: object = "cpu"
) -> Tensor:
    """Karras et al. (2022), arXiv:2206.00364, equation 5."""
    ramp = torch.linspace(0, 1, n, device=device)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return append_zero((high + ramp * (low - high)) ** rho)


def get_sigmas_exponential(
    n: int, sigma_min: float, sigma_max: float, device: object = "cpu"
) -> Tensor:
    """Even steps in log sigma."""
    ends = math.log(sigma_max), math.log(sigma_min)
    return append_zero(torch.linspace(*ends, n, device=device).exp())


def get_sigmas_polyexponential(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, device: object = "cpu"
) -> Tensor:
    """Polynomial steps in log sigma."""
    ramp = torch.linspace(1, 0, n, device=device) ** rho
    low, high = math.log(sigma_min), math.log(sigma_max)
    return append_zero(torch.exp(ramp * (high - low) + low))


def sgm_uniform(
    n: int, sigma_min: float, sigma_max: float, inner_model: nn.Module, device: object
) -> Tensor:
    """Even timesteps that leave out the last one."""
    start = inner_model.sigma_to_t(torch.tensor(sigma_max))
    end = inner_model.sigma_to_t(torch.tensor(sigma_min))
    t = torch.linspace(float(start), float(end), n + 1)[:-1]
    return append_zero(inner_model.t_to_sigma(t.to(inner_model.sigmas.device)).to(device))


def simple_scheduler(
    n: int, sigma_min: float, sigma_max: float, inner_model: nn.Module, device: object
) -> Tensor:
    """Every k-th noise level of the model, from the top."""
    del sigma_min, sigma_max
    stride = len(inner_model.sigmas) / n
    picked = [float(inner_model.sigmas[-(1 + int(i * stride))]) for i in range(n)]
    return torch.tensor([*picked, 0.0], device=device)


def normal_scheduler(
    n: int, sigma_min: float, sigma_max: float, inner_model: nn.Module, device: object
) -> Tensor:
    """Even timesteps between the ends."""
    start = inner_model.sigma_to_t(torch.tensor(sigma_max))
    end = inner_model.sigma_to_t(torch.tensor(sigma_min))
    t = torch.linspace(float(start), float(end), n, device=inner_model.sigmas.device)
    return append_zero(inner_model.t_to_sigma(t).to(device))


def ddim_scheduler(
    n: int, sigma_min: float, sigma_max: float, inner_model: nn.Module, device: object
) -> Tensor:
    """The timesteps of DDIM as noise levels."""
    del sigma_min, sigma_max
    table = inner_model.sigmas
    stride = max(len(table) // n, 1)
    picked = [0.0, *(float(table[i]) for i in range(1, len(table), stride))]
    return torch.tensor(picked[::-1], device=device)


schedulers = [
    Scheduler("automatic", "Automatic", None),
    Scheduler("uniform", "Uniform", uniform, need_inner_model=True),
    Scheduler("karras", "Karras", get_sigmas_karras, default_rho=7.0),
    Scheduler("exponential", "Exponential", get_sigmas_exponential),
    Scheduler("polyexponential", "Polyexponential", get_sigmas_polyexponential, default_rho=1.0),
    Scheduler(
        "sgm_uniform", "SGM Uniform", sgm_uniform, need_inner_model=True, aliases=["SGMUniform"]
    ),
    Scheduler("simple", "Simple", simple_scheduler, need_inner_model=True),
    Scheduler("normal", "Normal", normal_scheduler, need_inner_model=True),
    Scheduler("ddim", "DDIM", ddim_scheduler, need_inner_model=True),
]

schedulers_map = {
    **{scheduler.name: scheduler for scheduler in schedulers},
    **{scheduler.label: scheduler for scheduler in schedulers},
}
