"""The latent of a control picture: the posterior's mean, whatever the host's VAE answers with."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from minildm.vae import AutoencoderKL, SampledAutoencoderKL
from support import randomise
from torch import Tensor, nn

from lib_controlnet.errors import HostError
from lib_controlnet.host.a1111 import vae

SIZES = {"ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1}
SCALE = 0.13


class Posterior(nn.Module):
    """The host's checkpoint as `ldm` makes it."""

    scale_factor = SCALE
    kind: type[AutoencoderKL] = AutoencoderKL

    def __init__(self) -> None:
        super().__init__()
        self.first_stage_model = randomise(self.kind(**SIZES), 3)

    def encode_first_stage(self, x: Tensor) -> object:
        return self.first_stage_model.encode(x)

    def get_first_stage_encoding(self, posterior: object) -> Tensor:
        return self.scale_factor * posterior.sample()


class Sampled(Posterior):
    """The host's checkpoint as `sgm` makes it: a scaled tensor, drawn on the CPU."""

    kind = SampledAutoencoderKL

    def encode_first_stage(self, x: Tensor) -> Tensor:
        return self.scale_factor * self.first_stage_model.encode(x)

    def get_first_stage_encoding(self, posterior: Tensor) -> Tensor:
        return posterior


class Alone(Sampled):
    """Another VAE, without a layer of moments of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = self.first_stage_model
        self.first_stage_model = nn.Identity()

    def encode_first_stage(self, x: Tensor) -> Tensor:
        return self.scale_factor * self.noise.encode(x)


def as_it_is(_model: Posterior) -> None:
    pass


def brought_to_the_device(model: Posterior) -> None:
    """As with `--medvram-sdxl`: only a call of the wrapped `encode` brings the weights."""
    first_stage = model.first_stage_model
    plain, weights = first_stage.encode, {k: v.clone() for k, v in first_stage.state_dict().items()}
    first_stage.to("meta")

    def encode(x: Tensor) -> object:
        first_stage.to_empty(device="cpu").load_state_dict(weights)
        return plain(x)

    first_stage.encode = encode


def in_tiles(model: Posterior) -> None:
    """As an extension does that encodes large pictures in parts."""
    first_stage = model.first_stage_model
    plain = first_stage.encode

    def encode(x: Tensor) -> Tensor:
        return torch.cat([plain(part) for part in x.chunk(2, dim=3)], dim=3)

    first_stage.encode = encode


def pixels() -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def mean_of(model: Posterior) -> Tensor:
    """Scaled mean by the VAE's parts."""
    parts = model.first_stage_model
    with torch.no_grad():
        return SCALE * parts.quant_conv(parts.encoder(pixels()))[:, :4]


@pytest.mark.parametrize("change", [as_it_is, brought_to_the_device])
@pytest.mark.parametrize("kind", [Posterior, Sampled])
def test_latent_is_the_scaled_mean(
    kind: type[Posterior], change: Callable[[Posterior], None]
) -> None:
    model = kind()
    expected = mean_of(model)
    change(model)
    torch.testing.assert_close(vae.encode(model, pixels()), expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("kind", "change"),
    [(Posterior, as_it_is), (Sampled, as_it_is), (Sampled, in_tiles), (Alone, as_it_is)],
)
def test_encoding_repeats_and_leaves_generators_and_layers_alone(
    kind: type[Posterior], change: Callable[[Posterior], None]
) -> None:
    model = kind()
    change(model)
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    one = vae.encode(model, pixels())
    assert torch.equal(torch.randn(3), expected)
    assert torch.equal(vae.encode(model, pixels()), one)
    assert one.shape == (2, 4, 8, 12)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_device_that_is_not_the_vaes_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        msg = "a device was touched"
        raise AssertionError(msg)

    for name in ("get_rng_state", "set_rng_state", "manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    vae.encode(Sampled(), pixels())


def test_a_failing_encoder_leaves_no_hook() -> None:
    model = Sampled()
    with pytest.raises(RuntimeError):
        vae.encode(model, pixels()[:, :2])
    assert not model.first_stage_model.quant_conv._forward_hooks


@pytest.mark.parametrize("kind", [Posterior, Sampled])
def test_numbers_that_are_not_finite_are_a_sentence(kind: type[Posterior]) -> None:
    model = kind()
    model.first_stage_model.quant_conv.weight.fill_(float("nan"))
    with pytest.raises(HostError, match="--no-half-vae"):
        vae.encode(model, pixels())
