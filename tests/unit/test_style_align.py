"""StyleAlign against its formula: the rows of one kind as one sequence of tokens.

Tolerance: 1e-5 of the largest value in float32. The authors' code with `full_attention_share` in
diffusers' U-Net gives the same; it is not part of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from oracle import assert_close
from sessions import FakeHost, info, prepared
from support import inputs, tiny_base
from torch import Tensor, nn

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.step import RowLayout
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.families.reference import ReferenceFamily
from lib_controlnet.host.a1111.rows import build_layout

BATCH = build_layout([1, 1, 1], 3, 6)


def sharing(layer: nn.Module, groups: Sequence[Sequence[int]]) -> Callable[..., Tensor]:
    """A self-attention in which the rows of a group are one sequence; others stay alone."""

    def forward(x: Tensor, context: object = None) -> Tensor:
        del context
        out = type(layer).forward(layer, x)
        for rows in groups:
            long = x[list(rows)].flatten(0, 1)[None]
            out[list(rows)] = type(layer).forward(layer, long).unflatten(1, (len(rows), -1))[0]
        return out

    return forward


def formula(unet: nn.Module, call: dict, groups: Sequence[Sequence[int]]) -> Tensor:
    layers = [module.attn1 for module in unet.modules() if hasattr(module, "attn1")]
    for layer in layers:
        layer.forward = sharing(layer, groups)
    try:
        return unet(**call)
    finally:
        for layer in layers:
            del layer.forward


def run(
    base: BaseUNet,
    call: dict,
    layout: RowLayout = BATCH,
    units: Sequence = (),
    sizes: Sequence[int] = (),
    **changes: object,
) -> tuple[Tensor, ControlSession]:
    """The U-Net's output for calls of some sizes, one by default."""
    session = ControlSession(FakeHost(), list(units), aligns=True)
    images = len({row.image for row in layout.rows})
    session.begin_pass(info(base, **{"images": images, **changes}))
    outputs, start = [], 0
    with session.sampling(base.module):
        session.begin_evaluation(layout, 0.0)
        for size in sizes or (len(layout.rows),):
            rows = slice(start, start + size)
            outputs.append(
                base.module(**{k: None if v is None else v[rows] for k, v in call.items()})
            )
            start += size
    session.end_pass(1)
    return torch.cat(outputs), session


@pytest.mark.parametrize("kind", ["SD1", "SD2", "SDXL"])
@torch.no_grad()
def test_rows_of_one_kind_are_one_sequence(kind: str) -> None:
    base, call = tiny_base(kind), inputs(kind, rows=6)
    expected = formula(base.module, call, [(0, 1, 2), (3, 4, 5)])
    plain = base.module(**call)
    ours, session = run(base, call)
    assert_close(ours, expected)
    assert float((ours - plain).abs().max()) > 0.02 * float(plain.abs().max())
    assert session.has_aligned
    assert not session.comments
    assert torch.equal(base.module(**call), plain)
    assert_close(run(base, call, sizes=(3, 3))[0], expected)  # the host's batch_cond_uncond off


@torch.no_grad()
def test_prompts_in_the_same_place_share_and_a_cut_batch_is_told() -> None:
    """Two pictures, the first one with two prompts; then the same in calls of two rows."""
    base, call = tiny_base("SD1"), inputs("SD1", rows=5)
    layout, seen = build_layout([2, 1], 2, 5), ((0, 2), (1, 2), (0, 2), (3, 4), (3, 4))

    def looking(layer: nn.Module) -> Callable[..., Tensor]:
        def forward(x: Tensor, context: object = None) -> Tensor:
            del context
            attend = partial(type(layer).forward, layer)
            rows = [
                attend(x[[i]], x[list(pair)].flatten(0, 1)[None]) for i, pair in enumerate(seen)
            ]
            return torch.cat(rows)

        return forward

    layers = [module.attn1 for module in base.module.modules() if hasattr(module, "attn1")]
    for layer in layers:
        layer.forward = looking(layer)
    expected = base.module(**call)
    for layer in layers:
        del layer.forward
    assert_close(run(base, call, layout)[0], expected)
    ours, session = run(base, call, layout, sizes=(2, 2, 1))
    plain = base.module(**call)
    assert_close(ours[[0, 1, 4]], plain[[0, 1, 4]])
    assert session.has_aligned is False
    assert "one picture of the batch alone" in session.comments[0]
    ours, session = run(base, inputs("SD1", rows=6), sizes=(2, 2, 2))
    assert session.has_aligned
    assert "its own call only" in session.comments[0]


@torch.no_grad()
def test_more_rows_of_one_kind_than_of_the_other_stay_exact() -> None:
    """A call of a batch that is cut in its middle: copies of all rows stand for one."""
    base, call = tiny_base("SD1"), inputs("SD1", rows=5)
    layout = RowLayout((*BATCH.rows[:3], *BATCH.rows[3:5]))
    expected = formula(base.module, call, [(0, 1, 2), (3, 4)])
    assert_close(run(base, call, layout)[0], expected)


@torch.no_grad()
def test_tiles_see_the_same_tile_of_the_others() -> None:
    """The host's hypertile: a row's tiles lie one behind the other."""
    base, call = tiny_base("SD1"), inputs("SD1", rows=6)

    def tiled(layer: nn.Module, attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(x: Tensor, context: object = None) -> Tensor:
            del context
            tiles = x.unflatten(1, (2, -1)).transpose(0, 1)
            return attend(layer, tiles)

        return forward

    def shared(layer: nn.Module, tiles: Tensor) -> Tensor:
        parts = [sharing(layer, [(0, 1, 2), (3, 4, 5)])(tile) for tile in tiles]
        return torch.cat(parts, dim=1)

    def own(layer: nn.Module, tiles: Tensor) -> Tensor:
        out = type(layer).forward(layer, tiles.transpose(0, 1).flatten(0, 1))
        return out.unflatten(0, (-1, 2)).flatten(1, 2)

    layers = [module.attn1 for module in base.module.modules() if hasattr(module, "attn1")]
    for layer in layers:
        layer.forward = tiled(layer, shared)
    expected = base.module(**call)
    for layer in layers:
        layer.forward = tiled(layer, own)
    assert_close(run(base, call)[0], expected)


@torch.no_grad()
def test_a_reference_is_seen_behind_what_is_shared() -> None:
    base, call = tiny_base("SD1"), inputs("SD1", rows=6)
    call["timesteps"] = torch.full((6,), 501.0)
    unit = prepared(ReferenceFamily().make(base, "reference_adain+attn"), 3)
    unit.values = (0.0,)
    alone = run(base, call)[0]
    both, session = run(base, call, units=[unit], seeds=(1, 1, 1))
    assert session.has_aligned
    assert session.outcome_of(unit).acted
    assert float((both - alone).abs().max()) > 0.02 * float(alone.abs().max())
    # What is one picture three times sees itself three times: the sharing changes nothing.
    first = {k: None if v is None else v[[0, 0, 0, 3, 3, 3]] for k, v in call.items()}
    shares = run(base, first)[0]
    assert_close(shares, base.module(**first))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"is_hires": True, "has_hires": True}, ""), ({"images": 1}, "needs a batch of several")],
    ids=["hires", "one picture"],
)
@torch.no_grad()
def test_where_there_is_nothing_to_share_every_bit_stays(changes: dict, said: str) -> None:
    base, call = tiny_base("SD1"), inputs("SD1", rows=6)
    ours, session = run(base, call, **changes)
    assert torch.equal(ours, base.module(**call))
    assert not session.has_aligned
    assert (said in session.comments[0]) if said else not session.comments
