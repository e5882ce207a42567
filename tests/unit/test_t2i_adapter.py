"""The full T2I-Adapter against diffusers' on the same random weights.

Tolerance: 1e-5 of the largest value in float32, as for ControlNets; the sums are the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from diffusers import T2IAdapter as TheirAdapter
from oracle import assert_close
from support import memory_checkpoint, randomise
from torch import Tensor, nn

from lib_controlnet.nets.t2i_adapter import T2IAdapter, read_adapter_params

WIDTHS = (32, 64, 128, 128)
KINDS = {"SD1": ("full_adapter", 8), "SDXL": ("full_adapter_xl", 16)}
"""diffusers' name of the structure, and pixels in a cell's side."""

PUBLISHED = {("SD1", 3): 77.37, ("SD1", 1): 77.00, ("SDXL", 3): 79.03}
"""Millions of parameters."""


def theirs(kind: str, channels: int = 3, widths: tuple[int, ...] = WIDTHS) -> nn.Module:
    """diffusers' adapter, whose weights are made by the caller."""
    name, patch = KINDS[kind]
    return TheirAdapter(channels, list(widths), 2, patch, name)


def load(tensors: Mapping[str, Tensor]) -> T2IAdapter:
    """Our network with the tensors of a file."""
    ckpt = memory_checkpoint(tensors)
    with torch.device("meta"):
        ours = T2IAdapter(read_adapter_params(ckpt.shapes))
    ours.load_state_dict(dict(ckpt.tensors()), assign=True)
    return ours


@pytest.mark.parametrize("size", [(128, 192), (72, 168)], ids=["whole", "odd"])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize(("kind", "channels"), PUBLISHED)
def test_published_sizes_have_the_published_names(kind: str, channels: int) -> None:
    """Every tensor of diffusers' file finds its place under the original names."""
    with torch.device("meta"):
        adapter = theirs(kind, channels, (320, 640, 1280, 1280))
        shapes = {name: tuple(value.shape) for name, value in adapter.state_dict().items()}
        params = read_adapter_params(memory_checkpoint(shapes).shapes)
        ours = T2IAdapter(params).state_dict()
    assert {k: tuple(v.shape) for k, v in ours.items()} == memory_checkpoint(shapes).shapes
    assert {"conv_in.weight", "body.0.block1.weight", "body.7.block2.bias"} < ours.keys()
    assert [name for name in ours if "in_conv" in name] == [
        f"body.{block}.in_conv.{leaf}" for block in (2, 4) for leaf in ("weight", "bias")
    ]
    assert (params.hint_channels, params.widths) == (channels, (320, 640, 1280, 1280))
    count = sum(value.numel() for value in ours.values()) / 1e6
    assert count == pytest.approx(PUBLISHED[kind, channels], abs=0.01)


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
