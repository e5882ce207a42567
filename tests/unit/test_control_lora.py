"""Control-LoRAs against the plain formula and diffusers, on random weights of the published layout.

Tolerances: sums are compared with the formula in double precision, residuals with diffusers as in
`test_cldm_diffusers.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import oracle
import pytest
import torch
from data.make_keys import UNETS
from minildm.unet import UNetModel
from oracle import assert_close, run_theirs
from support import (
    golden,
    inputs,
    memory_checkpoint,
    random_hint,
    tiny_base,
    tiny_controlnet,
    tiny_unet,
)
from torch import Tensor

from lib_controlnet import families
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.errors import BrokenCheckpointError, CheckpointError, WrongBaseModelError
from lib_controlnet.families import identify
from lib_controlnet.families.control_lora import ControlLoraFamily, full_shapes
from lib_controlnet.families.controlnet import ControlNetNetwork
from lib_controlnet.tools.low_rank import factorise

OWN = ("input_hint_block.", "zero_convs.", "middle_block_out.")
"""What a ControlNet does not share with the base."""
LAYER = "input_blocks.4.1.transformer_blocks.0.attn2.to_k"


untouched_base = lru_cache(tiny_base)
"""Shared between tests: bases that nobody changes."""


def lora_file(kind: str) -> dict[str, Tensor]:
    """A Control-LoRA in the published layout, of random numbers; the mapping is the caller's."""
    return dict(_lora_file(kind))


@lru_cache
def _lora_file(kind: str, rank: int = 5, seed: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    table = {"lora_controlnet": torch.zeros(0)}
    for name, value in tiny_controlnet(kind, seed).module.state_dict().items():
        if name.startswith(OWN) or value.dim() == 1:
            table[name] = value
            continue
        layer, r = name.removesuffix(".weight"), min(rank, *value.shape[:2])
        up = torch.randn(len(value), r, *[1] * (value.dim() - 2), generator=generator)
        down = torch.randn(r, *value.shape[1:], generator=generator)
        table[f"{layer}.up"] = up / r**0.5
        table[f"{layer}.down"] = down / value[0].numel() ** 0.5
    return table


def formula(table: Mapping[str, Tensor], base: BaseUNet) -> dict[str, Tensor]:
    """What the file stands for, added up in double precision."""
    original = base.module.state_dict()
    weights = {}
    for name, value in table.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "up":
            rows = value.double().squeeze(-1).squeeze(-1) if value.dim() > 2 else value.double()
            change = torch.einsum("or,r...->o...", rows, table[f"{layer}.down"].double())
            whole = original[f"{layer}.weight"].double()
            whole = whole[:, :4] if layer == "input_blocks.0.0" else whole
            weights[f"{layer}.weight"] = (whole + change).float()
        elif leaf != "down" and name != "lora_controlnet":
            weights[name] = value
    return weights


def load(
    table: Mapping[str, Tensor], base: BaseUNet, name: str = "l.safetensors"
) -> ControlNetNetwork:
    ckpt = memory_checkpoint(table, name)
    return identify(ckpt).load(ckpt, base, torch.float32, "cpu")


def run(network: ControlNetNetwork, kind: str) -> list[Tensor]:
    guided = network.encode_hint(random_hint())
    return network.evaluate(**inputs(kind), guided_hint=guided, wanted=(True,) * network.layers)


@pytest.mark.parametrize("kind", ["SD1", "SDXL", "demo"])
def test_weights_are_the_bases_plus_the_product_of_the_factors(kind: str) -> None:
    table, base = lora_file(kind), untouched_base(kind)
    network = load(table, base)
    expected, found = formula(table, base), network.module.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=1e-5, rtol=1e-5), name
    changed = "time_embed.0.weight"
    assert not torch.allclose(found[changed], base.module.state_dict()[changed], atol=0.01)


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_residuals_agree_with_diffusers_on_the_sum(kind: str) -> None:
    table, base = lora_file(kind), untouched_base(kind)
    with torch.device("meta"):
        theirs = oracle.control_net(oracle.TINY[kind])
    theirs = oracle.holding(theirs, formula(table, base))
    call, hint = inputs(kind), random_hint()
    extra, call["y"] = oracle.vector_condition(theirs, rows=2)
    with torch.no_grad():
        expected = run_theirs(theirs, call, hint, extra)
    network = load(table, base)
    guided = network.encode_hint(hint)
    outs = network.evaluate(**call, guided_hint=guided, wanted=(True,) * network.layers)
    for ours_out, theirs_out in zip(outs, expected, strict=True):
        assert_close(ours_out, theirs_out)


@pytest.mark.parametrize("order", ["ups first", "downs first", "as published"])
def test_halves_may_lie_apart_in_the_file(order: str) -> None:
    table, base = lora_file("demo"), untouched_base("demo")
    rank = {"ups first": "up", "downs first": "down"}.get(order)
    names = sorted(table, key=lambda name: (not name.endswith(f".{rank}"), name))
    again = load({name: table[name] for name in names}, base).module.state_dict()
    for name, value in load(table, base).module.state_dict().items():
        assert torch.equal(again[name], value), name


@pytest.mark.parametrize("mark", [True, False])
def test_loaded_network_says_what_it_is(mark: bool) -> None:
    table = lora_file("SD1")
    if not mark:
        del table["lora_controlnet"]
    network = load(table, untouched_base("SD1"))
    assert (network.family, network.layers, network.depends_on_base) == ("Control-LoRA", 13, True)
    plain = tiny_controlnet("SD1")
    assert network.nbytes == plain.nbytes, "the memory of the sum, not that of the file"
    assert all(not p.requires_grad and not p.is_meta for p in network.module.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sums_are_made_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    table = {name: value.to(dtype) for name, value in lora_file("demo").items()}
    base = tiny_base("demo")
    base.module.to(dtype)
    ckpt = memory_checkpoint(table)
    found = identify(ckpt).load(ckpt, base, dtype, "cpu").module.state_dict()
    steps = torch.finfo(dtype).eps
    for name, value in formula(table, base).items():
        assert found[name].dtype is dtype
        # Half a step of rounding, and what the order of float32 sums may move over its border.
        error = (found[name].float() - value).abs()
        assert bool((error <= 0.501 * steps * value.abs() + 1e-7).all()), name


def test_a_controlnet_less_its_base_comes_back_from_factors_of_full_rank() -> None:
    """Layers may be kept whole; here all but three are."""
    base, network = untouched_base("demo"), tiny_controlnet("demo")
    table = dict(network.module.state_dict())
    for layer in ("time_embed.0", "input_blocks.1.0.in_layers.2", "middle_block.1.proj_in"):
        value = table.pop(f"{layer}.weight")
        change = (value - base.module.state_dict()[f"{layer}.weight"]).flatten(1)
        up, down = factorise(change, min(change.shape))
        table[f"{layer}.up"] = up.reshape(*up.shape, *[1] * (value.dim() - 2))
        table[f"{layer}.down"] = down.reshape(-1, *value.shape[1:])
    loaded = load(table | {"lora_controlnet": torch.zeros(0)}, base)
    for ours_out, theirs_out in zip(run(loaded, "demo"), run(network, "demo"), strict=True):
        assert float((ours_out - theirs_out).abs().max()) <= 1e-4 * float(theirs_out.abs().max())


def test_another_checkpoint_gives_another_network() -> None:
    table = lora_file("demo")
    first, second = (load(table, untouched_base("demo", seed)) for seed in (0, 1))
    assert not torch.equal(run(first, "demo")[-1], run(second, "demo")[-1])


def test_inpainting_base_lends_its_latent_channels() -> None:
    unet = tiny_unet("SD1", in_channels=9)
    base = BaseUNet(unet, describe_unet(unet), "inpainting", "inpainting")
    table = lora_file("SD1")
    for gone in ([], ["input_blocks.0.0.up", "input_blocks.0.0.down"]):
        kept = {name: value for name, value in table.items() if name not in gone}
        found = load(kept, base).module.state_dict()["input_blocks.0.0.weight"]
        first = unet.state_dict()["input_blocks.0.0.weight"][:, :4]
        change = formula(kept, base).get("input_blocks.0.0.weight", first)
        assert torch.allclose(found, change, atol=1e-5)


def test_what_is_left_out_is_the_bases_own() -> None:
    table, base = lora_file("SD1"), untouched_base("SD1")
    for gone in (f"{LAYER}.up", f"{LAYER}.down", "middle_block.0.in_layers.0.weight"):
        del table[gone]
    found, original = load(table, base).module.state_dict(), base.module.state_dict()
    for name in (f"{LAYER}.weight", "middle_block.0.in_layers.0.weight"):
        assert torch.equal(found[name], original[name])


# --- the host's own changes to the base ---------------------------------------------------------


def change_weight(layer: torch.nn.Linear) -> None:
    layer.network_weights_backup, layer.network_bias_backup = layer.weight.clone(), None
    layer.weight.add_(1.0)


def change_8_bit_weight(layer: torch.nn.Linear) -> None:
    """What the host keeps of 8-bit storage: a half precision copy, and the 8 bits."""
    layer.fp16_weight = layer.weight.detach().clone()
    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    layer.network_weights_backup, layer.network_bias_backup = layer.weight.clone(), None
    layer.weight.data = (layer.fp16_weight + 1.0).to(torch.float8_e4m3fn)


def add_bias(layer: torch.nn.Linear) -> None:
    """A LoRA with a bias, for a layer that has none."""
    change_weight(layer)
    layer.bias = torch.nn.Parameter(torch.ones(len(layer.weight)), requires_grad=False)


@pytest.mark.parametrize("change", [change_weight, change_8_bit_weight, add_bias])
@torch.no_grad()
def test_the_base_is_read_without_the_hosts_loras(change: Callable) -> None:
    table, base = lora_file("demo"), tiny_base("demo")
    before = load(table, base).module.state_dict()
    block = base.module.middle_block[1].transformer_blocks[0]
    for layer in (block.attn1.to_q, block.attn2.to_v):
        assert layer.bias is None
        change(layer)
    after = load(table, base).module.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


# --- what a name claims -----------------------------------------------------------------------

CLAIMS = [
    ("CN-anytest_v4-marged_am_dim256", "animagineXLV31_v31", "Animagine XL", ""),
    ("CN-anytest_v3-50000_pn_dim16", "ponyDiffusionV6XL", "Pony Diffusion XL", ""),
    ("CN-anytest_v4-marged_pn_dim128", "animagineXLV31_v31", "Pony Diffusion XL", "Animagine XL"),
    ("CN-anytest_v4-marged_am_dim128", "juggernautXL_v9", "Animagine XL", ""),
    ("noob_lora_tile_rank64", "autismmixSDXL_autismmixPony", "NoobAI XL", "Pony Diffusion XL"),
    ("control-lora-canny-rank256", "ponyDiffusionV6XL", "", ""),
    ("i_am_canny_rank128", "ponyDiffusionV6XL", "", ""),
    ("Kataragi_inpaintXL-lora128", "animagineXLV31_v31", "", ""),
]
"""Names of the file and of the checkpoint, what the first claims, and the second against it."""


@pytest.mark.parametrize(("name", "checkpoint", "claim", "other"), CLAIMS)
def test_names_may_claim_the_base(name: str, checkpoint: str, claim: str, other: str) -> None:
    ckpt = memory_checkpoint(lora_file("SDXL"), f"{name}.safetensors")
    assert identify(ckpt).describe(ckpt).made_on == claim
    base = dataclasses.replace(untouched_base("SDXL"), name=checkpoint)
    notes = identify(ckpt).load(ckpt, base, torch.float32, "cpu").notes
    said = f"{name} was made on {claim} by its name, and the loaded checkpoint {checkpoint} on "
    assert [note.startswith(f"{said}{other}, so") for note in notes] == [True] * bool(other)


# --- refusals ---------------------------------------------------------------------------------


def damaged(change: str) -> dict[str, Tensor]:
    table = lora_file("SD1")
    if change == "half":
        del table[f"{LAYER}.up"]
    if change == "rank":
        table[f"{LAYER}.down"] = table[f"{LAYER}.down"][:3]
    if change == "twice":
        table[f"{LAYER}.weight"] = torch.zeros(64, 48)
    if change == "flat":
        table[f"{LAYER}.down"] = table[f"{LAYER}.down"][0]
    if change == "hint":
        table = {k: v for k, v in table.items() if not k.startswith("input_hint_block.0.")}
    if change == "whole numbers":
        table[f"{LAYER}.up"] = table[f"{LAYER}.up"].to(torch.int8)
    return table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("half", rf"a Control-LoRA, but damaged.*1 unexpected \({LAYER}.down\)"),
        ("rank", rf"2 unexpected \({LAYER}.down, {LAYER}.up\)"),
        ("twice", rf"2 unexpected \({LAYER}.down, {LAYER}.up\)"),
        ("flat", rf"2 unexpected \({LAYER}.down, {LAYER}.up\)"),
        ("hint", "a Control-LoRA, but incomplete: input_hint_block.0.weight is missing"),
        ("whole numbers", f"a Control-LoRA, but its weights are kept as whole numbers .{LAYER}.up"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(change: str, said: str) -> None:
    with pytest.raises(BrokenCheckpointError, match=said):
        load(damaged(change), untouched_base("SD1"))


@pytest.mark.parametrize("kind", ["SD1", "SD2", "SDXL"])
def test_another_base_is_refused_by_shapes_alone(kind: str) -> None:
    ckpt = memory_checkpoint(lora_file(kind))
    family = identify(ckpt)
    for other in ("SD1", "SD2", "SDXL"):
        if other == kind:
            family.check(ckpt, untouched_base(other))
            continue
        with pytest.raises(WrongBaseModelError, match="is made for"):
            family.check(ckpt, untouched_base(other))


@pytest.mark.parametrize("is_lora", [True, False], ids=["Control-LoRA", "difference"])
def test_changes_to_layers_that_the_base_lacks_are_refused(is_lora: bool) -> None:
    """Distilled checkpoints have the widths of their parents, and fewer transformers."""
    unet = tiny_unet("SDXL", transformer_depth=(0, 2, 1))
    base = BaseUNet(unet, describe_unet(unet), "distilled", "distilled")
    table = lora_file("SDXL")
    if not is_lora:
        table = {**tiny_controlnet("SDXL").module.state_dict(), "difference": torch.ones(())}
    with pytest.raises(
        WrongBaseModelError, match=r"changes \d+ tensors that the loaded checkpoint distilled does"
    ):
        load(table, base)


# --- published files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "unet", "megabytes"),
    [
        ("sd15_control_lora_128", "sd15", 135.7),
        ("sdxl_full_control_lora_16", "sdxl_full", 64.1),  # CN-anytest, dim16
        ("sdxl_full_control_lora_32", "sdxl_full", 111.7),
        ("sdxl_full_control_lora_64", "sdxl_full", 206.2),
        ("sdxl_full_control_lora_128", "sdxl_full", 395.6),  # Stability, CN-anytest, Kataragi
        ("sdxl_full_control_lora_256", "sdxl_full", 774.3),  # and MistoLine, TTPlanet, thibaud
    ],
)
def test_published_files_are_known_and_fit(name: str, unet: str, megabytes: float) -> None:
    shapes = golden(name)
    size = sum(2 * torch.Size(shape).numel() for shape in shapes.values())
    assert size / 1e6 == pytest.approx(megabytes, abs=0.2)  # the header's names take the rest
    with torch.device("meta"):
        module = UNetModel(**UNETS[unet])
    base = BaseUNet(module, describe_unet(module), unet, unet)
    ckpt = memory_checkpoint(shapes)
    assert isinstance(identify(ckpt), ControlLoraFamily)
    assert full_shapes(ckpt.shapes) == golden(f"{unet}_original")
    identify(ckpt).check(ckpt, base)
    with pytest.raises(CheckpointError):
        other = "sdxl_full" if unet == "sd15" else "sd15"
        with torch.device("meta"):
            module = UNetModel(**UNETS[other])
        identify(ckpt).check(ckpt, BaseUNet(module, describe_unet(module), other, other))


def test_published_shuffle_averages_its_residuals() -> None:
    name = "control_lora_rank128_v11e_sd15_shuffle_fp16.safetensors"
    assert load(lora_file("SD1"), untouched_base("SD1"), name).global_average_pooling


def test_it_is_offered_for_its_base(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "sai_xl_canny_128lora.safetensors"
    save_file(lora_file("SDXL"), path)
    assert families.look_into(path, untouched_base("SDXL"))[1] is None
    assert families.look_into(path, untouched_base("SD1"))[1].other_base
