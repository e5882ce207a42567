"""The named curves of strengths over spatial transformers, against the table that states them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sessions import FakeHost, info, prepared
from support import tiny_base, tiny_controlnet

from lib_controlnet import families
from lib_controlnet.engine.bound import bind_unit
from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import UnitError
from lib_controlnet.families.base import FileFacts
from lib_controlnet.families.ip_adapter import IPAdapterFamily
from lib_controlnet.families.reference import ReferenceFamily
from lib_controlnet.families.t2i_adapter import T2IAdapterFamily
from lib_controlnet.units import infotext
from lib_controlnet.units.unit import parse_unit
from lib_controlnet.units.weight_types import BOTH, LayerCurve, WeightType, parse_curve

W, C = 0.8, 0.5


def spread(**parts: float) -> tuple[list[float], list[float]]:
    """For SD1 (6 input, 1 middle, 9 output) and SDXL (4, 1, 6)."""
    return tuple([parts["i"]] * i + [parts["m"]] + [parts["o"]] * o for i, o in ((6, 9), (4, 6)))  # type: ignore[return-value]


def at(sd1: dict[int, float], sdxl: dict[int, float], rest: float = 0.0) -> Any:
    return [sd1.get(t, rest) for t in range(16)], [sdxl.get(t, rest) for t in range(11)]


def by(share: Any) -> Any:
    return tuple([W * (0.05 + 0.95 * share(t, n)) for t in range(n)] for n in (16, 11))


STYLE1 = [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15]
EXPECTED = {
    "normal": spread(i=W, m=W, o=W),
    "ease in": by(lambda t, n: 1 - t / n),
    "ease out": by(lambda t, n: t / n),
    "ease in-out": by(lambda t, n: 1 - abs(t - n / 2) / (n / 2)),
    "reverse in-out": by(lambda t, n: abs(t - n / 2) / (n / 2)),
    "weak input": spread(i=0.2 * W, m=W, o=W),
    "weak output": spread(i=W, m=W, o=0.2 * W),
    "weak middle": spread(i=W, m=0.2 * W, o=W),
    "strong middle": spread(i=0.2 * W, m=W, o=0.2 * W),
    "style transfer": at(dict.fromkeys(STYLE1, W), {6: W}),
    "composition": at({4: 0.25 * W, 5: W}, {3: W}),
    "strong style transfer": at({4: 0.0, 5: 0.0}, {3: 0.0}, W),
    "style and composition": at(dict.fromkeys(STYLE1, W) | {4: 0.25 * C, 5: C}, {3: C, 6: W}),
    "strong style and composition": at({4: C, 5: C}, {3: C}, W),
    "only middle": spread(i=0, m=W, o=0),
}


def test_all_types_are_there() -> None:
    assert [kind.value for kind in WeightType] == [*list(EXPECTED)[:-1], "soft", "only middle"]


@pytest.mark.parametrize("name", EXPECTED)
def test_curve_is_that_of_the_table_on_both_bases(name: str) -> None:
    text = f"{name} {C}" if name in [kind.value for kind in BOTH] else name
    curve = parse_curve(text)
    assert curve is not None
    assert str(curve) == text
    for parts, expected in zip(((6, 1, 9), (4, 1, 6)), EXPECTED[name], strict=True):
        assert curve.strengths(W, parts) == pytest.approx(expected)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_unit_takes_the_name_and_the_parameters_give_it_back(name: str) -> None:
    unit = parse_unit({"advanced_weighting": name.upper(), "module": "canny"})
    assert unit.advanced_weighting == LayerCurve(WeightType.parse(name))
    assert infotext.parse(infotext.serialize(unit))["advanced_weighting"] == unit.advanced_weighting


@pytest.mark.parametrize("text", ["", "style", "normal 0.5", "style and composition 3", "0.5", "²"])
def test_other_text_is_no_type(text: str) -> None:
    assert parse_curve(text) is None


def test_the_curve_reaches_the_network_and_is_refused_by_others() -> None:
    for kind, count in (("SD1", 16), ("SDXL", 11)):
        base = tiny_base(kind)
        curve = LayerCurve(WeightType.STYLE_AND_COMPOSITION, C)
        unit = prepared(IPAdapterFamily().tiny(base), weight=W, advanced_weighting=curve)
        bound = bind_unit(unit, info(base), FakeHost(), print)
        assert not isinstance(bound, str)
        expected = EXPECTED["style and composition"][count == 11]
        assert bound.control.terms.strengths == pytest.approx(expected)
        other = prepared(tiny_controlnet(kind), advanced_weighting=curve)
        with pytest.raises(UnitError, match=r"'style and composition 0.5', which means nothing to"):
            bind_unit(other, info(base), FakeHost(), print)


F = 0.825
RESIDUAL: dict[str, Callable[[int], list[float]]] = {
    # by the number of layers, the middle block's last
    "normal": lambda n: [1.0] * n,
    "ease in": lambda n: [0.05 + 0.95 * (1 - t / n) for t in range(n)],
    "ease out": lambda n: [0.05 + 0.95 * t / n for t in range(n)],
    "ease in-out": lambda n: [0.05 + 0.95 * (1 - abs(2 * t / n - 1)) for t in range(n)],
    "reverse in-out": lambda n: [0.05 + 0.95 * abs(2 * t / n - 1) for t in range(n)],
    "weak input": lambda n: [0.2] * (n - 1) + [1.0],
    "weak middle": lambda n: [1.0] * (n - 1) + [0.2],
    "strong middle": lambda n: [0.2] * (n - 1) + [1.0],
    "soft": lambda n: [F ** (n - 1 - t) for t in range(n)],
    "only middle": lambda n: [0.0] * (n - 1) + [1.0],
}
LEVELS = {name: RESIDUAL[name] for name in list(RESIDUAL)[:5]} | {
    "soft": lambda _n: [0.25, 0.62, 0.825, 1.0]
}


def strengths(base: Any, network: Any, **fields: Any) -> tuple[float, ...]:
    bound = bind_unit(prepared(network, **fields), info(base), FakeHost(), print)
    assert not isinstance(bound, str)
    return bound.control.terms.strengths


@pytest.mark.parametrize("name", [kind.value for kind in WeightType])
def test_a_type_spreads_over_the_layers_of_other_families_or_is_refused(name: str) -> None:
    base = tiny_base("SD1")
    for network, shares in (
        (tiny_controlnet("SD1"), RESIDUAL),
        (T2IAdapterFamily().tiny(base), LEVELS),
        (ReferenceFamily().make(base, "reference_only"), {}),
    ):
        fields = {"weight": W, "advanced_weighting": parse_curve(name)}
        if name in shares:
            expected = [W * share for share in shares[name](network.layers)]
            assert strengths(base, network, **fields) == pytest.approx(expected)
        else:
            advice = "one of normal, " if shares else "leave it out"
            with pytest.raises(UnitError, match=f"'{name}', which means nothing .* {advice}"):
                strengths(base, network, **fields)


def test_soft_is_the_control_modes_fall_off() -> None:
    for kind in ("SD1", "SDXL"):
        base, network = tiny_base(kind), tiny_controlnet(kind)
        soft = LayerCurve(WeightType.SOFT)
        mode = strengths(base, network, weight=W, control_mode=ControlMode.PROMPT)
        assert strengths(base, network, weight=W, advanced_weighting=soft) == mode


@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("ControlNet", (12, 1, 0)),
        ("SparseCtrl", (12, 1, 0)),
        ("T2I-Adapter", (4, 0, 0)),
        ("IP-Adapter", (6, 1, 9)),
        ("Reference", None),
        ("ControlNet-LLLite", None),
        ("", None),
    ],
)
def test_the_layers_of_a_model_are_described_for_the_panel(
    family: str, parts: tuple[int, ...] | None
) -> None:
    base = tiny_base("SD1")
    found = families.describe_layers(FileFacts(family=family), base)
    assert families.describe_layers(FileFacts(family=family), None) is None
    assert (found and found.parts) == parts
    if found is None:
        return
    told = json.loads(json.dumps(found.describe()))
    before, inside, behind = found.parts
    assert len(told["names"]) == len(set(told["names"])) == sum(found.parts)
    assert told["names"][0] == "input 0"
    assert told["names"][before : before + inside] == ["middle"] * inside
    assert all(len(shares) == sum(found.parts) for shares in told["shapes"].values())
    (networks,) = (one.networks for one in families.discover() if one.name == family)
    assert list(told["shapes"]) == [str(kind) for kind in networks.weight_types]
    assert told["shapes"]["normal"] == [1.0] * sum(found.parts)
