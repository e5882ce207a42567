"""Random numbers per picture, so that a batch of n equals n single pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from modules import devices
from torch import Tensor


def create_generator(seed: int) -> torch.Generator:
    """A generator on the generating device, seeded with `seed`."""
    return torch.Generator(device=devices.device).manual_seed(int(seed))


def randn(seed: int, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Normal noise; seeds the *global* generator with `seed` and draws from `generator` if given.

    Seeding the global generator as a side effect is what the WebUI does: later global draws
    (VAE posterior, for instance) then depend on the seed only.
    """
    torch.manual_seed(int(seed))
    return torch.randn(tuple(shape), device=devices.device, generator=generator)


def slerp(amount: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation along dim 1; `amount` 0 gives `low`, 1 gives `high`."""
    low_unit = low / torch.norm(low, dim=1, keepdim=True)
    high_unit = high / torch.norm(high, dim=1, keepdim=True)
    dot = (low_unit * high_unit).sum(1)
    if dot.mean() > 0.9995:  # nearly parallel: sin(omega) would divide by zero
        return low * (1 - amount) + high * amount
    omega = torch.acos(dot)
    so = torch.sin(omega)
    low_part = (torch.sin((1.0 - amount) * omega) / so).unsqueeze(1) * low
    return low_part + (torch.sin(amount * omega) / so).unsqueeze(1) * high


class ImageRNG:
    """Noise for one batch, one generator per picture.

    Args:
        shape: latent shape of one picture, (channels, height, width).
        seeds: one seed per picture.
        subseeds: variation seeds, one per picture.
        subseed_strength: 0 (only `seeds`) to 1 (only `subseeds`).
    """

    def __init__(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        subseeds: Sequence[int] | None = None,
        subseed_strength: float = 0.0,
    ) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.seeds = list(seeds)
        self.subseeds = subseeds
        self.subseed_strength = subseed_strength
        self.generators = [create_generator(seed) for seed in self.seeds]
        self.is_first = True

    def first(self) -> Tensor:
        """The starting noise, (B, channels, height, width), variation included."""
        return torch.stack([self._first_of(index) for index in range(len(self.seeds))])

    def next(self) -> Tensor:
        """The next noise for every picture; the first call gives `first()`."""
        if self.is_first:
            self.is_first = False
            return self.first()
        return torch.stack(
            [torch.randn(self.shape, device=g.device, generator=g) for g in self.generators]
        )

    def _first_of(self, index: int) -> Tensor:
        variation = None
        if self.subseeds is not None and self.subseed_strength != 0:
            subseed = self.subseeds[index] if index < len(self.subseeds) else 0
            variation = randn(subseed, self.shape)
        noise = randn(self.seeds[index], self.shape, generator=self.generators[index])
        if variation is not None:
            noise = slerp(self.subseed_strength, noise, variation)
        return noise
