"""Puts the variant into the place of what A1111 does, before extensions are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from modules import (
    extra_networks,
    processing,
    script_base,
    script_runner,
    sd_models,
    sd_samplers_common,
    shared,
)
from modules.sd_samplers_kdiffusion import KDiffusionSampler
from modules.sd_samplers_timesteps import CompVisSampler

from miniforge import engine, sampling, shapes

INIT_IMAGES = "before_process_init_images"


def install(name: str) -> None:
    """Shape the host as a member of the family; once, before anything of it has run."""
    from miniforge import jobs

    shapes.use(name)
    for job in (jobs.StableDiffusionProcessingTxt2Img, jobs.StableDiffusionProcessingImg2Img):
        setattr(processing, job.__name__, job)
    processing.loop_context = _loop_context
    sd_models.load_model = engine.load_model
    sd_models.apply_alpha_schedule_override = lambda _model, _p=None: None
    sd_models.SdModelData.get_sd_model = _wrap_get(sd_models.SdModelData.get_sd_model)
    KDiffusionSampler.make_denoiser = _make_denoiser
    CompVisSampler.make_denoiser = _make_timesteps_denoiser
    base = sd_samplers_common.Sampler
    base._walk = _wrap_walk(base._walk)
    script_base.Script.before_process_init_images = lambda _script, _p, _pp, *_args: None
    runner = script_runner.ScriptRunner
    runner.before_process_init_images = script_runner._guarded(INIT_IMAGES)
    runner.process_before_every_sampling = _wrap_hook(runner.process_before_every_sampling)
    extra_networks.activate = _wrap_activate(extra_networks.activate)


@contextmanager
def _loop_context(_p: Any) -> Iterator[None]:
    with torch.inference_mode():
        yield


def _make_denoiser(sampler: Any) -> sampling.Denoiser:
    return sampling.Denoiser(sampler)


def _make_timesteps_denoiser(sampler: Any) -> sampling.Denoiser:
    return sampling.TimestepsDenoiser(sampler)


def _wrap_get(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def get_sd_model(data: Any) -> Any:
        if shapes.current().loads_late and not data.was_loaded_at_least_once:
            data.sd_model = data.sd_model or engine.FakeInitialModel()
            return data.sd_model
        return original(data)

    return get_sd_model


def _wrap_walk(original: Callable[..., Any]) -> Callable[..., Any]:
    def walk(sampler: Any, *args: Any) -> Any:
        sampling.prepare(shared.sd_model.forge_objects.unet)
        return original(sampler, *args)

    return walk


def _wrap_activate(original: Callable[..., Any]) -> Callable[..., Any]:
    def activate(p: Any, extra_network_data: Any) -> None:
        engine.reset_patches(p.sd_model, has_loras=False)
        original(p, extra_network_data)
        engine.reset_patches(p.sd_model, has_loras=True)

    return activate


def _wrap_hook(original: Callable[..., None]) -> Callable[..., None]:
    def process_before_every_sampling(runner: Any, p: Any, **kwargs: Any) -> None:
        for _ in range(shapes.current().hires_hooks if p.is_hr_pass else 1):
            engine.reset_patches(p.sd_model, has_loras=True)
            original(runner, p, **kwargs)

    return process_before_every_sampling
