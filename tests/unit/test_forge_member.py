"""How members of the Forge family are read: by what is there, in one table."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import stored_weights
import torch
from minildm.vae import AutoencoderKL
from support import randomise, tiny_base, twin
from torch import nn

from lib_controlnet.engine.step import Row, RowLayout, StepCursor
from lib_controlnet.engine.unet import BaseUNet, Originals, describe_unet
from lib_controlnet.engine.weights import _find_tensor
from lib_controlnet.errors import HostError
from lib_controlnet.families.attention import cross_attentions
from lib_controlnet.families.base_weights import BaseWeights, encoder_shapes
from lib_controlnet.families.lllite import layer_paths
from lib_controlnet.families.reference import attention_blocks
from lib_controlnet.host.forge import features, row_effects, vae
from lib_controlnet.host.forge.originals import PatcherOriginals
from lib_controlnet.host.forge.rows import ROWS, rows_of

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


@pytest.mark.parametrize("place", ["loader", "patcher"])
def test_weights_without_lora_come_from_the_backup(place: str) -> None:
    model, base = engine("predictor"), tiny_base("SD1")
    model.forge_objects.unet.model.diffusion_model = base.module
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


# ---- weights that are stored in 4 or 8 bits --------------------------------------------------


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own modules for them."""
    for name, module in stored_weights.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def stored_base(way: str) -> tuple[BaseUNet, BaseUNet]:
    """A base as A1111 holds it, and the same in a member that stores its linear layers so."""
    plain = tiny_base("SDXL")
    stored_weights.round_linear(plain.module)
    unet = twin(plain.module)
    stored_weights.store(unet, way)
    model = engine("predictor")
    model.forge_objects.unet.model.diffusion_model = unet
    return plain, replace(
        plain, module=unet, shape=describe_unet(unet), originals=PatcherOriginals(model)
    )


@pytest.mark.parametrize("way", stored_weights.WAYS)
def test_stored_weights_are_read_as_what_they_stand_for(way: str, readers: None) -> None:
    plain, stored = stored_base(way)
    assert stored.shape == plain.shape
    assert encoder_shapes(stored) == encoder_shapes(plain)
    before = {name: one.data.clone() for name, one in stored.module.named_parameters()}
    there, here = BaseWeights(plain), BaseWeights(stored)
    for name, shape in encoder_shapes(plain).items():
        assert torch.equal(here.get(name, shape, "cpu"), there.get(name, shape, "cpu")), name
    for name, one in stored.module.named_parameters():
        assert torch.equal(one.data, before[name]), name  # the host's own are read only
        assert not getattr(one, "baked", False)


@pytest.mark.parametrize("way", stored_weights.WAYS)
def test_layers_are_known_by_what_they_hold(way: str, readers: None) -> None:
    plain, stored = stored_base(way)
    assert layer_paths(stored) == layer_paths(plain)
    assert cross_attentions(stored) == cross_attentions(plain)
    assert attention_blocks(stored.module) == attention_blocks(plain.module)


def test_stored_weights_without_lora_come_from_the_backup(readers: None) -> None:
    plain, stored = stored_base("gguf")
    name = "input_blocks.4.1.proj_in.weight"
    kept = stored.module.get_parameter(name)
    levels, factor = stored_weights.round_weight(plain.module.get_parameter(name))
    merged = stored_weights.WAYS["gguf"].of((levels + 1).clamp(max=stored_weights.LARGEST), factor)
    stored.module.get_submodule(name.rpartition(".")[0]).weight = merged
    originals: Any = stored.originals
    unet = originals._model.forge_objects.unet
    unet.backup = {f"diffusion_model.{name}": kept}
    shape = encoder_shapes(plain)[name]
    found = BaseWeights(stored).get(name, shape, "cpu")
    assert torch.equal(found, BaseWeights(plain).get(name, shape, "cpu"))


@pytest.mark.parametrize("way", ["bitsandbytes", "4 bits"])
@pytest.mark.parametrize("fault", ["nothing reads it", "the reader fails"])
def test_weights_that_cannot_be_read_are_refused(
    way: str, fault: str, readers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_stored: Any) -> None:
        msg = "no CUDA device"
        raise RuntimeError(msg)

    for name, (function, _own) in stored_weights.READERS.items():
        if fault == "nothing reads it":
            monkeypatch.delitem(sys.modules, name)
        else:
            monkeypatch.setattr(sys.modules[name], function, fail)
    plain, stored = stored_base(way)
    name = "input_blocks.4.1.proj_in.weight"
    with pytest.raises(HostError, match=rf"cannot read {name} .* of torch.uint8; load"):
        BaseWeights(stored).get(name, encoder_shapes(plain)[name], "cpu")
    unmanaged = replace(stored, originals=Originals())
    with pytest.raises(HostError, match=rf"cannot read {name} .* of torch.uint8; load"):
        BaseWeights(unmanaged).get(name, encoder_shapes(plain)[name], "cpu")


def test_layers_with_a_factor_beside_their_weight_are_not_changed_in_place() -> None:
    plain, stored = stored_base("8 bits")
    path = "input_blocks.4.1.proj_in"
    assert _find_tensor(plain.module.get_submodule(path), "weight") is not None
    assert _find_tensor(stored.module.get_submodule(path), "weight") is None
