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
from sessions import LATENT, FakeHost, info, prepared

from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide, GuideKind
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import BaseModel, ControlMode
from lib_controlnet.families.base import randomize
from lib_controlnet.families.low_rank import Beside, LowRankLayers
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.face_id import LowRank

PAIR = build_layout([1], 1, 2)
HALF = np.full((64, 128), 255, np.uint8)
HALF[:, 64:] = 0


class Control(ActiveControl):
    def attach(self, places: Any) -> None:
        layers = {
            path: Beside(module, self.terms.strengths[0], path.split(".")[-1] != "to_k")
            for path, module in self.network.modules_at.items()
        }
        LowRankLayers(self, layers).attach(places)


class Network(ControlNetwork):
    name = family = "beside"
    base = BaseModel.UNKNOWN
    layers = 1
    wants = Guide(GuideKind.NOTHING)

    def __init__(self, unet: torch.nn.Module) -> None:
        ends = ("attn1.to_q", "attn2.to_k", "attn2.to_out.0")
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
