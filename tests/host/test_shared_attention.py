"""Reference units and StyleAlign through the embedded host: what ran is told, nothing stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from controls import encoded, first, picture, request, unet_hooks, unit

BATCH = {"batch_size": 2, "steps": 2}
ALIGN = {"enabled": False, "style_align": True}


def told(answer: Any) -> dict[str, str]:
    """The generation parameters."""
    return answer.info["extra_generation_params"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("reference_adain", {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7}),
        ("reference_adain+attn", {"override_settings": {"batch_cond_uncond": False}}),
        ("reference_only", {"init_images": [encoded(picture(seed=3))], "denoising_strength": 0.7}),
        (
            "reference_adain+attn",
            {
                "init_images": [encoded(picture(seed=3))],
                "mask": encoded(np.eye(2, dtype=np.uint8).repeat(32, 0).repeat(32, 1) * 255),
                "denoising_strength": 0.7,
            },
        ),
    ],
    ids=["hires", "calls apart", "img2img", "inpaint"],
)
def test_a_picture_steers_and_leaves_nothing(webui: Any, name: str, fields: dict) -> None:
    make = webui.img2img if "init_images" in fields else webui.txt2img
    plain, hooks = first(make(**request(**BATCH, **fields))), unet_hooks()
    steers = {"module": name, "model": "None", "image": encoded(picture(seed=8))}
    answer = make(**request(unit(**steers), **BATCH, **fields))
    assert not np.array_equal(first(answer), plain)
    assert f"Module: {name}" in told(answer)["ControlNet 0"]
    assert unet_hooks() == hooks
    assert np.array_equal(first(make(**request(**BATCH, **fields))), plain)


def test_pictures_of_a_batch_are_aligned_with_and_without_units(webui: Any) -> None:
    plain, hooks = webui.txt2img(**request(**BATCH)), unet_hooks()
    answer = webui.txt2img(**request(ALIGN, **BATCH))
    assert told(answer)["ControlNet StyleAlign"] == "True"
    for one, two in zip(answer.images[:2], plain.images[:2], strict=True):
        assert not np.array_equal(np.array(one), np.array(two))
    apart = {"override_settings": {"batch_cond_uncond": False}}
    assert np.allclose(
        first(webui.txt2img(**request(ALIGN, **BATCH, **apart))).astype(int), first(answer), atol=1
    )
    both = webui.txt2img(**request({**unit(), "style_align": True}, **BATCH))
    assert {"ControlNet 0", "ControlNet StyleAlign"} <= set(told(both))
    assert not np.array_equal(first(both), first(answer))
    alone = told(webui.txt2img(**request(ALIGN, steps=2)))
    assert "ControlNet StyleAlign" not in alone
    assert "several pictures" in alone["ControlNet notes"]
    assert unet_hooks() == hooks
    assert np.array_equal(first(webui.txt2img(**request(**BATCH))), first(plain))


def test_revision_is_refused_on_another_base_before_its_weights_are_fetched(webui: Any) -> None:
    asked = {"module": "revision_clipvision", "model": "None", "image": encoded(picture())}
    with pytest.raises(Exception, match="needs an SDXL checkpoint"):
        webui.txt2img(**request(asked))


def test_pictures_steer_sdxl_without_a_model(sdxl: Any) -> None:
    from modules import shared

    label = shared.sd_model.model.diffusion_model.label_emb[0][0]
    width = min(1280, label.in_features)
    seen = np.random.default_rng(1).normal(size=width).round(3).tolist()
    short, model = {"steps": 2}, {"model": "None"}
    plain, hooks = first(sdxl.txt2img(**request(**short))), unet_hooks()
    made = []
    for fields in (
        {"module": "reference_adain+attn", "image": encoded(picture(seed=8))},
        {"module": "revision_clipvision", "ipadapter_input": seen},
        {"module": "revision_ignore_prompt", "ipadapter_input": seen},
        {"module": "revision_ignore_prompt", "ipadapter_input": seen, "threshold_a": 0.5},
    ):
        answer = sdxl.txt2img(**request({**model, **fields}, **short))
        assert f"Module: {fields['module']}" in told(answer)["ControlNet 0"]
        made.append(first(answer))
    for number, one in enumerate(made):
        assert all(not np.array_equal(one, other) for other in (plain, *made[:number]))
    half = encoded(np.repeat([[255, 0]], 32, 0).astype(np.uint8))
    limited = {**model, "module": "revision_clipvision", "ipadapter_input": seen}
    with pytest.raises(Exception, match="Revision acts on the whole picture"):
        sdxl.txt2img(**request({**limited, "effective_region_mask": half}, **short))
    assert unet_hooks() == hooks
    assert np.array_equal(first(sdxl.txt2img(**request(**short))), plain)
