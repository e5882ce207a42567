"""The curve of a unit's strength over the steps: its texts, its passes, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, prepared

from lib_controlnet.engine.memory_plan import find_resting, forecast
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.window import Window
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.units import infotext, overrides
from lib_controlnet.units.unit import parse_unit
from lib_controlnet.units.weight_curve import MAX_POINTS, SHAPES, WeightCurve, parse_weight_curve

PAIR = build_layout([1], 1, 2)
TEXTS = {
    "0.2@0.1, 0.8@0.5": "0.2@0.1, 0.8@0.5",
    "0.8@.5,0.2@0.1": "0.2@0.1, 0.8@0.5",
    "1@0, 1@0.5, 0@0.5": "1@0, 1@0.5, 0@0.5",
    "0@0.5, 1@0, 1@0.5": "1@0, 0@0.5, 1@0.5",
    "2e-1@1e-1": "0.2@0.1",
    "linear": "1@0, 0@1",
    "Ease  In": "0@0, 0.0625@0.25, 0.25@0.5, 0.5625@0.75, 1@1",
    "ease out": "1@0, 0.5625@0.25, 0.25@0.5, 0.0625@0.75, 0@1",
    "pulse": "0@0, 1@0.5, 0@1",
    "1@0|1@0": "1@0",
    "linear | pulse": "1@0, 0@1 | 0@0, 1@0.5, 0@1",
    "linear |": "1@0, 0@1 |",
    "None | 0.5@0": "| 0.5@0",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_and_written_as_points(text: str) -> None:
    found = parse_weight_curve(text)
    assert str(found) == TEXTS[text]
    assert parse_weight_curve(str(found)) == found
    unit = parse_unit({"module": "canny", "weight_curve": text})
    assert unit.weight_curve == found
    written = infotext.serialize(unit)
    assert "Control Mode: Balanced, Weight Curve: " in written
    assert infotext.parse(written)["weight_curve"] == found
    assert infotext.parse_text(
        f"Steps: 3, ControlNet 0: {infotext._quote(written)}, Size: 1x1"
    ) == {0: infotext.parse(written)}


def test_the_longest_curve_survives_the_parameters() -> None:
    thirds = tuple((k / 3 / MAX_POINTS, (k + 1) / 97) for k in range(MAX_POINTS))
    curve = WeightCurve(thirds, thirds[1:])
    written = infotext.serialize(parse_unit({"weight_curve": curve}))
    assert len(written) < infotext.MAX_CHARACTERS
    assert infotext.parse(written)["weight_curve"] == curve


def test_other_programs_hold_it_as_text() -> None:
    unit = ControlNetUnit.from_dict({"weight_curve": [[0, 1], [1, 0]]})
    assert unit.weight_curve == "1@0, 0@1"
    assert (
        parse_unit(unit).weight_curve
        == parse_unit(ControlNetUnit(weight_curve="linear")).weight_curve
    )
    assert ControlNetUnit.parse(unit.serialize()).weight_curve == WeightCurve(
        *[SHAPES["linear"]] * 2
    )
    assert ControlNetUnit().weight_curve is None
    named = ControlNetUnit.from_dict({"advanced_weighting": "SOFT"})
    assert named.advanced_weighting == "soft"


def test_scripts_set_it_for_all_units_or_each() -> None:
    units = [parse_unit({"weight_curve": "pulse"}), parse_unit({})]
    for value, expected in {
        "linear": ["1@0, 0@1"] * 2,
        (None, "0.5@0"): [str(units[0].weight_curve), "0.5@0"],
    }.items():
        given = list(value) if isinstance(value, tuple) else value
        found = overrides.apply(units, {"weight_curve": given})
        assert [str(unit.weight_curve) for unit in found] == expected


@pytest.fixture(scope="module")
def base() -> Any:
    return support.tiny_base("SD1")


@pytest.fixture(scope="module")
def network() -> Any:
    return support.tiny_controlnet("SD1")


def unit(network: Any, text: str = "", **fields: Any) -> Any:
    return prepared(network, weight_curve=parse_weight_curve(text), **fields)


@torch.no_grad()
def sample(base: Any, *units: Any, progress: float = 0.5, **fields: Any) -> torch.Tensor:
    session = ControlSession(FakeHost(), list(units))
    session.begin_pass(info(base, **fields))
    with session.sampling(base.module):
        session.begin_evaluation(PAIR, progress)
        arguments = support.inputs("SD1", rows=2, size=(LATENT.height, LATENT.width))
        return base.module(**arguments)


def test_each_pass_has_its_side(base: Any, network: Any) -> None:
    hires = {"has_hires": True, "is_hires": True}
    first, second, plain = (sample(base, unit(network, weight=w)) for w in (0.25, 0.75, 1.0))
    both = unit(network, "0.25@0 | 0.75@0")
    assert torch.equal(sample(base, both), first)
    assert torch.equal(sample(base, both, **hires), second)
    assert torch.equal(sample(base, unit(network, "0.25@0"), **hires), first)
    assert torch.equal(sample(base, unit(network, "0.25@0 |"), **hires), plain)


def test_weights_per_layer_are_multiplied_alike(base: Any, network: Any) -> None:
    layers = tuple(k / 8 for k in range(network.layers))
    curved = sample(base, unit(network, "0.5@0", advanced_weighting=layers))
    halves = sample(base, unit(network, advanced_weighting=tuple(one / 2 for one in layers)))
    assert torch.equal(curved, halves)


def test_units_with_curves_of_their_own_share_an_evaluation(base: Any, network: Any) -> None:
    calls: list[int] = []
    handle = network.module.middle_block.register_forward_pre_hook(
        lambda _m, args: calls.append(len(args[0]))
    )
    units = [unit(network, text) for text in ("1@0, 0@1", "0@0, 1@1", "0@0.5, 1@1")]
    found = sample(base, *units)
    handle.remove()
    assert calls == [2], "one picture, one network: evaluated once; the third does not act here"
    torch.testing.assert_close(found, sample(base, unit(network)), rtol=1e-4, atol=1e-5)


def test_a_curve_of_zeros_is_said_and_one_that_no_step_meets(base: Any, network: Any) -> None:
    zeros = unit(network, "1@0.5, 0@0.5", guidance_start=0.5)
    missed = unit(network, "0@0, 0@0.9, 1@1")
    session = ControlSession(FakeHost(), [zeros, missed])
    session.begin_pass(info(base))
    assert [bound.part.prepared for bound in session.units] == [missed]
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(PAIR, 0.0)
        base.module(**support.inputs("SD1", rows=2, size=(LATENT.height, LATENT.width)))
    session.end_pass(1)
    session.say_idle()
    said = " ".join(session.comments)
    assert "its weight_curve (1@0.5, 0@0.5) is 0 from its start to its end" in said
    assert "guidance_start 0 and guidance_end 1, where its weight_curve is not 0" in said


def test_networks_rest_where_a_curve_is_0(base: Any, network: Any) -> None:
    session = ControlSession(FakeHost(), [unit(network, "1@0, 1@0.5, 0@0.5, 0@0.8, 1@1")])
    session.begin_pass(info(base))
    rests = [bool(find_resting(session.active, k / 10)) for k in range(10)]
    assert rests == [False] * 5 + [True] * 4 + [False]
    (load,) = forecast(session.active, info(base), FakeHost()).loads
    assert load.windows == (Window(0.0, 0.5), Window(0.8, 1.0))
