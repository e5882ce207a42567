"""The functions behind the two Generate buttons: input modes, batch, upscaling a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import stub_model
from PIL import Image, ImageDraw

SIZE = 64


@pytest.fixture
def unet(host: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[stub_model.StubUNet]:
    """The loaded checkpoint with stand-ins for U-Net and VAE; nothing is written to disk."""
    from modules import shared

    for name, value in {"samples_save": False, "grid_save": False}.items():
        monkeypatch.setitem(shared.opts.data, name, value)
    with stub_model.stand_in(shared.sd_model) as stub:
        shared.state.begin("test")
        yield stub
        shared.state.end()


def picture(color: str, size: int = SIZE) -> Image.Image:
    return Image.new("RGB", (size, size), color)


def stroke(mode: str) -> Image.Image:
    """White square in the corner, as the page's mask or drawing."""
    image = Image.new(mode, (SIZE, SIZE))
    ImageDraw.Draw(image).rectangle((0, 0, 15, 15), fill="white")
    return image


def script_values(host: Any, kind: str) -> list[Any]:
    """Values of the tab's script components: the API's defaults, with few steps."""
    from modules import scripts

    values = list(getattr(host.api, f"default_script_arg_{kind}"))
    runner = getattr(scripts, f"scripts_{kind}")
    (sampler,) = [script for script in runner.scripts if script.title() == "Sampler"]
    values[sampler.args_from : sampler.args_from + 3] = [3, "Euler", "Automatic"]
    (seed,) = [script for script in runner.scripts if script.title() == "Seed"]
    values[seed.args_from] = 5
    values[0] = 0
    return values


def run_img2img(host: Any, **fields: Any) -> tuple:
    from modules import img2img

    given = {
        "id_task": "task",
        "request": SimpleNamespace(username=None),
        "mode": 0,
        "prompt": "a red circle",
        "negative_prompt": "",
        "prompt_styles": [],
        "init_img": picture("red"),
        "sketch": None,
        "init_img_with_mask": None,
        "inpaint_color_sketch": None,
        "inpaint_color_sketch_orig": None,
        "init_img_inpaint": None,
        "init_mask_inpaint": None,
        "mask_blur": 0,
        "mask_alpha": 0.0,
        "inpainting_fill": 1,
        "n_iter": 1,
        "batch_size": 1,
        "cfg_scale": 3.0,
        "image_cfg_scale": 1.5,
        "denoising_strength": 0.5,
        "selected_scale_tab": 0,
        "height": SIZE,
        "width": SIZE,
        "scale_by": 1.0,
        "resize_mode": 0,
        "inpaint_full_res": False,
        "inpaint_full_res_padding": 0,
        "inpainting_mask_invert": 0,
        "img2img_batch_input_dir": "",
        "img2img_batch_output_dir": "",
        "img2img_batch_inpaint_mask_dir": "",
        "override_settings_texts": [],
        "img2img_batch_use_png_info": False,
        "img2img_batch_png_info_props": [],
        "img2img_batch_png_info_dir": "",
        "img2img_batch_source_type": "upload",
        "img2img_batch_upload": None,
        **fields,
    }
    return img2img.img2img(*given.values(), *script_values(host, "img2img"))


TXT2IMG = {
    "prompt": "a red circle",
    "negative_prompt": "",
    "prompt_styles": [],
    "n_iter": 1,
    "batch_size": 1,
    "cfg_scale": 3.0,
    "height": SIZE,
    "width": SIZE,
    "enable_hr": False,
    "denoising_strength": 0.5,
    "hr_scale": 1.5,
    "hr_upscaler": "Latent",
    "hr_second_pass_steps": 0,
    "hr_resize_x": 0,
    "hr_resize_y": 0,
    "hr_checkpoint_name": "Use same checkpoint",
    "hr_sampler_name": "Use same sampler",
    "hr_scheduler": "Use same scheduler",
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "override_settings_texts": [],
}


# ---- input modes ---------------------------------------------------------------------------


def inputs(mode: int, **fields: Any) -> tuple[Image.Image | None, Image.Image | None]:
    from modules import img2img

    names = (
        "init_img",
        "sketch",
        "init_img_with_mask",
        "inpaint_color_sketch",
        "inpaint_color_sketch_orig",
        "init_img_inpaint",
        "init_mask_inpaint",
    )
    values = [fields.get(name) for name in names]
    return img2img.input_of_mode(mode, *values, fields.get("blur", 0), fields.get("alpha", 0))


def test_each_tab_gives_its_own_picture(host: Any) -> None:
    fields = {
        "init_img": picture("red"),
        "sketch": picture("green"),
        "init_img_with_mask": {"image": picture("blue"), "mask": stroke("RGB")},
        "init_img_inpaint": picture("white"),
        "init_mask_inpaint": stroke("L"),
    }
    colors = {mode: inputs(mode, **fields)[0].getpixel((40, 40)) for mode in (0, 1, 2, 4)}
    assert colors == {0: (255, 0, 0), 1: (0, 128, 0), 2: (0, 0, 255), 4: (255, 255, 255)}
    masks = {mode: inputs(mode, **fields)[1] for mode in (0, 1, 2, 4)}
    assert masks[0] is masks[1] is None
    for mode in (2, 4):
        assert masks[mode].convert("L").getbbox() == (0, 0, 16, 16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_drawn_mask_of_either_form(host: Any, mode: str) -> None:
    _, mask = inputs(2, init_img_with_mask={"image": picture("blue"), "mask": stroke(mode)})
    assert mask.mode == "L"
    assert mask.getbbox() == (0, 0, 16, 16)


def test_sketched_colours_become_mask_and_picture(host: Any) -> None:
    original = picture("red")
    drawn = original.copy()
    ImageDraw.Draw(drawn).rectangle((0, 0, 15, 15), fill="blue")
    image, mask = inputs(3, inpaint_color_sketch=drawn, inpaint_color_sketch_orig=original)
    assert mask.getbbox() == (0, 0, 16, 16)
    assert mask.getpixel((5, 5)) == 255
    assert image.getpixel((5, 5)) == (0, 0, 255)
    image, mask = inputs(
        3, inpaint_color_sketch=drawn, inpaint_color_sketch_orig=original, alpha=50
    )
    assert mask.getpixel((5, 5)) == 127
    assert image.getpixel((5, 5)) == (128, 0, 127)


def test_empty_tabs_give_nothing(host: Any) -> None:
    assert [inputs(mode) for mode in range(5)] == [(None, None)] * 5


# ---- img2img -------------------------------------------------------------------------------


def test_resize_by_takes_the_pictures_size(unet: Any, host: Any) -> None:
    gallery, _, info, _ = run_img2img(
        host, init_img=picture("red", 48), selected_scale_tab=1, scale_by=1.5
    )
    assert gallery[0].size == (72, 72)
    assert "Size: 72x72" in info
    assert len(unet.log.calls) == 2  # strength 0.5 of 3 steps


def test_inpainting_with_a_drawn_mask_keeps_the_rest(unet: Any, host: Any) -> None:
    source = picture("red")
    gallery, _, _, _ = run_img2img(
        host, mode=2, init_img_with_mask={"image": source, "mask": stroke("RGB")}
    )
    before, after = np.asarray(source), np.asarray(gallery[0])
    changed = np.argwhere(np.any(before != after, axis=-1))
    assert changed.max(axis=0).tolist() <= [15, 15]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"denoising_strength": 1.2}, "denoising strength is 1.2, expected 0 to 1"),
        ({"init_img": None, "selected_scale_tab": 1}, "'Resize by' needs an input picture"),
        ({"mode": 5}, "img2img batch has no input"),
    ],
)
def test_impossible_values_are_named(unet: Any, host: Any, fields: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        run_img2img(host, **fields)


def test_batch_runs_every_file(unet: Any, host: Any, tmp_path: Path) -> None:
    files = []
    for number, color in enumerate(("red", "green", "blue")):
        path = tmp_path / f"{number}.png"
        picture(color).save(path)
        files.append(SimpleNamespace(name=str(path)))
    gallery, info, _, _ = run_img2img(host, mode=5, img2img_batch_upload=files)
    assert len(gallery) == 3
    assert len(json.loads(info)["infotexts"]) == 3
    encoded = [x.mean(dim=(0, 2, 3)) for x in _encoded()]
    assert [int(color.argmax()) for color in encoded] == [0, 1, 2]


def _encoded() -> list:
    from modules import shared

    return shared.sd_model.first_stage_model.encoded


def test_batch_from_a_folder_uses_masks_of_the_same_name(
    unet: Any, host: Any, tmp_path: Path
) -> None:
    pictures, masks, results = (tmp_path / name for name in ("in", "masks", "out"))
    for folder in (pictures, masks):
        folder.mkdir()
    for name in ("a", "b"):
        picture("red").save(pictures / f"{name}.png")
        stroke("L").save(masks / f"{name}.png")
    gallery, _, _, _ = run_img2img(
        host,
        mode=5,
        img2img_batch_source_type="from dir",
        img2img_batch_input_dir=str(pictures),
        img2img_batch_inpaint_mask_dir=str(masks),
        img2img_batch_output_dir=str(results),
    )
    assert len(gallery) == 2
    assert gallery[0].getpixel((40, 40)) == (255, 0, 0)


# ---- txt2img -------------------------------------------------------------------------------


def test_generate_and_upscale_one_picture(unet: Any, host: Any) -> None:
    from modules import txt2img

    values = [*TXT2IMG.values(), *script_values(host, "txt2img")]
    request = SimpleNamespace(username=None)
    gallery, info, html, comments = txt2img.txt2img("task", request, *values)
    assert [image.size for image in gallery] == [(SIZE, SIZE)]
    assert "a red circle" in html
    assert "comments" in comments
    unet.log.clear()

    items = [{"name": None, "data": _data_url(gallery[0])}]
    pictures, info, _, _ = txt2img.txt2img_upscale("task", request, items, 0, info, *values)
    assert pictures[0].size == (96, 96)
    assert {tuple(call.x.shape[-2:]) for call in unet.log.calls} == {(12, 12)}
    assert "Hires upscale: 1.5" in json.loads(info)["infotexts"][0]


def _data_url(image: Image.Image) -> str:
    from modules.api.api import encode_pil_to_base64

    return "data:image/png;base64," + encode_pil_to_base64(image).decode("ascii")
