"""ControlNet-LLLite against its formula, written out here tensor by tensor.

Tolerance: 1e-5 of the largest value in float32. The author's own code gives the same numbers to
the bit on such weights; it is not part of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data.make_keys import UNETS
from minildm.attention import BasicTransformerBlock
from minildm.unet import UNetModel
from oracle import agree_with, assert_close
from sessions import FakeHost, info, prepared
from support import golden, inputs, memory_checkpoint, randomise, tiny_base
from token_neighbours import merge, merge_tokens, tile, tile_tokens
from torch import Tensor, nn

from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.tokens import find_order
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import BrokenCheckpointError, HostError, WrongBaseModelError
from lib_controlnet.families import identify
from lib_controlnet.families.lllite import layer_paths
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.lllite import LLLite, LLLiteParams, read_lllite_params
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry, to_hint

TARGETS = ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q")
PUBLISHED = {(8, 16): 11.1, (16, 32): 22.3, (32, 64): 45.9, (128, 128): 121.9, (128, 256): 223.7}
"""Megabytes of the published files in half precision, by widths of embedding and layers."""


def module_params(width: int, depth: int, is_conv: bool = False) -> LLLiteParams:
    return LLLiteParams(width, cond_width=8, mlp_width=16, depth=depth, is_conv=is_conv)


def formula(
    tensors: Mapping[str, Tensor],
    name: str,
    tokens: Tensor,
    hint: Tensor,
    change: Callable[[Tensor], Tensor] = lambda cond: cond,
) -> Tensor:
    """What a module adds to tokens (b, n, c), for a hint (1, 3, H, W) in [0, 1].

    `change` is what a neighbour did to the picture's tokens (1, m, c).
    """
    w = _weights_of(tensors, name)
    cond = change(embed(w, hint).flatten(2).mT.expand(2, -1, -1))
    down = (tokens @ w["down.0.weight"].T + w["down.0.bias"]).clamp(min=0)
    mid = torch.cat([cond, down], dim=2) @ w["mid.0.weight"].T + w["mid.0.bias"]
    return mid.clamp(min=0) @ w["up.0.weight"].T + w["up.0.bias"]


def _weights_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{name}.")}


def embed(w: Mapping[str, Tensor], hint: Tensor) -> Tensor:
    """A module's embedding (1, c, h, w) of a hint (1, 3, H, W) in [0, 1]."""
    cond = hint * 2 - 1
    for position in (0, 2, 4):
        kernel = w.get(f"conditioning1.{position}.weight")
        if kernel is not None:
            cond = cond.clamp(min=0) if position else cond
            cond = F.conv2d(cond, kernel, w[f"conditioning1.{position}.bias"], kernel.shape[-1])
    return cond


def conv_formula(tensors: Mapping[str, Tensor], name: str, x: Tensor, hint: Tensor) -> Tensor:
    """What a module adds to a convolution's input (b, c, h, w)."""
    w = _weights_of(tensors, name)
    cond = F.interpolate(embed(w, hint), x.shape[-2:], mode="nearest-exact")
    down = F.conv2d(x, w["down.0.weight"], w["down.0.bias"]).clamp(min=0)
    mid = torch.cat([cond.expand(len(x), -1, -1, -1), down], dim=1)
    mid = F.conv2d(mid, w["mid.0.weight"], w["mid.0.bias"]).clamp(min=0)
    return F.conv2d(mid, w["up.0.weight"], w["up.0.bias"])


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
    added = net["lllite_unet_x"](tokens, embedding.flatten(2).mT.expand(2, -1, -1))
    filled = F.pad(hint, (0, w * cell - size[1], 0, h * cell - size[0]), mode="replicate")
    assert_close(added, formula(net.state_dict(), "lllite_unet_x", tokens, filled))


@lru_cache
def published_base() -> BaseUNet:
    with torch.device("meta"):
        unet = UNetModel(**UNETS["sdxl_full"])
    return BaseUNet(unet, describe_unet(unet), "sdxl", "sdxl")


@pytest.mark.parametrize(("cond", "mlp"), PUBLISHED)
def test_published_files_are_known_and_fit(cond: int, mlp: int) -> None:
    """136 modules: two blocks at 640 channels twice, ten at 1280 three times, four layers each."""
    ckpt = memory_checkpoint(golden(f"sdxl_lllite_{cond}_{mlp}"))
    identify(ckpt).check(ckpt, published_base())
    with torch.device("meta"):
        net = LLLite(read_lllite_params(ckpt.shapes))
    assert len(net) == 136
    assert {name: tuple(value.shape) for name, value in net.state_dict().items()} == ckpt.shapes
    size = 2 * sum(value.numel() for value in net.state_dict().values()) / 1e6
    assert size == pytest.approx(PUBLISHED[cond, mlp], rel=0.02)


def test_any_linear_layer_may_have_a_module() -> None:
    """The trainer can be told to put them elsewhere, the decoder included."""
    base = tiny_base("SDXL")
    block = "output_blocks_3_1_transformer_blocks_0"
    layers = {"attn1_to_out_0": 64, "ff_net_2": 256, "attn2_to_q": 64}
    names = {f"{PREFIX}{block}_{layer}": width for layer, width in layers.items()}
    net = LLLite({name: module_params(width, 2) for name, width in names.items()})
    ckpt = memory_checkpoint(randomise(net, 1).state_dict(), "x.safetensors")
    network = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    plain = base.module(**inputs("SDXL"))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        assert not torch.equal(base.module(**inputs("SDXL")), plain)


@pytest.mark.parametrize(
    "layer",
    [
        "time_embed_0",
        "label_emb_0_0",
        "input_blocks_1_0_emb_layers_1",
        "input_blocks_4_1_transformer_blocks_0_attn2_to_k",
    ],
)
def test_a_layer_that_reads_nothing_of_the_picture_is_refused(layer: str) -> None:
    base = tiny_base("SDXL")
    _path, width = layer_paths(base)[PREFIX + layer]
    net = LLLite({PREFIX + layer: module_params(width, 2)})
    ckpt = memory_checkpoint(randomise(net, 1).state_dict(), "x.safetensors")
    with pytest.raises(BrokenCheckpointError, match="no part of the picture"):
        identify(ckpt).check(ckpt, base)


def agree_in_the_unet(
    base: BaseUNet, call: dict, units: list, adders: Mapping[nn.Module, Callable]
) -> ControlSession:
    """A call with units is that with formulas before its layers; none of it stays."""
    handles = [layer.register_forward_pre_hook(add) for layer, add in adders.items()]
    expected = base.module(**call)
    for handle in handles:
        handle.remove()
    return agree_with(expected, base, call, units)


CONVOLUTIONS = {
    "input_blocks_1_0_in_layers_2": 1,
    "input_blocks_3_0_op": 2,  # half the size of what this layer reads: cells are repeated
    "middle_block_2_out_layers_3": 3,
    "output_blocks_11_0_in_layers_2": 1,
}
"""Depths of modules on convolutions, the first and the last at the latent's size."""


@torch.no_grad()
def test_a_convolution_may_have_a_module_on_any_base() -> None:
    """The trainer can be told so. Two units, one on the cond row alone, in half of the picture."""
    base, call = tiny_base("SD1"), inputs("SD1")
    layers = {PREFIX + p.replace(".", "_"): m for p, m in base.module.named_modules()}
    params = {
        PREFIX + name: module_params(layers[PREFIX + name].in_channels, depth, is_conv=True)
        for name, depth in CONVOLUTIONS.items()
    }
    half = np.zeros((64, 128), np.uint8)
    half[:, :64] = 255
    units, told = [], []
    for seed, region in ((1, None), (2, half)):
        tensors = {name: t * 3 for name, t in randomise(LLLite(params), seed).state_dict().items()}
        ckpt = memory_checkpoint(tensors, f"lllite{seed}.safetensors")
        network = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
        assert network.module.state_dict().keys() == tensors.keys()
        network.cond_only = region is not None
        units.append(prepared(network, seed, region=region))
        told.append((tensors, to_hint(units[-1].detected), region is not None))

    def adder(name: str) -> Callable:
        def add(_layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            (x,) = args
            sums = x
            for tensors, hint, is_half in told:
                added = conv_formula(tensors, name, x, hint)
                if is_half:
                    added[1] = 0
                    added[..., x.shape[-1] // 2 :] = 0
                sums = sums + added
            return (sums,)

        return add

    agree_in_the_unet(base, call, units, {layers[name]: adder(name) for name in params})
    with pytest.raises(WrongBaseModelError, match="is a ControlNet-LLLite and acts on .*for SDXL"):
        identify(ckpt).check(ckpt, tiny_base("SDXL"))


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


@torch.no_grad()
def test_the_unet_agrees_with_the_formula() -> None:
    """Two units on the same layers: both add to what the layer was given, in every mode."""
    base, call = tiny_base("SDXL"), inputs("SDXL")
    units, told = [], []
    for seed, weight, mode in ((1, 0.8, ControlMode.PROMPT), (2, 1.3, ControlMode.CONTROL)):
        tensors = weights(seed)
        ckpt = memory_checkpoint(tensors, f"lllite{seed}.safetensors")
        network = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
        units.append(prepared(network, seed, weight=weight, control_mode=mode))
        told.append((tensors, weight, to_hint(units[-1].detected)))
    adders = {}
    for path, layer in base.module.named_modules():
        name = PREFIX + path.replace(".", "_")
        if f"{name}.up.0.weight" in told[0][0]:
            adders[layer] = _adder(name, told)
    session = agree_in_the_unet(base, call, units, adders)
    assert session.comments == [
        "ControlNet unit 0: ControlNet-LLLite has no control modes, it acts as Balanced"
    ]


def _adder(name: str, told: list) -> Callable:
    def add(_layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = args
        parts = [weight * formula(tensors, name, x, hint) for tensors, weight, hint in told]
        return (x + sum(parts),)

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


# --- neighbours that change the tokens of an attention ------------------------------------------


SHAPE = build_layout([1], 1, 2)
WIDE = Size(32, 16)


@pytest.mark.parametrize("neighbour", [merge_tokens, tile_tokens])
@torch.no_grad()
def test_conditions_follow_their_tokens(neighbour: Callable) -> None:
    """Embeddings and a region are merged and cut like the tokens; rows and units are told apart."""
    base, call = tiny_base("SDXL"), inputs("SDXL", size=(WIDE.height, WIDE.width))
    blocks = [m for m in base.module.modules() if isinstance(m, BasicTransformerBlock)]
    neighbour(blocks)
    half = np.zeros((128, 256), np.uint8)
    half[:, :128] = 255
    units, told = [], []
    for seed, region in ((1, None), (2, half)):
        ckpt = memory_checkpoint(weights(seed), f"lllite{seed}.safetensors")
        network = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
        network.cond_only = region is not None
        units.append(prepared(network, seed, region=region))
        units[-1].detected = np.resize(units[-1].detected, (128, 256, 3))
        told.append((weights(seed), to_hint(units[-1].detected), region is not None))
    handles = []
    for path, layer in base.module.named_modules():
        name = PREFIX + path.replace(".", "_")
        if f"{name}.up.0.weight" in weights(1):
            change = merge if neighbour is merge_tokens else tile
            if change is tile and "attn2" in name:
                change = nn.Identity()
            add = _follower(name, told, change)
            handles.append(layer.register_forward_pre_hook(add))
    expected = base.module(**call)
    for handle in handles:
        handle.remove()
    plain = base.module(**call)
    session = ControlSession(FakeHost(), units)
    session.begin_pass(PassInfo(PassGeometry.of_latent(WIDE), base, alphas=FakeHost.alphas))
    with session.sampling(base.module):
        session.begin_evaluation(SHAPE, 0.5)
        ours = base.module(**call)
    assert_close(ours, expected)
    assert float((plain - ours).abs().max()) > 0.05 * float(plain.abs().max())
    assert torch.equal(base.module(**call), plain)


def _follower(name: str, told: list, change: Callable) -> Callable:
    def add(_layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        (x,) = args
        for tensors, hint, is_half in told:
            added = formula(tensors, name, args[0], hint, change)
            if is_half:  # the cond row, in the left half of the picture at the size of the layer
                count = 128 if "input_blocks_4" in name or "input_blocks_5" in name else 32
                width = 2 * round((count / 2) ** 0.5)
                left = (torch.arange(count) % width < width // 2).float()
                rows = torch.tensor([1.0, 0.0])[:, None, None] * left[None, :, None]
                added = added * change(rows).reshape(*x.shape[:2], 1)
            x = x + added
        return (x,)

    return add


@torch.no_grad()
def test_another_number_of_tokens_is_told() -> None:
    """What leaves no place for the hint: tokens that no neighbour we know of made."""
    base, call = tiny_base("SDXL"), inputs("SDXL")
    ckpt = memory_checkpoint(weights(1), "lllite.safetensors")
    network = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
    block = base.module.middle_block[1].transformer_blocks[0]
    for change in (lambda x: x[:, ::2], lambda x: (x + 1).reshape(4, -1, x.shape[-1])):
        attention = block.attn1
        attention.forward = _changing(type(attention).forward.__get__(attention), change)
        session = ControlSession(FakeHost(), [prepared(network)])
        session.begin_pass(info(base))
        with session.sampling(base.module):
            session.begin_evaluation(build_layout([1], 1, 2), 0.5)
            with pytest.raises(HostError, match="cannot tell which is which"):
                base.module(**call)


def _changing(forward: Callable, change: Callable) -> Callable:
    return lambda x, **given: forward(change(x), **given).reshape(2, -1, x.shape[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tokens_are_found_again_by_their_bits(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(2, 512, 96, generator=generator).to(dtype)
    order = torch.stack([torch.randperm(512, generator=generator) for _ in range(2)])
    moved = given.gather(1, order[..., None].expand(-1, -1, 96)).reshape(8, 128, 96)
    assert torch.equal(find_order(given, moved), order)
    with pytest.raises(LookupError):
        find_order(given, moved * 2)
