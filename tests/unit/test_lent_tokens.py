"""A network that reads another unit's tokens in the place of the text."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, prepared

from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide, GuideKind
from lib_controlnet.engine.places import Places
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.step import StepContext
from lib_controlnet.enums import ControlNetUnionControlType, HiResOption
from lib_controlnet.families.controlnet import INSTANT_ID
from lib_controlnet.families.instant_id import InstantIdControl
from lib_controlnet.families.t2i_adapter import T2IAdapterFamily
from lib_controlnet.families.union import UnionFamily
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.read_text import ReadText

PAIR = build_layout([1], 1, 2)


class Lender(ActiveControl):
    """Tokens of one number for cond rows, and its negative for the others; acts nowhere."""

    lends = True
    network: LendingNetwork

    def lend_tokens(self, step: StepContext, rows: tuple[int, ...]) -> torch.Tensor:
        width = 0 if step.context is None else step.context.shape[-1]
        signs = torch.tensor([1.0 if step.rows[row].is_cond else -1.0 for row in rows])
        return self.network.number * signs[:, None, None].expand(-1, 3, width)

    def attach(self, places: Places) -> None:
        places.call(lambda _step, _call: setattr(self, "acted", True))


class LendingNetwork(ControlNetwork):
    name = family = "Faces"
    layers = 1
    wants = Guide(GuideKind.NOTHING)

    def __init__(self, number: float) -> None:
        self.number = number
        self.module = torch.nn.Module()

    def bind(self, terms: Any, guide: Any, info: Any) -> Lender:
        del guide, info
        return Lender(self, terms)


@pytest.fixture(scope="module", params=["SD1", "SDXL"])
def base(request: pytest.FixtureRequest) -> Any:
    return support.tiny_base(request.param)


@pytest.fixture(scope="module")
def network(base: Any) -> Any:
    return support.tiny_controlnet(base.name.split("-")[1], unet=base.module)


@pytest.fixture
def reader(network: Any) -> Any:
    """A network of the test's own, on weights that all share."""
    made = copy.copy(network)
    made.partner = "Faces"
    return made


def run(base: Any, *units: Any) -> tuple[torch.Tensor, list[str]]:
    """The U-Net's output with the units, and what is said."""
    session = ControlSession(FakeHost(), list(units))
    session.begin_pass(info(base))
    size = (LATENT.height, LATENT.width)
    given = support.inputs(base.name.split("-")[1], rows=2, size=size)
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(PAIR, 0.0)
        output = base.module(**given)
    session.end_pass(1)
    return output, session.comments


def _reading(base: Any, network: Any, number: float) -> torch.Tensor:
    """The output where the network is given a context of one number by hand."""
    evaluate = network.evaluate

    def replaced(x: Any, t: Any, context: ReadText, *rest: Any) -> Any:
        signs = torch.tensor([1.0, -1.0])[:, None, None]
        return evaluate(x, t, number * signs.expand(-1, 3, context.tokens.shape[-1]), *rest)

    network.evaluate, network.partner = replaced, ""
    try:
        return run(base, prepared(network))[0]
    finally:
        del network.evaluate
        network.partner = "Faces"


def test_tokens_stand_in_the_place_of_the_text(base: Any, reader: Any) -> None:
    wanted = _reading(base, reader, 0.5)
    faces = LendingNetwork(0.5)
    for units in ([faces, reader], [reader, faces]):
        output, said = run(base, *(prepared(network) for network in units))
        assert torch.equal(output, wanted)
        assert not said


def test_the_nearest_unit_before_it_lends(base: Any, reader: Any) -> None:
    one, two = LendingNetwork(0.5), LendingNetwork(-0.25)
    for units, number in (([one, reader, two], 0.5), ([one, two, reader], -0.25)):
        output, _said = run(base, *(prepared(network) for network in units))
        assert torch.equal(output, _reading(base, reader, number))


def test_without_a_lender_it_is_said(base: Any, reader: Any) -> None:
    reader.partner = ""
    plain, said = run(base, prepared(reader))
    assert not said
    reader.partner = "Faces"
    output, said = run(base, prepared(reader))
    assert torch.equal(output, plain)
    (sentence,) = said
    assert "looks like the network of Faces" in sentence
    idle = prepared(LendingNetwork(1.0), weight=0.0)
    assert run(base, prepared(reader), idle)[1][0] == sentence


class Adapter(InstantIdControl):
    """InstantID's adapter, of tokens that nobody has to make."""

    lend_tokens = Lender.lend_tokens
    attach = Lender.attach
    sort_key = Lender.sort_key

    def __init__(self, network: Any, terms: Any) -> None:
        ActiveControl.__init__(self, network, terms)

    def release(self) -> None:
        return


class AdapterNetwork(LendingNetwork):
    name = "adapter"
    family = INSTANT_ID

    def bind(self, terms: Any, guide: Any, info: Any) -> Adapter:
        del guide, info
        return Adapter(self, terms)


ALONE = "no such unit acts here"
UNREAD = "no control model reads its face"
BY_PICTURE = "by its picture, so it reads the face of unit 0"
NEAREST = "it reads the face of unit 0, the nearest unit"
ADAPTER, IDLE, HIRES = {}, {"weight": 0.0}, {"hr_option": HiResOption.HIGH_RES_ONLY}
LATE = {"guidance_start": 0.5}
MADE, SHOWN = {"partner": INSTANT_ID}, {"partner": INSTANT_ID, "is_given": True}
GIVEN, OTHER = {"is_given": True}, {}
PAIRS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str, list[str]]] = {
    # adapters, what is known of the network's picture, the network's own partner, what is said
    "by preprocessor": ([ADAPTER], MADE, "", []),
    "by name": ([ADAPTER], GIVEN, INSTANT_ID, []),
    "by picture": ([ADAPTER], SHOWN, "", [BY_PICTURE]),
    "by picture and name": ([ADAPTER], SHOWN, INSTANT_ID, []),
    "by nothing": ([ADAPTER], GIVEN, "", [UNREAD]),
    "another preprocessor's": ([ADAPTER], OTHER, "", []),
    "two adapters": ([ADAPTER, ADAPTER], MADE, "", [NEAREST]),
    "two adapters, by nothing": ([ADAPTER, ADAPTER], GIVEN, "", [UNREAD, UNREAD]),
    "no adapter, by preprocessor": ([], MADE, "", [ALONE]),
    "no adapter, by picture": ([], SHOWN, "", [ALONE]),
    "no adapter, by nothing": ([], GIVEN, "", []),
    "an adapter of weight 0": ([IDLE], MADE, "", [ALONE]),
    "an adapter for the other pass": ([HIRES], SHOWN, "", [ALONE]),
    "an adapter of another window": ([LATE], MADE, "", []),
}


@pytest.mark.parametrize("order", [1, -1], ids=["before", "behind"])
@pytest.mark.parametrize("case", PAIRS)
def test_who_reads_the_face_is_said_where_it_is_a_guess(
    base: Any, reader: Any, case: str, order: int
) -> None:
    adapters, picture, partner, expected = PAIRS[case]
    reader.partner = partner
    unit = dataclasses.replace(prepared(reader), **picture)
    unit.unit = dataclasses.replace(unit.unit, index=9)
    units = [*(prepared(AdapterNetwork(0.5), **fields) for fields in adapters), unit]
    session = ControlSession(FakeHost(), units[::order])
    session.begin_pass(info(base, has_hires=True))
    said = sorted(session.comments)
    assert len(said) == len(set(expected))
    for sentence, part in zip(said, sorted(set(expected)), strict=True):
        assert part in sentence
    (control,) = (c for c in session.active if c.network is reader)
    is_read = bool(adapters) and bool(picture.get("partner") or partner)
    assert (control.lender is not None) is (is_read and ALONE not in expected)


@pytest.mark.parametrize("family", [UnionFamily, T2IAdapterFamily], ids=lambda one: one.name)
def test_a_picture_for_a_partner_is_said_to_others(base: Any, family: Any) -> None:
    depth = ControlNetUnionControlType.DEPTH
    unit = prepared(family().tiny(base), union_control_type=depth)
    said = []
    for partner in ("", INSTANT_ID):
        unit.partner = partner
        said.append(run(base, prepared(AdapterNetwork(0.5)), unit)[1])
    assert said[0] == []
    (sentence,) = said[1]
    assert "its picture is made for the network of InstantID" in sentence
