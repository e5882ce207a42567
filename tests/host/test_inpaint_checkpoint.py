"""An inpainting checkpoint is told the mask and the picture of a unit where the host has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import sdxl_models
import torch
from controls import SIZE, STEPS, encoded, picture, request
from minildm.unet import UNetModel
from PIL import Image

MODEL = "control_demo_inpaint"


def boxed():
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[20:44, 10:50] = 255
    return mask


def inpaint(module="inpaint_only", mask=encoded(boxed()), **fields):  # noqa: B008 - text
    unit = {"module": module, "model": MODEL, "image": encoded(picture()), **fields}
    return unit if mask is None else {**unit, "mask": mask}


def img2img(*units, **fields):
    init = {"init_images": [Image.fromarray(picture())], "denoising_strength": 1.0, "mask_blur": 0}
    return request(*units, **{**init, "inpaint_full_res": False, **fields})


@pytest.fixture(scope="module")
def inpainting(host):
    """The name of a checkpoint with nine input channels."""
    from matrix import checkpoints
    from modules import paths, sd_models

    folder = Path(paths.models_path) / "Stable-diffusion"
    checkpoints.write(folder)
    clip = f"{checkpoints.BASE}-clip"
    shutil.copytree(checkpoints.ASSETS / clip, folder / clip, dirs_exist_ok=True)
    sd_models.list_models()
    return {"override_settings": {"sd_model_checkpoint": checkpoints.INPAINTING}}


@pytest.fixture
def told(monkeypatch):
    """What the checkpoint's further channels hold in each U-Net call, (rows, 5, h, w)."""
    seen, original = [], UNetModel.forward

    def spy(self, x, *others, **named):
        seen.append(x[:, 4:].clone())
        return original(self, x, *others, **named)

    monkeypatch.setattr(UNetModel, "forward", spy)
    return seen


HINTED = ["inpaint_only", "inpaint_global_harmonious"]


@pytest.mark.parametrize("model", [MODEL, sdxl_models.CONTROL])
@pytest.mark.parametrize("module", HINTED)
def test_units_mask_and_picture_reach_an_inpainting_checkpoint(
    host, inpainting, sdxl_checkpoints, told, module, model
):
    if model == sdxl_models.CONTROL:
        inpainting = {"override_settings": {"sd_model_checkpoint": sdxl_checkpoints[2]}}
    host.img2img(**img2img(mask=Image.fromarray(boxed()), **inpainting))
    own = told[0].clone()
    told.clear()
    unit = inpaint(module=module, model=model, guidance_end=0.5)
    host.txt2img(**request(unit, batch_size=2, **inpainting))
    assert {len(rows) for rows in told} == {4}
    for rows in told[: STEPS // 2]:
        assert torch.equal(rows[:, 0], own[[0] * 4, 0]), "the mask's cells, as the host takes them"
        near = (rows[:, 1:] - own[[0] * 4, 1:]).abs().mean()
        assert near < 0.1 * own[:, 1:].std(), "the host draws its latents at random"
    for rows in told[STEPS // 2 :]:
        assert bool((rows[:, 0] == 1).all()), "outside the window the host's own"


def test_units_mask_reaches_every_pass_and_its_own_pictures_only(host, inpainting, told):
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_upscaler": "Lanczos"}
    turns = {"batch_option": "Each ControlNet unit for each image in a batch"}
    units = (inpaint(module="none", mask=None, **turns), inpaint(**turns))
    host.txt2img(**request(*units, batch_size=2, **hires, **inpainting))
    assert {tuple(rows.shape[-2:]) for rows in told} == {(SIZE // 8,) * 2, (SIZE // 4,) * 2}
    for rows in told:
        assert [bool((row == 1).all()) for row in rows[:, 0]] == [True, False] * 2


def test_latent_upscaler_goes_on_with_a_unit_that_tells_the_checkpoint(host, inpainting, told):
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
    host.txt2img(**request(inpaint(), **hires, **inpainting))
    assert {tuple(rows.shape[-2:]) for rows in told} == {(SIZE // 8,) * 2, (SIZE // 4,) * 2}


@pytest.mark.parametrize(
    "unit",
    [inpaint(weight=0), inpaint(mask=encoded(boxed() * 0)), inpaint(module="canny", mask=None)],
    ids=["strength-0", "nothing-masked", "no-inpaint-unit"],
)
def test_inpainting_checkpoint_is_told_nothing_by_other_units(host, inpainting, told, unit):
    host.txt2img(**request(unit, **inpainting))
    assert all(bool((rows[:, 0] == 1).all()) for rows in told)


def test_host_without_a_mask_tells_the_units_in_img2img(host, inpainting, told):
    host.img2img(**img2img(inpaint(), **inpainting))
    assert all(0 < float(rows[:, 0].mean()) < 1 for rows in told)
