"""Checkpoints of other kinds in the embedded host, and when a refiner takes over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matrix import checkpoints
from PIL import Image, ImageDraw, ImageFilter

SIZE = 64
STEPS = 10


@pytest.fixture(scope="module")
def derived(host: Any) -> Iterator[None]:
    """The derived checkpoints in the host's folder; afterwards the demo model is loaded again."""
    from modules import paths, sd_models, shared

    folder = Path(paths.models_path) / "Stable-diffusion"
    files = checkpoints.write(folder)
    text_encoder = folder / "demo-clip"
    is_there = text_encoder.exists()
    if not is_there:
        text_encoder.symlink_to(checkpoints.ASSETS / "demo-clip")
    sd_models.list_models()
    before = shared.opts.data.get("sd_model_checkpoint")
    yield
    shared.opts.data["sd_model_checkpoint"] = before
    sd_models.reload_model_weights(info=sd_models.get_closet_checkpoint_match(checkpoints.BASE))
    for file in [*files, *([] if is_there else [text_encoder])]:
        file.unlink()
    sd_models.list_models()


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGB")


BASE = {"prompt": "a red circle", "width": SIZE, "height": SIZE, "seed": 7, "cfg_scale": 3.0}


@pytest.mark.parametrize("by_steps", [False, True])
def test_refiner_takes_over_by_timestep_unless_set_to_steps(
    host: Any, derived: None, monkeypatch: pytest.MonkeyPatch, by_steps: bool
) -> None:
    from modules import processing, sd_samplers, sd_samplers_common, shared

    taken: list[int] = []
    apply = sd_samplers_common.apply_refiner

    def spy(denoiser: Any, sigma: Any = None) -> bool:
        changed = apply(denoiser, sigma)
        taken.extend([denoiser.step] if changed else [])
        return changed

    monkeypatch.setattr(sd_samplers_common, "apply_refiner", spy)
    monkeypatch.setitem(shared.opts.data, "refiner_switch_by_sample_steps", by_steps)
    monkeypatch.setitem(shared.opts.data, "samples_save", False)
    p = processing.StableDiffusionProcessingTxt2Img(
        **BASE,
        steps=STEPS,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        refiner_checkpoint=checkpoints.SECOND,
        refiner_switch_at=0.7,
    )
    processing.process_images(p)
    sampler = sd_samplers.create_sampler("DPM++ 2M", shared.sd_model)
    sigmas, known = sampler.get_sigmas(p, STEPS)[:-1], sampler.model_wrap.sigmas
    timesteps = [int((known - sigma).abs().argmin()) for sigma in sigmas]
    by_time = next(step for step, t in enumerate(timesteps) if (999 - t) / 1000 >= 0.7)
    assert by_time != 7, "both ways of counting would agree, which tests nothing"
    assert taken == [7 if by_steps else by_time]


def test_edit_checkpoint_sees_the_picture_in_two_of_three_rows(
    host: Any, derived: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import processing, shared

    monkeypatch.setitem(shared.opts.data, "samples_save", False)
    seen: list[torch.Tensor] = []
    p = processing.StableDiffusionProcessingImg2Img(
        **BASE,
        steps=4,
        sampler_name="Euler",
        scheduler="Automatic",
        init_images=[picture()],
        denoising_strength=0.6,
        image_cfg_scale=1.5,
        override_settings={"sd_model_checkpoint": checkpoints.EDITING},
    )
    host_init = processing.StableDiffusionProcessingImg2Img.init

    def init(self: Any, *arguments: Any) -> None:
        host_init(self, *arguments)
        unet = shared.sd_model.model.diffusion_model
        handle = unet.register_forward_pre_hook(lambda _unet, args: seen.append(args[0].clone()))
        self.sampler.handle = handle

    monkeypatch.setattr(processing.StableDiffusionProcessingImg2Img, "init", init)
    processing.process_images(p)
    p.sampler.handle.remove()
    assert shared.sd_model.cond_stage_key == "edit"
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None] / 127.5 - 1
    mode = shared.sd_model.encode_first_stage(pixels.float()).mode()
    assert [x.shape[:2] for x in seen] == [(3, 8)] * 3
    for x in seen:
        assert torch.allclose(x[:2, 4:], mode.expand(2, -1, -1, -1), atol=1e-3)
        assert not x[2, 4:].any()


def test_inpaint_sketch_softens_the_strokes(host: Any) -> None:
    from modules import img2img

    plain = Image.new("RGB", (SIZE, SIZE), "red")
    drawn = plain.copy()
    ImageDraw.Draw(drawn).rectangle((0, 0, 15, 15), fill="blue")
    nothing = (None,) * 3
    image, mask = img2img.input_of_mode(3, *nothing, drawn, plain, None, None, 4, 0)
    blur = ImageFilter.GaussianBlur(4)
    expected = Image.composite(drawn.filter(blur), plain, mask.filter(blur))
    assert np.array_equal(np.array(image), np.array(expected))
    assert image.getpixel((13, 13))[0] > 20, "near its edge the stroke is mixed with what it covers"
