"""What is over holds nothing: pictures go when a job ends, not at the next garbage collection."""

from __future__ import annotations

import gc
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from batches import batch_unit, job
from controls import encoded, picture, request, unit
from neighbours import process

from lib_controlnet.engine.effects.tile_colorfix import HoldColours
from lib_controlnet.families.controlnet import ControlNetNetwork
from lib_controlnet.prepare import inputs
from lib_controlnet.prepare import units as prepare
from tests.host.state_memory import survivors


class Held:
    """What is still alive of the generations since the test began; nothing is collected.

    Attributes:
        decoded: weak references to every control picture that was decoded.
    """

    def __init__(self) -> None:
        self.decoded: list[weakref.ref[np.ndarray]] = []
        self._before = Counter(survivors())  # other tests' reports may hold some

    def now(self) -> list[str]:
        """Objects of generations, and the shapes of decoded pictures, that are alive."""
        pictures = [found.shape for ref in self.decoded if (found := ref()) is not None]
        return [*(Counter(survivors()) - self._before).elements(), *map(str, pictures)]


@pytest.fixture
def held(webui, monkeypatch) -> Iterator[Held]:
    from lib_controlnet.host.runtime import runtime

    gc.collect()
    held = Held()
    decode = inputs.decode_image

    def noted(*args: Any, **named: Any) -> np.ndarray:
        pixels = decode(*args, **named)
        held.decoded.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr(inputs, "decode_image", noted)
    for cache in (runtime().detections, runtime().decoded):  # they keep pictures on purpose
        cache.clear()
        monkeypatch.setattr(cache, "max_count", 0)
    logging.disable(logging.CRITICAL)  # pytest keeps records, and they keep frames
    gc.collect()
    gc.disable()
    yield held
    gc.enable()
    logging.disable(logging.NOTSET)


def refusal(p: Any) -> str:
    """The sentence with which a job ends; the exception is gone with it."""
    try:
        process(p)
    except Exception as error:
        return str(error)
    return ""


def fail(*_args: Any, **_named: Any) -> None:
    msg = "simulated"
    raise RuntimeError(msg)


NO_PICTURE = encoded(picture())[:100]
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.5}
REFUSED = {
    "model absent": [unit(), unit(model="absent")],
    "model damaged": [unit(), unit(model="damaged")],
    "another base": [unit(), unit(model="other_base")],
    "no picture": [unit(), unit(image=NO_PICTURE)],
    "no mask for the region": [unit(), unit(region="Inside the inpaint mask")],
    "preprocessor": [unit(), unit(module="canny")],
    "binding": [unit(), unit()],
    "network": [unit(), unit()],
    "announced step": [unit(), unit()],
    "latent effect": [unit(module="tile_colorfix")],
}


def break_one(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the part fail that a case is about, if it is about a part of ours."""
    from lib_controlnet.host import generation
    from lib_controlnet.host.a1111 import rows

    run, bind = prepare.preprocess.run_preprocessor, generation.pass_info
    parts = {
        "preprocessor": (
            *(prepare.preprocess, "run_preprocessor"),
            lambda name, *rest, **named: (fail if name == "canny" else run)(name, *rest, **named),
        ),
        "binding": (
            *(generation, "pass_info"),
            lambda p, x: (fail if getattr(p, "is_hr_pass", False) else bind)(p, x),
        ),
        "network": (ControlNetNetwork, "evaluate", fail),
        "announced step": (rows, "_prompts_per_image", fail),
        "latent effect": (HoldColours, "before_guidance", fail),
    }
    if case in parts:
        monkeypatch.setattr(*parts[case])


@pytest.mark.parametrize("case", REFUSED)
def test_refused_generation_lets_go_of_its_pictures(held, monkeypatch, case):
    break_one(case, monkeypatch)
    assert refusal(job(*REFUSED[case], **(HIRES if case == "binding" else {})))
    assert held.decoded
    assert held.now() == []


def test_generation_that_went_well_lets_go_of_its_pictures(held):
    assert refusal(job(unit(), unit())) == ""
    assert held.now() == []


def test_refused_request_lets_go_of_its_pictures(held, webui):
    answer = webui.post("/sdapi/v1/txt2img", request(unit(), unit(model="absent")))
    assert answer.status_code == 404
    assert held.decoded
    # The server's own frames go with the next collection, and the emptied session with them.
    assert set(held.now()) <= {"ControlSession", "StepCursor"}


@pytest.fixture
def failing_batch(monkeypatch) -> Callable[[], Any]:
    """Makes jobs of two control pictures, the second of which is gone when its turn comes."""
    from lib_controlnet.units.plan import Plan

    at = Plan.at
    monkeypatch.setattr(
        Plan, "at", lambda plan, turn, *rest: fail() if turn else at(plan, turn, *rest)
    )
    pictures = [encoded(picture(seed=n)) for n in range(2)]

    def make() -> Any:
        p = job(batch_unit(pictures), steps=1)
        p.is_api = True
        return p

    return make


def test_failed_batch_is_no_longer_the_running_one(held, failing_batch):
    from lib_controlnet.host.runtime import runtime

    p = failing_batch()
    assert refusal(p) == "simulated"
    assert runtime().batch is None
    assert p.n_iter == 1
    assert held.now() == []


def test_failed_batch_of_a_job_that_nobody_closes_goes_with_it(held, failing_batch):
    from modules import processing

    from lib_controlnet.host.runtime import runtime

    p = failing_batch()
    try:
        processing.process_images(p)
    except RuntimeError as error:
        assert str(error) == "simulated"
    assert runtime().batch is not None
    p.sampler = None  # the host's sampler knows its job
    del p
    gc.collect()
    assert runtime().batch is None
