"""Layers beside the U-Net's attention: the same as changed weights, which nobody changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import support
import torch
from minildm.attention import BasicTransformerBlock
from oracle import assert_close
from sessions import LATENT, FakeHost, info, prepared
from token_neighbours import merge, merge_tokens, tile, tile_tokens

from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide, GuideKind
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import BaseModel, ControlMode
from lib_controlnet.families.base import randomize
from lib_controlnet.families.low_rank import Beside, LowRankLayers
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.face_id import LowRank
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry

PAIR = build_layout([1], 1, 2)
FULL = np.full((64, 128), 255, np.uint8)
HALF = FULL.copy()
HALF[:, 64:] = 0


class Control(ActiveControl):
    @property
    def beside(self) -> LowRankLayers:
        layers = {
            path: Beside(module, self.terms.strengths[0], path.split(".")[-1] != "to_k")
            for path, module in self.network.modules_at.items()
        }
        return LowRankLayers(self, layers)

    def meet(self, controls: Any, say: Any) -> None:
        self.beside.tell(say)

    def attach(self, places: Any) -> None:
        self.beside.attach(places)


ENDS = ("attn1.to_q", "attn2.to_k", "attn2.to_out.0")


class Network(ControlNetwork):
    name = family = "beside"
    base = BaseModel.UNKNOWN
    layers = 1
    wants = Guide(GuideKind.NOTHING)

    def __init__(self, unet: torch.nn.Module, ends: tuple[str, ...] = ENDS) -> None:
        paths = [path for path, _module in unet.named_modules() if path.endswith(ends)]
        self.modules_at = {
            path: LowRank(layer.in_features, 4, layer.out_features)
            for path, layer in ((path, unet.get_submodule(path)) for path in paths)
        }
        self.module = torch.nn.ModuleList(self.modules_at.values())
        randomize(self.module, 1)

    def bind(self, terms: Any, guide: Any, info: Any) -> Control:
        del guide, info
        return Control(self, terms)


@pytest.fixture(scope="module", params=["SD1", "SDXL"])
def rig(request: pytest.FixtureRequest) -> Any:
    base = support.tiny_base(request.param)
    return SimpleNamespace(base=base, kind=request.param, network=Network(base.module))


def run(rig: Any, *units: Any) -> torch.Tensor:
    session = ControlSession(FakeHost(), list(units))
    session.begin_pass(info(rig.base))
    size = (LATENT.height, LATENT.width)
    with torch.no_grad(), session.sampling(rig.base.module):
        session.begin_evaluation(PAIR, 0.0)
        return rig.base.module(**support.inputs(rig.kind, rows=2, size=size))


@contextmanager
def merged(rig: Any, factor: float) -> Iterator[None]:
    """The U-Net with the layers in its weights."""
    kept = {}
    with torch.no_grad():
        for path, module in rig.network.modules_at.items():
            weight = rig.base.module.get_submodule(path).weight
            kept[path] = weight.clone()
            weight += factor * module.up.weight @ module.down.weight
        try:
            yield
        finally:
            for path, before in kept.items():
                rig.base.module.get_submodule(path).weight.copy_(before)


def test_it_is_a_change_of_weights_by_its_strength(rig: Any) -> None:
    plain = run(rig)
    for factor in (1.0, 0.4):
        steered = run(rig, prepared(rig.network, weight=factor))
        with merged(rig, factor):
            wanted = run(rig)
        scale = float(wanted.abs().max())
        torch.testing.assert_close(steered, wanted, atol=2e-5 * scale, rtol=1e-4)
        assert not torch.allclose(steered, plain, atol=1e-2 * scale)
    assert torch.equal(run(rig), plain)


def test_cond_rows_only(rig: Any) -> None:
    plain, out = run(rig), run(rig, prepared(rig.network, control_mode=ControlMode.CONTROL))
    everything = run(rig, prepared(rig.network))
    torch.testing.assert_close(out[:1], everything[:1], atol=1e-4, rtol=1e-4)
    assert torch.equal(out[1:], plain[1:])


def test_half_a_region_is_neither_nothing_nor_everything(rig: Any) -> None:
    plain, whole = run(rig), run(rig, prepared(rig.network))
    half = run(rig, prepared(rig.network, region=HALF))
    assert not torch.allclose(half, plain, atol=1e-4)
    assert not torch.allclose(half, whole, atol=1e-4)


WIDE = Size(32, 16)
LEFT = np.full((128, 256), 255, np.uint8)
LEFT[:, 128:] = 0


@pytest.mark.parametrize("ends", [ENDS, ("attn1.to_out.0", "attn2.to_q")], ids=str)
@pytest.mark.parametrize("neighbour", [merge_tokens, tile_tokens])
@torch.no_grad()
def test_a_region_follows_its_tokens(rig: Any, neighbour: Any, ends: tuple[str, ...]) -> None:
    """What merges or cuts the tokens of an attention does it to the region, too."""
    base = support.tiny_base(rig.kind)
    network = Network(base.module, ends)
    neighbour([one for one in base.module.modules() if isinstance(one, BasicTransformerBlock)])
    given = support.inputs(rig.kind, rows=2, size=(WIDE.height, WIDE.width))
    plain = base.module(**given)
    unit = prepared(network, region=LEFT)
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(PassInfo(PassGeometry.of_latent(WIDE), base, alphas=FakeHost.alphas))
    with session.sampling(base.module):
        session.begin_evaluation(PAIR, 0.0)
        ours = base.module(**given)
    for path, module in network.modules_at.items():
        change = merge if neighbour is merge_tokens else tile if ".attn1." in path else None
        add = _by_hand(module, change)
        if not path.endswith("to_k"):
            base.module.get_submodule(path).register_forward_hook(add)
    assert_close(ours, base.module(**given))
    assert float((ours - plain).abs().max()) > 0.05 * float(plain.abs().max())


def _by_hand(module: torch.nn.Module, change: Any) -> Any:
    """Adds what a layer gives in the left half of a picture twice as wide as high."""

    def add(_layer: Any, args: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        (x,) = args
        count = x.shape[0] * x.shape[1] // 2
        count = count * 4 // 3 if change is merge else count
        width = 2 * round((count / 2) ** 0.5)
        left = (torch.arange(count) % width < width // 2).float()[None, :, None].repeat(2, 1, 1)
        share = left if change is None else change(left)
        return output + module.up(module.down(x)) * share.reshape(*x.shape[:2], 1)

    return add


@pytest.mark.parametrize(("region", "said"), [(None, 0), (FULL, 0), (HALF, 1)], ids=str)
def test_layers_that_a_region_leaves_out_are_said(rig: Any, region: Any, said: int) -> None:
    network = Network(rig.base.module)
    texts = sum(path.endswith("to_k") for path in network.modules_at)
    session = ControlSession(FakeHost(), [prepared(network, region=region)])
    session.begin_pass(info(rig.base))
    assert len(session.comments) == said
    for sentence in session.comments:
        assert f"{texts} of the {len(network.modules_at)} layers of beside" in sentence
