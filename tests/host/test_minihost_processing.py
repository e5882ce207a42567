"""Preparation of pictures and masks, seeds, hires fix and results of the embedded host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import stub_model
import torch
from PIL import Image, ImageDraw

SIZE = 64
CANVAS = (100, 80)


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


COMMON = {
    "prompt": "a red circle",
    "width": SIZE,
    "height": SIZE,
    "steps": 4,
    "seed": 7,
    "cfg_scale": 3.0,
    "sampler_name": "Euler",
    "scheduler": "Automatic",
}


def txt2img(**fields: Any) -> Any:
    from modules import processing

    p = processing.StableDiffusionProcessingTxt2Img(**{**COMMON, **fields})
    return p, processing.process_images(p)


def img2img(**fields: Any) -> Any:
    from modules import processing

    given = {**COMMON, "init_images": [photograph(CANVAS)], "denoising_strength": 0.5, **fields}
    p = processing.StableDiffusionProcessingImg2Img(**given)
    return p, processing.process_images(p)


def photograph(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def box_mask(box: tuple[int, int, int, int]) -> Image.Image:
    """White from (x1, y1) to before (x2, y2) on a canvas of the picture's size."""
    mask = Image.new("L", CANVAS)
    ImageDraw.Draw(mask).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
    return mask


# ---- geometry of the crop ------------------------------------------------------------------

CROPS = [
    # box, padding, region: clamped to the 100 x 80 mask
    ((10, 20, 30, 40), 0, (10, 20, 30, 40)),
    ((10, 20, 30, 40), 5, (5, 15, 35, 45)),
    ((2, 3, 95, 79), 8, (0, 0, 100, 80)),
]


@pytest.mark.parametrize(("box", "padding", "region"), CROPS)
def test_crop_is_the_masks_box_with_padding(
    host: Any, box: tuple, padding: int, region: tuple
) -> None:
    from modules import masking

    assert masking.get_crop_region_v2(box_mask(box), padding) == region


def test_blank_mask_has_no_crop(host: Any) -> None:
    from modules import masking

    assert masking.get_crop_region_v2(Image.new("L", CANVAS), 4) is None


EXPANSIONS = [
    # region, processed size, expanded in a 100 x 80 image; worked out by hand
    ("already square", (10, 20, 30, 40), (64, 64), (10, 20, 30, 40)),
    ("too wide: 20 rows, 10 above", (30, 40, 60, 50), (64, 64), (30, 30, 60, 60)),
    ("too wide, odd: 1 above, 2 below", (30, 40, 33, 40 + 0 + 1), (192, 256), (30, 39, 33, 42 + 1)),
    ("too tall: 20 columns", (50, 20, 60, 50), (64, 64), (40, 20, 70, 50)),
    ("at the bottom: shifted up", (30, 70, 60, 80), (64, 64), (30, 50, 60, 80)),
    ("at the top: shifted down", (30, 0, 60, 10), (64, 64), (30, 0, 60, 30)),
    ("too large: clamped", (0, 30, 100, 50), (64, 64), (0, 0, 100, 80)),
    ("at the right edge", (90, 0, 100, 40), (128, 64), (20, 0, 100, 40)),
]


@pytest.mark.parametrize(
    ("region", "size", "expanded"), [e[1:] for e in EXPANSIONS], ids=[e[0] for e in EXPANSIONS]
)
def test_crop_expands_to_the_ratio(host: Any, region: tuple, size: tuple, expanded: tuple) -> None:
    from modules import masking

    assert masking.expand_crop_region(region, *size, *CANVAS) == expanded


RESIZES = [
    # mode, source size, target, place of the source in the target
    (0, (40, 20), (64, 64), (0, 0, 64, 64)),
    (1, (40, 20), (64, 64), (-32, 0, 96, 64)),
    (1, (20, 50), (64, 32), (0, -64, 64, 96)),
    (2, (40, 20), (64, 64), (0, 16, 64, 48)),
    (2, (20, 40), (64, 64), (16, 0, 48, 64)),
    (3, (20, 40), (64, 64), (16, 0, 48, 64)),
]


@pytest.mark.parametrize(("mode", "source", "target", "place"), RESIZES)
def test_resize_modes(host: Any, mode: int, source: tuple, target: tuple, place: tuple) -> None:
    from modules import images

    picture = photograph(source)
    got = images.resize_image(mode, picture, *target)
    assert got.size == target
    x1, y1, x2, y2 = place
    inner = picture.resize((x2 - x1, y2 - y1), Image.Resampling.LANCZOS)
    wanted = Image.new("RGB", target)
    wanted.paste(inner, (x1, y1))
    seen = (max(x1, 0), max(y1, 0), min(x2, target[0]), min(y2, target[1]))
    assert got.crop(seen).tobytes() == wanted.crop(seen).tobytes()


def test_fitting_fills_the_borders_with_the_edge_rows(host: Any) -> None:
    from modules import images

    picture = Image.new("RGB", (40, 20), (10, 20, 30))
    ImageDraw.Draw(picture).rectangle((0, 10, 39, 19), fill=(200, 0, 0))
    got = images.resize_image(2, picture, 64, 64)
    assert got.getpixel((5, 2)) == (10, 20, 30)
    assert got.getpixel((5, 61)) == (200, 0, 0)


MASKS = [
    ("grey stays", Image.new("L", (2, 2), 90), True, 90),
    ("opaque alpha: brightness", Image.new("RGBA", (2, 2), (255, 255, 255, 255)), True, 255),
    ("alpha, rounded up", Image.new("RGBA", (2, 2), (0, 0, 0, 129)), True, 255),
    ("alpha, rounded down", Image.new("RGBA", (2, 2), (0, 0, 0, 128)), True, 0),
    ("alpha, kept soft", Image.new("RGBA", (2, 2), (0, 0, 0, 128)), False, 128),
]


@pytest.mark.parametrize(
    ("picture", "rounded", "value"), [m[1:] for m in MASKS], ids=[m[0] for m in MASKS]
)
def test_binary_mask(host: Any, picture: Image.Image, rounded: bool, value: int) -> None:
    from modules.processing import create_binary_mask

    mask = create_binary_mask(picture, round=rounded)
    assert mask.mode == "L"
    assert mask.getpixel((0, 0)) == value


# ---- img2img -------------------------------------------------------------------------------


def test_only_masked_crops_and_pastes_back(unet: Any) -> None:
    p, processed = img2img(
        mask=box_mask((40, 30, 60, 50)),
        mask_blur=0,
        inpaint_full_res=True,
        inpaint_full_res_padding=4,
        inpainting_fill=1,
    )
    assert p.paste_to == (36, 26, 28, 28)
    assert processed.images[0].size == CANVAS
    before, after = np.asarray(p.init_images[0]), np.asarray(processed.images[0])
    changed = np.argwhere(np.any(before != after, axis=-1))
    assert changed.min(axis=0).tolist() >= [30, 40]
    assert changed.max(axis=0).tolist() <= [49, 59]
    encoded = p.sd_model.first_stage_model.encoded[0][0]
    wanted = p.init_images[0].crop((36, 26, 64, 54)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    got = ((encoded.movedim(0, 2) + 1) / 2 * 255).round().numpy().astype(np.uint8)
    assert np.array_equal(got, np.asarray(wanted))


def test_blank_mask_falls_back_to_plain_img2img(unet: Any) -> None:
    p, processed = img2img(mask=Image.new("L", CANVAS), inpaint_full_res=True)
    assert p.inpaint_full_res is False
    assert p.mask is None
    assert "mask is blank" in processed.comments
    assert processed.images[0].size == (SIZE, SIZE)


def test_inverted_mask_repaints_the_rest(unet: Any) -> None:
    fields = {"mask": box_mask((0, 0, 50, 80)), "mask_blur": 0, "inpaint_full_res": False}
    p, _ = img2img(**fields, inpainting_fill=1)
    inverted, _ = img2img(**fields, inpainting_fill=1, inpainting_mask_invert=1)
    assert torch.equal(p.nmask, inverted.mask)
    assert p.nmask.shape == (4, 8, 8)
    assert p.nmask[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_blur_of_each_axis(unet: Any) -> None:
    p, _ = img2img(
        mask=box_mask((40, 30, 60, 50)), mask_blur_x=3, mask_blur_y=0, inpaint_full_res=True
    )
    box = p.mask_for_overlay.getbbox()
    assert (box[1], box[3]) == (30, 50)
    assert box[0] < 40
    assert box[2] > 60
    assert p.mask_blur is None


def test_fills_of_the_latent(unet: Any) -> None:
    fields = {"mask": box_mask((0, 0, 50, 80)), "mask_blur": 0, "inpaint_full_res": False}
    latents = [img2img(**fields, inpainting_fill=fill)[0].init_latent for fill in range(4)]
    left, right = latents[1][..., :4], latents[1][..., 4:]
    assert torch.equal(latents[3][..., :4], torch.zeros_like(left))
    for fill in (2, 3):
        assert torch.equal(latents[fill][..., 4:], latents[0][..., 4:])
    noise = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(7))
    assert torch.allclose(latents[2][0, ..., :4], noise[..., :4])
    assert (latents[0][..., :4] - left).abs().max() > 0.01
    assert torch.allclose(latents[0][..., 5:], right[..., 1:])


def test_latent_resize_encodes_the_picture_at_its_own_size(unet: Any) -> None:
    p, _ = img2img(resize_mode=3, init_images=[photograph((120, 80))])
    assert p.sd_model.first_stage_model.encoded[0].shape[-2:] == (80, 120)
    assert p.init_latent.shape == (1, 4, 8, 8)


def test_fewer_pictures_lower_the_batch(unet: Any) -> None:
    p, processed = img2img(init_images=[photograph(CANVAS)] * 2, batch_size=4)
    assert p.batch_size == 2
    assert len(processed.images) == 3  # and their grid


def test_too_many_pictures_are_an_error(unet: Any) -> None:
    with pytest.raises(RuntimeError, match="bad number of images passed: 3; expecting 2 or less"):
        img2img(init_images=[photograph(CANVAS)] * 3, batch_size=2)


def test_sizes_floor_to_multiples_of_eight(unet: Any) -> None:
    _, processed = img2img(width=70, height=61)
    assert processed.images[0].size == (64, 56)


# ---- hires fix -----------------------------------------------------------------------------

HIRES = [
    # first pass 64 x 48: fields, upscale size, truncation in latent cells, picture
    ({"hr_scale": 1.5}, (96, 72), (0, 0), (96, 72)),
    ({"hr_scale": 1.3}, (83, 62), (0, 0), (80, 56)),
    ({"hr_resize_x": 128}, (128, 96), (0, 0), (128, 96)),
    ({"hr_resize_y": 72}, (96, 72), (0, 0), (96, 72)),
    ({"hr_resize_x": 96, "hr_resize_y": 96}, (128, 96), (4, 0), (96, 96)),
    ({"hr_resize_x": 128, "hr_resize_y": 72}, (128, 96), (0, 3), (128, 72)),
]


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
@pytest.mark.parametrize(("fields", "upscaled", "truncate", "size"), HIRES)
def test_hires_sizes(
    unet: Any, upscaler: str, fields: dict, upscaled: tuple, truncate: tuple, size: tuple
) -> None:
    p, processed = txt2img(
        width=64, height=48, steps=1, enable_hr=True, hr_upscaler=upscaler, **fields
    )
    assert (p.hr_upscale_to_x, p.hr_upscale_to_y) == upscaled
    assert (p.truncate_x, p.truncate_y) == truncate
    assert processed.images[0].size == size
    assert p.is_hr_pass is False
    assert (p.width, p.height) == (64, 48)


def test_hires_truncation_keeps_the_centre(unet: Any) -> None:
    from modules import script_callbacks

    starts: list[torch.Tensor] = []

    def note(params: Any) -> None:
        if params.denoiser.init_latent is not None:
            starts.append(params.denoiser.init_latent)

    script_callbacks.on_cfg_denoiser(note)
    try:
        p, _ = txt2img(
            width=64,
            height=48,
            steps=1,
            enable_hr=True,
            hr_upscaler="Nearest",
            hr_resize_x=128,
            hr_resize_y=72,
            denoising_strength=0.5,
        )
    finally:
        script_callbacks.remove_callbacks_for_function(note)
    encoded = p.sd_model.first_stage_model.encoded[-1]
    latent = torch.nn.functional.avg_pool2d(encoded, 8) * p.sd_model.scale_factor
    # three rows too many: one is cut at the top, two at the bottom
    assert latent.shape[-2:] == (12, 16)
    assert torch.equal(starts[0][:, :3], latent[:, :, 1:-2])


def test_hires_pass_has_its_own_prompt_and_noise(unet: Any) -> None:
    from modules import shared

    txt2img(steps=2, enable_hr=True, hr_scale=1.5, hr_upscaler="Latent", hr_prompt="blue star")
    with torch.no_grad():
        first, second = (
            shared.sd_model.get_learned_conditioning([text])[0]
            for text in ("a red circle", "blue star")
        )
    assert torch.allclose(unet.log.calls[0].context[0], first, atol=1e-5)
    assert torch.allclose(unet.log.calls[-1].context[0], second, atol=1e-5)


def test_hires_of_an_existing_picture_skips_the_first_pass(unet: Any) -> None:
    from modules import processing

    p = processing.StableDiffusionProcessingTxt2Img(
        **COMMON, enable_hr=True, hr_scale=1.5, hr_upscaler="Lanczos", denoising_strength=0.5
    )
    p.txt2img_upscale = True
    p.firstpass_image = photograph((SIZE, SIZE))
    processed = processing.process_images(p)
    assert {tuple(call.x.shape[-2:]) for call in unet.log.calls} == {(12, 12)}
    assert processed.images[0].size == (96, 96)


def test_interrupt_in_the_first_pass_skips_the_second(unet: Any) -> None:
    from modules import shared

    unet.on_call = lambda calls: shared.state.interrupt()
    _, processed = txt2img(steps=4, enable_hr=True, hr_scale=1.5, hr_upscaler="Latent")
    assert len(unet.log.calls) == 1
    assert processed.images[0].size == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"hr_upscaler": "Magic"}, "hires upscaler 'Magic' is not known"),
        ({"hr_checkpoint_name": "absent"}, "hires checkpoint 'absent' is not known"),
    ],
)
def test_unknown_hires_names_are_errors(unet: Any, fields: dict, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        txt2img(enable_hr=True, hr_scale=1.5, **fields)


# ---- seeds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ SDE", "DDIM", "LCM"])
def test_batch_of_two_equals_two_singles(unet: Any, sampler: str) -> None:
    _, batch = txt2img(sampler_name=sampler, batch_size=2)
    singles = [txt2img(sampler_name=sampler, seed=seed)[1].images[0] for seed in (7, 8)]
    assert [image.tobytes() for image in batch.images[1:]] == [i.tobytes() for i in singles]


def test_second_batch_equals_a_single(unet: Any) -> None:
    _, batches = txt2img(n_iter=2, sampler_name="DPM++ SDE")
    _, single = txt2img(seed=8, sampler_name="DPM++ SDE")
    assert batches.images[2].tobytes() == single.images[0].tobytes()


def test_starting_noise_is_torchs_own_for_the_seed(host: Any) -> None:
    from modules.rng import ImageRNG

    source = ImageRNG((4, 8, 8), [7, 8])
    first, second = source.next(), source.next()
    for row, seed in enumerate((7, 8)):
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(first[row].cpu(), torch.randn(4, 8, 8, generator=generator))
        assert torch.equal(second[row].cpu(), torch.randn(4, 8, 8, generator=generator))


def test_variation_strength_goes_from_seed_to_subseed(host: Any) -> None:
    from modules.rng import ImageRNG

    def noise(seed: int, subseed: int, strength: float) -> torch.Tensor:
        return ImageRNG((4, 8, 8), [seed], [subseed], strength).next()

    assert torch.equal(noise(1, 2, 0.0), noise(1, 3, 0.0))
    assert torch.allclose(noise(1, 2, 1.0), noise(2, 3, 0.0), atol=1e-5)
    middle = noise(1, 2, 0.5)
    assert middle.std().item() == pytest.approx(1.0, abs=0.1)


def test_variation_keeps_one_seed_for_the_batch(unet: Any) -> None:
    p, _ = txt2img(batch_size=2, subseed=3, subseed_strength=0.3)
    assert p.all_seeds == [7, 7]
    assert p.all_subseeds == [3, 4]


# ---- settings, results ---------------------------------------------------------------------


def test_override_settings_hold_for_one_job_also_after_an_error(unet: Any) -> None:
    from modules import shared

    before = shared.opts.CLIP_stop_at_last_layers
    _, processed = txt2img(override_settings={"CLIP_stop_at_last_layers": 2})
    assert "Clip skip: 2" in processed.info
    assert shared.opts.CLIP_stop_at_last_layers == before

    def fail(calls: int) -> None:
        message = "no"
        raise ValueError(message)

    unet.on_call = fail
    with pytest.raises(ValueError, match="no"):
        txt2img(override_settings={"CLIP_stop_at_last_layers": 2})
    assert shared.opts.CLIP_stop_at_last_layers == before


def test_infotext_is_in_the_png(unet: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import images, shared

    monkeypatch.setitem(shared.opts.data, "samples_save", True)
    monkeypatch.setitem(shared.opts.data, "save_to_dirs", False)
    _, processed = txt2img(outpath_samples=str(tmp_path), negative_prompt="dark")
    (path,) = tmp_path.glob("*.png")
    text, _ = images.read_info_from_image(Image.open(path))
    assert text == processed.infotexts[0]
    assert text.startswith("a red circle\nNegative prompt: dark\nSteps: 4, Sampler: Euler, ")
    assert "Seed: 7, Size: 64x64, Model hash: " in text


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_infotext_survives_other_formats(host: Any, tmp_path: Any, extension: str) -> None:
    from modules import images

    text = "кот\nSteps: 4, Seed: 1, Size: 64x64"
    path, _ = images.save_image(
        photograph(CANVAS), tmp_path, "", extension=extension, info=text, save_to_dirs=False
    )
    assert images.read_info_from_image(Image.open(path))[0] == text


def test_infotext_values_may_be_lists_and_functions(unet: Any) -> None:
    from modules import processing

    p = processing.StableDiffusionProcessingTxt2Img(**COMMON, batch_size=2)
    p.extra_generation_params = {
        "List": ["first", "second"],
        "Call": lambda index, prompt_text, **_: f"{prompt_text} {index}",
        "None": None,
        "Quoted": "a, b",
    }
    processed = processing.process_images(p)
    assert processed.index_of_first_image == 1
    last = processed.infotexts[2]
    assert 'List: second, Call: a red circle 1, Quoted: "a, b"' in last
    assert "None" not in last


def test_conditions_are_cached_between_jobs(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    asked: list[list[str]] = []
    encode = type(shared.sd_model).get_learned_conditioning

    def count(model: Any, prompts: Any) -> Any:
        asked.append(list(prompts))
        return encode(model, prompts)

    monkeypatch.setattr(type(shared.sd_model), "get_learned_conditioning", count)
    txt2img(prompt="one", negative_prompt="two")
    txt2img(prompt="one", negative_prompt="two")
    assert asked == [["two"], ["one"]]
    txt2img(prompt="three", negative_prompt="two")
    assert asked[2:] == [["three"]]


def test_inner_function_is_looked_up_when_called(
    unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import processing

    monkeypatch.setattr(processing, "process_images_inner", lambda p: "replaced")
    assert txt2img()[1] == "replaced"


# ---- prompts -------------------------------------------------------------------------------

SCHEDULES = [
    ("plain", [[10, "plain"]]),
    ("a [b:c:0.5]", [[5, "a b"], [10, "a c"]]),
    ("[b:3]", [[3, ""], [10, "b"]]),
    ("[b::3]", [[3, "b"], [10, ""]]),
    ("[a|b]", [[step, "ab"[(step - 1) % 2]] for step in range(1, 11)]),
    ("[a:[b:c:0.8]:0.4]", [[4, "a"], [8, "b"], [10, "c"]]),
    ("[(a:1.2):(b:0.8):0.5]", [[5, "(a:1.2)"], [10, "(b:0.8)"]]),
    ("a [weaker] (b:1.1)", [[10, "a [weaker] (b:1.1)"]]),
    ("[a:b:c]", [[10, "[a:b:c]"]]),
    ("a [unclosed:b:0.5", [[10, "a [unclosed:b:0.5"]]),
    (r"\[a:b:0.5]", [[10, r"\[a:b:0.5]"]]),
    ("[a:b:20]", [[10, "a"]]),
]


@pytest.mark.parametrize(("prompt", "schedule"), SCHEDULES, ids=[s[0] for s in SCHEDULES])
def test_prompt_schedules(host: Any, prompt: str, schedule: list) -> None:
    from modules.prompt_parser import get_learned_conditioning_prompt_schedules

    assert get_learned_conditioning_prompt_schedules([prompt], 10) == [schedule]


def test_hires_schedules_count_on_from_the_first_pass(host: Any) -> None:
    from modules.prompt_parser import get_learned_conditioning_prompt_schedules

    def schedule(prompt: str) -> list:
        return get_learned_conditioning_prompt_schedules([prompt], 10, 20)[0]

    assert schedule("[a:b:1.5]") == [[10, "a"], [20, "b"]]
    assert schedule("[a:b:15]") == [[5, "a"], [20, "b"]]
    assert schedule("[a:b:0.5]") == [[20, "b"]]


WEIGHTS = [
    ("a (b) c", [["a ", 1.0], ["b", 1.1], [" c", 1.0]]),
    ("((a))", [["a", 1.21]]),
    ("[a]", [["a", 1 / 1.1]]),
    ("(a:1.5) (b:-0.5)", [["a", 1.5], [" ", 1.0], ["b", -0.5]]),
    (r"\(a\) \\", [["(a) \\", 1.0]]),
    ("(unclosed", [["unclosed", 1.1]]),
    ("a) b]", [["a) b]", 1.0]]),
    ("a:b", [["a:b", 1.0]]),
    ("a BREAK b", [["a", 1.0], ["BREAK", -1], ["b", 1.0]]),
    ("", [["", 1.0]]),
]


@pytest.mark.parametrize(("prompt", "parts"), WEIGHTS, ids=[w[0] for w in WEIGHTS])
def test_prompt_weights(host: Any, prompt: str, parts: list) -> None:
    from modules.prompt_parser import parse_prompt_attention

    got = parse_prompt_attention(prompt)
    assert [text for text, _ in got] == [text for text, _ in parts]
    assert [weight for _, weight in got] == pytest.approx([weight for _, weight in parts])


def test_and_splits_and_shares_equal_parts(host: Any) -> None:
    from modules.prompt_parser import get_multicond_prompt_list

    parts, flat, _ = get_multicond_prompt_list(["a AND b :0.5 AND a", "b"])
    assert list(flat) == ["a", " b", " a", "b"]
    assert parts == [[(0, 1.0), (1, 0.5), (2, 1.0)], [(3, 1.0)]]


CHUNKS = [("", 1), ("circle " * 75, 1), ("circle " * 76, 2), ("red BREAK blue BREAK red", 3)]


@pytest.mark.parametrize(("prompt", "chunks"), CHUNKS, ids=["empty", "75", "76", "breaks"])
def test_long_prompts_take_more_chunks(host: Any, prompt: str, chunks: int) -> None:
    from modules import shared

    with torch.no_grad():
        context = shared.sd_model.get_learned_conditioning([prompt])
    assert context.shape[:2] == (1, 77 * chunks)


def test_chunks_break_after_a_comma_that_is_near(host: Any) -> None:
    from modules import shared

    text = "circle " * 70 + ", " + "square " * 10
    (first, second), count = shared.sd_model.cond_stage_model.tokenize_line(text)
    assert count == 81
    end = shared.sd_model.cond_stage_model.id_end
    assert first.tokens.index(end) == 72  # start, 70 words, comma
    assert second.tokens.index(end) == 11
