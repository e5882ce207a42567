"""Where a member's plain picture is A1111's to 1 of 255, the controlled one is as well."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import sdxl_models
from controls import encoded, first, picture, request
from matrix import checkpoints
from PIL import Image

EDGES = encoded(np.pad(np.full((24, 24, 3), 255, np.uint8), ((20, 20), (20, 20), (0, 0))))
PHOTO = encoded(picture())
BOX = encoded(np.pad(np.full((32, 32), 255, np.uint8), 16))
HALF = encoded(np.pad(np.full((64, 32), 255, np.uint8), ((0, 0), (0, 32))))


def unit(model: str = "control_demo_depth", **fields: Any) -> dict[str, Any]:
    return {"module": "none", "model": model, "image": EDGES, **fields}


def checkpoint(name: str) -> dict[str, Any]:
    return {"override_settings": {"sd_model_checkpoint": name}}


DEPTH = unit()
MORE = unit(control_mode="ControlNet is more important")
COLOURS = unit(module="tile_colorfix", image=PHOTO)
KEPT = unit("control_demo_inpaint", module="inpaint_only", image=PHOTO, mask=BOX)
HIRES = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.75, "hr_cfg": 4}
HIRES["hr_second_pass_steps"] = 3  # all of its timesteps are whole
BATCH = {"batch_size": 2, "prompt": "a circle AND a square :0.5"}
XL = {"model": sdxl_models.CONTROL}

CASES: dict[str, tuple[dict[str, Any], tuple[dict[str, Any], ...]]] = {
    "families": (
        {},
        (
            unit(weight=0.6),
            unit("control_lora_demo_canny", module="canny", weight=0.6),
            unit("t2iadapter_demo_canny", module="canny", weight=0.6),
        ),
    ),
    "more families": (
        {},
        (
            unit("union_demo", module="canny", union_control_type="Hard Edge", weight=0.6),
            {"module": "reference_adain+attn", "model": "None", "image": PHOTO, "weight": 0.6},
        ),
    ),
    "rows": (BATCH, (MORE, unit(effective_region_mask=HALF))),
    "no guidance": ({"cfg_scale": 1}, (DEPTH, COLOURS)),
    "long prompt": ({"prompt": "a red circle, " * 30}, (MORE, COLOURS)),
    "hires": (HIRES, (DEPTH, COLOURS)),
    "second order": ({"sampler_name": "Heun"}, (unit(guidance_end=0.5), COLOURS)),
    "timesteps": ({"sampler_name": "DDIM"}, (COLOURS, KEPT)),
    "inpaint_only": ({}, (KEPT,)),
    "inpainting checkpoint": (checkpoint(checkpoints.INPAINTING), (KEPT,)),
    "refiner": (
        {"refiner_checkpoint": checkpoints.SECOND, "refiner_switch_at": 0.5},
        (MORE, COLOURS),
    ),
    "SDXL": (checkpoint(sdxl_models.BASE), (unit(**XL), {**COLOURS, **XL}, {**KEPT, **XL})),
}


def theirs(a1111: Any, fields: dict[str, Any]) -> np.ndarray:
    """A1111's picture, uint8 (H, W, 3)."""
    sent = {name: value for name, value in fields.items() if name != "hr_cfg"}
    (first_one, *_rest) = a1111.post("/sdapi/v1/txt2img", sent)["images"]
    return np.array(Image.open(io.BytesIO(base64.b64decode(first_one))).convert("RGB"))


@pytest.mark.parametrize("case", CASES)
def test_picture_is_that_of_a1111(case: str, host: Any, a1111: Any) -> None:
    fields, units = CASES[case]
    pictures = []
    for with_units in ((), units):
        asked = request(*with_units, **fields)
        pictures.append((first(host.txt2img(**asked)), theirs(a1111, asked)))
    (plain, plain_there), (controlled, controlled_there) = (
        (ours.astype(int), there.astype(int)) for ours, there in pictures
    )
    assert np.abs(plain - plain_there).max() <= 1
    assert np.abs(controlled - controlled_there).max() <= 1
    assert np.abs(controlled - plain).mean() > 2  # else nothing is shown
