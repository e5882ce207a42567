"""ControlNet-LLLite against its formula, written out here tensor by tensor.

Tolerance: 1e-5 of the largest value in float32. The author's own code gives the same numbers to
the bit on such weights; it is not part of this project.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close
from support import randomise
from torch import Tensor

from lib_controlnet.nets.lllite import LLLite, LLLiteParams, read_lllite_params

TARGETS = ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q")
PUBLISHED = {(8, 16): 11.1, (16, 32): 22.3, (32, 64): 45.9, (128, 128): 121.9, (128, 256): 223.7}
"""Megabytes of the published files in half precision, by widths of embedding and layers."""


def module_params(width: int, depth: int) -> LLLiteParams:
    return LLLiteParams(width, cond_width=8, mlp_width=16, depth=depth)


def formula(tensors: Mapping[str, Tensor], name: str, tokens: Tensor, hint: Tensor) -> Tensor:
    """What a module adds to tokens (b, n, c), for a hint (1, 3, H, W) in [0, 1]."""
    w = {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}
    cond = hint * 2 - 1
    for position in (0, 2, 4):
        kernel = w.get(f"conditioning1.{position}.weight")
        if kernel is not None:
            cond = cond.clamp(min=0) if position else cond
            cond = F.conv2d(cond, kernel, w[f"conditioning1.{position}.bias"], kernel.shape[-1])
    cond = cond.flatten(2).mT.expand(len(tokens), -1, -1)
    down = (tokens @ w["down.0.weight"].T + w["down.0.bias"]).clamp(min=0)
    mid = torch.cat([cond, down], dim=2) @ w["mid.0.weight"].T + w["mid.0.bias"]
    return mid.clamp(min=0) @ w["up.0.weight"].T + w["up.0.bias"]


@pytest.mark.parametrize("size", [(64, 128), (72, 104)], ids=["whole", "odd"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.no_grad()
def test_a_module_agrees_with_the_formula(depth: int, size: tuple[int, int]) -> None:
    net = randomise(LLLite({"lllite_unet_x": module_params(32, depth)}), seed=depth)
    generator = torch.Generator().manual_seed(1)
    hint = torch.rand(1, 3, *size, generator=generator)
    cell = {1: 8, 2: 16, 3: 32}[depth]
    h, w = (-(-side // cell) for side in size)
    tokens = torch.randn(2, h * w, 32, generator=generator)
    embedding = net["lllite_unet_x"].embed(hint)
    assert embedding.shape == (1, 8, h, w)
    added = net["lllite_unet_x"](tokens, embedding.expand(2, -1, -1, -1))
    filled = F.pad(hint, (0, w * cell - size[1], 0, h * cell - size[0]), mode="replicate")
    assert_close(added, formula(net.state_dict(), "lllite_unet_x", tokens, filled))


@pytest.mark.parametrize(("cond", "mlp"), PUBLISHED)
def test_published_sizes_are_read_from_shapes(cond: int, mlp: int) -> None:
    """136 modules: two blocks at 640 channels twice, ten at 1280 three times, four layers each."""
    with torch.device("meta"):
        net = LLLite(
            {
                f"lllite_unet_{place}_1_transformer_blocks_{block}_{target}": LLLiteParams(
                    width, cond, mlp, depth
                )
                for place, depth, width, blocks in (
                    *((f"input_blocks_{n}", 2, 640, 2) for n in (4, 5)),
                    *((place, 3, 1280, 10) for place in ("input_blocks_7", "input_blocks_8")),
                    ("middle_block", 3, 1280, 10),
                )
                for block in range(blocks)
                for target in TARGETS
            }
        )
    assert len(net) == 136
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    first = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    assert shapes[f"{first}.conditioning1.0.weight"] == (cond // 2, 3, 4, 4)
    assert shapes[f"{first}.down.0.weight"] == (mlp, 640)
    assert shapes[f"{first}.mid.0.weight"] == (mlp, mlp + cond)
    with torch.device("meta"):
        again = LLLite(read_lllite_params(shapes)).state_dict()
    assert {name: tuple(value.shape) for name, value in again.items()} == shapes
    size = 2 * sum(value.numel() for value in again.values()) / 1e6
    assert size == pytest.approx(PUBLISHED[cond, mlp], rel=0.02)
