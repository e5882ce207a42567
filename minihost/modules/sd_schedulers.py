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


schedulers = [
    Scheduler("automatic", "Automatic", None),
    Scheduler("uniform", "Uniform", uniform, need_inner_model=True),
    Scheduler("karras", "Karras", get_sigmas_karras, default_rho=7.0),
    Scheduler("exponential", "Exponential", get_sigmas_exponential),
]

schedulers_map = {
    **{scheduler.name: scheduler for scheduler in schedulers},
    **{scheduler.label: scheduler for scheduler in schedulers},
}
