"""Full and light T2I-Adapters against diffusers' on the same random weights.

Tolerance: 1e-5 of the largest value in float32, as for ControlNets; the sums are the same. The
authors' own code gives the same to the bit on such weights; it is not part of this project.
"""

from __future__ import annotations

from collections.abc import Mapping

import oracle
import pytest
import torch
from data.make_keys import UNETS
from diffusers import T2IAdapter as TheirAdapter
from minildm.unet import UNetModel
from oracle import agree_with, assert_close
from sessions import prepared
from support import golden, inputs, memory_checkpoint, randomise, tiny_base
from torch import Tensor, nn

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import BrokenCheckpointError, CheckpointError, WrongBaseModelError
from lib_controlnet.families import identify
from lib_controlnet.families.t2i_adapter import _read
from lib_controlnet.nets.t2i_adapter import (
    LightAdapter,
    LightParams,
    T2IAdapter,
    read_adapter_params,
    read_light_params,
)
from lib_controlnet.pictures.placement import to_hint

WIDTHS = (32, 64, 128, 128)
KINDS = {
    "SD1": ("full_adapter", 8),
    "SD2": ("full_adapter", 8),
    "SDXL": ("full_adapter_xl", 16),
    "light": ("light_adapter", 8),
}
"""diffusers' name of the structure, and pixels in a cell's side."""

PUBLISHED = {
    "t2i_sd14": ("SD1", 3, 309.5),  # depth, keypose, openpose, seg
    "t2i_sd14_grey": ("SD1", 1, 308.0),  # canny, sketch
    "t2i_sd14_light": ("SD1", 3, 74.8),  # colour
    "t2i_sdxl_grey": ("SDXL", 1, 310.2),  # sketch, as first published (adapter-xl-sketch.pth)
    "t2i_sdxl": ("SDXL", 3, 316.1),  # lineart, canny, sketch, depth-midas, depth-zoe, openpose
}
"""By table: base, channels of the hint, megabytes of the files in full precision."""


def theirs(kind: str, channels: int = 3, widths: tuple[int, ...] = WIDTHS) -> nn.Module:
    """diffusers' adapter, whose weights are made by the caller."""
    name, patch = KINDS[kind]
    given = widths[:3] if kind == "light" else widths  # the light one repeats its last width
    return TheirAdapter(channels, list(given), 2, patch, name)


def load(tensors: Mapping[str, Tensor]) -> T2IAdapter | LightAdapter:
    """Our network with the tensors of a file."""
    ckpt = memory_checkpoint(tensors)
    with torch.device("meta"):
        if "conv_in.weight" in ckpt:
            ours = T2IAdapter(read_adapter_params(ckpt.shapes))
        else:
            ours = LightAdapter(read_light_params(ckpt.shapes))
    ours.load_state_dict(dict(ckpt.tensors()), assign=True)
    return ours


@pytest.mark.parametrize("size", [(128, 192), (72, 168)], ids=["whole", "odd"])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", ["SD1", "SDXL", "light"])
@torch.no_grad()
def test_features_agree_with_diffusers(kind: str, channels: int, size: tuple[int, int]) -> None:
    adapter = randomise(theirs(kind, channels), seed=3)
    ours = load(adapter.state_dict())
    hint = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))
    filled = hint  # diffusers takes whole cells only
    if kind == "SDXL" and size == (72, 168):
        filled = torch.cat([hint, hint[:, :, -1:].expand(-1, -1, 8, -1)], dim=2)
        filled = torch.cat([filled, filled[..., -1:].expand(-1, -1, -1, 8)], dim=3)
    expected = adapter(filled)
    features = ours(hint)
    assert len(features) == len(expected) == len(WIDTHS)
    for one, other in zip(features, expected, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("table", PUBLISHED)
def test_published_files_are_known_and_fit(table: str, layout: str) -> None:
    kind, channels, megabytes = PUBLISHED[table]
    ckpt = memory_checkpoint(golden(f"{table}_{layout}"))
    assert ckpt.shapes == golden(f"{table}_original")
    size = sum(4 * torch.Size(shape).numel() for shape in ckpt.shapes.values())
    assert size / 1e6 == pytest.approx(megabytes, abs=0.2)
    name = "sdxl_full" if kind == "SDXL" else "sd15"
    with torch.device("meta"):
        unet = UNetModel(**UNETS[name])
    base = BaseUNet(unet, describe_unet(unet), name, name)
    family = identify(ckpt)
    family.check(ckpt, base)
    with torch.device("meta"):
        params = _read(ckpt)
        ours = LightAdapter(params) if isinstance(params, LightParams) else T2IAdapter(params)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == ckpt.shapes
    assert (params.hint_channels, params.widths) == (channels, (320, 640, 1280, 1280))


@torch.no_grad()
def test_strided_convolutions_may_halve_instead_of_means() -> None:
    """`down_opt.op`, which the original class can be built with."""
    adapter = randomise(theirs("SD1"), seed=4)
    tensors = dict(memory_checkpoint(adapter.state_dict()).tensors())
    plain = load(tensors)
    hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for block, width in ((2, 32), (4, 64), (6, 128)):  # a convolution that takes the same means
        weight = torch.zeros(width, width, 3, 3)
        weight[range(width), range(width), 1:, 1:] = 0.25
        tensors[f"body.{block}.down_opt.op.weight"] = weight
        tensors[f"body.{block}.down_opt.op.bias"] = torch.zeros(width)
    for one, other in zip(load(tensors)(hint), plain(hint), strict=True):
        assert_close(one, other)


def network_for(kind: str, adapter: nn.Module, name: str = "adapter.pth") -> ControlNetwork:
    ckpt = memory_checkpoint(adapter.state_dict(), name)
    base = tiny_base("SD1" if kind == "light" else kind)
    return identify(ckpt).load(ckpt, base, torch.float32, "cpu")


FALL_OFF = (0.25, 0.62, 0.825, 1.0)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("SD1", ControlMode.BALANCED),
        ("SD1", ControlMode.PROMPT),
        ("SD2", ControlMode.CONTROL),
        ("SDXL", ControlMode.BALANCED),
        ("SDXL", ControlMode.CONTROL),
        ("light", ControlMode.PROMPT),
    ],
)
@torch.no_grad()
def test_the_unet_agrees_with_diffusers(kind: str, mode: ControlMode) -> None:
    """Two adapters, one of them for a part of the steps that is over."""
    unet = "SD1" if kind == "light" else kind
    base = tiny_base(unet)
    theirs_unet = oracle.u_net_weights(base.module, oracle.TINY[unet])
    call = inputs(unet)
    extra, call["y"] = oracle.vector_condition(theirs_unet, rows=2)
    units, added = [], []
    for seed, weight, end in ((1, 0.8, 1.0), (2, 0.5, 1.0), (3, 2.0, 0.2)):
        adapter = randomise(theirs(kind), seed)
        fields = {"weight": weight, "guidance_end": end, "control_mode": mode}
        units.append(prepared(network_for(kind, adapter), seed, **fields))
        rows = torch.tensor([1.0, 0.0 if mode is ControlMode.CONTROL else 1.0])[:, None, None, None]
        factors = (1.0,) * 4 if mode is ControlMode.BALANCED else FALL_OFF
        features = adapter(to_hint(units[-1].detected))
        if end == 1.0:
            added.append([f * weight * k * rows for f, k in zip(features, factors, strict=True)])
    expected = theirs_unet(
        call["x"],
        call["timesteps"],
        call["context"],
        down_intrablock_additional_residuals=[a + b for a, b in zip(*added, strict=True)],
        return_dict=False,
        **extra,
    )[0]
    agree_with(expected, base, call, units)


@pytest.mark.parametrize(
    ("kind", "loaded", "made_for"),
    [
        ("SDXL", "SD1", "SDXL"),
        ("SD1", "SDXL", "SD1 or SD2"),
        ("SD2", "SDXL", "SD1 or SD2"),
        ("light", "SDXL", "SD1 or SD2"),
    ],
)
def test_a_wrong_base_is_told_by_both_names(kind: str, loaded: str, made_for: str) -> None:
    ckpt = memory_checkpoint(theirs(kind).state_dict(), "t2i.pth")
    with pytest.raises(WrongBaseModelError) as caught:
        identify(ckpt).check(ckpt, tiny_base(loaded))
    assert f"control model t2i is made for {made_for}, the loaded checkpoint" in str(caught.value)
    assert f"choose a control model made for {loaded}" in str(caught.value)


def test_other_widths_are_told() -> None:
    ckpt = memory_checkpoint(theirs("SD1", widths=(32, 64, 64, 64)).state_dict(), "t2i.pth")
    with pytest.raises(WrongBaseModelError, match=r"gives features of 32, 64, 64, 64 channels, "):
        identify(ckpt).check(ckpt, tiny_base("SD1"))


DAMAGES = {
    "missing": ({"body.3.block2.bias": None}, r"1 missing \(body\.3\.block2\.bias\)"),
    "decisive": ({"body.3.block2.weight": None}, r"incomplete: body\.3\.block2\.weight is missing"),
    "odd number of blocks": (
        {"body.7.block1.weight": None},
        r"incomplete: body\.7\.block1\.weight",
    ),
    "unexpected": ({"body.0.skep.weight": (4, 4)}, r"1 unexpected \(body\.0\.skep\.weight\)"),
    "wrong shape": (
        {"body.0.block1.bias": (5,)},
        r"1 of wrong shape \(body\.0\.block1\.bias \(5,\)",
    ),
    "channels": ({"conv_in.weight": (32, 128, 3, 3)}, r"reads hints of 2 channels"),
}
LIGHT_DAMAGES = {
    "missing": ({"body.3.body.1.block2.bias": None}, r"1 missing \(body\.3\.body\.1\.block2"),
    "decisive": ({"body.2.out_conv.weight": None}, r"incomplete: body\.2\.out_conv\.weight"),
    "level": ({"body.1.in_conv.weight": None}, r"gives features of 32 channels"),
    "channels": ({"body.0.in_conv.weight": (8, 128, 1, 1)}, r"reads hints of 2 channels"),
}


@pytest.mark.parametrize(
    ("kind", "damage"),
    [*(("SD1", damage) for damage in DAMAGES), *(("light", damage) for damage in LIGHT_DAMAGES)],
)
def test_damage_is_told(kind: str, damage: str) -> None:
    changes, sentence = (DAMAGES if kind == "SD1" else LIGHT_DAMAGES)[damage]
    whole = memory_checkpoint(theirs(kind).state_dict()).shapes
    left = {name: shape for name, shape in (whole | changes).items() if shape is not None}
    ckpt = memory_checkpoint(left, "t2i.pth")
    with pytest.raises(CheckpointError, match=sentence) as caught:
        identify(ckpt).load(ckpt, tiny_base("SD1"), torch.float32, "cpu")
    if isinstance(caught.value, BrokenCheckpointError):
        assert str(caught.value).startswith("t2i.pth is a T2I-Adapter")
