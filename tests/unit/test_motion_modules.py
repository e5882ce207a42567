"""AnimateDiff puts modules of its own between those of the U-Net's blocks: none of ours minds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from support import inputs, tiny_base
from torch import Tensor, nn

from lib_controlnet.engine.places import Places
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.step import Row, RowLayout, StepCursor
from lib_controlnet.engine.unet import BaseUNet, describe_unet, own_modules
from lib_controlnet.engine.weights import WeightChange
from lib_controlnet.families import reference
from lib_controlnet.families.attention import cross_attentions
from lib_controlnet.families.base_weights import BaseWeights, encoder_shapes
from lib_controlnet.families.lllite import layer_paths
from lib_controlnet.families.t2i_adapter import feature_blocks


class MotionModule(nn.Module):
    """One that leaves everything as it is, with the names of AnimateDiff's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.temporal_transformer = nn.Module()
        self.temporal_transformer.proj_in = nn.Linear(width, width)
        self.temporal_transformer.transformer_blocks = nn.ModuleList([nn.Module()])

    def forward(self, x: Tensor) -> Tensor:
        return x


def inject(unet: nn.Module) -> None:
    """What AnimateDiff does to a U-Net: behind each block's last part, before what enlarges it."""
    for block in list(unet.input_blocks)[1:]:
        block.append(MotionModule(8))
    unet.middle_block.insert(-1, MotionModule(8))
    for block in unet.output_blocks:
        enlarges = len(block) > 1 and type(block[-1]).__name__ == "Upsample"
        block.insert(-1 if enlarges else len(block), MotionModule(8))


@pytest.fixture(params=["SD1", "SDXL"])
def bases(request: pytest.FixtureRequest) -> tuple[BaseUNet, BaseUNet]:
    """A base, and a copy of it with motion modules."""
    base = tiny_base(request.param)
    unet = copy.deepcopy(base.module)
    inject(unet)
    return base, BaseUNet(unet, describe_unet(unet), base.name, base.identity)


def test_the_base_is_what_it_was(bases: tuple[BaseUNet, BaseUNet]) -> None:
    base, moved = bases
    assert moved.shape == base.shape
    assert moved.shape.signature == base.shape.signature
    assert dict(own_modules(moved.module)).keys() == dict(base.module.named_modules()).keys()
    assert len(list(moved.module.modules())) > len(own_modules(moved.module))


def test_its_weights_are_found_by_their_names(bases: tuple[BaseUNet, BaseUNet]) -> None:
    base, moved = bases
    shapes = encoder_shapes(base)
    assert encoder_shapes(moved) == shapes
    ours, theirs = BaseWeights(base), BaseWeights(moved)
    for name, shape in shapes.items():
        assert torch.equal(ours.get(name, shape, "cpu"), theirs.get(name, shape, "cpu")), name


def test_families_find_the_same_layers(bases: tuple[BaseUNet, BaseUNet]) -> None:
    for find in (layer_paths, cross_attentions, partial(feature_blocks, patch=8)):
        ours, theirs = map(find, bases)
        assert ours == theirs
    for of_picture in (reference.attention_blocks, reference.feature_blocks):
        ours, theirs = (of_picture(base.module) for base in bases)
        assert ours == theirs


def _behind(path: str) -> Callable[[Places], None]:
    def ask(places: Places) -> None:
        places.module(path, after=lambda output, _step, _again: output * 0.5)

    return ask


def _inside(path: str) -> Callable[[Places], None]:
    def ask(places: Places) -> None:
        bias = own_modules(places.unet)[path].bias
        change = WeightChange(
            *("unit", Residency, lambda step: tuple(range(len(step.rows))), [(path, "bias")]),
            *(lambda _place, _factor: torch.ones_like(bias), {}, pytest.fail),
        )
        places.memory.on_device = lambda _network: nullcontext()
        places.memory.count = lambda _network, _sums: None
        places.weights(change)

    return ask


PLACES = {
    **{path: _behind for path in ("middle_block.2", "output_blocks.2.{last}", "output_blocks.3.0")},
    "output_blocks.2.0.emb_layers.1": _inside,
    "middle_block.2.in_layers.2": _inside,
}


@pytest.mark.parametrize("path", PLACES)
@torch.no_grad()
def test_places_are_those_of_the_checkpoint(bases: tuple[BaseUNet, BaseUNet], path: str) -> None:
    results = []
    for base in bases:
        cursor = StepCursor()
        places = Places(base.module, cursor, Residency(1, 0))
        last = len(bases[0].module.output_blocks[2]) - 1
        PLACES[path](path.format(last=last))(places)
        cursor.begin(RowLayout((Row(0, is_cond=True), Row(0, is_cond=False))), 0.0)
        given = inputs(str(base.shape.kind), rows=2, size=(8, 8))
        with places.hook():
            results.append(
                base.module(given["x"], given["timesteps"], given["context"], given["y"])
            )
    assert torch.equal(*results)
    assert not torch.equal(results[0], _plain(bases[0]))


def _plain(base: BaseUNet) -> Tensor:
    given = inputs(str(base.shape.kind), rows=2, size=(8, 8))
    return base.module(given["x"], given["timesteps"], given["context"], given["y"])
