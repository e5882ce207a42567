"""Controls through the embedded host: every path obeys the laws, and nothing is left behind."""

from __future__ import annotations

from types import SimpleNamespace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from controls import SIZE, STEPS, encoded, first, loaded_unet, picture, request, unet_hooks, unit
from PIL import Image
from support import tiny_unet

SAMPLERS = (*("Euler", "Euler a", "Heun", "DPM2", "DPM++ 2M", "DPM++ SDE", "LCM", "DDIM", "UniPC"),)


def test_control_changes_the_picture_and_nothing_after_it(webui, plain, calls):
    before = unet_hooks()
    controlled = first(webui.txt2img(**request(unit())))
    assert not np.array_equal(controlled, plain)
    assert calls.rows == [2] * STEPS
    assert unet_hooks() == before
    assert np.array_equal(first(webui.txt2img(**request())), plain)


@pytest.mark.parametrize("module", ["none", "shuffle"])
def test_same_request_twice_gives_the_same_picture(webui, module):
    again = request(unit(module=module), subseed=-1)  # the host draws a variation seed each time
    assert np.array_equal(first(webui.txt2img(**again)), first(webui.txt2img(**again)))


@pytest.mark.parametrize(
    "fields",
    [
        {"enabled": False},
        {"weight": 0},
        {"guidance_start": 1.0},
        {"guidance_start": 0.6, "guidance_end": 0.3},
        {"effective_region_mask": encoded(np.zeros((SIZE, SIZE), np.uint8))},
        {"advanced_weighting": [0] * 13},
    ],
    ids=["disabled", "strength-0", "late", "reversed", "empty-region", "zero-layers"],
)
def test_unit_without_effect_gives_the_plain_picture(webui, plain, calls, fields):
    if "advanced_weighting" in fields:
        blocks = len(loaded_unet().input_blocks)
        fields = {"advanced_weighting": [0] * (blocks + 1)}
    assert np.array_equal(first(webui.txt2img(**request(unit(**fields)))), plain)
    assert calls.rows == []


def test_full_region_gives_the_unmasked_picture(webui):
    full = encoded(np.full((SIZE, SIZE), 255, np.uint8))
    masked = webui.txt2img(**request(unit(effective_region_mask=full)))
    assert np.array_equal(first(masked), first(webui.txt2img(**request(unit()))))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_adjoining_windows_share_the_evaluations_of_every_sampler(webui, calls, sampler):
    units = [unit(guidance_end=0.5), unit(guidance_start=0.5)]
    webui.txt2img(**request(*units, sampler_name=sampler, steps=6))
    evaluations = {"Heun": 11, "DPM2": 11, "DPM++ SDE": 11, "DDIM": 6, "UniPC": 7}
    assert calls.rows == [2] * evaluations.get(sampler, 6)
    assert len(calls.hints) == 1  # of one picture


SPEEDS = {
    "Euler a": ({"sampler_name": "Euler a"}, [2] * 3, "3 of 10"),
    "Heun": ({"sampler_name": "Heun"}, [2] * 7, "7 of 19"),
    "another prompt": ({"prompt": "[a red circle:a blue star:0.5]"}, [2] * 4, "4 of 10"),
    "rows in two calls": (
        {"override_settings": {"batch_cond_uncond": False}}, [1, 1] * 3, "3 of 10",
    ),
    "hires": (
        {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5, "hr_upscaler": "Latent"},
        [2] * 6, "3 of 10 and 3 of 10",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPEEDS)
def test_a_speed_evaluates_key_steps_and_says_so(webui, calls, case):
    fields, rows, said = SPEEDS[case]
    answer = webui.txt2img(**request(unit(speed="Fast"), **({"steps": 10} | fields)))
    assert calls.rows == rows
    (written,) = (text for text in answer.info["infotexts"][:1])
    assert f"Speed: Fast, Evaluated: {said}" in written


def test_a_request_sets_the_speed_of_all_units_that_ask_for_none(webui, calls):
    settings = {"controlnet_speed": "Fast"}
    units = [unit(), unit(weight=0.5), unit(speed="Exact", image=encoded(picture(seed=1)))]
    answer = webui.txt2img(**request(*units, steps=10, override_settings=settings))
    assert len(calls.rows) == 3 + 10
    (written,) = answer.info["infotexts"][:1]
    assert written.count("Speed: Fast, Evaluated: 3 of 10") == 2
    assert written.count("Speed: Exact") == 1
    calls.rows.clear()
    assert "Speed" not in webui.txt2img(**request(unit(), steps=10)).info["infotexts"][0]
    assert len(calls.rows) == 10


def test_control_mode_evaluates_cond_rows_only(webui, calls):
    webui.txt2img(**request(unit(control_mode=2), batch_size=2))
    assert calls.rows == [2] * STEPS


def test_and_prompt_rows_are_all_controlled(webui, calls):
    fields = {"prompt": "a red circle AND a blue star", "batch_size": 2}
    webui.txt2img(**request(unit(), **fields))
    assert calls.rows == [6] * STEPS
    calls.rows.clear()
    webui.txt2img(**request(unit(control_mode="ControlNet is more important"), **fields))
    assert calls.rows == [4] * STEPS


def test_split_batches_give_the_same_picture(webui, calls):
    whole = first(webui.txt2img(**request(unit(control_mode=2))))
    calls.rows.clear()
    split = webui.txt2img(
        **request(unit(control_mode=2), override_settings={"batch_cond_uncond": False})
    )
    assert calls.rows == [1] * STEPS
    assert np.abs(first(split).astype(int) - whole).max() <= 1


def test_unequal_prompt_lengths_are_controlled_in_both_calls(webui, calls):
    long = "a red circle and " * 30
    webui.txt2img(**request(unit(), prompt=long))
    assert calls.rows == [1, 1] * STEPS


def test_units_sum_in_any_order(webui):
    one, two = unit(weight=0.7), unit(image=encoded(picture(seed=1)), weight=0.4)
    there = first(webui.txt2img(**request(one, two)))
    back = first(webui.txt2img(**request(two, one)))
    assert np.abs(there.astype(int) - back).max() <= 1


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_hires_binds_each_pass_to_its_size(webui, calls, upscaler):
    answer = webui.txt2img(
        **request(
            unit(), enable_hr=True, hr_scale=1.5, denoising_strength=0.7, hr_upscaler=upscaler
        )
    )
    assert calls.hints == [(64, 64), (96, 96)]
    assert [image.size for image in answer.images] == [(96, 96), (96, 96), (64, 64)]


@pytest.mark.parametrize(
    ("option", "hints"),
    [("Low res only", [(64, 64)]), ("High res only", [(96, 96)])],
)
def test_hires_option_limits_the_passes(webui, calls, option, hints):
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7}
    webui.txt2img(**request(unit(hr_option=option), hr_upscaler="Latent", **hires))
    assert calls.hints == hints


def test_hires_latent_crop_is_followed(webui, calls):
    hires = {"enable_hr": True, "hr_resize_x": 96, "hr_resize_y": 64, "denoising_strength": 0.7}
    webui.txt2img(**request(unit(), hr_upscaler="Latent", **hires))
    assert calls.hints == [(64, 64), (64, 96)]


def test_img2img_without_own_image_follows_the_picture(webui, calls):
    fields = {"init_images": [Image.fromarray(picture(96, 64))], "resize_mode": 1}
    answer = webui.img2img(**request(unit(image=None), denoising_strength=0.7, **fields))
    assert calls.hints == [(64, 64)]
    shown = np.array(answer.images[-1].convert("RGB"))
    assert np.array_equal(shown, picture(96, 64)[:, 16:80])


def test_inpaint_only_masked_crops_the_control_like_the_host(webui, calls):
    mask = np.zeros((128, 128), np.uint8)
    mask[32:64, 32:64] = 255
    fields = {
        "init_images": [Image.fromarray(picture(128, 128))],
        "mask": Image.fromarray(mask),
        "inpaint_full_res": True,
        "inpaint_full_res_padding": 16,
        "mask_blur": 0,
        "denoising_strength": 0.7,
    }
    answer = webui.img2img(**request(unit(image=None), **fields))
    assert calls.hints == [(64, 64)]
    shown = np.array(answer.images[-1].convert("RGB"))
    assert np.array_equal(shown, picture(128, 128)[16:80, 16:80])


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_inpaint_only_keeps_every_pixel_outside_the_mask(webui, sampler):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[24:40, 24:40] = 255
    own = unit(module="inpaint_only", image={"image": encoded(picture()), "mask": encoded(mask)})
    result = first(webui.txt2img(**request(own, sampler_name=sampler)))
    outside = np.ones((SIZE, SIZE), bool)
    outside[14:50, 14:50] = False  # the mask grown and blurred by the setting's 7 pixels
    assert np.array_equal(result[outside], picture()[outside])
    assert not np.array_equal(result[~outside], picture()[~outside])


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"image": None}, 422, "unit 0: controlnet is enabled but no input image is given"),
        ({"image": "no picture"}, 422, "unit 0: image"),
        ({"image": "/etc/hostname"}, 422, "unit 0: image"),
        ({"model": "absent"}, 404, "unit 0: control model 'absent' is not found"),
        ({"model": None}, 422, "unit 0: You have not selected any ControlNet Model"),
        ({"module": "frob"}, 422, "unit 0: Module not available"),
        ({"model": "other_base"}, 422, "unit 0: control model other_base is made for"),
        ({"model": "damaged"}, 422, "unit 0: "),
        ({"advanced_weighting": [1, 2]}, 422, "unit 0: advanced_weighting has 2 numbers"),
        ({"weight": "heavy"}, 422, "unit 0: weight is 'heavy', must be a number"),
        ({"resize_mode": "Squash"}, 422, "unit 0: resize_mode is 'Squash'"),
        ({"guidance_end": 7}, 422, "unit 0: guidance_end is 7"),
        ({"mask": "bad"}, 422, "unit 0: mask"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_failure_stops_before_sampling_with_a_sentence(
    webui, plain, calls, fields, status, sentence
):
    import embedded

    with pytest.raises(embedded.ApiError) as caught:
        webui.txt2img(**request(unit(**fields)))
    assert caught.value.status == status
    assert caught.value.body["errors"].startswith(sentence)
    assert caught.value.body["detail"] == caught.value.body["errors"]
    assert calls.rows == []
    assert np.array_equal(first(webui.txt2img(**request())), plain)


def test_argument_that_is_no_unit_is_refused(webui):
    import embedded

    with pytest.raises(embedded.ApiError, match="not a unit"):
        webui.txt2img(**request("canny"))


def test_setting_skip_goes_on_without_the_failing_unit(webui, plain):
    answer = webui.txt2img(
        **request(
            unit(image=None), unit(weight=0), override_settings={"control_net_on_error": "skip"}
        )
    )
    assert np.array_equal(first(answer), plain)
    assert "ControlNet" not in answer.info["infotexts"][0]
    notes = answer.info["extra_generation_params"]["ControlNet notes"].split("\n")
    assert [note.partition(": ")[0] for note in notes] == [
        "ControlNet",
        "ControlNet unit 1 was never active, so it is not in the parameters",
    ]
    failed, idle = answer.info["extra_generation_params"]["ControlNet report"]["units"]
    assert "no input image" in failed["skipped"]
    assert (idle["unit"], idle["skipped"]) == (1, "its weight is 0")


def test_report_of_what_ran_is_in_the_answer_and_in_no_text(webui):
    answer = webui.txt2img(**request(unit(guidance_end=0.5), n_iter=2))
    (told,) = answer.info["extra_generation_params"]["ControlNet report"]["units"]
    (made,) = told.pop("passes")
    assert told.pop("memory") > 0
    assert {key: told[key] for key in ("unit", "family", "base")} == {
        **{"unit": 0, "family": "ControlNet", "base": "SD1"},
    }
    assert (made["steps"], made["of"], made["size"]) == (STEPS // 2 * 2, STEPS * 2, [SIZE, SIZE])
    assert made["ms_per_step"] > 0
    assert not any("report" in text for text in answer.info["infotexts"])


def test_report_is_in_no_text_that_is_made_later(webui):
    """A grid's text is made of the parameters of a generation that is over."""
    from modules import processing

    from lib_controlnet.host.generation import AnswerOnly

    p = processing.StableDiffusionProcessingTxt2Img(prompt="x")
    p.extra_generation_params = {"ControlNet report": AnswerOnly(units=[]), "Other": 1}
    p.all_seeds, p.all_subseeds, p.all_prompts, p.all_negative_prompts = [1], [1], ["x"], [""]
    text = processing.create_infotext(p, ["x"], [1], [1])
    assert "Other: 1" in text
    assert "report" not in text


def test_failure_during_sampling_leaves_the_next_run_untouched(webui, plain, calls):
    import embedded

    from lib_controlnet.host.runtime import runtime

    before = unet_hooks()
    calls.fail_at = 2
    with pytest.raises(embedded.ApiError, match="simulated failure"):
        webui.txt2img(**request(unit()))
    assert unet_hooks() == before
    assert runtime().sampling is None
    assert np.array_equal(first(webui.txt2img(**request())), plain)


def test_interrupt_during_sampling_leaves_the_next_run_untouched(webui, plain, calls):
    from modules import shared

    before = unet_hooks()
    calls.on_call = lambda count: shared.state.interrupt() if count == 2 else None
    answer = webui.txt2img(**request(unit()))
    assert len(calls.rows) == 2
    assert len(answer.images) == 2
    assert unet_hooks() == before
    assert np.array_equal(first(webui.txt2img(**request())), plain)


@pytest.mark.parametrize(
    ("fields", "settings", "maps"),
    [
        ({}, {}, 1),
        ({"save_detected_map": False}, {}, 0),
        ({}, {"control_net_no_detectmap": True}, 0),
    ],
    ids=["shown", "unit-off", "setting-off"],
)
def test_maps_follow_the_pictures_once_per_unit(webui, fields, settings, maps):
    answer = webui.txt2img(
        **request(unit(**fields), batch_size=2, n_iter=2, override_settings=settings)
    )
    assert answer.info["index_of_first_image"] == 0
    assert len(answer.images) == 4 + maps
    assert len(answer.info["infotexts"]) == 4


def test_infotext_names_the_unit_that_ran(webui):
    answer = webui.txt2img(**request(unit(weight=0.5, control_mode=1)))
    assert (
        'ControlNet 0: "Module: none, Model: random_control, Weight: 0.5, '
        "Resize Mode: Crop and Resize" in answer.info["infotexts"][0]
    )
    assert "Control Mode: My prompt is more important" in answer.info["infotexts"][0]


def test_request_dicts_are_echoed_unchanged(webui):
    sent = request(unit(guidance=0.8, input_image=""))
    answer = webui.txt2img(**sent)
    echoed = answer.parameters["alwayson_scripts"]["ControlNet"]["args"][0]
    assert echoed == sent["alwayson_scripts"]["ControlNet"]["args"][0]


def test_what_fits_is_told_without_a_look_at_weights(webui, monkeypatch):
    """They may lie on a device that is busy, and the panel asks at each of its events."""
    from lib_controlnet.engine import unet
    from lib_controlnet.host.runtime import runtime

    looked = []
    monkeypatch.setattr(unet, "sample_weights", lambda *asked: looked.append(asked) or 0)
    models = runtime().catalog.files.values()
    told = [runtime().refusals()(entry.path) for entry in models]
    assert None in told
    assert runtime().checkpoint_name()
    assert not looked
    assert runtime().base().identity
    assert len(looked) == 1


def test_structure_of_a_unet_is_read_once(webui, monkeypatch):
    """An SDXL U-Net has 1680 tensors, and generations ask again and again."""
    from modules import shared

    from lib_controlnet.engine.unet import describe_unet
    from lib_controlnet.host import adapter
    from lib_controlnet.host.runtime import runtime

    asked = []

    def describe(unet):
        asked.append(unet)
        return describe_unet(unet)

    monkeypatch.setattr(adapter, "describe_unet", describe)
    host = runtime().host
    monkeypatch.setattr(host, "_seen", WeakKeyDictionary())
    for _ in range(2):
        webui.txt2img(**request(unit(), steps=1, enable_hr=True))
    assert asked == [shared.sd_model.model.diffusion_model]
    other = tiny_unet("SDXL")
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=other))
    monkeypatch.setattr(adapter, "find_model", lambda: model)
    assert host.require_base().shape == describe_unet(other)
    assert asked[1:] == [other]


@pytest.mark.parametrize(
    ("unet", "place", "expected"),
    [
        ("float16", "cpu", "float32"),
        ("float16", "meta", "float16"),
        ("bfloat16", "cpu", "bfloat16"),
        ("float8_e4m3fn", "meta", "float16"),
        ("float8_e4m3fn", "cpu", "float32"),
    ],
)
def test_networks_on_the_cpu_never_compute_in_half(webui, monkeypatch, unet, place, expected):
    """`--use-cpu controlnet` beside a U-Net that is kept in half precision."""
    import torch

    from lib_controlnet.host import adapter
    from lib_controlnet.host.a1111.member import A1111

    monkeypatch.setattr(A1111, "find_dtype", lambda _self, _model: getattr(torch, unet))
    monkeypatch.setattr(adapter.devices, "get_device_for", lambda _task: torch.device(place))
    assert adapter.WebUIHost().network_dtype == getattr(torch, expected)


@pytest.mark.parametrize("hires", [False, True])
def test_ten_batches_prepare_and_place_what_one_does(webui, monkeypatch, hires):
    """Only the network's own evaluations and its hint encoder are done again."""
    from lib_controlnet.engine import injection, prepared
    from lib_controlnet.host.adapter import WebUIHost
    from lib_controlnet.prepare import units as preparing

    made = []
    counted = {
        "placed": (prepared, "place_map"),
        "region": (prepared, "place_region"),
        "digest": (prepared.hashlib, "sha1"),
        "latent": (WebUIHost, "vae_encode"),
        "detected": (preparing.preprocess, "run_preprocessor"),
        "covered": (injection, "cover"),
    }

    def counting(name, original):
        def count(*args, **kwargs):
            made.append(name)
            return original(*args, **kwargs)

        return count

    for name, (owner, attribute) in counted.items():
        monkeypatch.setattr(owner, attribute, counting(name, getattr(owner, attribute)))
    region = np.zeros((SIZE, SIZE), np.uint8)
    region[: SIZE // 2] = 255
    fields = {"steps": 1, "width": 64, "height": 64}
    if hires:
        fields |= {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.9}
    costs = []
    for count in (1, 10):
        made.clear()
        colours = unit(module="tile_colorfix", effective_region_mask=encoded(region))
        webui.txt2img(**request(colours, unit(), n_iter=count, **fields))
        costs.append({name: made.count(name) for name in counted})
    assert costs[0] == costs[1]
    assert all(costs[0].values())
