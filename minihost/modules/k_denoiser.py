"""Denoisers in terms of noise levels (Karras et al. 2022, arXiv:2206.00364) round a U-Net
that was trained on discrete timesteps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def append_dims(x: Tensor, ndim: int) -> Tensor:
    """Add trailing dimensions of size 1 until there are `ndim`."""
    return x[(...,) + (None,) * (ndim - x.ndim)]


def append_zero(x: Tensor) -> Tensor:
    """Add the final noise level 0."""
    return torch.cat([x, x.new_zeros([1])])


class DiscreteSchedule(nn.Module):
    """Table of noise levels, one per timestep, with interpolation between them.

    Args:
        sigmas: rising noise levels (timesteps,).
        quantize: round to whole timesteps.
    """

    def __init__(self, sigmas: Tensor, quantize: bool) -> None:
        super().__init__()
        self.register_buffer("sigmas", sigmas)
        self.register_buffer("log_sigmas", sigmas.log())
        self.quantize = quantize

    @property
    def sigma_min(self) -> Tensor:
        """Lowest noise level."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> Tensor:
        """Highest noise level."""
        return self.sigmas[-1]

    def get_sigmas(self, n: int | None = None) -> Tensor:
        """`n` falling noise levels at even timesteps, then 0; all levels when None."""
        if n is None:
            return append_zero(self.sigmas.flip(0))
        t = torch.linspace(len(self.sigmas) - 1, 0, n, device=self.sigmas.device)
        return append_zero(self.t_to_sigma(t))

    def sigma_to_t(self, sigma: Tensor, quantize: bool | None = None) -> Tensor:
        """Timesteps of noise levels, linear in log sigma; fractional unless quantized."""
        log_sigma = sigma.log()
        distance = log_sigma - self.log_sigmas[:, None]
        if self.quantize if quantize is None else quantize:
            return distance.abs().argmin(dim=0).view(sigma.shape)
        low_index = distance.ge(0).cumsum(dim=0).argmax(dim=0).clamp(max=len(self.sigmas) - 2)
        low, high = self.log_sigmas[low_index], self.log_sigmas[low_index + 1]
        w = ((low - log_sigma) / (low - high)).clamp(0, 1)
        return ((1 - w) * low_index + w * (low_index + 1)).view(sigma.shape)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Noise levels of (fractional) timesteps."""
        t = t.float()
        low_index, high_index, w = t.floor().long(), t.ceil().long(), t.frac()
        log_sigma = (1 - w) * self.log_sigmas[low_index] + w * self.log_sigmas[high_index]
        return log_sigma.exp()


def _sigmas_of(alphas_cumprod: Tensor) -> Tensor:
    return ((1 - alphas_cumprod) / alphas_cumprod) ** 0.5


class CompVisDenoiser(DiscreteSchedule):
    """For U-Nets that predict the noise.

    Args:
        model: has `apply_model(x, t, cond=...)` and `alphas_cumprod`.
        quantize: round to whole timesteps.
    """

    def __init__(self, model: nn.Module, quantize: bool = False) -> None:
        super().__init__(_sigmas_of(model.alphas_cumprod), quantize)
        self.inner_model = model

    def get_eps(self, *args: object, **kwargs: object) -> Tensor:
        """The network's prediction."""
        return self.inner_model.apply_model(*args, **kwargs)

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        """Denoised latent (b, c, h, w) of `input` at noise levels `sigma` (b,)."""
        c_out = append_dims(-sigma, input.ndim)
        c_in = append_dims(1 / (sigma**2 + 1) ** 0.5, input.ndim)
        eps = self.get_eps(input * c_in, self.sigma_to_t(sigma), **kwargs)
        return input + eps * c_out


class CompVisVDenoiser(DiscreteSchedule):
    """For U-Nets that predict v (Salimans & Ho 2022, arXiv:2202.00512); arguments as above."""

    def __init__(self, model: nn.Module, quantize: bool = False) -> None:
        super().__init__(_sigmas_of(model.alphas_cumprod), quantize)
        self.inner_model = model

    def get_v(self, x: Tensor, t: Tensor, cond: dict, **kwargs: object) -> Tensor:
        """The network's prediction."""
        return self.inner_model.apply_model(x, t, cond, **kwargs)

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        """Denoised latent (b, c, h, w) of `input` at noise levels `sigma` (b,)."""
        variance = sigma**2 + 1
        c_skip = append_dims(1 / variance, input.ndim)
        c_out = append_dims(-sigma / variance**0.5, input.ndim)
        c_in = append_dims(1 / variance**0.5, input.ndim)
        v = self.get_v(input * c_in, self.sigma_to_t(sigma), **kwargs)
        return v * c_out + input * c_skip


class LCMCompVisDenoiser(CompVisDenoiser):
    """Consistency scaling (Luo et al. 2023, arXiv:2310.04378) on the 50 timesteps of training.

    Args:
        model: as for `CompVisDenoiser`; 1000 timesteps.
    """

    original_steps = 50
    sigma_data = 0.5
    timestep_scaling = 10.0

    def __init__(self, model: nn.Module) -> None:
        total = int(model.alphas_cumprod.shape[0])
        self_skip = total // self.original_steps
        kept = model.alphas_cumprod[self_skip - 1 :: self_skip]
        DiscreteSchedule.__init__(self, _sigmas_of(kept), quantize=False)
        self.skip_steps = self_skip
        self.inner_model = model

    def get_sigmas(self, n: int | None = None) -> Tensor:
        """`n` falling noise levels at even timesteps, then 0."""
        if n is None:
            return append_zero(self.sigmas.flip(0))
        start, end = self.sigma_to_t(self.sigma_max), self.sigma_to_t(self.sigma_min)
        t = torch.linspace(float(start), float(end), n, device=self.sigmas.device)
        return append_zero(self.t_to_sigma(t))

    def sigma_to_t(self, sigma: Tensor, quantize: bool | None = None) -> Tensor:
        """The nearest of the trained timesteps."""
        del quantize
        distance = sigma.log() - self.log_sigmas[:, None]
        nearest = distance.abs().argmin(dim=0).view(sigma.shape)
        return nearest * self.skip_steps + (self.skip_steps - 1)

    def t_to_sigma(self, t: Tensor) -> Tensor:
        """Noise levels of timesteps, interpolated between the trained ones."""
        index = ((t - (self.skip_steps - 1)) / self.skip_steps).float()
        return super().t_to_sigma(index.clamp(0, len(self.sigmas) - 1))

    def forward(self, input: Tensor, sigma: Tensor, **kwargs: object) -> Tensor:
        """Denoised latent (b, c, h, w) of `input` at noise levels `sigma` (b,)."""
        denoised = super().forward(input, sigma, **kwargs)
        scaled_t = append_dims(self.sigma_to_t(sigma), input.ndim) * self.timestep_scaling
        variance = scaled_t**2 + self.sigma_data**2
        return scaled_t / variance**0.5 * denoised + self.sigma_data**2 / variance * input
