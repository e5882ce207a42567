"""What a pass will take of a device, what is chosen for it, and that the picture stays the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_device import FakeDevice
from measures import MemoryTrace
from sessions import FakeHost, info, prepared
from support import empty_unet, inputs, tiny_base
from torch import nn

from lib_controlnet.engine import memory_plan
from lib_controlnet.engine.memory import STRIPS, Between, Pieces
from lib_controlnet.engine.memory_plan import (
    SLACK,
    Demand,
    Load,
    MemoryPlan,
    forecast,
    measure_reserve,
    settle_place,
)
from lib_controlnet.engine.rehearsal import META, Asked, Footprint, rehearse, shadow
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.window import Window
from lib_controlnet.enums import BaseModel
from lib_controlnet.families import discover
from lib_controlnet.families.residual import ResidualNetwork
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.strips import find_reach, run_in_strips
from lib_controlnet.pictures.maps import Size

DOCS = Path(__file__).resolve().parents[2] / "docs"
if str(DOCS) not in sys.path:
    sys.path.append(str(DOCS))

make_memory = __import__("make_memory")

KINDS = ("SD1", "SDXL")
PAIR = build_layout([1], 1, 2)
MB = 10**6
NEVER, PASS, WINDOW, EVALUATION, LAYER = Between

base_of = lru_cache(tiny_base)


def find_cases() -> list[tuple[str, str]]:
    """A base and a family for each class of networks that return residuals."""
    found = {}
    for kind, family in product(KINDS, discover()):
        if issubclass(family.networks, ResidualNetwork) and BaseModel[kind] in family.bases:
            found.setdefault(family.networks, (kind, family.name))
    return [*found.values(), ("SDXL", "ControlNet")]


def tiny(kind: str, family: str, seed: int = 0) -> Any:
    """A network whose weights lie as they do on a graphics card."""
    found = next(one for one in discover() if one.name == family)
    network = found.tiny(base_of(kind), seed)
    for layer in network.module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous()
    return network


# ---- what is counted -----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), find_cases())
def test_what_is_counted_without_memory_is_what_is_held(kind: str, family: str) -> None:
    """The most bytes of an evaluation and what it leaves, beside torch's own account of them."""
    network, size = tiny(kind, family), Size(32, 24)
    counted = network.rehearse(Asked(size, META))
    given = inputs(kind, rows=2, size=(size.height, size.width))
    channels = network.module.params.hint_widths[0]
    hint = torch.rand(1, channels, 8 * size.height, 8 * size.width)
    guided = network.encode_hint(hint)
    made: list[Any] = []

    def evaluate() -> None:
        y = given["y"]
        made[:] = network.evaluate(
            given["x"], given["timesteps"], given["context"], y, guided, [True] * network.layers
        )

    trace = MemoryTrace()
    with torch.inference_mode():
        held = trace.peak(evaluate)
    assert 2 * counted.evaluation == pytest.approx(held, rel=0.1)
    assert 2 * counted.residuals == sum(layer.nbytes for layer in made) == trace.held
    assert counted.guided == guided.nbytes
    # The hint block's few channels are padded on the CPU; what must be there must be counted.
    assert counted.hint >= hint.nbytes + guided.nbytes
    assert network.rehearse(Asked(size, META, STRIPS)).hint < counted.hint


def test_attention_holds_a_matrix_only_where_the_kernel_does() -> None:
    query = torch.empty((1, 2, 64, 8), device=META)

    def attend() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(query, query, query)

    assert rehearse(attend, torch.device("cuda")) == (query.nbytes, query.nbytes)
    peak, held = rehearse(attend, torch.device("mps"))
    assert held == query.nbytes
    assert peak == 4 * 2 * 64 * 64


def test_a_shadow_has_no_weights_and_leaves_the_network_alone() -> None:
    network = tiny("SD1", "ControlNet")
    before = list(network.module.parameters())
    bare = shadow(network)
    assert {one.device for one in bare.module.parameters()} == {META}
    assert [one.stride() for one in bare.module.parameters()] == [one.stride() for one in before]
    assert all(a is b for a, b in zip(network.module.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_unet_takes_is_not_underestimated(kind: str) -> None:
    unet = empty_unet(kind, model_channels=320)
    given = {
        name: None if one is None else one.to(META)
        for name, one in inputs(kind, rows=1, size=(32, 32)).items()
    }
    held, _ = rehearse(lambda: unet(**given))
    estimate = memory_plan.UNET_NUMBERS * 320 * 4 * 32 * 32
    assert 1.0 <= estimate / held < 2.0


# ---- what is chosen ------------------------------------------------------------------------


def load(rows: int = 2, window: tuple[float, float] = (0, 1), **changes: Any) -> Load:
    """A network of 1000 MB."""
    one = Load(
        *(1000 * MB, 150 * MB, (Window(*window),), rows, 1),
        lambda strips: Footprint(200 * MB // strips, 2 * MB, 100 * MB, 20 * MB),
    )
    return replace(one, **changes)


FIRST, LAST = load(window=(0, 0.5)), load(window=(0.5, 1))
SMALL = load(weights=500 * MB, by_layer=75 * MB)
EXACT, LEAST = Pieces(), Pieces(1, STRIPS)
CHOICES = {
    "plenty": ([load()], 9000, NEVER, MemoryPlan(NEVER)),
    "the decoder needs room": ([load()], 2300, NEVER, MemoryPlan(PASS)),
    "no room for two rows": ([load()], 1700, PASS, MemoryPlan(PASS)),
    "hints are large": (
        [load(footprint=lambda strips: Footprint(900 * MB // strips, 0, 100 * MB, MB))],
        *(1700, PASS, MemoryPlan(PASS, Pieces(0, STRIPS))),
    ),
    "row by row": ([load(rows=8)], 1600, PASS, MemoryPlan(PASS, Pieces(2, STRIPS))),
    "frames are encoded one by one": (
        [load(together=16, footprint=lambda strips: Footprint(100 * MB // strips, 0, 100 * MB, 0))],
        *(1600, PASS, MemoryPlan(PASS, Pieces(0, STRIPS))),
    ),
    "rows of a clip": ([load(8, rows_are_apart=False)], 1600, PASS, MemoryPlan(LAYER)),
    "one after the other": ([FIRST, LAST], 2300, NEVER, MemoryPlan(WINDOW)),
    "both at once": ([FIRST, load(window=(0.4, 1))], 2300, NEVER, MemoryPlan(LAYER)),
    "in turns": ([load(), load()], 2000, EVALUATION, MemoryPlan(EVALUATION)),
    "layer by layer": ([load()], 1000, NEVER, MemoryPlan(LAYER)),
    "least": ([load(rows=8)], 500, NEVER, MemoryPlan(LAYER, LEAST)),
    "as the host wants it": ([load()], 9000, EVALUATION, MemoryPlan(EVALUATION)),
}


@pytest.mark.parametrize("case", CHOICES)
def test_the_cheapest_that_fits_is_chosen(case: str) -> None:
    loads, room, first, expected = CHOICES[case]
    demand = Demand(loads, unet=200 * MB, after=1000 * MB)
    plan = demand.find_plan(room * MB, first)
    assert replace(plan, staying=0) == expected
    assert (plan.staying > 0) == (plan.between is LAYER and case != "least")
    if case != "least":
        assert demand.need(plan) <= room * MB
    assert "the picture is the same" in plan.words
    assert ("but for rounding" in plan.words) == (plan.pieces != EXACT)


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (9000, MemoryPlan(NEVER)),
        (2300, MemoryPlan(PASS)),
        (1200, MemoryPlan(PASS, shrinks=True)),
        (600, MemoryPlan(LAYER, shrinks=True)),
    ],
)
def test_8_bits_come_behind_what_keeps_the_weights_there(room: int, expected: MemoryPlan) -> None:
    demand = Demand([load()], 200 * MB, 1000 * MB, small=[SMALL])
    plan = demand.find_plan(room * MB)
    assert replace(plan, staying=0) == expected
    assert ("changes the picture slightly" in plan.words) == plan.shrinks


def test_what_stays_is_shared_out() -> None:
    """A small network needs less than its share; the others get the rest."""
    demand = Demand([load(), load(weights=200 * MB), load()])
    least = demand.need(MemoryPlan(LAYER, staying=1))
    assert least > demand.need(MemoryPlan(LAYER)), "what always stays is that of all then"
    spare = {
        room: round(demand.find_plan(least + room * MB).staying / MB)
        for room in (-50, 0, 90, 450, 1050)
    }
    assert spare == {-50: 0, 0: 0, 90: 30, 450: 200, 1050: 500}


def test_less_room_never_gives_a_plan_that_needs_more() -> None:
    demand = Demand([load(8), load(2, (0.2, 0.6)), FIRST], 200 * MB, 1000 * MB)
    plans = [demand.find_plan(room * 100 * MB) for room in range(1, 60)]
    needs = [demand.need(plan) for plan in plans]
    assert all(need <= room * 100 * MB for room, need in enumerate(needs, 1) if room > 8)
    assert needs == sorted(needs)


# ---- the picture stays the same ------------------------------------------------------------


class Rig:
    """Two networks and three units on a U-Net, and a device that counts and may be full."""

    def __init__(self, kind: str) -> None:
        self.base = base_of(kind)
        self.networks = [tiny(kind, "ControlNet", seed) for seed in (1, 2)]
        self.given = inputs(kind, rows=2)
        self.device = FakeDevice()
        self.room: int | None = None
        self.host = FakeHost()
        self.host.device = FakeDevice.device
        self.host.residency = Residency(
            *(2, 2**40), copy=self.device.copy, measure=lambda _device: self.room
        )

    def session(self) -> ControlSession:
        first, second = self.networks
        units = [
            prepared(first, 3, guidance_end=0.6),
            prepared(first, 4, weight=0.7),
            prepared(second, 5, guidance_start=0.3),
        ]
        session = ControlSession(self.host, units)
        session.begin_pass(info(self.base))
        return session

    def run(self, session: ControlSession | None = None) -> list[torch.Tensor]:
        """What the U-Net gives in three steps, and what lies on the device after each of them."""
        session = session or self.session()
        made, self.lying = [], []
        with torch.no_grad(), session.sampling(self.base.module):
            for progress in (0.0, 0.4, 0.7):
                session.begin_evaluation(PAIR, progress)
                made.append(self.base.module(**self.given))
                self.lying.append(self.host.residency.measure_lying(FakeDevice.device))
        self.comments = session.comments
        return made


@pytest.fixture(scope="module", params=KINDS)
def shared_rig(request: pytest.FixtureRequest) -> Rig:
    made = Rig(request.param)
    made.expected = made.run()
    assert made.comments == []
    made.weights = [network.nbytes for network in made.networks]
    return made


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    shared_rig.host.residency.park()
    yield shared_rig
    shared_rig.room, shared_rig.device.room = None, 2**40
    shared_rig.host.residency.park()
    assert shared_rig.device.held == 0


WAYS = {
    "keep": (NEVER, EXACT, (0, 1), (0, 1), (0, 1)),
    "windows": (WINDOW, EXACT, (0,), (0, 1), (0, 1)),
    "turns": (EVALUATION, EXACT, (), (), ()),
    "layers": (LAYER, EXACT, (), (), ()),
    "strips": (NEVER, Pieces(0, STRIPS), (0, 1), (0, 1), (0, 1)),
    "units one by one": (PASS, Pieces(2, STRIPS), (0, 1), (0, 1), (0, 1)),
    "rows one by one, layers": (LAYER, LEAST, (), (), ()),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_picture_is_the_same_in_every_way(
    rig: Rig, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    between, pieces, *lying = WAYS[way]
    rig.room = 1
    chosen = MemoryPlan(between, pieces)
    monkeypatch.setattr(Demand, "find_plan", lambda *_: chosen)
    found = rig.run()
    for one, expected in zip(found, rig.expected, strict=True):
        if pieces != EXACT:
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
        else:
            assert torch.equal(one, expected)
    assert rig.lying == [sum(rig.weights[i] for i in numbers) for numbers in lying]
    assert rig.comments[0].startswith("ControlNet: ") if way != "keep" else not rig.comments
    left = rig.host.residency.measure_lying(FakeDevice.device)
    assert left == sum(rig.weights) * (between is NEVER)


def test_each_plan_fits_where_it_says(rig: Rig) -> None:
    """From much memory to none: the plans of a session, and what they hold on the device."""
    session = rig.session()
    demand = forecast(session.active, session.info, rig.host)
    session.release()
    seen = []
    for plan in demand._plans(NEVER):
        rig.room = demand.need(plan)
        rig.device.room = rig.room
        if plan in seen or demand.find_plan(rig.room) != plan or plan.pieces.batch:
            continue  # dearer than one that fits there as well
        seen.append(plan)
        rig.run()
        assert [plan.words in said for said in rig.comments] == [True] * (plan.between != NEVER)
        rig.host.residency.park()
    assert [plan.between for plan in seen][:1] == [NEVER]
    assert {plan.between for plan in seen} >= {NEVER, LAYER}


def test_a_host_keeps_free_what_the_plan_takes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one that loads its U-Net behind the controls: as much as is then chosen, and no more."""
    session = rig.session()
    assert session.info is not None
    demand = forecast(session.active, session.info, rig.host)
    unet = sum(one.nbytes for one in rig.base.module.parameters())
    ask = partial(measure_reserve, session.active, session.info, rig.host)
    exact = MemoryPlan(NEVER)
    beside = demand.unet + demand.after
    assert demand.loads
    most = ask(NEVER)
    assert demand.need(exact) - beside * SLACK <= most < demand.need(exact)
    sizes = []
    for plan in demand._plans(NEVER):
        rig.room = demand.need(plan)
        monkeypatch.setattr(memory_plan, "measure_allowed", lambda _device: unet + rig.room)
        sizes.append(ask(NEVER))
        place = settle_place(session.active, session.info, rig.host, NEVER, lambda _said: None)
        chosen = demand.find_plan(rig.room)
        assert (place.between, place.pieces) == (chosen.between, chosen.pieces)
        assert sizes[-1] <= rig.room
    assert max(sizes) == most
    assert min(sizes) < most
    rig.room = 2**40
    rig.run()
    assert ask(NEVER) == max(most - sum(rig.weights), 0)
    assert measure_reserve([], session.info, rig.host, NEVER) == 0
    monkeypatch.setattr(rig.host, "device", torch.device("cpu"))
    assert ask(NEVER) == 0


def test_clips_and_frames_are_known(rig: Rig) -> None:
    """What an extension puts in a hint's place counts, and rows that are frames stay together."""
    session = rig.session()
    session.active[0].replace_hint(torch.rand(5, 3, 64, 128))
    loads = forecast(session.active, session.info, rig.host).loads
    assert sorted((one.hints, one.together) for one in loads) in (
        [(1, 1), (6, 5)],
        [(2, 1), (5, 5)],
    )
    apart = {one.networks.rows_are_apart for one in discover() if one.name == "SparseCtrl"}
    assert apart == {False}


def test_nothing_is_counted_where_memory_is_plenty(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[None] = []
    monkeypatch.setattr(
        rig.host.residency, "find_room", lambda _device: asked.append(None) or 2**40
    )
    monkeypatch.setattr(memory_plan, "forecast", lambda *_: pytest.fail("nothing to count"))
    found = rig.run()
    assert all(torch.equal(a, b) for a, b in zip(found, rig.expected, strict=True))
    assert (len(asked), rig.comments) == (1, [])


def test_a_network_is_counted_once_for_all_of_its_kind(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = rig.networks
    calls: list[Any] = []
    monkeypatch.setattr(
        type(one), "rehearse", lambda _self, asked: calls.append(asked) or Footprint()
    )
    asked = [Asked(Size(5, 7), META), Asked(Size(5, 7), META, STRIPS), Asked(Size(7, 5), META)]
    for each in (*asked, *asked):
        rig.host.residency.find_footprint(one, each)
        rig.host.residency.find_footprint(two, each)
    assert calls == asked


def test_8_bits_are_chosen_only_where_allowed_and_said(rig: Rig) -> None:
    network = rig.networks[0]
    session = rig.session()
    rig.room = demand_room(rig, session)
    session.release()
    exact = rig.run()
    assert not network.stored
    assert all(torch.equal(a, b) for a, b in zip(exact, rig.expected, strict=True))
    made = Rig("SD1" if len(network.module.input_blocks) > 9 else "SDXL")
    for one in made.networks:
        one.may_shrink = True
    session = made.session()
    made.room = demand_room(made, session)
    near = made.run(session)
    assert [one.stored for one in made.networks] == ["8 bit", "8 bit"]
    assert "stored in 8 bits, which changes the picture slightly" in made.comments[0]
    assert "MB, since memory is short" in made.comments[1]
    outcome = [session.outcome_of(prepared) for prepared in session.prepared]
    session.end_pass(3)
    assert [one.stored for one in outcome] == ["8 bit"] * 3
    assert not any(torch.equal(a, b) for a, b in zip(near, rig.expected, strict=True))


def demand_room(rig: Rig, session: ControlSession) -> int:
    """Too little for networks to stay, and enough for such of 8 bits."""
    demand = forecast(session.active, session.info, rig.host)
    most = demand.need(MemoryPlan(WINDOW, LEAST))
    return most - 1


# ---- when memory runs out in spite of it ---------------------------------------------------


def test_an_evaluation_that_does_not_fit_is_made_in_pieces(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kind, rows = type(rig.networks[0]), []
    evaluate = kind.evaluate

    def scarce(self: Any, x: torch.Tensor, *rest: Any) -> Any:
        rows.append(len(x))
        if len(x) > 1:
            raise torch.cuda.OutOfMemoryError
        return evaluate(self, x, *rest)

    monkeypatch.setattr(kind, "evaluate", scarce)
    found = rig.run()
    assert rows == [4, 2, *[1] * 4, *[1] * 6, *[1] * 4]
    for one, expected in zip(found, rig.expected, strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-5)
    assert len(rig.comments) == 1
    assert "cuda:0 ran out of memory while tiny was evaluated" in rig.comments[0]
    notes = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert notes == [f"from now on {batch} at a time and hints in 8 strips" for batch in (2, 1)]


# ---- strips --------------------------------------------------------------------------------


def hint_block(width: int = 4) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, stride in enumerate((1, 1, 2, 1, 2, 1, 2, 1)):
        layers += [nn.Conv2d(3 if not number else width, width, 3, stride, 1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("height", [64, 72, 200, 205])
@pytest.mark.parametrize("strips", [2, 3, 8, 100])
@torch.no_grad()
def test_strips_give_the_same_numbers(height: int, strips: int) -> None:
    torch.manual_seed(1)
    block, pictures = hint_block(), torch.rand(2, 3, height, 40)
    assert find_reach(block) == (23, 8)
    found = run_in_strips(block, pictures, strips)
    torch.testing.assert_close(found, block(pictures), atol=1e-6, rtol=1e-6)


LOOKING_FURTHER = {
    "a norm": nn.GroupNorm(1, 3),
    "a mirror": nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
    "holes": nn.Conv2d(3, 3, 3, padding=2, dilation=2),
    "no border": nn.Conv2d(3, 3, 3),
    "an even kernel": nn.Conv2d(3, 3, 2, padding=1),
}


@pytest.mark.parametrize("layer", LOOKING_FURTHER)
@torch.no_grad()
def test_what_looks_further_is_not_cut(layer: str) -> None:
    block = nn.Sequential(LOOKING_FURTHER[layer], nn.SiLU())
    pictures = torch.rand(2, 3, 64, 8)
    assert find_reach(block) is None
    assert torch.equal(run_in_strips(block, pictures, 4), block(pictures))


# ---- the page ------------------------------------------------------------------------------


def test_the_page_is_that_of_the_code() -> None:
    """Its text, and what is chosen in a line of its table; the rest would take too long."""
    written = make_memory.PAGE.read_text(encoding="utf-8")
    for text in (make_memory.head(), make_memory.plans_head()):
        assert text in written, "run docs/make_memory.py"
    case = next(one for one in make_memory.CASES if (one.card, one.kind) == (8, "SDXL"))
    made, *_ = re.split(r"\d\.\d GB of each", make_memory.row_of(case))
    assert made in written, "run docs/make_memory.py"
