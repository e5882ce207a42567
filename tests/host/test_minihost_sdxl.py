"""The embedded host with a checkpoint of SDXL's kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sdxl_models
import torch
from controls import first, request, unit


def condition(prompts: list[str], **fields: Any) -> dict[str, torch.Tensor]:
    """Conditions that the loaded model makes of prompts."""
    from modules import prompt_parser, shared

    batch = prompt_parser.SdConditioning(prompts, **fields)
    with torch.no_grad():
        return shared.sd_model.get_learned_conditioning(batch)


def test_conditions_hold_text_pooled_text_and_sizes(sdxl) -> None:
    made = condition(["a red circle", "a blue star"], width=96, height=160)
    assert made["crossattn"].shape == (2, 77, 2 * sdxl_models.TEXT)
    assert made["vector"].shape == (2, sdxl_models.unet_arguments()["adm_in_channels"])
    waves = made["vector"][0, sdxl_models.TEXT :].reshape(6, 2, 128)
    # cos(n) of the first, fastest wave tells the number
    for wave, number in zip(waves[:, 0, 0], (160, 96, 0, 0, 160, 96), strict=True):
        assert float(wave) == pytest.approx(math.cos(number), abs=1e-4)
    pooled = made["vector"][:, : sdxl_models.TEXT]
    assert (pooled[0] - pooled[1]).abs().max() > 0.1


def test_empty_negative_prompt_is_zero_but_for_its_sizes(sdxl) -> None:
    made = condition([""], is_negative_prompt=True, width=64, height=64)
    assert not made["crossattn"].any()
    assert not made["vector"][:, : sdxl_models.TEXT].any()
    assert made["vector"].any()
    assert condition([""])["crossattn"].any()


def test_encoding_is_scaled_and_drawn_from_the_posterior(sdxl) -> None:
    from modules import shared

    model = shared.sd_model
    pixels = torch.rand(1, 3, 64, 72, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        one, two = model.encode_first_stage(pixels), model.encode_first_stage(pixels)
        mean = model.first_stage_model.quant_conv(model.first_stage_model.encoder(pixels))[:, :4]
    assert isinstance(one, torch.Tensor)
    assert one.shape == (1, 4, 8, 9)
    assert not torch.equal(one, two)
    assert model.get_first_stage_encoding(one) is one
    assert (one - model.scale_factor * mean).abs().mean() < 0.1 * mean.abs().mean()


def test_prompts_and_controls_change_the_picture(sdxl) -> None:
    plain = first(sdxl.txt2img(**request()))
    assert np.array_equal(first(sdxl.txt2img(**request())), plain)
    other = first(sdxl.txt2img(**request(prompt="a blue star")))
    controlled = first(sdxl.txt2img(**request(unit(model=sdxl_models.CONTROL))))
    for changed in (other, controlled):
        assert np.abs(changed.astype(int) - plain).mean() > 20


@pytest.mark.parametrize("name", sdxl_models.NAMES[1:])
def test_every_kind_of_checkpoint_generates(sdxl, name: str) -> None:
    asked = request(steps=2, override_settings={"sd_model_checkpoint": name})
    drawn = sdxl.txt2img(**asked)
    changed = sdxl.img2img(**asked, init_images=drawn.images, denoising_strength=0.5)
    assert first(drawn).std() > 20
    assert 2 < np.abs(first(changed).astype(int) - first(drawn)).mean() < 100


@pytest.mark.parametrize("prompt", ["a red circle, " * 30, "a red circle AND a blue star"])
def test_long_and_composed_prompts(sdxl, prompt: str) -> None:
    asked = request(unit(model=sdxl_models.CONTROL), steps=2, prompt=prompt, batch_size=2)
    pictures = sdxl.txt2img(**asked).images[:2]
    assert not np.array_equal(*map(np.array, pictures))
