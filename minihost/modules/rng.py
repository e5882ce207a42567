"""Random numbers per picture, so that a batch of n equals n single pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from modules import devices, shared
from torch import Tensor


def _source_device() -> torch.device:
    source = getattr(shared.opts, "randn_source", "GPU")
    return devices.device if source == "GPU" else devices.cpu


def manual_seed(seed: int) -> None:
    """Seed torch's global generator."""
    torch.manual_seed(int(seed))


def create_generator(seed: int) -> torch.Generator:
    """A generator on the noise source's device, seeded with `seed`."""
    return torch.Generator(device=_source_device()).manual_seed(int(seed))


def randn(seed: int, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Normal noise; seeds the *global* generator with `seed` and draws from `generator` if given.

    Seeding the global generator as a side effect is what the WebUI does: later global draws
    (VAE posterior, for instance) then depend on the seed only.
    """
    manual_seed(seed)
    noise = torch.randn(tuple(shape), device=_source_device(), generator=generator)
    return noise.to(devices.device)


def randn_local(seed: int, shape: Sequence[int]) -> Tensor:
    """Normal noise from `seed` without touching the global generator."""
    generator = create_generator(seed)
    noise = torch.randn(tuple(shape), device=generator.device, generator=generator)
    return noise.to(devices.device)


def randn_like(x: Tensor) -> Tensor:
    """Normal noise shaped like `x` from the global generator."""
    return torch.randn(x.shape, device=_source_device(), dtype=x.dtype).to(x.device)


def randn_without_seed(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Normal noise that continues `generator` (the global one when None)."""
    return torch.randn(tuple(shape), device=_source_device(), generator=generator).to(
        devices.device
    )


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
        seed_resize_from_h: height in pixels whose noise is centred into the new size; 0 = off.
        seed_resize_from_w: the same for the width.
    """

    def __init__(
        self,
        shape: Sequence[int],
        seeds: Sequence[int],
        subseeds: Sequence[int] | None = None,
        subseed_strength: float = 0.0,
        seed_resize_from_h: int = 0,
        seed_resize_from_w: int = 0,
    ) -> None:
        self.shape = tuple(int(size) for size in shape)
        self.seeds = list(seeds)
        self.subseeds = subseeds
        self.subseed_strength = subseed_strength
        self.seed_resize_from_h = seed_resize_from_h
        self.seed_resize_from_w = seed_resize_from_w
        self.generators = [create_generator(seed) for seed in self.seeds]
        self.is_first = True

    def first(self) -> Tensor:
        """The starting noise, (B, channels, height, width); variation and resize included."""
        noise = torch.stack([self._first_of(index) for index in range(len(self.seeds))])
        delta = int(getattr(shared.opts, "eta_noise_seed_delta", 0) or 0)
        if delta:
            self.generators = [create_generator(seed + delta) for seed in self.seeds]
        return noise.to(devices.device)

    def next(self) -> Tensor:
        """The next noise for every picture; the first call gives `first()`."""
        if self.is_first:
            self.is_first = False
            return self.first()
        drawn = [randn_without_seed(self.shape, generator) for generator in self.generators]
        return torch.stack(drawn).to(devices.device)

    def _first_of(self, index: int) -> Tensor:
        seed, generator = self.seeds[index], self.generators[index]
        from_size = (int(self.seed_resize_from_h) // 8, int(self.seed_resize_from_w) // 8)
        resized = self.seed_resize_from_h > 0 and self.seed_resize_from_w > 0
        noise_shape = (self.shape[0], *from_size) if resized else self.shape

        variation = None
        if self.subseeds is not None and self.subseed_strength != 0:
            subseed = self.subseeds[index] if index < len(self.subseeds) else 0
            variation = randn(subseed, noise_shape)
        own_generator = generator if noise_shape == self.shape else None
        noise = randn(seed, noise_shape, generator=own_generator)
        if variation is not None:
            noise = slerp(self.subseed_strength, noise, variation)
        if noise_shape == self.shape:
            return noise
        return _paste_centre(noise, randn(seed, self.shape, generator=generator))


def _paste_centre(small: Tensor, canvas: Tensor) -> Tensor:
    """Put the centre of `small` on the centre of `canvas`; both (channels, height, width)."""
    target = [slice(None)]
    source = [slice(None)]
    for have, want in zip(small.shape[1:], canvas.shape[1:], strict=True):
        offset = (want - have) // 2
        length = have if offset >= 0 else have + 2 * offset
        target.append(slice(max(0, offset), max(0, offset) + length))
        source.append(slice(max(0, -offset), max(0, -offset) + length))
    result = canvas.clone()
    result[tuple(target)] = small[tuple(source)]
    return result
