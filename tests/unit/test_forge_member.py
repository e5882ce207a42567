"""How members of the Forge family are read: by what is there, in one table."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from minildm.vae import AutoencoderKL
from support import randomise, tiny_base
from torch import nn

from lib_controlnet.engine.memory import estimate_pass
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.step import Row, RowLayout, StepCursor
from lib_controlnet.errors import HostError
from lib_controlnet.families.base_weights import BaseWeights
from lib_controlnet.host.forge import features, row_effects, vae
from lib_controlnet.host.forge.originals import PatcherOriginals
from lib_controlnet.host.forge.rows import ROWS, rows_of
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry

COND, UNCOND = 0, 1
SCALE = 0.5
SIZES: dict[str, Any] = {"ch": 32, "ch_mult": (1, 1), "num_res_blocks": 1}


def flags(rows: tuple[Row, ...] | None) -> list[tuple[int, bool]] | None:
    return None if rows is None else [(row.image, row.is_cond) for row in rows]


@pytest.mark.parametrize(
    ("marks", "count", "images", "expected"),
    [
        ([UNCOND, COND], 2, 1, [(0, False), (0, True)]),
        ([UNCOND, COND], 4, 2, [(0, False), (1, False), (0, True), (1, True)]),
        ([UNCOND, COND, COND], 3, 1, [(0, False), (0, True), (0, True)]),
        ([COND], 2, 2, [(0, True), (1, True)]),
        # Tiles of each picture.
        ([UNCOND, COND], 4, 1, [(0, False), (0, False), (0, True), (0, True)]),
        ([UNCOND, COND], 3, 1, None),
        ([], 2, 1, None),
        ([COND], 2, 0, None),
    ],
    ids=["plain", "batch", "and", "no guidance", "tiles", "odd", "unmarked", "no pictures"],
)
def test_rows_are_told_by_the_call(
    marks: list[int], count: int, images: int, expected: list | None
) -> None:
    assert flags(rows_of(marks, count, images)) == expected


def announced(images: int, conds: int, has_uncond: bool) -> RowLayout:
    """The layout of an evaluation that the host announces."""
    texts = {"text_cond": torch.zeros(conds, 7, 3), "text_uncond": None}
    if has_uncond:
        texts["text_uncond"] = torch.zeros(images, 7, 3)
    return ROWS.read(SimpleNamespace(x=torch.zeros(images, 4, 2, 2), **texts), True)


def test_call_decides_over_the_announced_order() -> None:
    layout = announced(2, 4, True)
    assert layout.images == 2
    assert len(layout.rows) == 6
    cursor = StepCursor()
    cursor.begin(layout, 0.0)

    def call(count: int, *marks: int) -> list | None:
        options = {"transformer_options": {"cond_or_uncond": list(marks)}} if marks else {}
        return flags(cursor.next_rows(count, arguments=options))

    assert call(2, COND) == [(0, True), (1, True)]
    assert cursor.first == 0
    assert call(4, COND, UNCOND) == [(0, True), (1, True), (0, False), (1, False)]
    assert cursor.first == 2
    assert call(2, UNCOND) == [(0, False), (1, False)]
    assert cursor.first == 0
    cursor.begin(layout, 0.0)
    assert call(6) == flags(layout.rows)  # a foreign call that tells nothing


def test_without_guidance_no_negative_rows_are_announced() -> None:
    assert flags(announced(1, 1, False).rows) == [(0, True)]


SIGMAS = torch.tensor([0.1, 1.0, 2.0])


def identity(latent: torch.Tensor) -> torch.Tensor:
    return latent * SCALE


UNETS: dict[str, dict[str, Any]] = {
    "predictor": {
        "predictor": SimpleNamespace(sigmas=SIGMAS),
        "computation_dtype": torch.bfloat16,
        "storage_dtype": torch.uint8,
    },
    "model_sampling": {
        "model_sampling": SimpleNamespace(sigmas=SIGMAS),
        "manual_cast_dtype": None,
        "get_dtype": lambda: torch.bfloat16,
        "model_config": SimpleNamespace(latent_format=SimpleNamespace(process_in=identity)),
    },
    "process_latent_in": {
        "model_sampling": SimpleNamespace(sigmas=SIGMAS),
        "manual_cast_dtype": torch.bfloat16,
        "get_dtype": lambda: torch.uint8,
        "process_latent_in": identity,
    },
}


def engine(kind: str) -> Any:
    """A checkpoint whose parts lie where those of a member do."""
    first = randomise(AutoencoderKL(**SIZES), 3)
    if kind == "predictor":
        first.process_in = identity
    parts = SimpleNamespace(
        unet=SimpleNamespace(model=SimpleNamespace(diffusion_model=nn.Identity(), **UNETS[kind])),
        vae=SimpleNamespace(first_stage_model=first, patcher=object(), vae_dtype=torch.float32),
    )
    return SimpleNamespace(forge_objects=parts)


@pytest.mark.parametrize("kind", UNETS)
def test_table_finds_the_parts_of_every_member(kind: str) -> None:
    model = engine(kind)
    assert isinstance(features.require(model, "the U-Net"), nn.Identity)
    assert features.require(model, "the dtype that the U-Net computes in") is torch.bfloat16
    assert features.require(model, "the table of noise levels") is SIGMAS
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    state = torch.random.get_rng_state()
    latent = vae.encode(model, pixels)
    assert torch.equal(torch.random.get_rng_state(), state)
    posterior = model.forge_objects.vae.first_stage_model.encode(pixels)
    torch.testing.assert_close(latent, posterior.mode() * SCALE)


def test_what_no_place_holds_is_said() -> None:
    model = engine("predictor")
    del model.forge_objects.unet.model.computation_dtype
    with pytest.raises(HostError, match="does not find the dtype .*computation_dtype"):
        features.require(model, "the dtype that the U-Net computes in")
    assert features.find(object(), "the U-Net") is None


@pytest.mark.parametrize("fault", ["no encoder", "not finite"])
def test_vae_that_gives_no_latent_is_refused(fault: str) -> None:
    model = engine("predictor")
    if fault == "no encoder":
        model.forge_objects.vae.first_stage_model = nn.Identity()
    else:
        model.forge_objects.vae.first_stage_model.quant_conv.bias.data.fill_(float("nan"))
    with pytest.raises(HostError, match="VAE"):
        vae.encode(model, torch.zeros(1, 3, 16, 16))


def test_rows_of_a_generation_without_ours_pass_as_they_are() -> None:
    wrapper = row_effects.wrap(None, lambda: None)
    given = {"input": torch.ones(2), "timestep": 3, "c": {"y": 4}, "cond_or_uncond": [0, 1]}
    assert torch.equal(wrapper(lambda x, t, y: x * t * y, given), torch.full((2,), 12.0))


def test_memory_of_a_pass_counts_what_is_still_to_come() -> None:
    base = tiny_base("SD1")
    info = PassInfo(PassGeometry.of_latent(Size(8, 4)), base, images=3)
    network = nn.Linear(10, 10, bias=False)
    residuals = estimate_pass([network], info, torch.device("cpu"), torch.float16)
    shape = base.shape
    assert residuals == shape.layers * shape.model_channels * 8 * 4 * 6 * 2
    coming = estimate_pass([network, network], info, torch.device("meta"), torch.float16)
    assert coming - residuals == 400
    assert estimate_pass([], info, torch.device("meta"), torch.float16) == 0


@pytest.mark.parametrize("place", ["loader", "patcher"])
def test_weights_without_lora_come_from_the_backup(place: str) -> None:
    model, base = engine("predictor"), tiny_base("SD1")
    name = "input_blocks.0.0.weight"
    plain = base.module.get_parameter(name).detach().clone()
    with torch.no_grad():
        base.module.get_parameter(name).add_(1.0)
    if place == "loader":
        kept = {f"diffusion_model.{name}": plain}
        model.forge_objects.unet.model.lora_loader = SimpleNamespace(backup=kept)
    else:
        model.forge_objects.unet.backup = {f"diffusion_model.{name}": SimpleNamespace(weight=plain)}
    patched = replace(base, originals=PatcherOriginals(model))
    assert torch.equal(BaseWeights(patched).get(name, plain.shape, "cpu"), plain)
    other = "input_blocks.0.0.bias"
    lies = base.module.get_parameter(other)
    assert torch.equal(BaseWeights(patched).get(other, lies.shape, "cpu"), lies)
