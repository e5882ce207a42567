"""Whatever samples the picture is controlled, or the generation stops with a sentence."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.host import state_rig
from tests.host.state_rig import HIRES, STEPS, Rig, picture, unit


@pytest.fixture(scope="module")
def observed(host: Any) -> Iterator[Rig]:
    with state_rig.observed(host) as rig:
        yield rig


@pytest.fixture
def rig(observed: Rig) -> Iterator[Rig]:
    with observed.one_test():
        yield observed


@pytest.fixture
def processed(rig: Rig) -> Callable[[Any], tuple[np.ndarray, dict]]:
    """Runs a processing object; gives its picture and what the answer's `info` holds."""
    from modules.processing import process_images

    def run(p: Any) -> tuple[np.ndarray, dict]:
        with rig.job(p):
            torch.manual_seed(0)
            done = process_images(p)
        return np.array(done.images[0]), json.loads(done.js())

    return run


def own_sampler(p: Any, samples: Any = None) -> Any:
    """Latents of a sampler that is made and run behind the host's back."""
    from modules import sd_samplers

    sampler = sd_samplers.create_sampler(p.sampler_name, p.sd_model)
    noise = p.rng.next()
    if samples is None:
        return sampler.sample(p, noise, p.c, p.uc, image_conditioning=conditioning(p, noise))
    return sampler.sample_img2img(
        p, samples, noise, p.c, p.uc, image_conditioning=conditioning(p, noise), steps=STEPS
    )


def conditioning(p: Any, x: Any) -> Any:
    return p.txt2img_image_conditioning(x)


def replaced_sample(p: Any, *_args: Any, **_kwargs: Any) -> None:
    p.sample = lambda **_asked: own_sampler(p)


def sampler_replaced_late(p: Any, *_args: Any, **_kwargs: Any) -> None:
    from modules import sd_samplers

    p.sampler = sd_samplers.create_sampler("Euler a", p.sd_model)


def sampler_class_of_its_own(p: Any, *_args: Any, **_kwargs: Any) -> None:
    """A subclass whose method never calls the host's."""

    def launch_sampling(self: Any, steps: int, func: Any) -> Any:
        self.model_wrap_cfg.steps = self.model_wrap_cfg.total_steps = steps
        return func()

    kind = type(p.sampler)
    p.sampler.__class__ = type("OwnSampler", (kind,), {"launch_sampling": launch_sampling})


def direct_loop(p: Any, *_args: Any, **_kwargs: Any) -> None:
    """No sampler of the host at all."""

    def sample(**_asked: Any) -> Any:
        x = p.rng.next()
        texts = p.sd_model.get_learned_conditioning([p.prompt])
        cond = {"c_crossattn": [texts], "c_concat": [conditioning(p, x)]}
        for time in (900, 500, 100):
            x = x - 0.3 * p.sd_model.apply_model(x, torch.tensor([time]), cond=cond)
        return x

    p.sample = sample


CONTROLLED = {
    "p.sample replaced in process": ("early", "process", replaced_sample),
    "p.sample replaced after ours": ("late", "process_batch", replaced_sample),
    "sampler replaced at the last moment": (
        *("late", "process_before_every_sampling"),
        sampler_replaced_late,
    ),
}


@pytest.mark.parametrize("case", CONTROLLED)
def test_sampler_of_another_script_is_controlled(rig, processed, case):
    place, event, change = CONTROLLED[case]
    rig.hooks[place, event] = change
    plain, without = processed(rig.txt2img())
    drawn, info = processed(rig.txt2img(unit()))
    assert not np.array_equal(plain, drawn)
    assert "ControlNet 0" in info["infotexts"][0]
    assert "ControlNet" not in without["infotexts"][0]
    rig.hooks.clear()
    rig.check()


def test_class_of_samplers_that_never_calls_the_hosts_method_is_controlled_or_stops(rig, processed):
    rig.hooks["early", "process_before_every_sampling"] = sampler_class_of_its_own
    assert not np.array_equal(processed(rig.txt2img())[0], processed(rig.txt2img(unit()))[0])
    rig.hooks.clear()
    rig.hooks["late", "process_before_every_sampling"] = sampler_class_of_its_own
    message = rig.fails(rig.txt2img(unit()), Exception)
    assert message.startswith("unit 0: another script sampled the picture in a way of its own")
    rig.hooks.clear()
    rig.check()


@pytest.mark.parametrize(("place", "event"), [("early", "process"), ("early", "process_batch")])
def test_loop_over_the_unet_stops_with_a_sentence(rig, place, event):
    rig.hooks[place, event] = direct_loop
    message = rig.fails(rig.txt2img(unit()), Exception)
    assert message.startswith("unit 0: another script sampled the picture in a way of its own")
    assert len(rig.run(rig.txt2img())) == 1  # without units it is nobody's business
    assert len(rig.run(rig.txt2img(unit(enabled=False)))) == 1
    rig.hooks.clear()
    rig.check()


def test_loop_that_cannot_be_seen_is_told_of_and_not_in_the_parameters(rig, processed):
    rig.hooks["late", "process_batch"] = direct_loop
    _drawn, info = processed(rig.txt2img(unit()))
    assert "ControlNet 0" not in info["infotexts"][0]
    notes = info["extra_generation_params"]["ControlNet notes"]
    assert "ControlNet unit 0 was never active" in notes
    assert "announces no steps" in notes
    rig.hooks.clear()
    rig.check()


def test_failing_unit_stops_a_loop_over_the_unet_before_it_begins(rig):
    rig.hooks["early", "process"] = direct_loop
    message = rig.fails(rig.txt2img(unit(model="absent")), Exception)
    assert message.startswith("unit 0: ")
    assert "absent" in message
    rig.hooks.clear()
    rig.check()


def test_second_pass_of_another_script_is_controlled_at_its_own_size(rig, processed):
    calls: list[tuple[int, ...]] = []

    def enlarge(p: Any, args: Any) -> None:
        larger = torch.nn.functional.interpolate(args.samples, scale_factor=2)
        p.rng = types.SimpleNamespace(next=lambda: torch.zeros_like(larger))
        args.samples = own_sampler(p, larger)
        calls.append(tuple(larger.shape))

    rig.hooks["late", "post_sample"] = enlarge
    plain, _ = processed(rig.txt2img())
    first_only, _ = processed(rig.txt2img(unit(guidance_end=0.0)))
    drawn, info = processed(rig.txt2img(unit()))
    assert np.array_equal(plain, first_only)
    assert plain.shape == drawn.shape == (64, 64, 3)
    assert "ControlNet 0" in info["infotexts"][0]
    # With the first pass left to itself the second one still follows the unit.
    rig.hooks["early", "post_sample"] = lambda _p, args: args.samples.zero_()
    assert not np.array_equal(processed(rig.txt2img())[0], processed(rig.txt2img(unit()))[0])
    rig.hooks.clear()
    rig.check()


def test_forward_of_the_unet_called_without_its_hooks_stops(rig, monkeypatch):
    """DeepCache and compiled networks call other functions than the module's own."""
    wrapper = type(__import__("modules.shared", fromlist=["shared"]).sd_model.model)

    def forward(self: Any, x: Any, t: Any, c_concat: Any = None, c_crossattn: Any = None) -> Any:
        del c_concat
        return self.diffusion_model.forward(x, t, context=torch.cat(c_crossattn, 1))

    monkeypatch.setattr(wrapper, "forward", forward)
    message = rig.fails(rig.txt2img(unit()), Exception)
    assert message.startswith("unit 0: the U-Net's blocks were never called")
    monkeypatch.undo()
    rig.check()


def test_blocks_that_are_passed_over_stop(rig, monkeypatch):
    """The module is called, but its forward leaves the blocks out."""
    unet = rig.unet
    monkeypatch.setattr(unet, "forward", lambda x, *_args, **_kwargs: x[:, :4] * 0.5)
    assert "blocks were never called" in rig.fails(rig.txt2img(unit()), Exception)
    monkeypatch.undo()
    rig.check()


@pytest.fixture
def alternative(rig, processed):
    """The host's script with a sampler of its own, in img2img."""
    from modules import scripts

    runner = scripts.scripts_img2img
    script = next(s for s in runner.selectable_scripts if "alternative" in s.title())

    def run(*units: Any) -> tuple[np.ndarray, dict]:
        p = rig.img2img(*units, denoising_strength=1.0)
        given = [None, True, True, "a", "", True, 4, True, 1.0, 0.0, False]
        values = list(p.script_args)
        values[script.args_from : script.args_to] = given
        values[0] = 1 + runner.selectable_scripts.index(script)
        p.script_args = tuple(values)
        with rig.job(p):
            torch.manual_seed(0)
            done = runner.run(p, *p.script_args)
        return np.array(done.images[0]), json.loads(done.js())

    return run


def test_img2img_alternative_test_is_controlled(rig, alternative):
    plain, _ = alternative()
    drawn, info = alternative(unit())
    assert np.abs(plain.astype(int) - drawn).mean() > 1
    assert "ControlNet 0" in info["infotexts"][0]
    assert "4 times outside the run of a sampler" in json_text(info)
    weightless, info = alternative(unit(weight=0))
    assert np.array_equal(plain, weightless)
    assert "ControlNet 0" not in info["infotexts"][0]
    rig.check("img2img")


def json_text(info: dict) -> str:
    return str(info["extra_generation_params"])


def test_unit_without_effect_is_told_of_and_not_in_the_parameters(rig, processed):
    p = rig.txt2img(unit(guidance_start=0.4, guidance_end=0.6), unit(seed=1), unit(weight=0))
    _drawn, info = processed(p)
    text = info["infotexts"][0]
    assert "ControlNet 1" in text
    assert "ControlNet 0" not in text
    assert "ControlNet 2" not in text
    notes = info["extra_generation_params"]["ControlNet notes"].split("\n")
    says = "was never active, so it is not in the parameters"
    assert notes == [
        f"ControlNet unit 0 {says}: none of the 3 evaluations of the sampler lies between its "
        "guidance_start 0.4 and guidance_end 0.6",
        f"ControlNet unit 2 {says}: its weight is 0",
    ]
    assert all(note in p.comments for note in notes)


def test_hires_unit_that_acts_in_one_pass_is_in_the_parameters(rig, processed):
    units = [unit(hr_option=option) for option in ("Low res only", "High res only")]
    _drawn, info = processed(rig.txt2img(*units, **HIRES))
    assert "ControlNet 0" in info["infotexts"][0]
    assert "ControlNet 1" in info["infotexts"][0]
    assert "ControlNet notes" not in info["extra_generation_params"]


def test_interrupted_picture_names_no_unit_that_had_no_step(rig, processed):
    from modules import shared

    def stop(*_args: Any, **_kwargs: Any) -> None:
        shared.state.interrupt()

    rig.hooks["late", "process_before_every_sampling"] = stop
    _drawn, info = processed(rig.txt2img(unit(image=picture(seed=3))))
    assert "ControlNet" not in info["infotexts"][0]
    rig.hooks.clear()
    rig.check()
