"""Loading ControlNets from tensors, difference files, and what a loaded network computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from support import (
    inputs,
    memory_checkpoint,
    random_hint,
    save_controlnet,
    tiny_base,
    tiny_controlnet,
    tiny_unet,
)
from torch import Tensor, nn

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.errors import BrokenCheckpointError, HostError
from lib_controlnet.families import identify, load_network
from lib_controlnet.nets.layout import lay_out

KINDS = ["SD1", "SD2", "SDXL", "demo"]


# --- loading ----------------------------------------------------------------------------------


def run(
    network: ControlNetwork, call: Mapping[str, Tensor], hint: Tensor | None = None
) -> list[Tensor]:
    guided = network.encode_hint(random_hint() if hint is None else hint)
    return network.evaluate(**call, guided_hint=guided, wanted=(True,) * network.layers)


def weights_of(kind: str) -> dict[str, Tensor]:
    return dict(tiny_controlnet(kind).module.state_dict())


def load_weights(weights: Mapping[str, Tensor], kind: str, name: str = "m.safetensors") -> object:
    ckpt = memory_checkpoint(weights, name)
    return identify(ckpt).load(ckpt, tiny_base(kind), torch.float32, "cpu")


def test_missing_tensors_are_counted_and_named() -> None:
    weights = weights_of("SD1")
    del weights["zero_convs.3.0.bias"], weights["middle_block.1.norm.bias"]
    with pytest.raises(BrokenCheckpointError) as caught:
        load_weights(weights, "SD1")
    assert "2 missing (middle_block.1.norm.bias, zero_convs.3.0.bias)" in str(caught.value)


def test_unexpected_tensors_are_counted_and_the_first_named() -> None:
    weights = weights_of("SD1") | {f"extra.{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(
        BrokenCheckpointError, match=r"5 unexpected \(extra.0, extra.1, extra.2, \.\.\.\)"
    ):
        load_weights(weights, "SD1")


def test_wrong_shape_is_named_with_both_shapes() -> None:
    weights = weights_of("SD1") | {"time_embed.0.bias": torch.zeros(127)}
    with pytest.raises(
        BrokenCheckpointError, match=r"1 of wrong shape \(time_embed.0.bias \(127,\) inst"
    ):
        load_weights(weights, "SD1")


@pytest.mark.parametrize(
    "lost",
    [
        "input_blocks.0.0.weight",
        "input_hint_block.0.weight",
        "input_blocks.4.0.in_layers.2.weight",
    ],
)
def test_missing_structural_tensor_is_named(lost: str) -> None:
    weights = weights_of("SD1")
    del weights[lost]
    with pytest.raises(BrokenCheckpointError, match=f"incomplete: {lost} is missing"):
        load_weights(weights, "SD1")


@pytest.mark.parametrize("kind", ["SD1", "SD2"])
def test_projections_are_reshaped_between_linear_and_conv(kind: str) -> None:
    """Some converted files hold the other form in a few blocks; the base's form decides none."""
    weights = weights_of(kind)
    changed = "input_blocks.4.1.proj_out.weight"
    other = weights[changed]
    other = other[:, :, 0, 0] if other.dim() == 4 else other[:, :, None, None]
    loaded = load_weights(weights | {changed: other}, kind)
    assert torch.equal(loaded.module.state_dict()[changed], weights[changed])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_precision_is_converted_to_the_one_asked_for(
    dtype: torch.dtype, suffix: str, tmp_path: Path
) -> None:
    network = tiny_controlnet("demo")
    path = save_controlnet(tmp_path / f"c{suffix}", network, dtype)
    loaded = load_network(path, tiny_base("demo"), torch.bfloat16, "cpu")
    assert loaded.dtype is torch.bfloat16
    for name, value in loaded.module.state_dict().items():
        assert torch.equal(value, network.module.state_dict()[name].to(dtype).to(torch.bfloat16))
    assert loaded.nbytes == 2 * sum(p.numel() for p in network.module.parameters())


def test_loaded_network_is_frozen_and_untouched_by_host_loras() -> None:
    loaded = load_weights(weights_of("SD1"), "SD1")
    assert not any(p.requires_grad or p.is_meta for p in loaded.module.parameters())
    assert not loaded.module.training
    names = {name for module in loaded.module.modules() for name in vars(module)}
    assert not names & {"network_layer_name", "network_current_names"}


@pytest.mark.parametrize("kind", KINDS)
def test_attention_heads_are_those_of_the_base(kind: str) -> None:
    loaded = load_weights(weights_of(kind), kind)
    heads = tiny_base(kind).shape.heads
    found = {
        name: module.transformer_blocks[0].attn2.heads
        for name, module in loaded.module.named_modules()
        if hasattr(module, "transformer_blocks")
    }
    assert found
    assert found == {name: heads[name] for name in found}


# --- difference files -------------------------------------------------------------------------


def difference_file(base: BaseUNet, network: ControlNetwork, drop: tuple[str, ...] = ()) -> dict:
    """The file an extractor makes: encoder minus base, and the mark."""
    original = base.module.state_dict()
    parts = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")
    return {
        name: value - original[name] if name.startswith(parts) else value
        for name, value in network.module.state_dict().items()
        if name not in drop
    } | {"difference": torch.ones(())}


@pytest.mark.parametrize("kind", KINDS)
def test_difference_is_added_to_the_base(kind: str) -> None:
    base, network = tiny_base(kind), tiny_controlnet(kind)
    ckpt = memory_checkpoint(difference_file(base, network))
    loaded = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
    assert loaded.depends_on_base
    for name, value in loaded.module.state_dict().items():
        assert torch.allclose(value, network.module.state_dict()[name], atol=1e-6), name


def test_difference_takes_tensors_left_out_from_the_base() -> None:
    base, network = tiny_base("SD1"), tiny_controlnet("SD1")
    dropped = (
        "input_blocks.1.1.transformer_blocks.0.norm1.bias",
        "middle_block.0.in_layers.0.weight",
    )
    ckpt = memory_checkpoint(difference_file(base, network, dropped))
    loaded = identify(ckpt).load(ckpt, base, torch.float32, "cpu").module.state_dict()
    for name in dropped:
        assert torch.equal(loaded[name], base.module.state_dict()[name])


def test_difference_ignores_the_hosts_lora() -> None:
    """The host changes weights in place and keeps the originals on the module."""
    base, network = tiny_base("SD1"), tiny_controlnet("SD1")
    table = difference_file(base, network)
    layer = base.module.input_blocks[1][1].transformer_blocks[0].attn1.to_q
    layer.network_weights_backup = layer.weight.clone()
    linear = base.module.time_embed[0]
    linear.network_weights_backup, linear.network_bias_backup = None, linear.bias.clone()
    with torch.no_grad():
        layer.weight += 1.0
        linear.bias += 1.0
    ckpt = memory_checkpoint(table)
    loaded = identify(ckpt).load(ckpt, base, torch.float32, "cpu").module.state_dict()
    for name in ("input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "time_embed.0.bias"):
        assert torch.allclose(loaded[name], network.module.state_dict()[name], atol=1e-6)


def test_difference_reads_half_precision_copies_of_8_bit_bases() -> None:
    base, network = tiny_base("demo"), tiny_controlnet("demo")
    table = difference_file(base, network)
    for module in base.module.modules():
        if isinstance(module, nn.Linear):
            module.fp16_weight = module.weight.detach().clone()
            module.weight.data = module.weight.data.to(torch.float8_e4m3fn)
    ckpt = memory_checkpoint(table)
    loaded = identify(ckpt).load(ckpt, base, torch.float32, "cpu").module.state_dict()
    for name, value in loaded.items():
        assert torch.allclose(value, network.module.state_dict()[name], atol=1e-6), name


def test_difference_on_an_inpainting_base_uses_the_latent_channels() -> None:
    unet = tiny_unet("SD1", in_channels=9)
    base = BaseUNet(unet, describe_unet(unet), "inpainting", "inpainting")
    network = tiny_controlnet("SD1")
    table = dict(network.module.state_dict()) | {"difference": torch.ones(())}
    ckpt = memory_checkpoint(table)
    loaded = identify(ckpt).load(ckpt, base, torch.float32, "cpu").module.state_dict()
    first = "input_blocks.0.0.weight"
    assert torch.allclose(loaded[first], table[first] + unet.state_dict()[first][:, :4], atol=1e-6)


def test_difference_without_the_base_in_memory_says_so() -> None:
    base = tiny_base("demo")
    table = difference_file(base, tiny_controlnet("demo"))
    base.module.to("meta")
    ckpt = memory_checkpoint(table)
    with pytest.raises(HostError, match="weights of tiny-demo are not in memory"):
        identify(ckpt).load(ckpt, base, torch.float32, "cpu")


# --- global average pooling -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_shuffle_pools_on_sd1_and_never_on_sdxl(kind: str, tmp_path: Path) -> None:
    path = save_controlnet(tmp_path / "c.safetensors", tiny_controlnet(kind))
    path.with_suffix(".yaml").write_text("control_stage_config:\n  global_average_pooling: True\n")
    network = load_network(path, tiny_base(kind), torch.float32, "cpu")
    assert network.global_average_pooling == (kind == "SD1")


# --- what a network computes ------------------------------------------------------------------


def test_inpainting_base_takes_ordinary_controlnets() -> None:
    unet = tiny_unet("SD1", in_channels=9)
    base = BaseUNet(unet, describe_unet(unet), "inpainting", "inpainting")
    network = tiny_controlnet("SD1")
    ckpt = memory_checkpoint(network.module.state_dict())
    loaded = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
    lay_out(network.module)  # as those of a loaded network, whose sums have this order
    call = inputs("SD1")
    nine = call | {"x": torch.cat([call["x"], torch.randn(2, 5, 8, 16)], dim=1)}
    for a, b in zip(run(loaded, nine), run(network, call), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_see_each_other(kind: str) -> None:
    """Units are evaluated as one batch, each with its own hint."""
    network, call = tiny_controlnet(kind), inputs(kind, rows=3)
    hints = random_hint(rows=3)
    together = run(network, call, hints)
    for row in range(3):
        one = {key: value if value is None else value[row : row + 1] for key, value in call.items()}
        for a, b in zip(run(network, one, hints[row : row + 1]), together, strict=True):
            assert torch.allclose(a[0], b[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_unwanted_layers_are_absent_and_change_nothing(kind: str) -> None:
    network, call = tiny_controlnet(kind), inputs(kind)
    everything = run(network, call)
    wanted = tuple(i in (1, 4) for i in range(network.layers))
    guided = network.encode_hint(random_hint())
    some = network.evaluate(**call, guided_hint=guided, wanted=wanted)
    assert [out is not None for out in some] == list(wanted)
    for a, b, want in zip(some, everything, wanted, strict=True):
        assert not want or torch.equal(a, b)


def test_work_stops_at_the_deepest_wanted_layer() -> None:
    network, call = tiny_controlnet("SD1"), inputs("SD1")
    reached = []
    for i, block in enumerate([*network.module.input_blocks, network.module.middle_block]):
        block.register_forward_hook(lambda *_a, i=i: reached.append(i))
    guided = network.encode_hint(random_hint())
    network.evaluate(**call, guided_hint=guided, wanted=(False, False, True) + (False,) * 10)
    assert reached == [0, 1, 2]
    reached.clear()
    assert network.evaluate(**call, guided_hint=guided, wanted=(False,) * 13) == [None] * 13
    assert not reached


def test_arguments_are_not_modified() -> None:
    network, call = tiny_controlnet("SDXL"), inputs("SDXL")
    before = {key: value.clone() for key, value in call.items()}
    hint = random_hint()
    run(network, call, hint)
    assert all(torch.equal(call[key], before[key]) for key in call)
    assert torch.equal(hint, random_hint())


def test_missing_vector_condition_is_a_sentence() -> None:
    with pytest.raises(HostError, match="made for SDXL and needs the vector condition y"):
        run(tiny_controlnet("SDXL"), inputs("SDXL") | {"y": None})


def test_hint_of_other_channels_is_refused() -> None:
    with pytest.raises(HostError, match=r"reads hints with 3 channels, got shape \(1, 4, 64, 64\)"):
        tiny_controlnet("SD1").encode_hint(torch.zeros(1, 4, 64, 64))


def test_bgr_configuration_flips_the_hint(tmp_path: Path) -> None:
    network = tiny_controlnet("demo")
    path = save_controlnet(tmp_path / "c.safetensors", network)
    path.with_suffix(".json").write_text('{"controlnet_conditioning_channel_order": "bgr"}')
    loaded = load_network(path, tiny_base("demo"), torch.float32, "cpu")
    hint = random_hint()
    lay_out(network.module)
    assert torch.equal(loaded.encode_hint(hint), network.encode_hint(hint.flip(1)))


@pytest.mark.parametrize("size", [(9, 13), (7, 5), (1, 1), (8, 17)], ids=str)
@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_odd_latents_give_residuals_of_the_skips_sizes(kind: str, size: tuple[int, int]) -> None:
    network, unet, call = tiny_controlnet(kind), tiny_unet(kind), inputs(kind, size=size)
    sizes = []
    for block in unet.input_blocks:
        block.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[-2:]))
    unet.middle_block.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[-2:]))
    unet(call["x"], call["timesteps"], context=call["context"], y=call["y"])
    outs = run(network, call, random_hint((size[0] * 8, size[1] * 8)))
    assert [out.shape[-2:] for out in outs] == sizes
    assert all(out.isfinite().all() for out in outs)


def test_guided_hint_of_another_size_is_resized_to_the_latent() -> None:
    network, call = tiny_controlnet("SD1"), inputs("SD1")
    flat = torch.full((1, 3, 64, 128), 0.25)
    larger = torch.nn.functional.interpolate(network.encode_hint(flat), (11, 19), mode="nearest")
    wanted = (True,) * 13
    outs = network.evaluate(**call, guided_hint=larger, wanted=wanted)
    assert [out.shape for out in outs] == [out.shape for out in run(network, call, flat)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_half_precision_stays_close_and_finite(kind: str, dtype: torch.dtype) -> None:
    """Bound: a few per cent of the scale; bfloat16 has 8 bits, and errors add up over layers."""
    exact, call = run(tiny_controlnet(kind), inputs(kind)), inputs(kind)
    half = tiny_controlnet(kind)
    half.module.to(dtype)
    call = {key: value if value is None else value.to(dtype) for key, value in call.items()}
    call["timesteps"] = inputs(kind)["timesteps"]
    tolerance = 0.02 if dtype is torch.float16 else 0.1
    for a, b in zip(run(half, call), exact, strict=True):
        assert a.dtype is dtype
        assert float((a.float() - b).abs().max()) <= tolerance * float(b.abs().max())


def test_results_take_the_latents_precision_and_ignore_autocast() -> None:
    network, call = tiny_controlnet("SD1"), inputs("SD1")
    plain = run(network, call)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run(network, call)
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))
    half = run(network, call | {"x": call["x"].half()})
    assert all(out.dtype is torch.float16 for out in half)


def test_fractional_timesteps_matter_in_half_precision() -> None:
    """Sinusoids are made in float32: half precision would make 900.25 and 900.4 the same."""
    network = tiny_controlnet("SD1")
    network.module.to(torch.bfloat16)
    call = inputs("SD1", rows=1)
    first = run(network, call | {"timesteps": torch.tensor([900.25])})
    second = run(network, call | {"timesteps": torch.tensor([900.4])})
    assert not torch.equal(first[-1], second[-1])
