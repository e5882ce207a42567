"""ControlNet-LLLite against its formula, written out here tensor by tensor.

Tolerance: 1e-5 of the largest value in float32. The author's own code gives the same numbers to
the bit on such weights; it is not part of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close
from sessions import FakeHost, info, prepared
from support import inputs, memory_checkpoint, randomise, tiny_base
from torch import Tensor, nn

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import BrokenCheckpointError, HostError, WrongBaseModelError
from lib_controlnet.families import identify
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.lllite import LLLite, LLLiteParams, read_lllite_params
from lib_controlnet.pictures.placement import to_hint

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


PREFIX = "lllite_unet_"


def published_modules(unet: nn.Module) -> dict[str, LLLiteParams]:
    """Modules on the layers that published files have them on: the encoder's and the middle's."""
    params = {}
    for path, layer in unet.named_modules():
        name = path.replace(".", "_")
        if name.endswith(TARGETS) and name.startswith(("input_blocks", "middle_block")):
            depth = 2 if name.startswith(("input_blocks_4", "input_blocks_5")) else 3
            params[PREFIX + name] = module_params(layer.in_features, depth)
    return params


@lru_cache(maxsize=2)
def weights(seed: int) -> dict[str, Tensor]:
    """A file's tensors for `tiny_base("SDXL")`."""
    net = LLLite(published_modules(tiny_base("SDXL").module))
    for number, module in enumerate(net.values()):
        randomise(module, 100 * seed + number)
    return net.state_dict()


@pytest.mark.parametrize("mode", [ControlMode.PROMPT, ControlMode.CONTROL])
@torch.no_grad()
def test_the_unet_agrees_with_the_formula(mode: ControlMode) -> None:
    """Two units on the same layers: both add to what the layer was given."""
    base, call = tiny_base("SDXL"), inputs("SDXL")
    units, told = [], []
    for seed, weight in ((1, 0.8), (2, 1.3)):
        tensors = weights(seed)
        ckpt = memory_checkpoint(tensors, f"lllite{seed}.safetensors")
        network = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
        units.append(prepared(network, seed, weight=weight, control_mode=mode))
        told.append((tensors, weight, to_hint(units[-1].detected)))
    rows = torch.tensor([1.0, 0.0 if mode is ControlMode.CONTROL else 1.0])[:, None, None]
    handles = []
    for path, layer in base.module.named_modules():
        name = PREFIX + path.replace(".", "_")
        if f"{name}.up.0.weight" in told[0][0]:
            handles.append(layer.register_forward_pre_hook(_adder(name, told, rows)))
    expected = base.module(**call)
    for handle in handles:
        handle.remove()
    plain = base.module(**call)
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        ours = base.module(**call)
    assert_close(ours, expected)
    assert float((plain - ours).abs().max()) > 0.05 * float(plain.abs().max())
    assert torch.equal(base.module(**call), plain)


def _adder(name: str, told: list, rows: Tensor) -> object:
    def add(_layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = args
        parts = [weight * formula(tensors, name, x, hint) for tensors, weight, hint in told]
        return (x + rows * sum(parts),)

    return add


@pytest.mark.parametrize("loaded", ["SD1", "SD2"])
def test_a_wrong_base_is_told_by_both_names(loaded: str) -> None:
    ckpt = memory_checkpoint(weights(1), "lllite.safetensors")
    with pytest.raises(WrongBaseModelError) as caught:
        identify(ckpt).check(ckpt, tiny_base(loaded))
    assert "control model lllite is a ControlNet-LLLite for SDXL" in str(caught.value)
    assert f"choose a control model made for {loaded}" in str(caught.value)


FIRST = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
DAMAGES = {
    "missing": ({f"{FIRST}.up.0.bias": None}, r"1 missing \("),
    "decisive": ({f"{FIRST}.down.0.weight": None}, r"incomplete: .*down\.0\.weight is missing"),
    "unexpected": ({f"{FIRST}.x": (4,)}, r"1 unexpected \("),
    "wrong shape": ({f"{FIRST}.up.0.bias": (5,)}, r"1 of wrong shape \("),
    "convolutions": ({f"{FIRST}.down.0.weight": (16, 64, 3, 3)}, r"1 of wrong shape \("),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told(damage: str) -> None:
    changes, sentence = DAMAGES[damage]
    whole = {name: tuple(value.shape) for name, value in weights(1).items()}
    left = {name: shape for name, shape in (whole | changes).items() if shape is not None}
    ckpt = memory_checkpoint(left, "x.safetensors")
    with pytest.raises(BrokenCheckpointError, match=sentence) as caught:
        identify(ckpt).load(ckpt, tiny_base("SDXL"), torch.float32, "cpu")
    assert str(caught.value).startswith("x.safetensors is a ControlNet-LLLite, but ")


def test_a_module_for_a_layer_that_is_not_there_is_told() -> None:
    """A distilled checkpoint has fewer layers than the file has modules."""
    renamed = {
        name.replace(
            "middle_block_1_transformer_blocks_2", "middle_block_1_transformer_blocks_9"
        ): t
        for name, t in weights(1).items()
    }
    ckpt = memory_checkpoint(renamed, "lllite.safetensors")
    with pytest.raises(WrongBaseModelError, match="blocks_9_attn1_to_q with 128 .*no such layer"):
        identify(ckpt).check(ckpt, tiny_base("SDXL"))


@torch.no_grad()
def test_another_number_of_tokens_is_told() -> None:
    """What tiles or merges tokens (hypertile, token merging) leaves no place for the hint."""
    base, call = tiny_base("SDXL"), inputs("SDXL")
    ckpt = memory_checkpoint(weights(1), "lllite.safetensors")
    network = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
    block = base.module.middle_block[1].transformer_blocks[0]
    block.attn1.forward = _merging(block.attn1.forward)
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        with pytest.raises(HostError, match="tokens"):
            base.module(**call)


def _merging(forward: object) -> object:
    def merged(x: Tensor, **given: object) -> Tensor:
        return forward(x[:, ::2], **given).repeat_interleave(2, dim=1)

    return merged
