"""Other extensions reach into a generation: each by the calls that it really makes."""

from __future__ import annotations

import gc
import importlib
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from controls import MODEL, SIZE, STEPS, encoded, first, picture, request, unet_hooks, unit
from neighbours import Frames, Tiles, controlnet_script, denoiser_replaced, rows_of
from neighbours import process as run
from neighbours import processing_of as asked

EXTERNAL_CODE = "extensions.sd-webui-controlnet.scripts.external_code"
TILES = [(0, 0, 8, 8), (8, 0, 16, 8), (16, 0, 24, 8)]
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")


@pytest.fixture
def external_code(webui):
    return importlib.import_module(EXTERNAL_CODE, "external_code")


def near(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal but for the rounding of sums in another order."""
    return int(np.abs(left.astype(int) - right).max()) <= 1


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


# ---- Tiled Diffusion, DemoFusion ----


def one_tile(webui: Any, call: dict[str, Any], tile: int, image: np.ndarray, mode: str) -> Any:
    """The U-Net's answer for one recorded tile, its part of the picture being the unit's own."""
    rows = list(range(2 * tile, 2 * tile + 2))
    answers: list[torch.Tensor] = []

    def make(_sampler: Any, forward: Any) -> Any:
        def replayed(x: torch.Tensor, sigma: torch.Tensor, cond: Any) -> torch.Tensor:
            if not answers:
                part = rows_of(call["cond"], rows)
                answers.append(forward(call["x"][rows], call["sigma"][rows], cond=part))
            return forward(x, sigma, cond=cond)

        return replayed

    with denoiser_replaced(make):
        webui.txt2img(**request(unit(image=encoded(image), control_mode=mode)))
    return answers[0]


@pytest.mark.parametrize("mode", MODES)
def test_row_10_tiles_act_as_if_their_part_were_the_units_own_picture(webui, mode):
    image = picture(SIZE * len(TILES))
    tiles = Tiles(TILES)
    with denoiser_replaced(tiles.attach):
        fields = {"width": SIZE * len(TILES)}
        webui.txt2img(**request(unit(image=encoded(image), control_mode=mode), **fields))
    assert [param.shape for param in tiles.whole] == [(1, 3, SIZE, SIZE * len(TILES))]
    assert len(tiles.calls) == STEPS
    call = tiles.calls[0]
    for number in range(len(TILES)):
        part = image[:, SIZE * number : SIZE * (number + 1)]
        alone = one_tile(webui, call, number, part, mode)
        together = call["out"][2 * number : 2 * number + 2]
        assert torch.allclose(alone, together, atol=1e-4), f"tile {number}"
    elsewhere = one_tile(webui, call, 1, image[:, :SIZE], mode)
    assert not torch.allclose(elsewhere[:1], call["out"][2:3], atol=1e-4)


def test_row_10_tiles_over_several_units_and_batches_leave_nothing_behind(webui):
    width = SIZE * len(TILES)
    units = [unit(image=encoded(picture(width, seed=n)), weight=0.5) for n in (1, 2)]
    before, hooks = first(webui.txt2img(**request(units[0]))), unet_hooks()
    tiles = Tiles(TILES)
    with denoiser_replaced(tiles.attach):
        webui.txt2img(**request(*units, width=width, n_iter=2))
    assert len(tiles.params) == 2
    assert len(tiles.calls) == 2 * STEPS
    assert controlnet_script().latest_network is None
    assert unet_hooks() == hooks
    assert np.array_equal(first(webui.txt2img(**request(units[0]))), before)


def test_hint_put_back_acts_like_the_own_picture(webui):
    """Set and restored before every call, the picture is the one without a neighbour."""

    class Restored(Tiles):
        def attach(self, sampler, forward):
            super().attach(sampler, forward)

            def call(x, sigma, cond):
                for param in self.params:
                    param.hint_cond = torch.zeros(1, 3, SIZE, SIZE)
                self.restore()
                return forward(x, sigma, cond=cond)

            return call

    with denoiser_replaced(Restored(TILES).attach):
        touched = first(webui.txt2img(**request(unit())))
    assert np.array_equal(touched, first(webui.txt2img(**request(unit()))))


@pytest.mark.parametrize("moment", ["at the sampler", "at the second step"])
def test_assigned_hint_acts_from_the_next_call_on(webui, moment):
    other = picture(seed=8)
    calls: list[int] = []

    def make(_sampler, forward):
        (param,) = controlnet_script().latest_network.control_params
        if moment == "at the sampler":
            param.hint_cond = to_tensor(other)

        def call(x, sigma, cond):
            calls.append(1)
            if moment == "at the second step" and len(calls) == 2:
                param.hint_cond = to_tensor(other)[0]  # without batch axis
            return forward(x, sigma, cond=cond)

        return call

    with denoiser_replaced(make):
        changed = first(webui.txt2img(**request(unit())))
    own, new = (first(webui.txt2img(**request(unit(image=encoded(i))))) for i in (picture(), other))
    if moment == "at the sampler":
        assert np.array_equal(changed, new)
    else:
        split = [unit(guidance_end=0.25), unit(image=encoded(other), guidance_start=0.25)]
        assert near(changed, first(webui.txt2img(**request(*split))))
    assert not np.array_equal(changed, own)


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        (torch.zeros(3, 3, SIZE, SIZE), "replaced a hint by 3 of them.*2 rows"),
        (torch.zeros(1, 5, SIZE, SIZE), "reads hints with 3 channels"),
        ("canny", "hint_cond was set to str"),
        (torch.zeros(SIZE, SIZE), r"Tensor \(64, 64\)"),
    ],
    ids=["rows", "channels", "text", "flat"],
)
def test_unusable_hint_stops_with_a_sentence_and_the_next_run_is_right(webui, hint, message):
    import embedded

    before = first(webui.txt2img(**request(unit())))

    def make(_sampler, forward):
        def call(x, sigma, cond):
            controlnet_script().latest_network.control_params[0].hint_cond = hint
            return forward(x, sigma, cond=cond)

        return call

    with denoiser_replaced(make), pytest.raises(embedded.ApiError, match=message) as caught:
        webui.txt2img(**request(unit()))
    assert caught.value.status == 422
    assert np.array_equal(first(webui.txt2img(**request(unit()))), before)


def test_hires_pass_has_a_hint_of_its_own(webui):
    seen: list[Any] = []
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}

    def make(_sampler, forward):
        (param,) = controlnet_script().latest_network.control_params
        seen.append((tuple(param.hint_cond.shape[-2:]), tuple(param.hr_hint_cond.shape[-2:])))
        param.hr_hint_cond = to_tensor(picture(96, 96, seed=4))
        return forward

    with denoiser_replaced(make):
        changed = first(webui.txt2img(**request(unit(), **hires)))
    assert seen == [((64, 64), (96, 96))] * 2
    parts = [unit(hr_option="Low res only")]
    parts += [unit(image=encoded(picture(96, 96, seed=4)), hr_option="High res only")]
    assert near(changed, first(webui.txt2img(**request(*parts, **hires))))


def test_hint_of_the_other_pass_does_not_act(webui):
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
    other = to_tensor(picture(seed=8))

    def make(_sampler, forward):
        (param,) = controlnet_script().latest_network.control_params
        param.hr_hint_cond = None  # the unit's own: the second sampler's pass begins with it

        def call(x, sigma, cond):
            if x.shape[-1] == 8:
                param.hr_hint_cond = torch.zeros(1, 3, 96, 96)
            else:
                param.hint_cond = other
            return forward(x, sigma, cond=cond)

        return call

    with denoiser_replaced(make):
        changed = webui.txt2img(**request(unit(), **hires))
    assert np.array_equal(first(changed), first(webui.txt2img(**request(unit(), **hires))))


# ---- AnimateDiff ----


def test_row_11_frames_follow_hints_that_animatediff_assigns(webui):
    images = [picture(seed=20 + frame) for frame in range(4)]
    frames = Frames(torch.cat([to_tensor(image) for image in images]), [[0, 1], [2, 3], [1, 3]])
    with denoiser_replaced(frames.attach):
        answer = webui.txt2img(**request(unit(), batch_size=4))
    assert frames.shapes == [2] * (3 * STEPS)
    for frame, image in enumerate(images):
        alone = webui.txt2img(**request(unit(image=encoded(image)), seed=5 + frame))
        assert near(np.array(answer.images[frame]), first(alone)), f"frame {frame}"


def test_one_hint_for_each_picture_of_the_batch(webui):
    images = [picture(seed=20 + frame) for frame in range(2)]

    def make(_sampler, forward):
        params = controlnet_script().latest_network.control_params
        params[0].hint_cond = torch.cat([to_tensor(image) for image in images])
        return forward

    prompts = {"prompt": "a red circle AND a blue star", "batch_size": 2}
    with denoiser_replaced(make):
        answer = webui.txt2img(**request(unit(), **prompts))
    for frame, image in enumerate(images):
        fields = {**prompts, "batch_size": 1, "seed": 5 + frame}
        alone = webui.txt2img(**request(unit(image=encoded(image)), **fields))
        assert near(np.array(answer.images[frame]), first(alone)), f"frame {frame}"


def test_row_11_types_that_animatediff_asks_for(webui, external_code):
    from scripts.batch_hijack import InputMode
    from scripts.hook import ControlModelType

    seen: list[Any] = []

    def make(_sampler, forward):
        (param,) = controlnet_script().latest_network.control_params
        kind = param.control_model_type
        seen.append((kind not in (ControlModelType.IPAdapter, ControlModelType.Controlllite),))
        seen.append(param.hr_hint_cond)
        return forward

    p = asked(external_code.ControlNetUnit(enabled=True, model=MODEL, image=picture()))
    found = external_code.get_all_units_in_processing(p)[0]
    assert found.input_mode.name == InputMode.SIMPLE.name == "SIMPLE"
    assert found.input_mode.__class__ is InputMode
    assert found.batch_images == ""
    with denoiser_replaced(make):
        run(p)
    assert seen == [(True,), None]


# ---- the view and the script object ----


def test_view_speaks_of_the_unit(webui, external_code):
    fields = {"weight": 0.5, "guidance_end": 0.5, "control_mode": "ControlNet is more important"}
    seen: dict[str, Any] = {}

    def make(_sampler, forward):
        script = controlnet_script()
        (param,) = script.latest_network.control_params

        def call(x, sigma, cond):
            seen.setdefault("stopped", []).append(param.guidance_stopped)
            seen["model"] = param.control_model
            seen["used"] = param.used_hint_cond
            seen["low"] = script.latest_network.lowvram
            seen["unet"] = script.latest_network.model
            return forward(x, sigma, cond=cond)

        seen["param"] = (param.weight, param.start_guidance_percent, param.stop_guidance_percent)
        seen["mode"] = (param.soft_injection, param.cfg_injection)
        seen["name"] = param.preprocessor["name"]
        seen["units"] = [enabled.weight for enabled in script.enabled_units]
        seen["hash"] = script.latest_model_hash
        return call

    p = asked(unit(**fields))
    assert [found.weight for found in controlnet_script().get_enabled_units(p)] == [0.5]
    with denoiser_replaced(make):
        run(p)
    from modules import shared

    assert seen["param"] == (0.5, 0.0, 0.5)
    assert seen["mode"] == (True, True)
    assert seen["name"] == "none"
    assert seen["units"] == [0.5]
    assert seen["hash"] == shared.sd_model.sd_model_hash
    # The host announces a step in its callback, after the call of the step before.
    assert seen["stopped"] == [False, False, True, True]
    assert seen["used"].shape == (1, 3, SIZE, SIZE)
    assert isinstance(seen["model"], torch.nn.Module)
    assert seen["unet"] is shared.sd_model.model.diffusion_model
    assert seen["low"] is False


def test_unit_fields_cannot_be_set_in_vain(webui):
    errors: list[str] = []

    def make(_sampler, forward):
        (param,) = controlnet_script().latest_network.control_params
        for name in ("control_model", "guidance_stopped", "preprocessor"):
            with pytest.raises(AttributeError):
                setattr(param, name, None)
            errors.append(name)
        with pytest.raises(AttributeError, match="no 'no_such'"):
            param.no_such
        param.hint_cond_backup = 3  # what is not ours may be kept there
        assert param.hint_cond_backup == 3
        return forward

    with denoiser_replaced(make):
        webui.txt2img(**request(unit()))
    assert len(errors) == 3


def test_row_10_network_is_none_without_units_and_after_a_run_or_failure(webui):
    import embedded

    script = controlnet_script()
    seen: list[Any] = []

    def make(_sampler, forward):
        seen.append(script.latest_network)
        return forward

    with denoiser_replaced(make):
        webui.txt2img(**request())
        webui.txt2img(**request(unit(enabled=False)))
        webui.txt2img(**request(unit()))
    assert [network is None for network in seen] == [True, True, False]
    assert script.latest_network is None
    gc.collect()
    assert seen[2].control_params is None, "it outlived its generation"

    def broken(_sampler, _forward):
        def call(*_arguments: Any, **_named: Any) -> Any:
            message = "simulated"
            raise RuntimeError(message)

        return call

    with denoiser_replaced(broken), pytest.raises(embedded.ApiError):
        webui.txt2img(**request(unit()))
    gc.collect()
    left = script.latest_network
    assert left is None or left.control_params is None


def test_same_object_processed_again_has_a_new_view(webui):
    p = asked(unit())
    views: list[Any] = []

    def make(_sampler, forward):
        network = controlnet_script().latest_network
        views.append((network, len(network.control_params)))
        return forward

    with denoiser_replaced(make):
        pictures = [np.array(run(p).images[0]) for _ in range(2)]
    assert [count for _, count in views] == [1, 1]
    assert views[0][0] is not views[1][0]
    assert np.array_equal(*pictures)


def test_view_keeps_nothing_alive(webui):
    kept: list[Any] = []

    def make(_sampler, forward):
        (param,) = controlnet_script().latest_network.control_params
        param.hint_cond = to_tensor(picture(seed=3))
        kept.append(weakref.ref(param))
        kept.append(weakref.ref(param.hint_cond))
        return forward

    with denoiser_replaced(make):
        webui.txt2img(**request(unit()))
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize("module", ["none", "tile_colorfix", "inpaint_only"])
def test_restore_ends_the_controls(webui, plain, module):
    def make(_sampler, forward):
        network = controlnet_script().latest_network
        calls: list[int] = []

        def call(x, sigma, cond):
            if not calls:
                network.restore()
                assert network.control_params == []
            calls.append(1)
            return forward(x, sigma, cond=cond)

        return call

    with denoiser_replaced(make):
        made = first(webui.txt2img(**request(unit(module=module, **masked(module)))))
    assert np.array_equal(made, plain)


def masked(module: str) -> dict[str, str]:
    """A mask where a preprocessor needs one; all of it is painted, nothing is pasted back."""
    full = np.full((SIZE, SIZE), 255, np.uint8)
    return {"mask": encoded(full)} if module == "inpaint_only" else {}


def test_target_dimensions(webui):
    script = controlnet_script()
    assert script.get_target_dimensions(asked(width=101, height=70)) == (64, 96, 64, 96)
    hires = {"enable_hr": True, "hr_scale": 2.0}
    assert script.get_target_dimensions(asked(width=96, height=64, **hires)) == (64, 96, 128, 192)


def test_model_cache_can_be_cleared(webui):
    script = controlnet_script()
    webui.txt2img(**request(unit()))
    assert len(script.model_cache)
    script.clear_control_model_cache()
    assert not len(script.model_cache)
