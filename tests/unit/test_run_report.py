"""What the answer tells of a generation's units: steps, time, memory, and what did nothing."""

from __future__ import annotations

from typing import Any

import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, prepared

from lib_controlnet.engine import meter
from lib_controlnet.engine.meter import Meter, measure, time_calls
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlMode, HiResOption, OnError, Speed
from lib_controlnet.host.a1111.rows import build_layout

ROWS = build_layout([1], 1, 2)
STEPS = 4


@pytest.fixture(scope="module")
def base() -> Any:
    return support.tiny_base("SD1")


@pytest.fixture(scope="module")
def network(base: Any) -> Any:
    return support.tiny_controlnet("SD1", unet=base.module)


def sample(session: ControlSession, base: Any, **of_pass: Any) -> None:
    session.begin_pass(info(base, **of_pass))
    arguments = support.inputs("SD1", rows=2, size=(LATENT.height, LATENT.width))
    with torch.no_grad(), session.sampling(base.module):
        for step in range(STEPS):
            session.begin_evaluation(ROWS, step / STEPS)
            base.module(**arguments)
    session.end_pass(STEPS)


def told(*units: Any, base: Any, **of_pass: Any) -> list[dict[str, Any]]:
    session = ControlSession(FakeHost(), units)
    sample(session, base, **of_pass)
    return session.report.describe()["units"]


def test_a_unit_tells_what_it_ran(base: Any, network: Any) -> None:
    (unit,) = told(prepared(network, index=2), base=base)
    (made,) = unit.pop("passes")
    assert unit == {
        **{"unit": 2, "preprocessor": "none", "map": [128, 64], "model": "tiny"},
        **{"family": "ControlNet", "base": "SD1", "memory": network.nbytes},
    }
    assert made.pop("ms_per_step") > 0
    assert made == {"pass": "first", "size": [128, 64], "steps": 4, "of": 4, "timed": "calls"}


CASES: dict[str, tuple[dict[str, Any], int, str]] = {
    # fields of the unit, evaluations in which it acted, why it did nothing
    "half": ({"guidance_end": 0.5}, 2, ""),
    "cond only": ({"control_mode": ControlMode.CONTROL}, 4, ""),
    "weight 0": ({"weight": 0.0}, 0, "its weight is 0"),
    "between steps": ({"guidance_start": 0.3, "guidance_end": 0.4}, 0, "none of the 4 evaluations"),
    "the other pass": ({"hr_option": HiResOption.HIGH_RES_ONLY}, 0, "it acts in another pass"),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_are_those_in_which_it_acted(case: str, base: Any, network: Any) -> None:
    fields, steps, reason = CASES[case]
    beside = prepared(network, seed=4, index=1)
    unit, other = told(prepared(network, **fields), beside, base=base, has_hires=True)
    assert sum(made["steps"] for made in unit["passes"]) == steps
    assert unit.get("skipped", "").startswith(reason)
    assert ("skipped" in unit) is bool(reason)
    assert other["passes"][0]["steps"] == STEPS


def test_passes_add_up_and_hires_stands_apart(base: Any, network: Any) -> None:
    unit = prepared(network, hr_option=HiResOption.LOW_RES_ONLY)
    session = ControlSession(FakeHost(), [unit])
    for _picture in range(2):
        sample(session, base, has_hires=True)
        sample(session, base, has_hires=True, is_hires=True)
    (found,) = session.report.describe()["units"]
    (made,) = found["passes"]
    assert (made["pass"], made["steps"], made["of"]) == ("first", 2 * STEPS, 2 * STEPS)
    assert "skipped" not in found
    turn = session.follow()
    turn.take([prepared(network)])
    sample(turn, base, has_hires=True, is_hires=True)
    assert [one["pass"] for one in turn.report.describe()["units"][0]["passes"]] == [
        "first",
        "hires",
    ]


def test_what_is_reused_is_told(base: Any, network: Any) -> None:
    (unit,) = told(prepared(network, speed=Speed.FAST), base=base)
    assert unit["passes"][0]["evaluated"] <= STEPS


def test_a_unit_that_fails_is_told_with_its_reason(base: Any, network: Any) -> None:
    bad = prepared(network, advanced_weighting=(1.0, 2.0))
    session = ControlSession(FakeHost(), [bad, prepared(network, index=1)], OnError.SKIP)
    sample(session, base)
    failed, ran = session.report.describe()["units"]
    assert failed["unit"] == 0
    assert "advanced_weighting" in failed["skipped"]
    assert ran["passes"][0]["steps"] == STEPS


def test_units_in_one_evaluation_share_its_time(base: Any, network: Any) -> None:
    units = [prepared(network, seed=n, index=n) for n in range(2)]
    one, two = told(*units, base=base)
    assert one["passes"][0]["ms_per_step"] == two["passes"][0]["ms_per_step"]


class FakeEvent:
    """Stands for a mark in a device's work; reading it counts."""

    made: list[FakeEvent] = []
    waits = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.made.append(self)

    def record(self) -> None:
        self.time = len(self.made)

    def synchronize(self) -> None:
        type(self).waits += 1

    def elapsed_time(self, end: FakeEvent) -> float:
        return 10.0


def test_a_device_is_waited_for_once_the_pass_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter.torch.cuda, "Event", FakeEvent)
    meters = [Meter(), Meter()]
    for _step in range(3):
        with measure(meters, torch.device("cuda")):
            pass
    assert FakeEvent.waits == 0
    assert meters[0].is_of_device
    assert [one.read() for one in meters] == pytest.approx([0.015, 0.015])
    assert [one.read() for one in meters] == pytest.approx([0.015, 0.015]), "read once"


def test_calls_without_units_stay_themselves() -> None:
    assert time_calls((), sample) is sample
