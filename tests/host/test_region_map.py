"""One picture in a few colours for three units, through the embedded host: as three masks would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sdxl_models
from controls import SIZE, encoded, first, picture, request, unit

COLOURS = {"#ff0000": (0, 24), "#00ff00": (24, 40), "#0000ff": (48, 64)}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
BLOCK = np.zeros((SIZE, SIZE), np.uint8)
BLOCK[16:48, 8:40] = 255
ONLY_MASKED = {
    "init_images": [encoded(picture(96, SIZE, seed=2))],
    "mask": encoded(BLOCK),
    "inpaint_full_res": True,
    "inpaint_full_res_padding": 8,
    "denoising_strength": 0.7,
}


def areas() -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture in colours, and the mask of each."""
    painted = np.full((SIZE, SIZE, 3), 255, np.uint8)
    masks = []
    for colour, (left, right) in COLOURS.items():
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[8:, left:right] = 255
        painted[mask > 0] = tuple(bytes.fromhex(colour[1:]))
        masks.append(mask)
    return painted, masks


def generate(host: Any, model: dict, own: list[dict], fields: dict) -> tuple[np.ndarray, dict]:
    weights = (1.5, 0.7, 1.0)
    units = [
        unit(weight=weight, region_feather=8, image=encoded(picture(seed=i)), **model, **region)
        for i, (weight, region) in enumerate(zip(weights, own, strict=True))
    ]
    make = host.img2img if "init_images" in fields else host.txt2img
    answer = make(**request(*units, steps=2, **fields))
    return first(answer), answer.info["extra_generation_params"]


def check(host: Any, model: dict, fields: dict) -> None:
    """Masks and colours give the same picture, which is another one than without regions."""
    painted, masks = areas()
    colours = [{"region_colour": colour} for colour in COLOURS]
    colours[1]["region_map"] = encoded(painted)
    apart, _ = generate(host, model, [{"effective_region_mask": encoded(m)} for m in masks], fields)
    together, told = generate(host, model, colours, fields)
    assert np.array_equal(together, apart)
    assert "Region: Own mask, Region Feather: 8.0, Region Colour: #00ff00" in told["ControlNet 1"]
    assert not np.array_equal(generate(host, model, [{}, {}, {}], fields)[0], apart)


@pytest.mark.parametrize("fields", [HIRES, ONLY_MASKED], ids=["hires", "only masked"])
def test_one_picture_equals_three_masks(webui: Any, fields: dict) -> None:
    check(webui, {}, fields)


def test_colour_that_is_not_there_stops_the_generation(webui: Any) -> None:
    painted, _masks = areas()
    asked = unit(region_colour="yellow", region_map=encoded(painted))
    with pytest.raises(Exception, match="region_colour is #ffff00, which is not in the region_map"):
        webui.txt2img(**request(asked))


def test_one_picture_equals_three_masks_on_sdxl(sdxl: Any) -> None:
    check(sdxl, {"model": sdxl_models.CONTROL}, {})
