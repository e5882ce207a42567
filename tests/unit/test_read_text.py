"""Keys and values of the text: made once in a pass, and anew for whatever could change them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, prepared

from lib_controlnet import families
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import BaseModel, ControlMode, ControlNetUnionControlType
from lib_controlnet.families import residual
from lib_controlnet.families.residual import ResidualNetwork
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.read_text import ReadText, ReadTexts

PAIR = build_layout([1], 1, 2)
SIZE = (LATENT.height, LATENT.width)
KINDS = ("SD1", "SDXL")
READING = [
    pytest.param(family, kind, id=f"{family.name}-{kind}")
    for family in families.discover()
    for kind in KINDS
    if BaseModel(kind) in family.bases
    and not family.preprocessors
    and issubclass(family.networks, ResidualNetwork)
    and family.networks.keeps_text
]


@contextmanager
def counting(network: Any) -> Iterator[Counter[str]]:
    """How often each layer makes keys of the text."""
    made: Counter[str] = Counter()
    stops = []
    for name, layer in network.module.named_modules():
        if name.endswith("attn2.to_k"):

            def note(*_given: Any, name: str = name) -> None:
                made[name] += 1

            stops.append(layer.register_forward_hook(note))
    assert stops
    try:
        yield made
    finally:
        for stop in stops:
            stop.remove()


def sample(
    base: Any,
    units: list[Any],
    contexts: list[torch.Tensor],
    calls: Callable[[Any, Any], list[torch.Tensor]] = lambda run, context: [run(context)],
) -> list[torch.Tensor]:
    """An evaluation for each context."""
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base))
    call = support.inputs(base.name.removeprefix("tiny-"), size=SIZE)
    made: list[torch.Tensor] = []
    with torch.no_grad(), session.sampling(base.module):
        for number, context in enumerate(contexts):
            session.begin_evaluation(PAIR, number / len(contexts))

            def run(context: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
                given = {
                    name: None if value is None else value[rows] for name, value in call.items()
                }
                return base.module(**{**given, "context": context})

            made += calls(run, context)
    return made


def text_of(kind: str, seed: int) -> torch.Tensor:
    return support.inputs(kind, size=SIZE, seed=seed)["context"]


def unit_of(network: Any, **fields: Any) -> Any:
    return prepared(network, union_control_type=ControlNetUnionControlType.DEPTH, **fields)


@pytest.mark.parametrize(("family", "kind"), READING)
def test_keys_are_made_once_for_a_text_and_pictures_are_the_same(
    family: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = support.tiny_base(kind)
    network = family.tiny(base, 0)
    first, second = text_of(kind, 1), text_of(kind, 2)
    contexts = [first, first.clone(), second, second.clone(), first]
    with counting(network) as made:
        kept = sample(base, [unit_of(network)], contexts)
    assert set(made.values()) == {3}
    monkeypatch.setattr(residual.ReadTexts, "find", lambda _texts, _key, tokens: tokens)
    with counting(network) as made:
        plain = sample(base, [unit_of(network)], contexts)
    assert set(made.values()) == {5}
    assert all(map(torch.equal, kept, plain))


def test_a_text_that_is_overwritten_in_its_place_is_another() -> None:
    base = support.tiny_base("SD1")
    network = families_network(base)
    context = text_of("SD1", 1)
    expected = sample(base, [unit_of(network)], [context, context * 2])

    def overwrite(run: Any, given: torch.Tensor) -> list[torch.Tensor]:
        context.copy_(given)
        return [run(context)]

    found = sample(base, [unit_of(network)], [context.clone(), context * 2], overwrite)
    assert all(map(torch.equal, found, expected))


def families_network(base: Any) -> Any:
    return support.tiny_controlnet(base.name.removeprefix("tiny-"))


@pytest.mark.parametrize("mode", [ControlMode.BALANCED, ControlMode.CONTROL])
def test_calls_for_cond_and_uncond_rows_have_texts_of_their_own(mode: ControlMode) -> None:
    base = support.tiny_base("SD1")
    network = families_network(base)

    def one_by_one(run: Any, context: torch.Tensor) -> list[torch.Tensor]:
        return [run(context[row : row + 1], slice(row, row + 1)) for row in (0, 1)]

    context = text_of("SD1", 1)
    with counting(network) as made:
        sample(base, [unit_of(network, control_mode=mode)], [context] * 3, one_by_one)
    assert set(made.values()) == {1 if mode is ControlMode.CONTROL else 2}


def test_another_pass_makes_them_anew() -> None:
    base = support.tiny_base("SD1")
    network = families_network(base)
    with counting(network) as made:
        for _ in range(2):
            sample(base, [unit_of(network)], [text_of("SD1", 1)] * 2)
    assert set(made.values()) == {2}


def test_other_precision_is_made_anew_and_tokens_elsewhere_are_left() -> None:
    texts = ReadTexts()
    tokens = torch.randn(2, 3, 4)
    text = texts.find("a", tokens)
    assert isinstance(text, ReadText)
    layer = Layer()
    first = text.to(torch.device("cpu"), torch.float32).pair(layer)
    assert texts.find("a", tokens.clone()).pair(layer) is first
    assert text.to(torch.device("cpu"), torch.float16).pair(layer)[0].dtype is torch.float16
    assert texts.find("a", tokens.half()) is not text
    assert texts.find("a", tokens[:1]) is not text
    far = tokens.to("meta")
    assert texts.find("a", far) is far


class Layer:
    def read(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return context, context
