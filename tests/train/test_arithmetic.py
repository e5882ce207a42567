"""Noise, objectives and guidance of a training, checked against the formulas they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib_controlnet.train import sampling
from lib_controlnet.train.base import Base, open_base
from lib_controlnet.train.cache import Cache
from lib_controlnet.train.config import Settings
from lib_controlnet.train.dataset import Item, read_items, write_picture
from lib_controlnet.train.sampling import Networks, Wish, draw
from lib_controlnet.train.steps import Source, read_hint

Make = Callable[..., Settings]


@pytest.fixture
def cached(toy: Path) -> tuple[Base, Cache]:
    base = open_base(toy / "toy.safetensors")
    items, _faults = read_items(toy / "data")
    cache = Cache(toy / "data/.cache", base, toy / "data", items)
    cache.compute(base, torch.device("cpu"))
    return base, cache


def test_velocity_and_noise_describe_the_same_noisy_latent(
    settings: Make, cached: tuple[Base, Cache]
) -> None:
    base, cache = cached
    alphas = base.alphas()
    of = {name: Source(cache, settings(), 10, alphas, 0.5, name) for name in ("eps", "v")}
    noise, velocity = (of[name].batch(range(40)) for name in ("eps", "v"))
    assert torch.equal(noise.noisy, velocity.noisy)
    assert len(noise.timesteps.unique()) > 30
    a = alphas[noise.timesteps][:, None, None, None]
    latent = a.sqrt() * noise.noisy - (1 - a).sqrt() * velocity.wanted
    # What v says the latent is; with the noise it makes the noisy one again.
    again = a.sqrt() * latent + (1 - a).sqrt() * noise.wanted
    assert torch.allclose(again, noise.noisy, atol=1e-5)
    means = torch.stack([cache.moments(i)[0] for i in range(10)]) * 0.5
    spreads = torch.stack([cache.moments(i)[1] for i in range(10)]) * 0.5
    for row in latent:  # each is one of the data set's, as far off as its spread says
        off = ((row - means) / spreads.clamp(min=1e-3)).flatten(1).abs().amax(1)
        assert off.min() < 6


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)])
def test_share_of_emptied_prompts(
    share: float, low: int, high: int, settings: Make, cached: tuple[Base, Cache]
) -> None:
    base, cache = cached
    asked = settings(empty_prompts=share)
    source = Source(cache, asked, 10, base.alphas(), 0.18215, "eps")
    empty = cache.text("")[0]
    emptied = [torch.equal(row, empty) for row in source.batch(range(200)).context]
    assert low <= sum(emptied) <= high


def test_noisy_timesteps_favour_the_noisy_end(settings: Make, cached: tuple[Base, Cache]) -> None:
    base, cache = cached
    means = []
    for kind in ("uniform", "noisy"):
        source = Source(cache, settings(timesteps=kind), 10, base.alphas(), 0.18215, "eps")
        means.append(float(source.batch(range(200)).timesteps.float().mean()))
    assert means[0] == pytest.approx(500, abs=60)
    assert means[1] == pytest.approx(667, abs=60)  # the mean of 1 - u^2 is 2/3


class Plain(torch.nn.Module):
    """An autoencoder whose pictures are its latents."""

    def decode(self, latent: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latent)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_sampler_with_a_perfect_prediction_finds_the_picture(
    objective: str, monkeypatch: pytest.MonkeyPatch, cached: tuple[Base, Cache]
) -> None:
    alphas = cached[0].alphas()
    wanted = torch.rand(2, 4, 4, 4) * 2 - 1

    def perfect(_networks: Networks, _wish: Wish, x: torch.Tensor, time: int, _cfg: float):
        a = alphas[time]
        noise = (x - a.sqrt() * wanted) / (1 - a).sqrt()
        return noise if objective == "eps" else a.sqrt() * noise - (1 - a).sqrt() * wanted

    monkeypatch.setattr(sampling, "_guide", perfect)
    networks = Networks(None, None, Plain(), alphas, 1.0, objective)
    pictures = draw(networks, None, torch.randn(2, 4, 4, 4), steps=6, cfg=3.0)
    assert torch.allclose(pictures, wanted / 2 + 0.5, atol=1e-3)


def test_guidance_and_a_control_for_the_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def predict(_unet, control, noisy, _timesteps, context, _pooled, _hint, _types):
        asked.append(control)
        return torch.full_like(noisy, float(context.mean()))

    monkeypatch.setattr(sampling, "predict", predict)
    networks = Networks(None, "control", None, None, 1.0, "eps")
    texts = (torch.full((2, 3, 4), 5.0), None), (torch.full((1, 3, 4), 2.0), None)
    for guided_only, controls in ((False, ["control", "control"]), (True, ["control", None])):
        asked.clear()
        wish = Wish(*texts, hint=None, guided_only=guided_only)
        answer = sampling._guide(networks, wish, torch.zeros(2, 4, 4, 4), 7, 3.0)
        assert asked == controls
        assert torch.equal(answer, torch.full_like(answer, 2 + 3 * (5 - 2)))


def test_errors_can_count_as_if_velocity_were_predicted(
    settings: Make, cached: tuple[Base, Cache]
) -> None:
    base, cache = cached
    alphas = base.alphas()
    asked = settings(weighting="velocity")
    for objective in ("eps", "v"):
        batch = Source(cache, asked, 10, alphas, 0.5, objective).batch(range(60))
        a = alphas[batch.timesteps]
        if objective == "v":
            assert torch.equal(batch.weight, torch.ones(60))
            continue
        counted = a > 1 / 20
        assert 0 < counted.sum() < 60
        # A wrong noise eps + d is a wrong velocity off by d / sqrt(alpha).
        assert torch.allclose(batch.weight[counted], 1 / a[counted])
        assert torch.equal(batch.weight[~counted], torch.full((int((~counted).sum()),), 20.0))
    alike = Source(cache, settings(), 10, alphas, 0.5, "eps").batch(range(60))
    assert torch.equal(alike.weight, torch.ones(60))


def test_transparent_parts_of_a_control_are_masked(tmp_path: Path) -> None:
    picture = np.full((8, 16, 3), 51, np.uint8)
    opaque = np.full((8, 16), 255, np.uint8)
    some = opaque.copy()
    some[2:4, 5:9] = 0
    for name, pixels in {
        "rgb": picture,
        "opaque": np.dstack([picture, opaque]),
        "masked": np.dstack([picture, some]),
    }.items():
        write_picture(tmp_path / f"{name}.png", pixels)
        hint = read_hint(tmp_path, Item(f"{name}.png", "", ""))
        wanted = torch.full((3, 8, 16), 0.2)
        if name == "masked":
            wanted[:, 2:4, 5:9] = -1
        assert torch.allclose(hint, wanted)
