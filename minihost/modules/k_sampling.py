"""Samplers that walk down a list of noise levels.

Every function takes a denoiser `model(x, sigma, **extra_args)`, a noisy latent `x`
(b, c, h, w), falling noise levels `sigmas` that end in 0, and calls `callback` after each
step with `x, i, sigma, sigma_hat, denoised`. `noise_sampler(sigma, sigma_next)` gives unit
noise shaped like `x`. Sources: Karras et al. (2022), arXiv:2206.00364 (Euler, Heun, DPM2; without
its churn); Lu et al. (2022), arXiv:2211.01095 (DPM++); Luo et al. (2023), arXiv:2310.04378 (LCM).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from modules.k_denoiser import append_dims
from torch import Tensor

Denoiser = Callable[..., Tensor]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[dict], None]


def to_d(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """Derivative of the probability-flow ODE by sigma."""
    return (x - denoised) / append_dims(sigma, x.ndim)


def get_ancestral_step(
    sigma_from: Tensor, sigma_to: Tensor, eta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(noise level to step down to, noise to add again) of an ancestral step."""
    if not eta:
        return sigma_to, torch.zeros_like(sigma_to)
    variance = sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2
    sigma_up = torch.minimum(sigma_to, eta * variance**0.5)
    return (sigma_to**2 - sigma_up**2) ** 0.5, sigma_up


class Walk:
    """One walk: evaluates the model, reports steps, has the noise."""

    def __init__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict | None,
        callback: Callback | None,
        noise_sampler: NoiseSampler | None = None,
    ) -> None:
        self.model = model
        self.sigmas = sigmas
        self.extra_args = extra_args or {}
        self.callback = callback
        self.noise_sampler = noise_sampler or (lambda sigma, sigma_next: torch.randn_like(x))
        self.ones = x.new_ones([x.shape[0]])

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """One evaluation."""
        return self.model(x, sigma * self.ones, **self.extra_args)

    def first_evaluation(self, i: int, x: Tensor) -> Tensor:
        """The evaluation at the start of step `i`, of which the caller is told."""
        sigma = self.sigmas[i]
        denoised = self.denoise(x, sigma)
        if self.callback is not None:
            state = {"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised}
            self.callback(state)
        return denoised


Step = Callable[[Walk, int, Tensor, Tensor], Tensor]
"""From walk, number of the step, latent and its first evaluation to the next latent."""


def _without_noise(step: Step, name: str) -> Callable[..., Tensor]:
    """The sampling function of a step that draws nothing."""

    @torch.no_grad()
    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        del disable
        walk = Walk(model, x, sigmas, extra_args, callback)
        for i in range(len(sigmas) - 1):
            x = step(walk, i, x, walk.first_evaluation(i, x))
        return x

    sample.__name__ = name
    return sample


def _with_noise(step: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The sampling function of a step that adds noise, and is told how much."""

    @torch.no_grad()
    def sample(
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        eta: float = 1.0,
        noise_sampler: NoiseSampler | None = None,
    ) -> Tensor:
        del disable
        walk = Walk(model, x, sigmas, extra_args, callback, noise_sampler)
        for i in range(len(sigmas) - 1):
            x = step(walk, i, x, walk.first_evaluation(i, x), eta)
        return x

    sample.__name__ = name
    return sample


def _euler(walk: Walk, i: int, x: Tensor, denoised: Tensor) -> Tensor:
    """One evaluation per step."""
    sigma, sigma_next = walk.sigmas[i], walk.sigmas[i + 1]
    return x + to_d(x, sigma, denoised) * (sigma_next - sigma)


def _heun(walk: Walk, i: int, x: Tensor, denoised: Tensor) -> Tensor:
    """Two evaluations per step, one for the step to 0."""
    sigma, sigma_next = walk.sigmas[i], walk.sigmas[i + 1]
    d, dt = to_d(x, sigma, denoised), sigma_next - sigma
    if sigma_next != 0:
        ahead = x + d * dt
        d = (d + to_d(ahead, sigma_next, walk.denoise(ahead, sigma_next))) / 2
    return x + d * dt


def _dpm_2(walk: Walk, i: int, x: Tensor, denoised: Tensor) -> Tensor:
    """DPM-Solver-2: the second evaluation lies half-way in log sigma."""
    sigma, sigma_next = walk.sigmas[i], walk.sigmas[i + 1]
    d = to_d(x, sigma, denoised)
    if sigma_next != 0:
        sigma_mid = sigma.log().lerp(sigma_next.log(), 0.5).exp()
        middle = x + d * (sigma_mid - sigma)
        d = to_d(middle, sigma_mid, walk.denoise(middle, sigma_mid))
    return x + d * (sigma_next - sigma)


def _euler_ancestral(walk: Walk, i: int, x: Tensor, denoised: Tensor, eta: float) -> Tensor:
    """Euler with fresh noise after each step."""
    sigma, sigma_next = walk.sigmas[i], walk.sigmas[i + 1]
    sigma_down, sigma_up = get_ancestral_step(sigma, sigma_next, eta)
    x = x + to_d(x, sigma, denoised) * (sigma_down - sigma)
    if sigma_next > 0:
        x = x + walk.noise_sampler(sigma, sigma_next) * sigma_up
    return x


def _dpmpp_sde(walk: Walk, i: int, x: Tensor, denoised: Tensor, eta: float) -> Tensor:
    """DPM-Solver++ (stochastic): two evaluations per step, one for the step to 0."""
    sigma, sigma_next = walk.sigmas[i], walk.sigmas[i + 1]
    if sigma_next == 0:
        return x + to_d(x, sigma, denoised) * (sigma_next - sigma)
    t, t_next = -sigma.log(), -sigma_next.log()
    t_mid = t + (t_next - t) * 0.5
    middle = _sde_step(walk, x, denoised, (t, t_mid), eta)
    return _sde_step(walk, x, walk.denoise(middle, (-t_mid).exp()), (t, t_next), eta)


def _sde_step(
    walk: Walk, x: Tensor, denoised: Tensor, times: tuple[Tensor, Tensor], eta: float
) -> Tensor:
    """Exponential-integrator step between two values of -log sigma, with noise."""
    t, t_to = times
    sigma, sigma_to = (-t).exp(), (-t_to).exp()
    down, up = get_ancestral_step(sigma, sigma_to, eta)
    t_down = -down.log()
    x = (down / sigma) * x - (t - t_down).expm1() * denoised
    return x + walk.noise_sampler(sigma, sigma_to) * up


def _lcm(walk: Walk, i: int, _x: Tensor, denoised: Tensor, _eta: float) -> Tensor:
    """Consistency steps: denoise completely, add noise of the next level."""
    sigma, sigma_next = walk.sigmas[i], walk.sigmas[i + 1]
    if sigma_next > 0:
        denoised = denoised + sigma_next * walk.noise_sampler(sigma, sigma_next)
    return denoised


sample_euler = _without_noise(_euler, "sample_euler")
sample_heun = _without_noise(_heun, "sample_heun")
sample_dpm_2 = _without_noise(_dpm_2, "sample_dpm_2")
sample_euler_ancestral = _with_noise(_euler_ancestral, "sample_euler_ancestral")
sample_dpmpp_sde = _with_noise(_dpmpp_sde, "sample_dpmpp_sde")
sample_lcm = _with_noise(_lcm, "sample_lcm")


@torch.no_grad()
def sample_dpmpp_2m(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """DPM-Solver++(2M): second order from the previous step's result."""
    del disable
    walk = Walk(model, x, sigmas, extra_args, callback)
    previous = None
    for i in range(len(sigmas) - 1):
        denoised = walk.first_evaluation(i, x)
        t, t_next = -sigmas[i].log(), -sigmas[i + 1].log()
        h = t_next - t
        target = denoised
        if previous is not None and sigmas[i + 1] != 0:
            h_last = t + sigmas[i - 1].log()
            r = h_last / h
            target = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * previous
        x = (sigmas[i + 1] / sigmas[i]) * x - (-h).expm1() * target
        previous = denoised
    return x
