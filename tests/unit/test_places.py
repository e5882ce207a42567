"""The places of a U-Net, asked for by hand: what no family uses yet holds as well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import support
import torch

from lib_controlnet.engine.places import Call, Places
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.step import Row, RowLayout, StepContext, StepCursor
from lib_controlnet.engine.unet import describe_unet
from lib_controlnet.errors import HostError

ROWS = RowLayout((Row(0, is_cond=True), Row(0, is_cond=False)))


@pytest.fixture(scope="module", params=["SD1", "SDXL"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@torch.no_grad()
def call(places: Places, arguments: dict[str, torch.Tensor | None], style: str) -> torch.Tensor:
    """One announced U-Net call, in a form that some host uses."""
    places.cursor.begin(ROWS, 0.0)
    x, timesteps, context, y = (arguments[name] for name in ("x", "timesteps", "context", "y"))
    with places.hook():
        if style == "positional":
            return places.unet(x, timesteps, context, y)
        if style == "mixed":
            return places.unet(x, timesteps, context=context, y=y)
        return places.unet(x=x, timesteps=timesteps, context=context, y=y)


def places_on(unet: torch.nn.Module) -> Places:
    return Places(unet, StepCursor(), Residency(1, 0))


def test_a_compiled_unet_is_refused() -> None:
    compiled = torch.nn.Module()
    compiled._orig_mod = support.tiny_base("SD1").module  # as `torch.compile` wraps it
    with pytest.raises(HostError, match="compiled"):
        describe_unet(compiled)


@pytest.mark.parametrize("style", ["positional", "mixed", "named"])
@pytest.mark.parametrize(("kind", "name"), [("SD1", "context"), ("SDXL", "context"), ("SDXL", "y")])
def test_conditions_are_changed_however_they_are_passed(kind: str, style: str, name: str) -> None:
    unet = support.tiny_base(kind).module
    given = support.inputs(kind, rows=2, size=(8, 8))
    others = {**given, name: given[name] * 0.5}
    expected = call(places_on(unet), others, style)
    assert not torch.equal(call(places_on(unet), given, style), expected)
    places = places_on(unet)

    def change(_step: StepContext, present: Call) -> None:
        setattr(present, name, others[name])

    places.call(change)
    assert torch.equal(call(places, given, style), expected)


def test_additions_to_a_module_come_from_its_own_input_and_sum(kind: str) -> None:
    unet = support.tiny_base(kind).module
    given = support.inputs(kind, rows=2, size=(8, 8))
    path = next(name for name, _module in unet.named_modules() if name.endswith("attn1.to_q"))
    seen: list[torch.Tensor] = []

    def add(tokens: torch.Tensor, _step: StepContext) -> torch.Tensor:
        seen.append(tokens)
        return 0.1 * tokens

    twice, once = places_on(unet), places_on(unet)
    twice.module(path, before=add)
    twice.module(path, before=add)
    once.module(path, before=lambda tokens, _step: 0.1 * tokens + 0.1 * tokens)
    outputs = [call(places, given, "named") for places in (twice, once)]
    assert torch.equal(seen[0], seen[1])
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)


def test_outputs_are_chained_and_the_module_can_be_called_again(kind: str) -> None:
    unet = support.tiny_base(kind).module
    given = support.inputs(kind, rows=2, size=(8, 8))
    plain = call(places_on(unet), given, "named")
    path = next(name for name, _module in unet.named_modules() if name.endswith("attn1.to_v"))
    order: list[str] = []
    repeated: list[torch.Tensor] = []

    def double(
        output: torch.Tensor, _step: StepContext, again: Callable[[], torch.Tensor]
    ) -> torch.Tensor | None:
        if order.count("double") != len(repeated):  # called by itself
            return None
        order.append("double")
        repeated.append(again() * 2)
        assert torch.equal(repeated[-1], output)  # the module's own, halved
        return output * 2

    def halve(output: torch.Tensor, _step: StepContext, _again: object) -> torch.Tensor:
        order.append("halve")
        return output / 2

    places = places_on(unet)
    places.module(path, after=double)
    places.module(path, after=halve)
    assert torch.equal(call(places, given, "named"), plain)
    assert order == ["double", "halve", "halve"]
    assert not unet.get_submodule(path)._forward_hooks


def test_a_layer_beside_a_layer_is_a_change_of_its_weights(kind: str) -> None:
    """Also where something else adds to what both read."""
    unet = support.tiny_base(kind).module
    given = support.inputs(kind, rows=2, size=(8, 8))
    path = next(name for name, _module in unet.named_modules() if name.endswith("attn1.to_q"))
    layer = unet.get_submodule(path)
    kept = layer.weight.detach().clone()
    change = 0.3 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(1))

    def steer(places: Places) -> torch.Tensor:
        places.module(path, before=lambda tokens, _step: 0.1 * tokens)
        return call(places, given, "named")

    plain = steer(places_on(unet))
    places = places_on(unet)
    for _ in range(2):
        places.module(path, beside=lambda tokens, _step: tokens @ (change / 2).T)
    steered = steer(places)
    with torch.no_grad():
        layer.weight += change
        expected = steer(places_on(unet))
        layer.weight.copy_(kept)
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(steered, plain, atol=1e-3)
