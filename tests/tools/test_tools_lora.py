"""`to-lora`: the published layout, the best factors, and an error that is true."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import inputs, memory_checkpoint, random_hint, tiny_controlnet
from tool_files import UNET, Tools, base_file, control_file, metadata, same_tensors, tools
from torch import Tensor

from lib_controlnet.families.base_weights import SHARED_WITH_BASE
from lib_controlnet.tools import low_rank
from lib_controlnet.tools.source import ControlFile
from lib_controlnet.tools.writer import nbytes

__all__ = ["tools"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
FULL_RANK = 4096


def rebuilt(lora: Path, base: Path) -> dict[str, Tensor]:
    """The ControlNet that a file stands for, by the formula of the format."""
    stored, unet = load_file(lora), load_file(base)
    weights = {}
    for name, value in stored.items():
        if name.endswith(".up"):
            layer = name.removesuffix(".up")
            original = unet[f"{UNET}{layer}.weight"]
            change = value.float().flatten(1) @ stored[f"{layer}.down"].float().flatten(1)
            weights[f"{layer}.weight"] = original + change.reshape(original.shape)
        elif not name.endswith(".down") and name != "lora_controlnet":
            weights[name] = value.float()
    return weights


def changes(control: Path, base: Path) -> dict[str, Tensor]:
    """Control minus base of every layer that is factored, as matrices."""
    unet = load_file(base)
    return {
        name.removesuffix(".weight"): (value.float() - unet[UNET + name]).flatten(1)
        for name, value in load_file(control).items()
        if name.startswith(SHARED_WITH_BASE) and value.dim() > 1
    }


@pytest.mark.parametrize(
    ("table", "rank", "megabytes"),
    [("sd15", 128, 135.7), ("sdxl_full", 128, 395.6), ("sdxl_full", 256, 774.3)],
)
def test_layout_has_the_size_of_the_published_files(
    table: str, rank: int, megabytes: float
) -> None:
    """Their sizes on the publisher's page, to the tenth of a megabyte, header included."""
    raw = gzip.decompress((ROOT / "tests/data/keys" / f"{table}_original.json.gz").read_bytes())
    ckpt = memory_checkpoint({key: tuple(shape) for key, shape in json.loads(raw).items()})
    plan = low_rank._plan(ControlFile(ckpt._file, ckpt, None), rank, torch.float16)
    assert nbytes(plan) / 1e6 == pytest.approx(megabytes, abs=0.15)
    assert plan["lora_controlnet"] == ((0,), torch.float32)
    assert plan["input_blocks.0.0.up"] == ((320, 4, 1, 1), torch.float16)
    assert plan["input_blocks.0.0.down"] == ((4, 4, 3, 3), torch.float16)
    assert plan["time_embed.0.up"] == ((1280, rank), torch.float16)
    assert plan["time_embed.0.down"] == ((rank, 320), torch.float16)
    assert plan["input_blocks.1.0.in_layers.0.weight"] == ((320,), torch.float16)
    assert plan["zero_convs.0.0.weight"] == ((320, 320, 1, 1), torch.float16)
    assert "input_blocks.0.0.weight" not in plan


def test_full_rank_keeps_the_network_but_for_wide_kernels(tmp_path: Path, tools: Tools) -> None:
    """A 3x3 kernel has more rank than channels, which is all that the layout allows it."""
    control, base = control_file(tmp_path), base_file(tmp_path)
    out = tmp_path / "lora.safetensors"
    assert tools("to-lora", control, base, out, "--rank", FULL_RANK) == 0
    ours, original = rebuilt(out, base), load_file(control)
    assert ours.keys() == original.keys()
    for name, value in original.items():
        if value.dim() < 4 or value.shape[-1] == 1 or not name.startswith(SHARED_WITH_BASE):
            assert torch.allclose(ours[name], value, rtol=0, atol=2e-6), name


def test_network_of_rebuilt_weights_computes_the_same(tmp_path: Path, tools: Tools) -> None:
    """With changes of low rank nothing is lost, so the residuals are the original's."""
    base = base_file(tmp_path)
    weights, unet = load_file(control_file(tmp_path)), load_file(base)
    generator = torch.Generator().manual_seed(4)
    for name, value in weights.items():
        if name.startswith(SHARED_WITH_BASE) and value.dim() > 1:
            left = torch.randn(len(value), 2, generator=generator)
            change = left @ torch.randn(2, value[0].numel(), generator=generator) / 100
            weights[name] = unet[UNET + name] + change.reshape(value.shape)
    save_file(weights, tmp_path / "control.safetensors")
    out = tmp_path / "lora.safetensors"
    assert tools("to-lora", tmp_path / "control.safetensors", base, out, "--rank", 2) == 0
    assert float(metadata(out)["lora_error"]) < 1e-5
    network, call, results = tiny_controlnet("SD1"), inputs("SD1"), []
    for state in (weights, rebuilt(out, base)):
        network.module.load_state_dict(state, strict=True)
        hint = network.encode_hint(random_hint())
        results.append(network.evaluate(**call, guided_hint=hint, wanted=[True] * network.layers))
    for ours, expected in zip(*reversed(results), strict=True):
        assert float((ours - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_error_is_the_smallest_possible_and_told(tmp_path: Path, tools: Tools) -> None:
    """By Eckart and Young the rest of the singular values; compared with torch's own."""
    control, base = control_file(tmp_path), base_file(tmp_path)
    out, rank = tmp_path / "lora.safetensors", 6
    assert tools("to-lora", control, base, out, "--rank", rank) == 0
    told = metadata(out)
    shares, lost, total = json.loads(told["lora_errors"]), 0.0, 0.0
    for layer, change in changes(control, base).items():
        squares = torch.linalg.svdvals(change.double()).square()
        kept = min(rank, *load_file(out)[f"{layer}.up"].shape[:2])
        rest = float(squares[kept:].sum())
        assert shares[layer] == pytest.approx((rest / float(squares.sum())) ** 0.5, abs=2e-6)
        lost, total = lost + rest, total + float(squares.sum())
    assert len(shares) == len(changes(control, base))
    assert float(told["lora_error"]) == pytest.approx((lost / total) ** 0.5, abs=2e-6)
    assert told["lora_rank"] == "6"
    table = tools.printed().splitlines()
    assert len(table) == len(shares) + 2
    assert table[-1].split() == ["all", f"{float(told['lora_error']):.3f}"]
    layer, first = table[1].split()[0], table[1].split()
    assert float(first[-1]) == pytest.approx(shares[layer], abs=6e-4)


def test_rounding_to_half_precision_is_part_of_the_error(tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    out = tmp_path / "lora.safetensors"
    assert tools("to-lora", control, base, out, "--rank", FULL_RANK, "--dtype", "fp16") == 0
    shares = json.loads(metadata(out)["lora_errors"])
    weights, unet = rebuilt(out, base), load_file(base)
    original = changes(control, base)["time_embed.2"]
    error = original - (weights["time_embed.2.weight"] - unet[f"{UNET}time_embed.2.weight"])
    share = float(error.norm() / original.norm())
    assert 1e-5 < share < 1e-2
    assert shares["time_embed.2"] == pytest.approx(share, abs=2e-6)


def test_greater_rank_loses_less(tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    errors = []
    for rank in (1, 8, 32):
        out = tmp_path / f"{rank}.safetensors"
        tools("to-lora", control, base, out, "--rank", rank)
        errors.append(float(metadata(out)["lora_error"]))
    assert errors[0] > errors[1] > errors[2] > 0


def test_difference_gives_what_the_full_model_gives(tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    diff = tmp_path / "diff.safetensors"
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    tools("diff", control, base, diff)
    assert tools("to-lora", control, base, first, "--rank", 8) == 0
    assert tools("to-lora", diff, base, second, "--rank", 8) == 0
    one, two = rebuilt(first, base), rebuilt(second, base)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=0, atol=1e-5), name


def test_unchanged_layers_cost_nothing(tmp_path: Path, tools: Tools) -> None:
    """The factors of a change of zero are zero, not NaN."""
    base = base_file(tmp_path)
    weights, unet = load_file(control_file(tmp_path)), load_file(base)
    weights = {name: unet.get(UNET + name, value) for name, value in weights.items()}
    save_file(weights, tmp_path / "control.safetensors")
    out = tmp_path / "lora.safetensors"
    assert tools("to-lora", tmp_path / "control.safetensors", base, out, "--rank", 4) == 0
    assert metadata(out)["lora_error"] == "0.000000"
    assert same_tensors({k: v.float() for k, v in weights.items()}, rebuilt(out, base))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (7, 7)], ids=str)
def test_factors_are_balanced(shape: tuple[int, int]) -> None:
    """Both halves carry the square root of the singular values, so neither leaves fp16."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * 1e3
    up, down = low_rank.factorise(matrix, 3)
    roots = torch.linalg.svdvals(matrix)[:3].sqrt()
    assert torch.allclose(up.norm(dim=0), roots, rtol=1e-4)
    assert torch.allclose(down.norm(dim=1), roots, rtol=1e-4)


def test_other_tools_know_the_result(tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    out = tmp_path / "lora.safetensors"
    tools("to-lora", control, base, out, "--rank", 8)
    tools.printed()
    assert tools("check", out) == 0
    assert "a Control-LoRA, " in tools.printed()
    assert tools("info", out, "--json") == 0
    (told,) = json.loads(tools.printed())
    assert (told["kind"], told["rank"]) == ("Control-LoRA", 8)
    assert told["structure"]["context_dim"] == 48
    assert told["parameters"] == sum(math.prod(v.shape) for v in load_file(out).values())


@pytest.mark.parametrize("rank", [0, -3])
def test_rank_below_one_is_refused(rank: int, tmp_path: Path, tools: Tools) -> None:
    out = tmp_path / "lora.safetensors"
    words = ("to-lora", control_file(tmp_path), base_file(tmp_path), out, "--rank", rank)
    assert tools(*words) == 1
    assert f"rank is {rank}, must be at least 1" in tools.said


def test_values_that_are_no_numbers_are_refused(tmp_path: Path, tools: Tools) -> None:
    weights = load_file(control_file(tmp_path))
    weights["time_embed.0.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "control.safetensors")
    out = tmp_path / "lora.safetensors"
    words = ("to-lora", tmp_path / "control.safetensors", base_file(tmp_path), out, "--rank", 4)
    assert tools(*words) == 1
    assert "holds NaN or infinite values in time_embed.0.weight" in tools.said
    assert not out.exists()
