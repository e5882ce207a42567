"""Networks whose feature maps lie channels last: the same numbers, with nothing copied for it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sessions import LATENT, FakeHost, info, prepared
from support import inputs, random_hint, save_controlnet, tiny_base, tiny_controlnet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib_controlnet.engine.prepared import PreparedUnit
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.families import load_network
from lib_controlnet.families.controlnet import ControlNetNetwork
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets import layout
from lib_controlnet.nets.cldm import count_distinct
from lib_controlnet.nets.layout import Conv3x3, GroupNorm, is_channels_last, lay_out, weights_for

SMALLEST = 2 * 32 * 4
"""Numbers of the smallest map here, or more than of any list of channels."""


COPIES = ("clone", "copy_", "_to_copy", "contiguous")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear")


class Turned(TorchDispatchMode):
    """Notes what is copied, or is before an operation reads it, and the rows of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...]]] = []
        self.rows: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func).split(".")[1]
        tensors = [given for given in args if isinstance(given, Tensor)]
        turned: list[Tensor] = []
        if name == "convolution":
            self.rows.append(len(args[0]))
            turned = [tensor for tensor in tensors[:2] if not is_channels_last(tensor)]
        elif name in COPIES and not is_onto_itself(name, tensors):
            turned = [tensor for tensor in tensors[-1:] if tensor.numel() > SMALLEST]
        elif name == "native_layer_norm":
            turned = [tensor for tensor in tensors[:1] if not tensor.is_contiguous()]
        elif name in PRODUCTS:
            turned = [tensor for tensor in tensors if is_scattered(tensor)]
        elif name.startswith("_scaled_dot_product"):
            turned = [tensor for tensor in tensors if tensor.stride(-1) != 1]
        self.found += [(name, tuple(tensor.shape)) for tensor in turned]
        return func(*args, **(kwargs or {}))


def is_onto_itself(name: str, tensors: list[Tensor]) -> bool:
    """Whether a copy would change nothing, which torch sees."""
    places = {(one.data_ptr(), one.shape, one.stride()) for one in tensors}
    return name == "copy_" and len(places) == 1


def is_scattered(tensor: Tensor) -> bool:
    """Whether a product copies a factor before it reads it: no side of it lies in one piece."""
    return tensor.dim() > 1 and 1 not in tensor.stride()[-2:]


def convolutions(network: ControlNetNetwork) -> list[Tensor]:
    return [layer.weight for layer in network.module.modules() if isinstance(layer, nn.Conv2d)]


def evaluate(network: ControlNetNetwork, kind: str, size: tuple[int, int]) -> list[Tensor]:
    height, width = size
    guided = network.encode_hint(random_hint((8 * height, 8 * width)))
    call = inputs(kind, size=size)
    return network.evaluate(**call, guided_hint=guided, wanted=(True,) * network.layers)


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
@pytest.mark.parametrize("size", [(8, 16), (5, 7), (32, 32)], ids=str)
def test_a_loaded_network_computes_the_same(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    plain = tiny_controlnet(kind)
    path = save_controlnet(tmp_path / "c.safetensors", plain)
    loaded = load_network(path, tiny_base(kind), torch.float32, "cpu")
    assert all(map(is_channels_last, convolutions(loaded)))
    assert not all(map(is_channels_last, convolutions(plain)))
    for a, b in zip(evaluate(loaded, kind, size), evaluate(plain, kind, size), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("is_old", [True, False])
def test_weights_that_share_their_memory_in_a_file_are_turned_once_each(
    is_old: bool, tmp_path: Path
) -> None:
    tensors = dict(tiny_controlnet("SD1").module.state_dict())
    tied = [name for name in tensors if name.endswith("out_layers.3.weight")][:2]
    first = tensors[tied[0]].clone()
    path = tmp_path / "c.pth"
    content = {**tensors, **dict.fromkeys(tied, first)}
    torch.save(content, path, _use_new_zipfile_serialization=not is_old)
    loaded = load_network(path, tiny_base("SD1"), torch.float32, "cpu").module.state_dict()
    assert all(torch.equal(loaded[name], first) for name in tied)


@pytest.mark.parametrize("kind", ["SD1", "SD2", "SDXL"])
def test_no_feature_map_is_copied(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "FEW_PIXELS", 0)  # the products of few pixels do copy
    network = tiny_controlnet(kind)
    with Turned() as plain:
        evaluate(network, kind, (16, 16))
    lay_out(network.module)
    with Turned() as laid_out:
        evaluate(network, kind, (16, 16))
    assert len(plain.found) > len(network.module.input_blocks)
    hint, latent = (1, 3, 128, 128), (2, 4, 16, 16)  # as they come, once
    assert laid_out.found == [("convolution", hint), ("convolution", latent)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_a_step_copies_no_feature_map_for_its_units(
    kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the U-Net's input to the skips: what units copy beside the U-Net's own copies."""
    monkeypatch.setattr(layout, "FEW_PIXELS", 0)
    base = tiny_base(kind)
    base.module.to(dtype)
    networks = [tiny_controlnet(kind), tiny_controlnet(kind)]
    for network in networks:
        lay_out(network.module.to(dtype))
    without = copied(base, [], dtype)
    units = [prepared(network, seed=seed) for seed, network in enumerate(networks)]
    latent = ("convolution", (2, 4, LATENT.height, LATENT.width))
    for number in (1, 2):
        more = Counter(copied(base, units[:number], dtype)) - Counter(without)
        assert more == Counter({latent: number})


def copied(base: BaseUNet, units: list[PreparedUnit], dtype: torch.dtype) -> list[Any]:
    """What the second evaluation of a pass copies."""
    host = FakeHost()
    host.network_dtype = dtype
    session = ControlSession(host, units)
    session.begin_pass(info(base))
    size = (LATENT.height, LATENT.width)
    call = inputs(base.name.removeprefix("tiny-"), size=size)
    call = {name: None if value is None else value.to(dtype) for name, value in call.items()}
    with torch.no_grad(), session.sampling(base.module):
        for number in range(2):
            session.begin_evaluation(build_layout([1], 1, 2), number / 2)
            with Turned() as seen:
                base.module(**call)
    return seen.found


def test_weights_turn_in_the_memory_they_have() -> None:
    conv = nn.Conv2d(300, 310, 3)  # several pieces, the last one shorter
    before, place = conv.weight.detach().clone(), conv.weight.data_ptr()
    lay_out(conv)
    assert torch.equal(conv.weight, before)
    assert is_channels_last(conv.weight)
    assert conv.weight.data_ptr() == place


@pytest.mark.parametrize(
    ("device", "dtype", "turned"),
    [
        ("cpu", torch.float32, True),
        ("cpu", torch.float16, True),
        ("mps", torch.float16, False),
        ("xpu", torch.float16, False),
        ("cuda", torch.float16, False),
    ],
)
def test_a_device_gets_weights_as_it_wants_them(
    device: str, dtype: torch.dtype, turned: bool
) -> None:
    weights = lay_out(nn.Conv2d(8, 8, 3)).weight.detach().to(dtype)
    given = weights_for(weights, torch.device(device))
    assert torch.equal(given, weights)
    assert is_channels_last(given) is turned


@pytest.mark.parametrize("mean", [1.0, 100.0, 1000.0])
@pytest.mark.parametrize("shape", [(2, 32, 8, 16), (1, 64, 2, 2), (3, 64, 5, 7)], ids=str)
def test_group_norm_keeps_its_digits(shape: tuple[int, ...], mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(shape, generator=generator) + mean
    norm = GroupNorm(32, shape[1])
    expected = F.group_norm(h.double(), 32)
    found = norm(h.contiguous(memory_format=torch.channels_last))
    assert is_channels_last(found)
    assert (found - expected).abs().max() <= 1e-5


def test_rows_of_one_latent_are_computed_once_until_they_read_the_text() -> None:
    network, call = tiny_controlnet("SD1"), inputs("SD1", rows=4)
    twice = {
        "x": call["x"][:2].repeat(2, 1, 1, 1),
        "timesteps": call["timesteps"][:2].repeat(2),
        "context": call["context"],
        "y": None,
    }
    guided, wanted = network.encode_hint(random_hint(rows=2)), (True,) * network.layers
    with Turned() as seen:
        together = network.evaluate(**twice, guided_hint=guided.repeat(2, 1, 1, 1), wanted=wanted)
    assert seen.rows[:4] == [2, 2, 2, 2], "the first block, its residual, and a block of two"
    assert seen.rows[-1] == 4
    for row in range(4):
        one = {k: None if v is None else v[row : row + 1] for k, v in twice.items()}
        hint = guided[row % 2 : row % 2 + 1]
        alone = network.evaluate(**one, guided_hint=hint, wanted=wanted)
        for a, b in zip(alone, together, strict=True):
            assert (a[0] - b[row]).abs().max() <= 1e-5 * a.abs().max()


@pytest.mark.parametrize("what", ["x", "timesteps", "hint", "odd"])
def test_rows_that_differ_are_all_computed(what: str) -> None:
    rows = 3 if what == "odd" else 4
    x, timesteps, hint = torch.zeros(rows, 4, 8, 8), torch.zeros(rows), torch.zeros(rows, 4, 8, 8)
    given = {"x": x, "timesteps": timesteps, "hint": hint}
    if what in given:
        given[what][-1] += 1.0
    assert count_distinct((x, timesteps, None, hint)) == rows


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5), (8, 4)], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_few_pixels_are_convolved_by_a_product(
    stride: int, size: tuple[int, int], rows: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    conv = lay_out(Conv3x3(16, 24, stride))
    h = torch.randn(rows, 16, *size, generator=generator)
    for given in (h, h.contiguous(memory_format=torch.channels_last)):
        expected = F.conv2d(h, conv.weight.contiguous(), conv.bias, stride, 1)
        found = conv(given)
        assert is_channels_last(found)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
