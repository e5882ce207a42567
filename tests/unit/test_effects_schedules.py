"""Latent effects under every kind of prediction and schedule, against a float64 statement.

What is compared is the clean latent that the sampler makes of the noise it gets back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lib_controlnet.engine.effects.inpaint_only import KeepUnmasked
from lib_controlnet.engine.effects.start_picture import StartPicture
from lib_controlnet.engine.effects.tile_colorfix import HoldColours, box_blur
from lib_controlnet.engine.effects.x0 import LEAST_ALPHA_BAR, adjust_noise, alpha_bar_at
from lib_controlnet.engine.step import NoisyLatent
from lib_controlnet.engine.window import Window
from lib_controlnet.host.a1111.rows import build_layout

SHAPE = (2, 4, 12, 16)
TIMESTEPS = (0, 1, 500, 799.2, 801, 998, 998.6, 999)


def scaled_linear() -> np.ndarray:
    """Stable Diffusion's schedule: betas whose square roots are evenly spaced."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def rescaled(last: float) -> np.ndarray:
    """The same without signal at the end (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
    root = np.sqrt(scaled_linear())
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return np.concatenate([root[:-1] ** 2, [last]])


SCHEDULES: dict[str, Callable[[], np.ndarray]] = {
    "default": scaled_linear,
    "zero-terminal": lambda: rescaled(LEAST_ALPHA_BAR),
    "exactly-zero": lambda: rescaled(0.0),
}


def alpha_of(schedule: np.ndarray, t: float) -> float:
    """Its value at a timestep, linear in the logarithm between two."""
    if t == int(t):
        return float(schedule[int(t)])
    low = int(t)
    pair = np.log(schedule[low : low + 2].clip(LEAST_ALPHA_BAR))
    return float(np.exp(pair[0] + (t - low) * (pair[1] - pair[0])))


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def hosts_noise(kind: str, clean: np.ndarray, noise: np.ndarray, alpha: float) -> np.ndarray:
    """What the host's timestep samplers make of a perfect prediction (Salimans & Ho 2022)."""
    if kind == "eps":
        return noise
    v = alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean
    return alpha**0.5 * v + (1 - alpha) ** 0.5 * (alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise)


def kept() -> tuple[KeepUnmasked, Callable[[np.ndarray], np.ndarray]]:
    """`inpaint_only`'s effect, and its definition."""
    latent, mask = drawn(5)[:1], np.zeros((1, 1, *SHAPE[2:]))
    mask[..., :7] = 1.0
    effect = KeepUnmasked(torch.from_numpy(latent), torch.from_numpy(mask), Window())
    return effect, lambda x0: np.where(mask > 0, x0, latent)


def coloured() -> tuple[HoldColours, Callable[[np.ndarray], np.ndarray]]:
    """`tile_colorfix`'s effect, and its definition: means over 5 x 5, borders repeated."""

    def means(x0: np.ndarray) -> np.ndarray:
        wide = np.pad(x0, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
        return np.lib.stride_tricks.sliding_window_view(wide, (5, 5), (2, 3)).mean((-2, -1))

    control = drawn(6)[:1]
    effect = HoldColours(box_blur(torch.from_numpy(control), 2), 2, 0.0, 0.75, Window())
    return effect, lambda x0: x0 + 0.75 * (means(control) - means(x0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("t", TIMESTEPS)
@pytest.mark.parametrize("schedule", ["default", "zero-terminal"])
@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("make", [kept, coloured])
def test_sampler_finds_the_adjusted_clean_latent(
    make: Callable, kind: str, schedule: str, t: float, dtype: torch.dtype
) -> None:
    effect, definition = make()
    alphas = SCHEDULES[schedule]()
    alpha = alpha_of(alphas, t)
    clean, noise = drawn(1), drawn(2)
    x = (alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise).astype(np.float32)
    prediction = torch.from_numpy(hosts_noise(kind, clean, noise, alpha)).to(dtype)
    x0 = (x - (1 - alpha) ** 0.5 * prediction.double().numpy()) / alpha**0.5
    rows = build_layout([1], 1, 2).rows
    adjust = (
        effect.after_guidance if make is kept else lambda given: effect.before_guidance(given, rows)
    )
    noisy = NoisyLatent(torch.from_numpy(x), torch.full((2,), t))
    given = adjust_noise(prediction, noisy, torch.from_numpy(alphas), adjust)
    found = (x - (1 - alpha) ** 0.5 * given.double().numpy()) / alpha**0.5
    # Rounding of float32 numbers of size 4, as the sampler divides it by the signal's share.
    allowed = 8 * 2**-24 * 4 / alpha**0.5 + 1e-4 + 2e-6 * np.abs(x0).max()
    assert np.abs(found - definition(x0)).max() < allowed


@pytest.mark.parametrize("make", [kept, coloured])
def test_schedule_that_ends_in_nothing_gives_numbers(make: Callable) -> None:
    effect, _ = make()
    x = torch.from_numpy(drawn(3)).float()
    rows = build_layout([1], 1, 2).rows
    adjust = (
        effect.after_guidance if make is kept else lambda given: effect.before_guidance(given, rows)
    )
    noisy = NoisyLatent(x, torch.full((2,), 999.0))
    alphas = torch.from_numpy(SCHEDULES["exactly-zero"]())
    torch.testing.assert_close(adjust_noise(x, noisy, alphas, adjust), x, atol=5e-3, rtol=0)
    noisy = NoisyLatent(x, torch.full((2,), 998.6))
    assert bool(adjust_noise(x, noisy, alphas, adjust).isfinite().all())


@pytest.mark.parametrize("schedule", ["default", "zero-terminal"])
def test_alpha_at_whole_timesteps_is_the_tables_own(schedule: str) -> None:
    alphas = torch.from_numpy(SCHEDULES[schedule]()).float()
    assert torch.equal(alpha_bar_at(alphas, torch.arange(1000.0)), alphas)
    # Beyond the table, by rounding.
    assert alpha_bar_at(alphas, torch.tensor([-0.001, 999.001]))[1] == alphas[-1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_start_picture_is_what_sampling_down_from_it_keeps(schedule: str) -> None:
    """At the last noise level sigma, unit noise times sigma with the picture under it."""
    alpha = float(SCHEDULES[schedule]()[-1])
    latent, noise = torch.randn(1, 4, 3, 5), torch.randn(1, 4, 3, 5)
    given = noise.clone()
    StartPicture(latent).under_noise(given, alpha)
    if alpha == 0:
        assert torch.equal(given, noise)
        return
    sigma = ((1 - alpha) / alpha) ** 0.5
    expected = (1 - alpha) ** 0.5 * (latent + sigma * noise)
    torch.testing.assert_close(given * sigma, expected, atol=1e-5 * sigma, rtol=1e-5)
