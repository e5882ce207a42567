"""The variant of the embedded host does what the members of the family do, without our controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from controls import encoded, first, picture, request
from PIL import Image

COND, UNCOND = 0, 1


@dataclass
class Seen:
    """What an extension notices during one job."""

    events: list[str] = field(default_factory=list)
    modes: dict[str, bool] = field(default_factory=dict)
    announced: list[Any] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    patchers: list[Any] = field(default_factory=list)
    given: list[Any] = field(default_factory=list)


@pytest.fixture
def seen(host: Any, monkeypatch: pytest.MonkeyPatch) -> Seen:
    from modules import script_callbacks, scripts

    found = Seen()

    class Probe(scripts.Script):
        args_from = args_to = 0
        filename = __file__

        def _note(self, name: str) -> None:
            found.events.append(name)
            found.modes[name] = torch.is_inference_mode_enabled()

        def process(self, p: Any, *_args: Any) -> None:
            self._note("process")

        def before_process_init_images(self, p: Any, pp: Any, *_args: Any) -> None:
            self._note("init_images")
            found.given.append(pp)

        def before_hr(self, p: Any, *_args: Any) -> None:
            self._note("before_hr")

        def process_before_every_sampling(self, p: Any, *_args: Any, **kwargs: Any) -> None:
            self._note("hook")
            found.given.append(kwargs["uc"])
            unet = p.sd_model.forge_objects.unet.clone()
            unet.add_extra_preserved_memory_during_sampling(7)

            def wrap(apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
                found.calls.append(given)
                return apply_model(given["input"], given["timestep"], **given["c"])

            unet.set_model_unet_function_wrapper(wrap)
            p.sd_model.forge_objects.unet = unet
            found.patchers.append(unet)

        def postprocess(self, p: Any, *_args: Any) -> None:
            self._note("postprocess")

    runners = [scripts.scripts_txt2img, scripts.scripts_img2img]
    for runner in runners:
        monkeypatch.setattr(runner, "alwayson_scripts", [*runner.alwayson_scripts, Probe()])
        runner.callback_map.clear()
    script_callbacks.on_cfg_denoiser(found.announced.append)

    def note_denoised(_params: Any) -> None:
        found.events.append("denoised")

    script_callbacks.on_cfg_denoised(note_denoised)
    yield found
    script_callbacks.remove_callbacks_for_function(found.announced.append)
    script_callbacks.remove_callbacks_for_function(note_denoised)
    for runner in runners:
        runner.callback_map.clear()


def test_calls_of_the_unet(host: Any, like: str, seen: Seen) -> None:
    """Rows, options and timesteps of one evaluation with AND and two pictures."""
    from modules import shared

    shown: list[torch.Tensor] = []
    unet = shared.sd_model.forge_objects.unet.model.diffusion_model
    handle = unet.register_forward_pre_hook(
        lambda _unet, args, _kwargs: shown.append(args[1]), with_kwargs=True
    )
    host.txt2img(**request(prompt="a circle AND a square", batch_size=2, scheduler="Karras"))
    handle.remove()
    call = seen.calls[0]
    options = call["c"]["transformer_options"]
    assert options["cond_or_uncond"] == call["cond_or_uncond"] == [UNCOND, COND, COND]
    assert ("cond_mark" in options) is (like == "forge")
    assert len(call["input"]) == 6
    assert [len(params.x) for params in seen.announced] == [2] * 4
    assert len(seen.announced[0].text_cond) == 4
    assert "denoised" not in seen.events
    assert all(bool((t == t.round()).all()) for t in shown)


def test_rows_come_in_several_calls_where_memory_is_short(host: Any, seen: Seen) -> None:
    from miniforge import memory

    whole = first(host.txt2img(**request()))
    seen.calls.clear()
    memory.chunks_at_once.append(1)
    try:
        assert np.array_equal(first(host.txt2img(**request())), whole)
    finally:
        memory.chunks_at_once.clear()
    assert [call["cond_or_uncond"] for call in seen.calls[:2]] == [[UNCOND], [COND]]


def test_order_of_events_and_their_modes(host: Any, like: str, seen: Seen) -> None:
    host.txt2img(**request(enable_hr=True, hr_scale=1.5))
    hooks = 2 if like == "forge" else 1
    assert seen.events == ["process", "hook", "before_hr", *["hook"] * hooks, "postprocess"]
    assert seen.modes == {"process": False, "hook": True, "before_hr": True, "postprocess": False}
    assert seen.given[0] is not None
    assert seen.given[-1] is None  # hr_cfg is 1
    assert seen.announced[-1].text_uncond is None
    assert seen.calls[-1]["cond_or_uncond"] == [COND]
    # What is set on a patcher is gone at the next hook.
    assert [p.extra_preserved_memory_during_sampling for p in seen.patchers] == [7] * (1 + hooks)


def test_crop_is_told_before_pictures_are_encoded(host: Any, seen: Seen) -> None:
    white = Image.fromarray(np.full((64, 64), 255, np.uint8))
    host.img2img(
        **request(init_images=[Image.fromarray(picture())], mask=white, inpaint_full_res=1)
    )
    assert seen.events[:2] == ["process", "init_images"]
    assert sorted(seen.given[0]) == ["crop_region", "image_mask"]


def test_clones_copy_owners_of_methods_but_no_functions(host: Any, like: str) -> None:
    from modules import shared

    class Owner:
        def act(self) -> None: ...

    owner, unet = Owner(), shared.sd_model.forge_objects.unet.clone()
    unet.set_transformer_option("method", owner.act)
    unet.set_model_unet_function_wrapper(encoded)
    options = unet.clone().model_options
    assert options["model_function_wrapper"] is encoded
    assert options["transformer_options"]["method"].__self__ is not owner


def test_engine_is_no_module(host: Any, like: str) -> None:
    from modules import shared

    engine = shared.sd_model
    unet = engine.forge_objects.unet.model
    assert not isinstance(engine, torch.nn.Module)
    assert hasattr(engine, "model") is hasattr(unet, "model_sampling") is (like == "reforge")
    assert hasattr(unet, "predictor") is hasattr(unet, "computation_dtype") is (like == "forge")
    pixels = torch.zeros(1, 3, 64, 64)
    encoded_picture = engine.encode_first_stage(pixels)
    assert engine.get_first_stage_encoding(encoded_picture) is encoded_picture
    assert encoded_picture.shape == (1, 4, 8, 8)


def test_blocks_are_called_as_modules_by_one_member_only(host: Any, like: str) -> None:
    from modules import shared

    unet, called = shared.sd_model.forge_objects.unet.model.diffusion_model, []
    places = {"block": unet.output_blocks[0], "layer": unet.output_blocks[0][0]}
    handles = [
        module.register_forward_hook(lambda *_args, name=name: called.append(name))
        for name, module in places.items()
    ]
    host.txt2img(**request(steps=1))
    for handle in handles:
        handle.remove()
    assert called == (["layer", "block"] if like == "forge" else ["layer"])


def test_memory_manager_is_told_what_needs_room(host: Any, seen: Seen) -> None:
    from miniforge import memory

    memory.calls.clear()
    host.txt2img(**request())
    loads = [given for name, given in memory.calls if name == "load_models_gpu"]
    assert ([seen.patchers[0]], 7) in loads
