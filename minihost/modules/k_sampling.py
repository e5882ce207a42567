"""Samplers that walk down a list of noise levels.

Every function takes a denoiser `model(x, sigma, **extra_args)`, a noisy latent `x`
(b, c, h, w), falling noise levels `sigmas` that end in 0, and calls `callback` after each
step with `x, i, sigma, sigma_hat, denoised`. `noise_sampler(sigma, sigma_next)` gives unit
noise shaped like `x`. Sources: Karras et al. (2022), arXiv:2206.00364 (Euler, Heun, DPM2);
Lu et al. (2022), arXiv:2211.01095 (DPM++); Luo et al. (2023), arXiv:2310.04378 (LCM).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from modules.k_denoiser import append_dims
from torch import Tensor

Denoiser = Callable[..., Tensor]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[dict], None]

CHURN_LIMIT = 2**0.5 - 1


def default_noise_sampler(x: Tensor) -> NoiseSampler:
    """Unit noise from torch's global generator."""
    return lambda sigma, sigma_next: torch.randn_like(x)


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


class _Run:
    """One walk: evaluates the model, reports steps, adds noise."""

    def __init__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict | None,
        callback: Callback | None,
        noise_sampler: NoiseSampler | None,
    ) -> None:
        self.model = model
        self.sigmas = sigmas
        self.extra_args = extra_args or {}
        self.callback = callback
        self.noise_sampler = noise_sampler or default_noise_sampler(x)
        self.ones = x.new_ones([x.shape[0]])

    @property
    def steps(self) -> range:
        """Indices of the steps."""
        return range(len(self.sigmas) - 1)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """One evaluation."""
        return self.model(x, sigma * self.ones, **self.extra_args)

    def report(self, i: int, x: Tensor, denoised: Tensor, sigma_hat: Tensor | None = None) -> None:
        """Tell the caller about a step."""
        if self.callback is None:
            return
        sigma = self.sigmas[i]
        hat = sigma if sigma_hat is None else sigma_hat
        state = {"x": x, "i": i, "sigma": sigma, "sigma_hat": hat, "denoised": denoised}
        self.callback(state)

    def churn(
        self, i: int, x: Tensor, s_churn: float, s_range: tuple[float, float], s_noise: float
    ) -> tuple[Tensor, Tensor]:
        """Raise the noise level a little; (x, new level)."""
        sigma = self.sigmas[i]
        inside = s_range[0] <= sigma <= s_range[1]
        gamma = min(s_churn / (len(self.sigmas) - 1), CHURN_LIMIT) if inside else 0.0
        sigma_hat = sigma * (gamma + 1)
        if gamma > 0:
            noise = self.noise_sampler(sigma, sigma_hat) * s_noise
            x = x + noise * (sigma_hat**2 - sigma**2) ** 0.5
        return x, sigma_hat


@torch.no_grad()
def sample_euler(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Euler: one evaluation per step."""
    del disable
    run = _Run(model, x, sigmas, extra_args, callback, noise_sampler)
    for i in run.steps:
        x, sigma_hat = run.churn(i, x, s_churn, (s_tmin, s_tmax), s_noise)
        denoised = run.denoise(x, sigma_hat)
        d = to_d(x, sigma_hat, denoised)
        run.report(i, x, denoised, sigma_hat)
        x = x + d * (sigmas[i + 1] - sigma_hat)
    return x


@torch.no_grad()
def sample_euler_ancestral(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Euler with fresh noise after each step."""
    del disable
    run = _Run(model, x, sigmas, extra_args, callback, noise_sampler)
    for i in run.steps:
        denoised = run.denoise(x, sigmas[i])
        sigma_down, sigma_up = get_ancestral_step(sigmas[i], sigmas[i + 1], eta)
        run.report(i, x, denoised)
        x = x + to_d(x, sigmas[i], denoised) * (sigma_down - sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + run.noise_sampler(sigmas[i], sigmas[i + 1]) * s_noise * sigma_up
    return x


@torch.no_grad()
def sample_heun(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Heun: two evaluations per step, one for the step to 0."""
    del disable
    run = _Run(model, x, sigmas, extra_args, callback, noise_sampler)
    for i in run.steps:
        x, sigma_hat = run.churn(i, x, s_churn, (s_tmin, s_tmax), s_noise)
        denoised = run.denoise(x, sigma_hat)
        d = to_d(x, sigma_hat, denoised)
        run.report(i, x, denoised, sigma_hat)
        dt = sigmas[i + 1] - sigma_hat
        if sigmas[i + 1] != 0:
            ahead = x + d * dt
            d_ahead = to_d(ahead, sigmas[i + 1], run.denoise(ahead, sigmas[i + 1]))
            d = (d + d_ahead) / 2
        x = x + d * dt
    return x


@torch.no_grad()
def sample_dpm_2(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-2: the second evaluation lies half-way in log sigma."""
    del disable
    run = _Run(model, x, sigmas, extra_args, callback, noise_sampler)
    for i in run.steps:
        x, sigma_hat = run.churn(i, x, s_churn, (s_tmin, s_tmax), s_noise)
        denoised = run.denoise(x, sigma_hat)
        d = to_d(x, sigma_hat, denoised)
        run.report(i, x, denoised, sigma_hat)
        if sigmas[i + 1] == 0:
            x = x + d * (sigmas[i + 1] - sigma_hat)
            continue
        sigma_mid = sigma_hat.log().lerp(sigmas[i + 1].log(), 0.5).exp()
        middle = x + d * (sigma_mid - sigma_hat)
        d_middle = to_d(middle, sigma_mid, run.denoise(middle, sigma_mid))
        x = x + d_middle * (sigmas[i + 1] - sigma_hat)
    return x


@torch.no_grad()
def sample_dpm_2_ancestral(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """DPM-Solver-2 with fresh noise after each step."""
    del disable
    run = _Run(model, x, sigmas, extra_args, callback, noise_sampler)
    for i in run.steps:
        denoised = run.denoise(x, sigmas[i])
        sigma_down, sigma_up = get_ancestral_step(sigmas[i], sigmas[i + 1], eta)
        run.report(i, x, denoised)
        d = to_d(x, sigmas[i], denoised)
        if sigma_down == 0:
            x = x + d * (sigma_down - sigmas[i])
            continue
        sigma_mid = sigmas[i].log().lerp(sigma_down.log(), 0.5).exp()
        middle = x + d * (sigma_mid - sigmas[i])
        d_middle = to_d(middle, sigma_mid, run.denoise(middle, sigma_mid))
        x = x + d_middle * (sigma_down - sigmas[i])
        x = x + run.noise_sampler(sigmas[i], sigmas[i + 1]) * s_noise * sigma_up
    return x


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
    run = _Run(model, x, sigmas, extra_args, callback, None)
    previous = None
    for i in run.steps:
        denoised = run.denoise(x, sigmas[i])
        run.report(i, x, denoised)
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


@torch.no_grad()
def sample_dpmpp_sde(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    r: float = 0.5,
) -> Tensor:
    """DPM-Solver++ (stochastic): two evaluations per step, one for the step to 0."""
    del disable
    run = _Run(model, x, sigmas, extra_args, callback, noise_sampler)
    for i in run.steps:
        denoised = run.denoise(x, sigmas[i])
        run.report(i, x, denoised)
        if sigmas[i + 1] == 0:
            x = x + to_d(x, sigmas[i], denoised) * (sigmas[i + 1] - sigmas[i])
            continue
        t, t_next = -sigmas[i].log(), -sigmas[i + 1].log()
        t_mid = t + (t_next - t) * r
        fraction = 1 / (2 * r)
        sigma_mid = (-t_mid).exp()
        middle = _sde_step(run, x, denoised, (t, t_mid), eta, s_noise)
        ahead = run.denoise(middle, sigma_mid)
        blended = (1 - fraction) * denoised + fraction * ahead
        x = _sde_step(run, x, blended, (t, t_next), eta, s_noise)
    return x


def _sde_step(
    run: _Run,
    x: Tensor,
    denoised: Tensor,
    times: tuple[Tensor, Tensor],
    eta: float,
    s_noise: float,
) -> Tensor:
    """Exponential-integrator step between two values of -log sigma, with noise."""
    t, t_to = times
    sigma, sigma_to = (-t).exp(), (-t_to).exp()
    down, up = get_ancestral_step(sigma, sigma_to, eta)
    t_down = -down.log()
    x = (down / sigma) * x - (t - t_down).expm1() * denoised
    return x + run.noise_sampler(sigma, sigma_to) * s_noise * up


@torch.no_grad()
def sample_lcm(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Consistency steps: denoise completely, add noise of the next level."""
    del disable
    run = _Run(model, x, sigmas, extra_args, callback, noise_sampler)
    for i in run.steps:
        denoised = run.denoise(x, sigmas[i])
        run.report(i, x, denoised)
        x = denoised
        if sigmas[i + 1] > 0:
            x = x + sigmas[i + 1] * run.noise_sampler(sigmas[i], sigmas[i + 1])
    return x
