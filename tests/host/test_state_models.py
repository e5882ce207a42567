"""Checkpoints that change between runs, between passes and in the middle of sampling."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.host import state_memory, state_rig
from tests.host.state_rig import HIRES, MODEL_REQUESTS, NARROW, REFINED, REQUESTS, Rig, unit


@pytest.fixture(scope="module")
def observed(host: Any) -> Iterator[Rig]:
    with state_rig.observed(host) as rig:
        rig.write_checkpoints()
        yield rig


@pytest.fixture
def rig(observed: Rig) -> Iterator[Rig]:
    with observed.one_test():
        yield observed


def draw(rig: Rig, name: str) -> np.ndarray:
    return rig.run((REQUESTS | MODEL_REQUESTS)[name](rig))[0]


def hooked() -> list[str]:
    """Modules, of whichever model, that carry a hook of ours."""
    gc.unfreeze()
    gc.collect()
    found = []
    for module in gc.get_objects():
        if issubclass(type(module), torch.nn.Module):
            hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
            found += [type(module).__name__ for h in hooks if "lib_controlnet" in h.__module__]
    gc.freeze()
    return found


def check(rig: Rig) -> None:
    """As `Rig.check`; bytes are counted where a test says so, as the host replaces its model."""
    assert hooked() == []
    rig.check(memory=False)


ORDERS = {
    "weights": ("other", "one", "other plain", "other difference", "difference", "one"),
    "structures": ("narrow", "one", "v", "narrow plain", "other", "v", "narrow"),
    "switched-in-a-run": (
        *("refined other", "one", "refined v", "hires other", "refined narrow", "narrow"),
        *("hires other", "refined other", "hires"),
    ),
}


@pytest.mark.parametrize("order", list(ORDERS.values()), ids=list(ORDERS))
def test_pictures_do_not_depend_on_the_models_before(rig, order):
    for name in order:
        assert np.array_equal(draw(rig, name), rig.references[name]), name
    check(rig)


def test_references_are_controlled_and_differ(rig):
    pictures = {n: p for n, p in rig.references.items() if p.shape == rig.references["one"].shape}
    names = list(pictures)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            assert not np.array_equal(pictures[name], pictures[other]), (name, other)


def test_checkpoint_changed_in_the_settings(rig):
    """The route changes the setting for good; other requests then use it."""
    from modules import shared

    before = shared.opts.data["sd_model_checkpoint"]
    try:
        for name, picture in (("state_other", "other"), ("state_narrow", "narrow plain")):
            answer = rig.host.post("/sdapi/v1/options", {"sd_model_checkpoint": name})
            assert answer.status_code == 200
            drawn = rig.draw("one" if picture == "other" else "plain")
            assert np.array_equal(drawn, rig.references[picture])
    finally:
        rig.host.post("/sdapi/v1/options", {"sd_model_checkpoint": before})
    check(rig)


def test_unit_that_does_not_fit_fails_and_the_next_model_works(rig):
    p = state_rig.on("state_narrow", unit())(rig)
    assert "is made for" in rig.fails(p, Exception)
    p = rig.txt2img(unit(model=NARROW))
    assert "is made for" in rig.fails(p, Exception)
    for name in ("narrow", "one"):
        assert np.array_equal(draw(rig, name), rig.references[name])
    del p
    check(rig)


def test_hires_checkpoint_that_does_not_fit_fails_before_the_second_pass(rig):
    p = rig.txt2img(unit(), hr_checkpoint_name="state_narrow", **HIRES)
    assert "is made for" in rig.fails(p, Exception)
    del p
    assert np.array_equal(draw(rig, "hires"), rig.references["hires"])
    check(rig)


def test_hires_checkpoint_that_does_not_fit_is_skipped_if_asked(rig):
    p = rig.txt2img(
        unit(),
        hr_checkpoint_name="state_narrow",
        override_settings={"control_net_on_error": "skip"},
        **HIRES,
    )
    with rig.job(p):
        drawn, maps = rig.images_and_maps(p)
    assert drawn[0].shape == rig.references["hires"].shape
    assert any("is made for" in comment for comment in p.comments)
    del p
    check(rig)


def test_refiner_of_another_structure_is_told_to_the_user(rig):
    p = rig.txt2img(unit(), refiner_checkpoint="state_narrow", n_iter=2, **REFINED)
    with rig.job(p):
        drawn, _ = rig.images_and_maps(p)
    assert np.array_equal(drawn[0], rig.references["refined narrow"])
    assert [c for c in p.comments if "switched during sampling" in c]
    alone = rig.run(rig.txt2img(unit(), refiner_checkpoint="state_narrow", **REFINED, seed=6))
    assert np.array_equal(drawn[1], alone[0])
    del p
    check(rig)


def test_refiner_that_cannot_be_loaded_fails_and_leaves_nothing(rig, monkeypatch):
    from modules import sd_models

    load = sd_models.load_checkpoint

    def fail(path: str) -> Any:
        if "state_other" in str(path):
            msg = "simulated failure of loading"
            raise OSError(msg)
        return load(path)

    monkeypatch.setattr(sd_models, "load_checkpoint", fail)
    p = rig.txt2img(unit(), refiner_checkpoint="state_other", **REFINED)
    assert "simulated failure" in rig.fails(p, OSError)
    del p
    monkeypatch.undo()
    check(rig)


def test_model_that_left_is_not_held(rig):
    """Going to another structure and back leaves one U-Net and no further bytes."""
    draw(rig, "narrow")
    draw(rig, "one")
    total = state_memory.all_tensor_bytes()
    gone = weakref.ref(rig.unet)
    draw(rig, "narrow")
    gc.unfreeze()
    gc.collect()
    assert gone() is None
    draw(rig, "one")
    assert state_memory.all_tensor_bytes() == total
    check(rig)


# ---- two models kept loaded ----------------------------------------------------------------


@pytest.fixture
def both(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.nn.Module]:
    """`sd_checkpoints_limit` 2: the host swaps whole models; no callback, nothing is copied."""
    from modules import sd_models, shared

    draw(rig, "one")
    demo = shared.sd_model
    sd_models.model_data.sd_model = None  # so that a second model is built
    sd_models.load_model(sd_models.get_closet_checkpoint_match("state_other"))
    models = {Path(m.filename).stem: m for m in (demo, shared.sd_model)}

    def swap(_model: Any = None, info: Any = None, forced_reload: bool = False) -> Any:
        del forced_reload
        info = info or sd_models.select_checkpoint()
        sd_models.model_data.set_sd_model(models[Path(info.filename).stem])
        return shared.sd_model

    monkeypatch.setattr(sd_models, "reload_model_weights", swap)
    shared.opts.data["sd_model_checkpoint"] = demo.sd_checkpoint_info.title
    sd_models.model_data.set_sd_model(demo)
    return models


def test_models_that_are_swapped_whole(rig, both, monkeypatch):
    for name in (
        *("other", "one", "other plain", "other difference", "difference", "other difference"),
        *("refined other", "plain", "refined other", "hires other", "hires", "other"),
    ):
        assert np.array_equal(draw(rig, name), rig.references[name]), name
    assert hooked() == []
    both.clear()
    monkeypatch.undo()
    check(rig)


def test_interrupt_after_the_swap_of_models_leaves_no_hook_on_either(rig, both, monkeypatch):
    from modules import shared

    seen: list[torch.nn.Module] = []

    def stop(_params: Any) -> None:
        if rig.unet not in seen:
            seen.append(rig.unet)
        if len(seen) == 2:
            shared.state.interrupt()

    rig.hooks["late", "cfg_denoised"] = stop
    rig.run(rig.txt2img(unit(), refiner_checkpoint="state_other", **REFINED))
    assert len(seen) == 2
    assert hooked() == []
    rig.hooks.clear()
    seen.clear()
    both.clear()
    monkeypatch.undo()
    check(rig)
