"""A weight curve through the embedded host: the sampler's own steps, both passes, parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sdxl_models
from controls import first, request, unit

from lib_controlnet.units import infotext

SAMPLERS = ("Heun", "DPM adaptive", "DDIM", "UniPC")
HIRES = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_curve_of_jumps_is_two_windows_for_every_sampler(
    webui: Any, calls: Any, sampler: str
) -> None:
    """The same steps, whatever they are made of: pixel for pixel, and evaluated as often."""
    windows = unit(guidance_end=0.5), unit(guidance_start=0.75, weight=0.5)
    curve = "1@0, 1@0.5, 0@0.5, 0@0.75, 0.5@0.75"
    asked = {"sampler_name": sampler, "steps": 6}
    expected = first(webui.txt2img(**request(*windows, **asked)))
    made = list(calls.rows)
    calls.rows.clear()
    found = first(webui.txt2img(**request(unit(weight_curve=curve), **asked)))
    assert np.array_equal(found, expected)
    assert calls.rows == made
    assert calls.rows


def test_a_slope_is_a_unit_for_each_step(webui: Any) -> None:
    parts = [
        unit(weight=1 - k / 3, guidance_start=k / 3, guidance_end=(k + 1) / 3) for k in range(3)
    ]
    expected = first(webui.txt2img(**request(*parts, steps=3)))
    slope = request(unit(weight_curve="linear"), steps=3)
    assert np.array_equal(first(webui.txt2img(**slope)), expected)


def test_each_pass_has_its_own_and_the_parameters_give_both_back(webui: Any, calls: Any) -> None:
    text = "1@0, 1@0.5, 0@0.5 | 0@0, 0@0.5, 1@0.5"
    answer = webui.txt2img(**request(unit(weight_curve=text), **HIRES))
    windows = (
        unit(guidance_end=0.5, hr_option="Low res only"),
        unit(guidance_start=0.5, hr_option="High res only"),
    )
    made = list(calls.rows)
    assert np.array_equal(first(answer), first(webui.txt2img(**request(*windows, **HIRES))))
    assert calls.rows == made * 2
    (ran,) = answer.info["extra_generation_params"]["ControlNet report"]["units"]
    assert [(one["steps"], one["of"]) for one in ran["passes"]] == [(2, 4), (2, 4)]
    written = infotext.parse_text(answer.info["infotexts"][0])[0]
    assert str(written["weight_curve"]) == text
    again = unit(weight_curve=str(written["weight_curve"]))
    assert np.array_equal(first(webui.txt2img(**request(again, **HIRES))), first(answer))


def test_a_curve_of_zeros_makes_the_plain_picture_and_is_said(webui: Any, plain: Any) -> None:
    curve = {"first": [[0.3, 0]], "hires": "1@0"}
    answer = webui.txt2img(**request(unit(weight_curve=curve)))
    assert np.array_equal(first(answer), plain)
    said = answer.info["extra_generation_params"]["ControlNet notes"]
    assert "its weight_curve (0@0.3 | 1@0) is 0" in said


@pytest.mark.parametrize("curve", ["0.5", "1@2", "nan@0", [1, 2], {"second": "1@0"}, "1@0," * 99])
def test_nonsense_is_refused_with_a_sentence(webui: Any, curve: Any) -> None:
    import embedded

    with pytest.raises(embedded.ApiError, match="unit 0: weight_curve is .*, must ") as caught:
        webui.txt2img(**request(unit(weight_curve=curve)))
    assert caught.value.status == 422


def test_a_checkpoint_of_sdxls_kind_follows_it_alike(sdxl: Any) -> None:
    checkpoint = {"sd_model_checkpoint": sdxl_models.BASE}
    stays = {"override_settings": checkpoint, "override_settings_restore_afterwards": False}
    own = {"model": sdxl_models.CONTROL}
    windows = unit(guidance_end=0.5, **own), unit(guidance_start=0.5, weight=0.5, **own)
    curve = unit(weight_curve="1@0, 1@0.5, 0.5@0.5", **own)
    expected, found = (first(sdxl.txt2img(**request(*u, **stays))) for u in (windows, [curve]))
    assert np.array_equal(found, expected)
