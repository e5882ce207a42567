"""Residuals that are reused: when a network is evaluated, and when it has to be."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any

import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, prepared

from lib_controlnet.engine.injection import RegionMask
from lib_controlnet.engine.key_steps import PACES
from lib_controlnet.engine.memory import Pieces
from lib_controlnet.engine.network import Terms
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.step import StepCursor
from lib_controlnet.engine.window import Schedule, Window
from lib_controlnet.enums import BaseModel, Speed
from lib_controlnet.families.residual import ResidualControl, ResidualNetwork, _Evaluation
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.settings import DEFAULTS

PAIR = build_layout([1], 1, 2)
REUSING = list(PACES)
TEXTS = torch.arange(4.0).reshape(4, 1, 1).expand(4, 3, 5)
NOISE = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(1))
PICTURE = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(2))


class Network(ResidualNetwork):
    """Two residuals that tell which evaluation they are of, and their rows."""

    name, family, base, layers = "stub", "Stub", BaseModel.SD1, 2

    def __init__(self) -> None:
        self.module = torch.nn.Module()
        self.calls: list[torch.Tensor] = []

    def encode_hint(self, hint: torch.Tensor) -> torch.Tensor:
        return hint.clone()

    def evaluate(self, x: Any, timesteps: Any, context: Any, *_rest: Any) -> list[Any]:
        self.calls.append(context[:, 0, 0])
        made = (100.0 * len(self.calls) + context[:, 0, 0])[:, None, None, None]
        return [made.expand(-1, 2, 4, 4), made.expand(-1, 2, 2, 2)]


class Memory:
    """Counts how often a network is asked for."""

    def __init__(self) -> None:
        self.asked = 0
        self.room: int | None = None

    @contextmanager
    def on_device(self, _network: Any) -> Any:
        self.asked += 1
        yield

    pieces = Pieces()

    def step_down(self, _network: Any, _rows: int) -> None:
        pass

    def spare(self, _kept: Any) -> None:
        pass

    def find_room(self, _device: Any) -> int | None:
        return self.room


class Run:
    """A run of a sampler on units of one network, without a U-Net."""

    def __init__(self, *speeds: Speed, steps: int = 20, order: int = 1, **terms: Any) -> None:
        self.network, self.memory, self.cursor = Network(), Memory(), StepCursor()
        self.schedule = Schedule(steps, order)
        shown = {"strengths": (1.0, 1.0), "guide_key": "hint"} | terms
        self.controls = [
            ResidualControl(
                self.network, Terms("unit", speed=speed, **shown), torch.zeros(1, 3, 8, 8)
            )
            for speed in speeds
        ]
        self.evaluation = _Evaluation(self.controls, self.memory)
        self.number = 0

    def begin(self, layout: Any = PAIR) -> None:
        progress = self.number // self.schedule.order / self.schedule.steps
        self.cursor.begin(layout, progress, self.schedule)
        self.number += 1

    def call(self, rows: Any = (0, 1), **changed: Any) -> list[Any]:
        """A U-Net call for some rows of the evaluation that has begun."""
        done = (self.number - 1) / self.schedule.evaluations
        index = list(rows)
        given = {
            "x": math.sin(done) * PICTURE[index] + math.cos(done) * NOISE[index],
            "timesteps": torch.full((len(index),), 999.0 * (1 - done)),
            "context": TEXTS[index],
            "y": None,
        } | changed
        found = self.cursor.next_rows(len(index))
        assert found is not None
        return self.evaluation.add(self.cursor.describe(**given, rows=found))

    def all(self, **changed: Any) -> list[int]:
        """The evaluations of the whole run that needed the network."""
        made = []
        while self.number < self.schedule.evaluations:
            before = len(self.network.calls)
            self.begin()
            self.call(**changed)
            made += [self.number - 1] * (len(self.network.calls) - before)
        return made


EVALUATED = {
    (Speed.EXACT, 10, 1): 10,
    (Speed.FAST, 10, 1): 3,
    (Speed.FAST, 20, 1): 7,
    (Speed.FAST, 50, 1): 10,
    (Speed.FAST, 10, 2): 7,
    (Speed.FASTEST, 10, 1): 2,
    (Speed.FASTEST, 20, 1): 4,
    (Speed.FASTEST, 50, 1): 6,
    (Speed.FASTEST, 5, 1): 2,
    (Speed.FASTEST, 1, 1): 1,
}


def test_reused_residuals_get_the_factor_of_the_present_step() -> None:
    fall = Window(curve=((0.0, 1.0), (0.1, 0.5)))
    runs = [Run(Speed.FAST), Run(Speed.FAST, window=fall)]
    for progress, factor in ((0.0, 1.0), (0.05, 0.75), (0.1, 0.5)):
        (plain,), (curved,) = ([part for part in _step(run)] for run in runs)
        for one, other in zip(plain.layers, curved.layers, strict=True):
            torch.testing.assert_close(other, one * factor, msg=f"at {progress}")
    assert [len(run.network.calls) for run in runs] == [2, 2]  # the one between is reused


def _step(run: Run) -> list[Any]:
    run.begin()
    return run.call()


@pytest.mark.parametrize("case", EVALUATED, ids=str)
def test_a_pace_decides_how_often_a_network_is_evaluated(case: Any) -> None:
    speed, steps, order = case
    run = Run(speed, steps=steps, order=order)
    made = run.all()
    assert len(made) == EVALUATED[case]
    assert made[0] == 0
    gaps = [b - a for a, b in zip(made, [*made[1:], run.schedule.evaluations], strict=True)]
    assert len(made) < 3 or gaps[0] <= max(gaps[1:])  # early steps lie closer
    expected = None if speed is Speed.EXACT else (len(made), steps * order)
    assert run.controls[0].tally == expected


def test_the_adaptive_pace_follows_the_latent() -> None:
    still = Run(Speed.ADAPTIVE)
    x = torch.ones((2, 4, 8, 8))
    assert still.all(x=x) == [0]
    moving = Run(Speed.ADAPTIVE)
    made = moving.all()
    limit = PACES[Speed.ADAPTIVE].drift
    assert limit is not None
    assert 2 <= len(made) <= 1 + 1.1 / limit  # it changes by about 1 in all


def test_a_sampler_that_chooses_its_steps_is_followed_by_its_progress() -> None:
    run = Run(Speed.FAST)
    run.schedule = Schedule(20, sigmas=(14.0, 0.03))
    given = {"x": NOISE[[0, 1]]}
    for number in range(60):
        run.cursor.begin(PAIR, number / 60, run.schedule)
        run.number = 1
        run.call(**given, timesteps=torch.full((2,), 999.0 - 10 * number))
    assert len(run.network.calls) == 7


def test_reused_residuals_are_those_of_the_last_evaluation() -> None:
    run = Run(Speed.FASTEST)
    given = []
    for _ in range(run.schedule.steps):
        run.begin()
        (part,) = run.call()
        given.append(float(part.layers[0][0, 0, 0, 0]) // 100)
        assert float(part.layers[1][1, 0, 0, 0]) % 100 == 1  # a row's own
    assert given == sorted(given)
    assert given[-1] == len(run.network.calls) == run.memory.asked  # else it stays parked


CHANGES = {
    "nothing": ({}, False),
    "less noise": ({"timesteps": torch.full((2,), 700.0)}, False),
    "a text": ({"context": TEXTS[[0, 3]]}, True),
    "its length": ({"context": TEXTS[[0, 1]].repeat(1, 2, 1)}, True),
    "a vector": ({"y": torch.ones(2, 5)}, True),
    "another picture": ({"x": PICTURE[[2, 3]]}, True),
    "one row's picture": ({"x": torch.stack([NOISE[0], PICTURE[2]])}, True),
    "no number": ({"x": torch.full((2, 4, 8, 8), torch.nan)}, True),
    "its size": ({"x": NOISE[[0, 1], :, :4]}, True),
    "more noise": ({"timesteps": torch.full((2,), 999.0)}, True),
}


@pytest.mark.parametrize("speed", REUSING, ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_else_changes_is_evaluated(change: str, speed: Speed) -> None:
    changed, is_evaluated = CHANGES[change]
    run = Run(speed, steps=1000)
    given = {"timesteps": torch.full((2,), 800.0), "x": NOISE[[0, 1]]}
    for now in (given, given, given | changed, given | changed):
        run.begin()
        run.call(**now)
    assert len(run.network.calls) == (3 if change == "no number" else 1 + is_evaluated)


def test_a_replaced_hint_is_evaluated() -> None:
    run = Run(Speed.FASTEST)
    for hint in (None, torch.ones(1, 3, 8, 8), None, torch.ones(1, 3, 8, 8)):
        if hint is not None:
            run.controls[0].replace_hint(hint)
        run.begin()
        run.call()
    assert len(run.network.calls) == 3


def test_rows_in_calls_of_their_own_keep_what_is_theirs() -> None:
    run = Run(Speed.FAST)
    for _ in range(run.schedule.steps):
        run.begin()
        for row in (0, 1):
            (part,) = run.call([row])
            assert float(part.layers[0][0, 0, 0, 0]) % 100 == row
    assert len(run.network.calls) == 2 * 7
    assert run.controls[0].tally == (7, 20)


def test_prompts_of_one_picture_keep_what_is_theirs() -> None:
    run = Run(Speed.FAST)
    layout = build_layout([2], 1, 3)
    for _ in range(run.schedule.steps):
        run.begin(layout)
        for row in (0, 1, 2):
            (part,) = run.call([row])
            assert float(part.layers[0][0, 0, 0, 0]) % 100 == row
    assert len(run.network.calls) == 3 * 7


def test_a_host_that_leaves_out_uncond_rows_at_times() -> None:
    run = Run(Speed.FAST)
    for number in range(run.schedule.steps):
        run.begin()
        (part,) = run.call([0, 1] if number % 2 == 0 else [0])
        assert len(part.rows) == (2 if number % 2 == 0 else 1)
        assert part.layers[0].shape[0] == len(part.rows)
    assert 7 <= len(run.network.calls) <= 14


def test_pieces_of_a_picture_are_all_evaluated() -> None:
    run = Run(Speed.FASTEST)
    for _ in range(run.schedule.steps):
        run.begin()
        run.call([0, 1])
        run.call([2, 3])
    assert len(run.network.calls) == 40
    assert run.controls[0].tally == (20, 20)


@pytest.mark.parametrize("speed", REUSING, ids=str)
def test_one_noise_level_is_evaluated_once(speed: Speed) -> None:
    """As Heun makes it: the corrected latent lies where the predicted one was."""
    level = torch.full((2,), 500.0)
    assert Run(speed).all(x=PICTURE[[0, 1]], timesteps=level) == [0]
    assert len(Run(speed).all(timesteps=level)) > 1


def test_a_late_window_begins_with_an_evaluation() -> None:
    run = Run(Speed.FASTEST, window=Window(0.55, 0.8))
    made = run.all()
    assert made[0] == 11
    assert 1 <= len(made) <= 2
    assert run.controls[0].tally == (len(made), 5)


def test_strength_and_region_are_those_of_the_call() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    run = Run(Speed.FASTEST, strengths=(0.5, 0.0), region=RegionMask(mask))
    for _ in range(2):
        run.begin()
        (part,) = run.call()
        assert part.layers[0][0, 0, 0].tolist() == [50.0, 50.0, 0.0, 0.0]
        assert part.layers[1] is None
    assert len(run.network.calls) == 1


def test_units_of_several_speeds_are_evaluated_for_themselves() -> None:
    run = Run(Speed.EXACT, Speed.FAST, Speed.FAST, Speed.FASTEST)
    run.all()
    assert len(run.network.calls) == 20 + 7 + 4
    assert [control.tally for control in run.controls] == [None, (7, 20), (7, 20), (4, 20)]


NO_MEMORY = [torch.cuda.OutOfMemoryError(), RuntimeError("MPS backend out of memory")]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["CUDA", "MPS"])
def test_lack_of_memory_lets_go_of_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = Run(Speed.FASTEST)
    run.begin()
    run.call()
    assert run.evaluation._kept.nbytes > 0
    evaluate, failures = run.network.evaluate, [True]

    def fail_once(*given: Any) -> Any:
        if failures:
            failures.clear()
            raise error
        return evaluate(*given)

    monkeypatch.setattr(run.network, "evaluate", fail_once)
    run.begin()
    (part,) = run.call(context=TEXTS[[2, 3]])
    assert float(part.layers[0][0, 0, 0, 0]) % 100 == 2
    assert run.evaluation._kept.nbytes == 0


@pytest.mark.parametrize(("share", "made"), [(5, 4), (3, 20)])
def test_no_more_is_kept_than_there_is_room_for(share: int, made: int) -> None:
    """In an animation it is a step of each window, which can be several gigabytes."""
    run, probe = Run(Speed.FASTEST), Run(Speed.FASTEST)
    probe.begin()
    probe.call()
    run.memory.room = share * probe.evaluation._kept.nbytes
    assert len(run.all()) == made
    assert (run.evaluation._kept.nbytes > 0) == (made < 20)


@pytest.mark.parametrize("takes", ["park", "relieve"])
def test_whoever_needs_memory_takes_what_is_kept(takes: str) -> None:
    run, residency = Run(Speed.FASTEST), Residency(1, 2**30)
    run.evaluation = _Evaluation(run.controls, residency)
    run.begin()
    run.call()
    assert run.evaluation._kept.nbytes > 0
    getattr(residency, takes)()
    assert run.evaluation._kept.nbytes == 0
    made = run.all()
    assert made[0] == 1  # and goes on as before
    assert len(made) < 6


def test_what_is_not_asked_for_is_let_go_of() -> None:
    run = Run(Speed.FASTEST, window=Window(0.0, 0.1))
    run.all()
    assert run.evaluation._kept.nbytes == 0


@pytest.fixture(scope="module")
def base() -> Any:
    return support.tiny_base("SD1")


def test_a_pass_says_how_often_and_the_next_one_begins_anew(base: Any) -> None:
    network = support.tiny_controlnet("SD1", unet=base.module)
    unit = prepared(network, speed=Speed.FASTEST)
    session = ControlSession(FakeHost(), [unit])
    given = support.inputs("SD1", rows=2, size=(LATENT.height, LATENT.width))
    for is_hires in (False, True):
        session.begin_pass(info(base, has_hires=True, is_hires=is_hires))
        session.set_schedule(Schedule(3))
        with torch.no_grad(), session.sampling(base.module):
            for step in range(3):
                session.begin_evaluation(PAIR, step / 3)
                base.module(**given)
        session.end_pass(3)
    assert session.outcome_of(unit).tallies == [(1, 3), (1, 3)]
    assert any("evaluated its network in 1 of 3" in said for said in session.comments)


SET = {
    # what the unit asks for, what the settings say: what it is evaluated at
    (Speed.DEFAULT, Speed.EXACT): Speed.EXACT,
    (Speed.DEFAULT, Speed.FAST): Speed.FAST,
    (Speed.EXACT, Speed.FAST): Speed.EXACT,
    (Speed.FASTEST, Speed.FAST): Speed.FASTEST,
}


@pytest.mark.parametrize("case", SET, ids=str)
def test_a_setting_is_the_speed_of_units_that_ask_for_none(
    base: Any, monkeypatch: pytest.MonkeyPatch, case: Any
) -> None:
    own, setting = case
    monkeypatch.setitem(DEFAULTS, "controlnet_speed", str(setting))
    unit = prepared(support.tiny_controlnet("SD1", unet=base.module), speed=own)
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base))
    assert session.active[0].terms.speed is SET[case]
    session.set_schedule(Schedule(3))
    given = support.inputs("SD1", rows=2, size=(LATENT.height, LATENT.width))
    with torch.no_grad(), session.sampling(base.module):
        for step in range(3):
            session.begin_evaluation(PAIR, step / 3)
            base.module(**given)
    session.end_pass(3)
    became = session.outcome_of(unit)
    assert became.speed is (None if SET[case] is Speed.EXACT else SET[case])
    assert any(f"speed {SET[case]} evaluated" in said for said in session.comments) == bool(
        became.tallies
    )
