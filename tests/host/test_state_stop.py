"""Interrupt, skip, stop and exceptions of every kind leave nothing behind."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from lib_controlnet.engine.memory import Between
from tests.host import state_probe, state_rig
from tests.host.state_probe import CFG_EVENTS, SCRIPT_EVENTS, at_call
from tests.host.state_rig import HIRES, STEPS, Rig, picture, two_units, unit


@pytest.fixture(scope="module")
def observed(host: Any) -> Iterator[Rig]:
    with state_rig.observed(host) as rig:
        yield rig


@pytest.fixture
def rig(observed: Rig) -> Iterator[Rig]:
    with observed.one_test():
        yield observed


def raising(error: BaseException) -> Callable[..., None]:
    def act(*_args: Any, **_kwargs: Any) -> None:
        raise error

    return act


def press(button: str) -> Callable[..., None]:
    """What the buttons do: interrupt, skip or stop_generating."""
    from modules import shared

    return lambda *_args, **_kwargs: getattr(shared.state, button)()


# ---- buttons -------------------------------------------------------------------------------

STOPS = [
    # button, place, event, call at which it is pressed, pictures, which of them are as without it
    ("interrupt", "early", "before_process", 0, 0, []),
    ("interrupt", "early", "process", 0, 0, []),
    ("interrupt", "late", "process", 0, 0, []),
    ("interrupt", "late", "process_batch", 1, 2, [0]),
    ("interrupt", "early", "process_before_every_sampling", 0, 1, []),
    ("interrupt", "late", "process_before_every_sampling", 1, 2, [0]),
    ("interrupt", "early", "cfg_denoiser", 0, 1, []),
    ("interrupt", "late", "cfg_denoised", 4, 2, [0]),
    ("interrupt", "early", "cfg_after_cfg", 4, 2, [0]),
    ("interrupt", "late", "postprocess_image", 0, 1, [0]),
    ("skip", "early", "before_process", 0, 3, [0, 1, 2]),
    ("skip", "early", "process", 0, 3, [0, 1, 2]),
    ("skip", "late", "process", 0, 3, [0, 1, 2]),
    ("skip", "late", "process_batch", 1, 3, [0, 2]),
    ("skip", "early", "process_before_every_sampling", 0, 3, [1, 2]),
    ("skip", "early", "cfg_denoiser", 4, 3, [0, 2]),
    ("skip", "late", "cfg_after_cfg", 4, 3, [0, 2]),
    ("stop_generating", "early", "process", 0, 0, []),
    ("stop_generating", "late", "cfg_denoised", 0, 1, [0]),
]


@pytest.fixture(scope="module")
def three(observed: Rig) -> list[np.ndarray]:
    """Three pictures, one after another, undisturbed."""
    return observed.run(observed.txt2img(unit(), n_iter=3))


@pytest.mark.parametrize(
    ("button", "place", "event", "call", "count", "same"),
    STOPS,
    ids=[f"{stop[0]}-{stop[1]}-{stop[2]}-{stop[3]}" for stop in STOPS],
)
def test_button_ends_what_it_says_and_leaves_nothing(
    rig, three, button, place, event, call, count, same
):
    rig.hooks[place, event] = at_call(call, press(button))
    drawn = rig.run(rig.txt2img(unit(), n_iter=3))
    assert len(drawn) == count
    for index in same:
        assert np.array_equal(drawn[index], three[index])
    rig.hooks.clear()
    rig.check()


@pytest.mark.parametrize("button", ["interrupt", "skip"])
@pytest.mark.parametrize(
    ("event", "call"),
    [("cfg_denoiser", 1), ("cfg_denoiser", STEPS + 1), ("before_hr", 0), ("cfg_after_cfg", STEPS)],
    ids=["first-pass", "second-pass", "between", "second-pass-first-step"],
)
def test_button_in_a_hires_run_leaves_nothing(rig, button, event, call):
    rig.hooks["early", event] = at_call(call, press(button))
    drawn = rig.run(rig.txt2img(unit(), **HIRES))
    assert len(drawn) == 1
    rig.hooks.clear()
    rig.check("hires")


def test_skip_in_one_tile_leaves_the_next_tile_controlled(rig):
    p = rig.txt2img(unit())
    with rig.job(p):
        rig.hooks["late", "cfg_denoised"] = at_call(STEPS - 2, press("skip"))
        skipped = rig.images(p)
        rig.hooks.clear()
        after = rig.images(p)
    assert not np.array_equal(skipped[0], rig.references["one"])
    assert np.array_equal(after[0], rig.references["one"])
    del p
    rig.check()


def test_interrupt_while_a_preprocessor_runs_prepares_no_further_unit(rig, monkeypatch):
    from lib_controlnet.detect.preprocess import run_preprocessor
    from lib_controlnet.prepare import units as prepare

    seen = []

    def run_and_stop(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[0])
        press("interrupt")()
        return run_preprocessor(*args, **kwargs)

    monkeypatch.setattr(prepare.preprocess, "run_preprocessor", run_and_stop)
    assert rig.run(rig.txt2img(unit(module="canny"), unit(seed=1), unit(seed=2))) == []
    assert seen == ["canny"]
    monkeypatch.undo()
    rig.check()


@pytest.mark.parametrize("route", ["interrupt", "skip"])
def test_button_over_http_from_another_thread(rig, route):
    """The sampler waits at its second step until the other request has been answered."""
    arrived, pressed = threading.Event(), threading.Event()

    def wait(_params: Any) -> None:
        arrived.set()
        assert pressed.wait(60)

    rig.hooks["late", "cfg_denoised"] = at_call(1, wait)
    payload = {**rig.payload(unit()), "n_iter": 2}
    with rig.serving() as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        answers: list[dict] = []
        thread = threading.Thread(
            target=lambda: answers.append(client.post("/sdapi/v1/txt2img", json=payload).json())
        )
        thread.start()
        assert arrived.wait(60)
        assert client.post(f"/sdapi/v1/{route}").status_code == 200
        pressed.set()
        thread.join(60)
    assert len(answers[0]["images"]) == {"interrupt": 2, "skip": 3}[route]
    answers.clear()
    rig.hooks.clear()
    rig.check()


# ---- exceptions of neighbours --------------------------------------------------------------


EVENTS = SCRIPT_EVENTS + CFG_EVENTS


def test_failing_neighbours_change_nothing(rig):
    failed = []

    def fail(*_args: Any, **_kwargs: Any) -> None:
        failed.append(True)
        msg = "simulated failure of a neighbour"
        raise ValueError(msg)

    for event in EVENTS:
        failed.clear()
        rig.hooks.update({(place, event): fail for place in state_probe.PLACES})
        name = "hires" if event == "before_hr" else "one"
        assert np.array_equal(rig.draw(name), rig.references[name]), event
        assert len(failed) >= 2, event
        rig.hooks.clear()
        rig.nothing_left()
    rig.check()


def test_all_neighbours_failing_at_all_events_change_nothing(rig):
    for place in state_probe.PLACES:
        for event in EVENTS:
            rig.hooks[place, event] = raising(ValueError("simulated"))
    assert np.array_equal(rig.draw("hires"), rig.references["hires"])
    rig.hooks.clear()
    rig.check()


@pytest.mark.parametrize("place", state_probe.PLACES)
def test_ctrl_c_at_any_event_leaves_nothing(rig, place):
    for event in EVENTS:
        rig.hooks[place, event] = at_call(0, raising(KeyboardInterrupt(event)))
        fields = HIRES if event == "before_hr" else {}
        assert rig.fails(rig.txt2img(unit(), **fields), KeyboardInterrupt) == event
        rig.hooks.clear()
        if event == "process_before_every_sampling":
            rig.strays.clear()  # armed, never launched: that sampler goes with its p
        rig.nothing_left()
    rig.check()


@pytest.mark.parametrize("place", state_probe.PLACES)
@pytest.mark.parametrize("event", CFG_EVENTS)
def test_clean_stop_by_a_neighbour_ends_the_pass(rig, place, event):
    """`InterruptedException` in a cfg callback is the host's clean stop, also at the first step."""
    from modules.sd_samplers_common import InterruptedException

    for call in (0, 1):
        rig.hooks[place, event] = at_call(call, raising(InterruptedException()))
        assert len(rig.run(rig.txt2img(unit()))) == 1
        rig.hooks.clear()
        rig.nothing_left()
    rig.check()


def test_pass_without_any_step_is_no_error(rig):
    """DDIM at a strength below one step: the host gives back the noised picture."""
    fields = {"sampler_name": "DDIM", "denoising_strength": 0.1}
    drawn = rig.run(rig.img2img(unit(), **fields))
    assert np.array_equal(drawn[0], rig.run(rig.img2img(**fields))[0])
    rig.check()


# ---- exceptions in the host and in our own parts -------------------------------------------


def fail_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int = 0) -> list[int]:
    """Make the n-th call of a function raise RuntimeError; returns its calls so far."""
    original, calls = getattr(owner, name), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] == number:
            msg = f"simulated failure in {name}"
            raise RuntimeError(msg)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    return calls


def places_to_fail() -> dict[str, tuple[Callable[[], tuple[Any, str, int]], dict]]:
    """By id: where to fail (owner, function, call), and further fields of the request."""
    from modules import processing, sd_samplers_common, shared

    from lib_controlnet.engine import places, prepared
    from lib_controlnet.engine.residency import Residency
    from lib_controlnet.families import residual
    from lib_controlnet.families.controlnet import ControlNetNetwork

    def unet() -> Any:
        return shared.sd_model.model.diffusion_model

    txt2img = processing.StableDiffusionProcessingTxt2Img
    return {
        "unet": (lambda: (unet(), "forward", 1), {}),
        "first-block": (lambda: (unet().input_blocks[0], "forward", 0), {}),
        "middle-block": (lambda: (unet().middle_block, "forward", 2), {}),
        "last-block": (lambda: (unet().output_blocks[-1], "forward", 1), {}),
        "unet-in-hires": (lambda: (unet(), "forward", STEPS + 1), HIRES),
        "network": (lambda: (ControlNetNetwork, "evaluate", 1), {}),
        "network-in-hires": (lambda: (ControlNetNetwork, "evaluate", STEPS), HIRES),
        "hint-encoder": (lambda: (ControlNetNetwork, "encode_hint", 0), {}),
        "adding": (lambda: (places, "add_rows", 3), {}),
        "summing": (lambda: (places, "sum_residuals", 1), {}),
        "binding": (lambda: (prepared, "place_map", 0), {}),
        "binding-in-hires": (lambda: (prepared, "place_map", 2), HIRES),
        "moving": (lambda: (Residency, "_bring", 0), {}),
        "finishing": (lambda: (residual.ResidualControl, "finish", 1), {}),
        "init": (lambda: (txt2img, "init", 0), {}),
        "sample": (lambda: (txt2img, "sample", 0), {}),
        "sample-in-hires": (lambda: (txt2img, "sample_hr_pass", 0), HIRES),
        "launch": (lambda: (sd_samplers_common.Sampler, "launch_sampling", 0), {}),
        "conds": (lambda: (txt2img, "setup_conds", 0), {}),
        "decode": (lambda: (shared.sd_model, "decode_first_stage", 0), {}),
        "decode-in-hires": (
            lambda: (shared.sd_model, "decode_first_stage", 1),
            {**HIRES, "hr_upscaler": "Lanczos"},
        ),
    }


FAILURES = (
    *("unet", "first-block", "middle-block", "last-block", "unet-in-hires", "network"),
    *("network-in-hires", "hint-encoder", "adding", "summing", "binding", "binding-in-hires"),
    *("moving", "finishing", "init", "sample", "sample-in-hires", "launch", "conds", "decode"),
    "decode-in-hires",
)


@pytest.mark.parametrize("where", FAILURES)
def test_failure_reaches_the_user_and_leaves_nothing(rig, monkeypatch, where):
    place, fields = places_to_fail()[where]
    owner, name, number = place()
    calls = fail_in(monkeypatch, owner, name, number)
    assert rig.fails(rig.txt2img(*two_units(), **fields)) == f"simulated failure in {name}"
    assert len(calls) == number + 1
    monkeypatch.undo()
    rig.check()


def test_failing_vae_of_inpaint_only_reaches_the_user(rig, monkeypatch):
    from modules import shared

    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    image = {"image": unit()["image"], "mask": state_rig.encoded(mask)}
    fail_in(monkeypatch, shared.sd_model, "encode_first_stage")
    p = rig.txt2img(unit(module="inpaint_only", image=image))
    assert "simulated failure in encode_first_stage" in rig.fails(p)
    del p
    monkeypatch.undo()
    rig.check()


def test_failing_latent_effect_reaches_the_user(rig, monkeypatch):
    """The host swallows what a cfg callback raises; the picture must not come out without it."""
    from lib_controlnet.engine.effects.inpaint_only import KeepUnmasked

    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    image = {"image": unit()["image"], "mask": state_rig.encoded(mask)}
    fail_in(monkeypatch, KeepUnmasked, "after_guidance", 1)
    p = rig.txt2img(unit(module="inpaint_only", image=image))
    assert "simulated failure in after_guidance" in rig.fails(p)
    del p
    monkeypatch.undo()
    rig.check()


def test_failing_announcement_of_a_step_reaches_the_user(rig, monkeypatch):
    """Likewise for the callback that tells the session which rows come."""
    from lib_controlnet.host.a1111 import rows

    fail_in(monkeypatch, rows, "build_layout", 1)
    assert "simulated failure in build_layout" in rig.fails(rig.txt2img(unit()))
    monkeypatch.undo()
    rig.check()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", ["evaluate", "encode_hint"])
def test_ctrl_c_inside_the_network_leaves_nothing(rig, monkeypatch, kind, name):
    from lib_controlnet.families.controlnet import ControlNetNetwork

    monkeypatch.setattr(ControlNetNetwork, name, lambda *_: raising(kind("simulated"))())
    assert rig.fails(rig.txt2img(unit()), kind) == "simulated"
    monkeypatch.undo()
    rig.check()


def test_img2img_with_too_many_pictures_fails_in_the_host(rig):
    from PIL import Image

    several = [Image.fromarray(picture(seed=s)) for s in range(3)]
    p = rig.img2img(unit(image=None), init_images=several, batch_size=2)
    rig.fails(p)
    del p
    rig.check("img2img")


@pytest.mark.parametrize("between", [Between.NEVER, Between.PASS])
def test_guided_hints_stay_for_a_generation_and_leave_with_its_networks(rig, monkeypatch, between):
    """Where networks leave the device after a pass, nothing lies around while the VAE decodes."""
    from lib_controlnet.families.controlnet import ControlNetNetwork
    from lib_controlnet.host.adapter import WebUIHost

    encode, hints = ControlNetNetwork.encode_hint, []

    def spy(self: Any, hint: torch.Tensor, *more: Any) -> torch.Tensor:
        made = encode(self, hint, *more)
        hints.append(weakref.ref(made))
        return made

    def is_alive() -> list[bool]:
        gc.collect()
        return [hint() is not None for hint in hints]

    alive: list[bool] = []
    monkeypatch.setattr(ControlNetNetwork, "encode_hint", spy)
    monkeypatch.setattr(WebUIHost, "between", between)
    rig.hooks["late", "post_sample"] = lambda *_args: alive.extend(is_alive())
    rig.run(rig.txt2img(*two_units()))
    assert alive == [between is Between.NEVER] * 2
    assert is_alive() == [False, False]


# ---- out of memory -------------------------------------------------------------------------


def out_of_memory() -> None:
    msg = "simulated: CUDA out of memory"
    raise torch.cuda.OutOfMemoryError(msg)


def test_batch_that_does_not_fit_runs_one_by_one(rig, monkeypatch):
    """The failed attempt's tensors are let go of before the cache is emptied."""
    from lib_controlnet.families.controlnet import ControlNetNetwork

    evaluate, rows, attempt, alive = ControlNetNetwork.evaluate, [], [], []

    def spy(self: Any, x: torch.Tensor, *rest: Any) -> Any:
        rows.append(x.shape[0])
        if x.shape[0] > 2:
            half_way = torch.zeros(1000)
            attempt.append(weakref.ref(half_way))
            out_of_memory()
        return evaluate(self, x, *rest)

    monkeypatch.setattr(ControlNetNetwork, "evaluate", spy)
    monkeypatch.setattr(
        state_rig.runtime().residency,
        "_free_memory",
        lambda: alive.extend(ref() is not None for ref in attempt),
    )
    drawn = rig.draw("two")
    assert rows == [4] + [2, 2] * STEPS
    assert alive == [False]
    # Batches of different sizes round differently in the last bits of the matrix products.
    assert np.abs(drawn.astype(int) - rig.references["two"]).max() <= 1
    monkeypatch.undo()
    rig.check("two")


def test_no_memory_at_all_fails_and_leaves_nothing(rig, monkeypatch):
    from lib_controlnet.errors import HostError
    from lib_controlnet.families.controlnet import ControlNetNetwork

    monkeypatch.setattr(ControlNetNetwork, "evaluate", lambda *_: out_of_memory())
    message = rig.fails(rig.txt2img(*two_units()), HostError)
    assert "not enough memory to evaluate" in message
    monkeypatch.undo()
    rig.check("two")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_no_memory_for_a_model_leaves_the_cache_as_it_was(rig, monkeypatch, on_error):
    from lib_controlnet.host import runtime as module

    cache = state_rig.runtime().residency
    before = len(cache), cache.nbytes
    monkeypatch.setattr(module, "load_network", lambda *_: out_of_memory())
    settings = {"control_net_on_error": on_error}
    p = rig.txt2img(unit(model=state_rig.COPY), override_settings=settings)
    assert "simulated" in rig.fails(p, torch.cuda.OutOfMemoryError)
    del p
    assert (len(cache), cache.nbytes) == before
    monkeypatch.undo()
    rig.check()


def test_no_memory_in_a_preprocessor_fails_and_leaves_nothing(rig, monkeypatch):
    from lib_controlnet.detect import preprocess
    from lib_controlnet.errors import HostError

    detector = preprocess.get("canny")
    monkeypatch.setattr(type(detector), "detect", lambda *_args, **_kwargs: out_of_memory())
    image = state_rig.encoded(picture(seed=99))
    p = rig.txt2img(unit(module="canny", image=image))
    sentence = rig.fails(p, HostError)
    assert "unit 0: there is not enough memory for the preprocessor canny" in sentence
    del p
    monkeypatch.undo()
    rig.check()
