"""What controls need of a member of the Forge family beside what A1111 has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from controls import encoded, first, picture, request, unet_hooks, unit
from matrix import checkpoints

PHOTO = encoded(picture())


@pytest.fixture(scope="module")
def colours(webui: Any) -> dict[str, Any]:
    return unit(module="tile_colorfix", image=PHOTO)


def runtime() -> Any:
    """The extension's shared objects; its module needs the host."""
    from lib_controlnet.host.runtime import runtime

    return runtime()


def loaded_for_unets() -> list[float]:
    """How much memory is kept free in each sampling so far."""
    from miniforge import memory
    from miniforge.patcher import UnetPatcher

    loads = [given for name, given in memory.calls if name == "load_models_gpu"]
    return [kept for models, kept in loads if isinstance(models[0], UnetPatcher)]


def test_memory_is_kept_free_for_controls_and_only_for_them(
    webui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much as the plan of the pass asks for, which asks for nothing on a CPU."""
    from miniforge import memory

    from lib_controlnet.host import adapter

    monkeypatch.setattr(adapter, "measure_reserve", lambda controls, *_: 1000 * len(controls))
    memory.calls.clear()
    webui.txt2img(**request())
    webui.txt2img(**request(unit(weight=0)))
    webui.txt2img(**request(unit()))
    assert loaded_for_unets() == [0, 0, 1000]
    memory.calls.clear()
    monkeypatch.undo()
    webui.txt2img(**request(unit()))
    assert loaded_for_unets() == [0]


@pytest.mark.parametrize("refiner", [checkpoints.SECOND, checkpoints.MOVED])
def test_memory_is_kept_free_beside_a_refiner(
    webui: Any, refiner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refiner's U-Net is another one, and nothing was reserved beside it."""
    from miniforge import memory
    from modules.sd_samplers_cfg_denoiser import CFGDenoiser

    from lib_controlnet.host import adapter

    monkeypatch.setattr(adapter, "measure_reserve", lambda controls, *_: 1000 * len(controls))
    told: list[Any] = []
    update = CFGDenoiser.update_inner_model
    monkeypatch.setattr(
        CFGDenoiser, "update_inner_model", lambda self: (update(self), told.append(self))
    )
    fields = {"refiner_checkpoint": refiner, "refiner_switch_at": 0.5}
    memory.calls.clear()
    webui.txt2img(**request(**fields))
    webui.txt2img(**request(unit(), **fields))
    assert loaded_for_unets() == [0, 0, 1000, 1000]
    assert len(told) == 2
    assert not any("update_inner_model" in vars(denoiser) for denoiser in told)
    webui.txt2img(**request(override_settings={"sd_model_checkpoint": refiner}))
    assert loaded_for_unets()[4:] == [0], "nothing lasts on the checkpoint"


def test_pass_that_is_announced_twice_is_bound_once(webui: Any, caplog: Any) -> None:
    caplog.set_level("INFO")
    webui.txt2img(**request(unit(), enable_hr=True, hr_scale=1.5))
    lines = [record.message for record in caplog.records if "window 0 to 1" in record.message]
    assert len(lines) == 2


def test_first_picture_loads_the_checkpoint(webui: Any, like: str) -> None:
    """Until then there is none, and nothing that the extension offers needs one."""
    from modules import sd_models

    data = sd_models.model_data
    data.sd_model, data.was_loaded_at_least_once = None, False
    try:
        assert like == "reforge" or not hasattr(data.get_sd_model(), "forge_objects")
        if like == "forge":
            assert runtime().base() is None
        assert webui.get("/controlnet/model_list").status_code == 200
        controlled = first(webui.txt2img(**request(unit())))
    finally:
        data.was_loaded_at_least_once = True
    assert np.array_equal(controlled, first(webui.txt2img(**request(unit()))))


def chain(there: Any) -> Callable[..., Any]:
    """A wrapper that goes on with the one that it found, as neighbours write it."""

    def neighbour(apply_model: Any, given: dict[str, Any]) -> Any:
        if there is None:
            return apply_model(given["input"], given["timestep"], **given["c"])
        return there(apply_model, dict(given))

    return neighbour


@pytest.mark.parametrize("moment", ["before ours", "after ours"])
def test_colours_are_held_once_beside_a_neighbours_wrapper(
    webui: Any, colours: dict, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    from lib_controlnet.host import steps

    alone = first(webui.txt2img(**request(colours)))
    announce = steps.on_cfg_denoiser

    def put() -> None:
        patcher = shared.sd_model.forge_objects.unet.clone()
        patcher.set_model_unet_function_wrapper(
            chain(patcher.model_options.get("model_function_wrapper"))
        )
        shared.sd_model.forge_objects.unet = patcher

    def announced(*args: Any) -> None:
        if moment == "before ours":
            put()
        announce(*args)
        if moment == "after ours":
            put()

    monkeypatch.setattr(steps, "on_cfg_denoiser", announced)
    assert np.array_equal(first(webui.txt2img(**request(colours))), alone)


def test_colours_that_cannot_be_held_stop_the_generation(
    webui: Any, colours: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another extension puts its wrapper in the place of ours, and calls the model itself."""
    from modules import shared

    from lib_controlnet.host import steps

    announce = steps.on_cfg_denoiser

    def announced(*args: Any) -> None:
        announce(*args)
        patcher = shared.sd_model.forge_objects.unet.clone()
        patcher.set_model_unet_function_wrapper(chain(None))
        shared.sd_model.forge_objects.unet = patcher

    monkeypatch.setattr(steps, "on_cfg_denoiser", announced)
    answer = webui.post("/sdapi/v1/txt2img", request(colours))
    assert answer.status_code == 422
    assert "function in the place of ControlNet's" in answer.text


def test_rows_in_several_calls_give_the_same_picture(webui: Any, colours: dict) -> None:
    from miniforge import memory

    asked = request(unit(control_mode=2), colours, prompt="a circle AND a star", batch_size=2)
    whole = first(webui.txt2img(**asked)).astype(int)
    memory.chunks_at_once.append(1)
    try:
        parts = first(webui.txt2img(**asked))
    finally:
        memory.chunks_at_once.clear()
    assert np.abs(parts - whole).max() <= 1


def test_nothing_is_left_on_the_checkpoint(webui: Any, plain: np.ndarray, colours: dict) -> None:
    from modules import shared

    before = unet_hooks()
    webui.txt2img(**request(unit(), colours))
    assert unet_hooks() == before
    assert np.array_equal(first(webui.txt2img(**request())), plain)
    assert shared.sd_model.forge_objects.unet.model_options == {"transformer_options": {}}


def test_latent_of_a_picture_needs_no_random_numbers(webui: Any) -> None:
    from miniforge import memory
    from modules import shared

    host, image = runtime().host, torch.rand(1, 3, 64, 64)
    memory.calls.clear()
    state = torch.random.get_rng_state()
    latent = host.vae_encode(image)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(latent, host.vae_encode(image))
    patchers = [models for _name, (models, _kept) in memory.calls]
    assert [shared.sd_model.forge_objects.vae.patcher] in patchers
    posterior = shared.sd_model._core.first_stage_model.encode(image * 2 - 1)
    expected = posterior.mode() * shared.sd_model._core.scale_factor
    torch.testing.assert_close(latent, expected)


def test_networks_are_loaded_outside_of_inference_mode(webui: Any) -> None:
    """A pass is bound inside, and its networks outlive it."""
    shared_objects = runtime()
    shared_objects.residency.clear()
    with torch.inference_mode():
        path, base = shared_objects.find_model("random_control"), shared_objects.base()
        network = shared_objects.network(path, base)
    assert not any(p.is_inference() for p in network.module.parameters())


def test_controls_follow_a_hires_checkpoint(webui: Any) -> None:
    fields = {"enable_hr": True, "hr_scale": 1.5, "hr_checkpoint_name": checkpoints.SECOND}
    plain, controlled = (first(webui.txt2img(**request(*u, **fields))) for u in ((), (unit(),)))
    assert np.abs(plain.astype(int) - controlled).mean() > 2


def test_a_refiner_may_be_announced_as_a_pass(
    webui: Any, colours: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some members ask scripts again in mid-sampling, when the refiner is loaded."""
    from modules import sd_samplers_common

    told: list[int] = []
    switch = sd_samplers_common.apply_refiner

    def announced(denoiser: Any, sigma: Any = None) -> bool:
        is_loaded = switch(denoiser, sigma)
        if is_loaded:
            told.append(denoiser.step)
            latent = denoiser.sampler.last_latent
            denoiser.p.scripts.process_before_every_sampling(denoiser.p, x=latent)
        return is_loaded

    fields = {"refiner_checkpoint": checkpoints.SECOND, "refiner_switch_at": 0.5}
    asked = request(unit(control_mode=2), colours, **fields)
    silent = webui.txt2img(**asked)
    monkeypatch.setattr(sd_samplers_common, "apply_refiner", announced)
    answer = webui.txt2img(**asked)
    assert told == [2]
    assert np.array_equal(first(answer), first(silent))
    texts = [made.info["infotexts"][0] for made in (silent, answer)]
    assert all("ControlNet 0" in text and "ControlNet 1" in text for text in texts)


@pytest.mark.parametrize("tells", [True, False], ids=["raises again", "forgets"])
def test_who_waits_for_the_pages_job_is_told_why_it_failed(
    host: Any, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reForge's thread prints what a job raises, and the page got an error of an empty result."""
    from lib_controlnet.errors import UnitError
    from lib_controlnet.host import jobs

    def wait(job: Callable[..., Any], *args: Any) -> Any:
        try:
            return job(*args)
        except UnitError:
            if tells:
                raise
        return None

    def fail(number: int) -> None:
        msg = f"unit {number}: a sentence"
        raise UnitError(msg)

    thread = SimpleNamespace(run_and_wait_result=wait)
    monkeypatch.setitem(sys.modules, "modules_forge.main_thread", thread)
    jobs.watch()
    jobs.watch()
    assert thread.run_and_wait_result(abs, -3) == 3
    with pytest.raises(UnitError, match="unit 2: a sentence"):
        thread.run_and_wait_result(fail, 2)
    jobs.unwatch()
    assert thread.run_and_wait_result is wait
    monkeypatch.undo()
    jobs.watch()


def test_controls_act_after_a_refiner_in_the_batch_before(webui: Any, like: str) -> None:
    """img2img keeps its sampler, which still samples the refiner while the checkpoint is back."""
    fields = {"refiner_checkpoint": checkpoints.SECOND, "refiner_switch_at": 0.5, "n_iter": 2}
    asked = {**request(**fields), "init_images": [PHOTO], "denoising_strength": 0.9}
    units = {**asked, "alwayson_scripts": {"ControlNet": {"args": [unit()]}}}
    plain, controlled = (webui.img2img(**one).images[:2] for one in (asked, units))
    for one, other in zip(plain, controlled, strict=True):
        assert np.abs(np.array(one).astype(int) - np.array(other)).mean() > 2


LORA = unit(model="control_lora_demo_canny", module="canny", image=PHOTO)


def write_weights(name: str) -> None:
    """Into the U-Net that is loaded, as a merger does, and a refiner's in some hosts."""
    from modules import sd_models, shared
    from safetensors.torch import load_file

    tensors = load_file(sd_models.get_closet_checkpoint_match(name).filename)
    prefix = "model.diffusion_model."
    own = {key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}
    shared.sd_model.forge_objects.unet.model.diffusion_model.load_state_dict(own)


def test_other_weights_in_the_same_unet_are_noticed(webui: Any) -> None:
    """Control-LoRAs are sums with the checkpoint's weights, and were kept from those before."""
    before = first(webui.txt2img(**request(LORA)))
    write_weights(checkpoints.SECOND)
    try:
        found = first(webui.txt2img(**request(LORA)))
        runtime().residency.clear()
        anew = first(webui.txt2img(**request(LORA)))
    finally:
        write_weights(checkpoints.BASE)
    assert np.array_equal(found, anew)
    assert not np.array_equal(found, before)
    assert np.array_equal(first(webui.txt2img(**request(LORA))), before)


def test_refiner_whose_weights_are_written_into_the_same_unet(
    webui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units act on as they do after one that is an object of its own."""
    from modules import sd_samplers_common

    asked = {"refiner_checkpoint": checkpoints.SECOND, "refiner_switch_at": 0.5}
    units = (unit(control_mode=2), LORA)
    plain, expected = (first(webui.txt2img(**request(*u, **asked))) for u in ((), units))

    def refine(denoiser: Any, sigma: Any = None) -> bool:
        if denoiser.step == 2 and denoiser.p.refiner_checkpoint_info:
            write_weights(checkpoints.SECOND)
        return False

    monkeypatch.setattr(sd_samplers_common, "apply_refiner", refine)
    before = first(webui.txt2img(**request(*units)))
    try:
        found = webui.txt2img(**request(*units, **asked))
    finally:
        write_weights(checkpoints.BASE)
    assert np.array_equal(first(found), expected)
    assert np.abs(expected.astype(int) - plain).mean() > 2
    assert all(f"ControlNet {number}" in found.info["infotexts"][0] for number in (0, 1))
    assert np.array_equal(first(webui.txt2img(**request(*units))), before)
