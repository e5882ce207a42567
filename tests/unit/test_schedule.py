"""Which step an evaluation belongs to, from what a sampler is called with."""

from functools import partial
from types import SimpleNamespace

import pytest

from lib_controlnet.engine.window import Schedule, Window
from lib_controlnet.host.schedule import from_denoiser, of_call, watch

# sampler, its arguments, the host's steps and total_steps, evaluations it makes -> step of each.
# Counts are those of the host contract, section 4.4.
RUNS = {
    "euler": ("sample_euler", {"sigmas": range(6)}, (5, 5), [0, 1, 2, 3, 4]),
    "heun": ("sample_heun", {"sigmas": range(6)}, (5, 10), [0, 0, 1, 1, 2, 2, 3, 3, 4]),
    "img2img euler": ("sample_euler", {"sigmas": range(4)}, (3, 3), [0, 1, 2]),
    "img2img heun": ("sample_heun", {"sigmas": range(4)}, (3, 6), [0, 0, 1, 1, 2]),
    "ddim": ("ddim", {"timesteps": range(5)}, (5, 5), [0, 1, 2, 3]),
    "ddim that makes more": ("ddim", {"timesteps": range(8)}, (6, 6), [0, 1, 2, 3, 4, 5, 6]),
    "ddim cfg++": ("ddim_cfgpp", {"timesteps": range(5)}, (5, 5), [0, 1, 2, 3]),
    "plms": ("plms", {"timesteps": range(5)}, (5, 5), [0, 0, 1, 2, 3]),
    "unipc": ("unipc", {"timesteps": range(5)}, (5, 5), [0, 1, 2, 3, 4]),
    "unipc that makes more": ("unipc", {"timesteps": range(6)}, (5, 5), [0, 1, 2, 3, 4, 5]),
    "dpm fast": ("sample_dpm_fast", {"n": 5, "sigma_max": 10}, (5, 5), [0, 1, 2, 3, 4]),
    "unknown": ("sample_new", {}, (4, 8), [0, 0, 1, 1, 2, 2, 3]),
}


def schedule_of(name):
    function, arguments, (steps, total), _ = RUNS[name]
    return of_call(function, arguments, SimpleNamespace(steps=steps, total_steps=total))


@pytest.mark.parametrize("name", RUNS)
def test_each_evaluation_belongs_to_its_step(name):
    schedule, steps = schedule_of(name), RUNS[name][3]
    count = steps[-1] + 1
    assert schedule.steps == count
    assert [schedule.progress(k, 1.0) for k in range(len(steps))] == [i / count for i in steps]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("cut", [0.0, 0.2, 0.5, 0.75, 1.0])
def test_adjoining_windows_share_the_steps_of_every_sampler(name, cut):
    schedule, steps = schedule_of(name), RUNS[name][3]
    before, after = Window(0.0, cut), Window(cut, 1.0)
    first = [i for k, i in enumerate(steps) if before.is_open(schedule.progress(k, 1.0))]
    second = [i for k, i in enumerate(steps) if after.is_open(schedule.progress(k, 1.0))]
    assert first + second == steps
    assert not set(first) & set(second), "no step is divided"
    assert len(set(first)) == sum(i / schedule.steps < cut for i in set(steps))


def test_more_evaluations_than_announced_belong_to_the_last_step():
    assert Schedule(4).progress(9, 1.0) == 0.75


def test_sampler_that_chooses_its_steps_goes_by_log_sigma():
    arguments = {"sigma_max": 16.0, "sigma_min": 1.0}
    schedule = of_call("sample_dpm_adaptive", arguments, SimpleNamespace(steps=8, total_steps=8))
    seen = [schedule.progress(0, sigma) for sigma in (16.0, 4.0, 1.0, 0.5)]
    assert seen == pytest.approx([0.0, 0.5, 0.875, 0.875])


def test_run_without_steps_is_no_division_by_zero():
    schedule = of_call("ddim", {"timesteps": [1]}, SimpleNamespace(steps=1, total_steps=1))
    assert (schedule.steps, schedule.progress(0, 1.0)) == (0, 0.0)
    assert from_denoiser(SimpleNamespace(steps=None, total_steps=0)).steps == 1


class Sampler:
    def __init__(self):
        self.func = self.sample_heun

    @staticmethod
    def sample_heun(_model, x, sigmas, extra=None):
        return x + len(sigmas), extra


def test_watched_sampler_tells_its_schedule_and_is_as_before():
    sampler, seen = Sampler(), []
    before = sampler.func
    denoiser = SimpleNamespace(steps=3, total_steps=6)
    with watch(sampler, lambda *told: seen.append(told)):
        assert sampler.func(denoiser, 1, sigmas=[3, 2, 1, 0], extra="kept") == (5, "kept")
    assert seen == [(Schedule(3, 2), 1)]
    assert sampler.func is before


def test_watched_sampler_is_as_before_after_an_error():
    sampler = Sampler()
    before = sampler.func
    with pytest.raises(KeyboardInterrupt), watch(sampler, lambda _: None):
        raise KeyboardInterrupt
    assert sampler.func is before


def test_wrapper_of_a_neighbour_is_left_alone():
    sampler = Sampler()
    with watch(sampler, lambda _: None):
        theirs = sampler.func = partial(sampler.func)
    assert sampler.func is theirs
