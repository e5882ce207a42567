"""Inpainting and outpainting end to end: what is not masked comes back to the bit.

The demo models paint; the statements are about which pixels may change, what the network is
shown, and when the kept part is held during sampling.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from lib_controlnet.engine.effects.inpaint_only import KeepUnmasked
from lib_controlnet.families.controlnet import ControlNetNetwork

SIZE = 96
STEPS = 4
SIGMA = 7
BOX = (30, 24, 60, 56)
SAMPLERS = ["Euler a", "DPM++ 2M", "DPM++ SDE", "DDIM", "UniPC"]


@pytest.fixture(scope="module")
def webui(host):
    """The host with four unit slots."""
    from modules import shared

    before = shared.opts.data.get("control_net_unit_count", 3)
    shared.opts.data["control_net_unit_count"] = 4
    host.reload_ui()
    yield host
    shared.opts.data["control_net_unit_count"] = before
    host.reload_ui()


@dataclass
class Seen:
    """What happened inside one generation.

    Attributes:
        hints: every hint that a network encoded, (H, W, 3).
        held: number of evaluations in which the kept part was held.
        x0: predicted clean latents after guidance and hold, one per evaluation.
        latents: the held latent and its mask, one pair per application.
        comments: sentences for the user.
    """

    hints: list[np.ndarray] = field(default_factory=list)
    held: int = 0
    x0: list[torch.Tensor] = field(default_factory=list)
    latents: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)


@pytest.fixture
def seen(webui, monkeypatch):
    # The host's modules exist only once it has started.
    from modules.processing import StableDiffusionProcessing

    from lib_controlnet.host import steps

    found = Seen()
    encode, apply = ControlNetNetwork.encode_hint, KeepUnmasked.after_guidance
    after_cfg = steps.on_cfg_after_cfg

    def spy_hint(self, hint, *more):
        found.hints.append(hint[0].permute(1, 2, 0).float().cpu().numpy())
        return encode(self, hint, *more)

    def spy_apply(self, x0):
        found.held += 1
        found.latents.append((self.latent.cpu(), self.mask.cpu()))
        return apply(self, x0)

    def spy_after(session, params):
        after_cfg(session, params)
        found.x0.append(clean(session, params.x).cpu())

    monkeypatch.setattr(StableDiffusionProcessing, "comment", lambda _, x: found.comments.append(x))
    monkeypatch.setattr(ControlNetNetwork, "encode_hint", spy_hint)
    monkeypatch.setattr(KeepUnmasked, "after_guidance", spy_apply)
    monkeypatch.setattr(steps, "on_cfg_after_cfg", spy_after)
    return found


def clean(session, prediction):
    """The clean latent that a prediction means: itself, or from noise (DDPM, eq. 15)."""
    from modules import shared

    if session.noisy is None:
        return prediction
    alphas = shared.sd_model.alphas_cumprod.log()
    # Between two timesteps UniPC's schedule is linear in the logarithm.
    between = np.interp(session.noisy.timesteps, np.arange(1000), alphas)
    alpha = torch.from_numpy(np.exp(between)).view(-1, 1, 1, 1)
    noisy = session.noisy.x
    return (noisy - (1 - alpha.to(noisy)).sqrt() * prediction) / alpha.to(noisy).sqrt()


def encoded(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def noise(width=SIZE, height=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def boxed(width=SIZE, height=SIZE, box=BOX):
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


def kept_by(mask, sigma):
    """Pixels that no mask pixel comes nearer than `sigma`: a square's distance, by its formula."""
    reach = max(sigma - 1, 0)
    return cv2.dilate(mask, np.ones((2 * reach + 1,) * 2, np.uint8)) == 0


def inpaint(image=None, mask=None, module="inpaint_only", **fields):
    image = noise() if image is None else image
    mask = boxed(image.shape[1], image.shape[0]) if mask is None else mask
    own = {"image": encoded(image), "mask": encoded(mask)}
    return {"module": module, "model": "control_demo_inpaint", **own, **fields}


def others(count):
    """Up to three units of other kinds on other pictures."""
    kinds = [("canny", "canny", 1.0), ("scribble", "scribble_xdog", 0.6), ("depth", "none", 0.5)]
    return [
        {
            "module": module,
            "model": f"control_demo_{kind}",
            "image": encoded(noise(seed=7 + i)),
            "weight": weight,
            "pixel_perfect": True,
        }
        for i, (kind, module, weight) in enumerate(kinds[:count])
    ]


def request(*units, **fields):
    base = {
        "prompt": "a mosaic of orange and blue",
        "steps": STEPS,
        "width": SIZE,
        "height": SIZE,
        "seed": 5,
        "cfg_scale": 4,
        "sampler_name": "Euler",
        "scheduler": "Automatic",
    }
    if units:
        base["alwayson_scripts"] = {"ControlNet": {"args": list(units)}}
    return {**base, **fields}


def masked_hint(seen):
    """The hint of the one inpaint unit."""
    (hint,) = [hint for hint in seen.hints if hint.min() < 0]
    return hint


def pictures(answer, count=1):
    return [np.array(image.convert("RGB")) for image in answer.images[:count]]


def unet_hooks():
    from modules import shared

    names = ("_forward_hooks", "_forward_pre_hooks")
    modules = shared.sd_model.model.diffusion_model.modules()
    return sum(len(getattr(module, name)) for module in modules for name in names)


@pytest.fixture(scope="module")
def plain(webui):
    return pictures(webui.txt2img(**request()))[0]


@pytest.fixture
def untouched(webui, plain):
    """After the test: no hook is left, and a run without units gives the plain picture."""
    before = unet_hooks()
    yield
    assert unet_hooks() == before
    assert np.array_equal(pictures(webui.txt2img(**request()))[0], plain)


def assert_kept(result, picture, mask, sigma=SIGMA):
    """Not one level of drift outside; something else inside."""
    kept = kept_by(mask, sigma)
    assert kept.any()
    assert np.array_equal(result[kept], picture[kept])
    inside = mask > 127
    assert np.abs(result[inside].astype(int) - picture[inside]).mean() > 20


# --- inpaint_only -------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_inpaint_only_keeps_the_rest_with_every_sampler(webui, sampler):
    answer = webui.txt2img(**request(inpaint(), sampler_name=sampler))
    assert_kept(pictures(answer)[0], noise(), boxed())


@pytest.mark.parametrize("sigma", [0, 1, 2, 7, 20, 64])
def test_inpaint_only_blur_setting_says_how_far_the_seam_reaches(webui, sigma):
    box = (0, 0, 16, 16)  # leaves room for the widest
    unit = inpaint(mask=boxed(box=box))
    settings = {"control_net_inpaint_blur_sigma": sigma}
    answer = webui.txt2img(**request(unit, override_settings=settings))
    result = pictures(answer)[0]
    assert_kept(result, noise(), boxed(box=box), sigma)
    if sigma > 1:  # and no less far: the outermost ring holds traces of the new picture
        ring = kept_by(boxed(box=box), sigma) ^ kept_by(boxed(box=box), sigma // 2)
        assert not np.array_equal(result[ring], noise()[ring])


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DDIM"])
def test_inpaint_only_keeps_the_rest_beside_other_units(webui, seen, count, sampler):
    units = [*others(count), inpaint()]
    answer = webui.txt2img(**request(*units, sampler_name=sampler))
    assert len(seen.hints) == count + 1
    assert_kept(pictures(answer)[0], noise(), boxed())
    alone = pictures(webui.txt2img(**request(inpaint(), sampler_name=sampler)))[0]
    inside = boxed() > 127
    assert not np.array_equal(pictures(answer)[0][inside], alone[inside]), "the others did nothing"


@pytest.mark.usefixtures("untouched")
def test_two_inpaint_units_keep_what_either_keeps(webui):
    left, right = boxed(box=(8, 20, 52, 76)), boxed(box=(40, 20, 88, 76))
    units = [inpaint(mask=left), inpaint(mask=right, weight=0.5)]
    result = pictures(webui.txt2img(**request(*units)))[0]
    kept = kept_by(left, SIGMA) | kept_by(right, SIGMA)
    assert np.array_equal(result[kept], noise()[kept])
    both = (left > 127) & (right > 127)
    assert np.abs(result[both].astype(int) - noise()[both]).mean() > 20


def test_inpaint_only_keeps_the_rest_of_every_picture_of_a_batch(webui):
    answer = webui.txt2img(**request(inpaint(), batch_size=2, n_iter=2))
    results = pictures(answer, 4)
    for result in results:
        assert_kept(result, noise(), boxed())
    assert len({result.tobytes() for result in results}) == 4


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
@pytest.mark.parametrize("count", [0, 1])
def test_inpaint_only_keeps_the_rest_in_a_hires_pass(webui, seen, upscaler, count):
    """The picture is as large as the second pass, so its own pixels must come back."""
    picture, mask = noise(144, 144), boxed(144, 144, (45, 36, 90, 84))
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": upscaler}
    answer = webui.txt2img(**request(inpaint(picture, mask), *others(count), **hires))
    assert [hint.shape[0] for hint in seen.hints[:: 1 + count]] == [96, 144]
    assert_kept(pictures(answer)[0], picture, mask)


@pytest.mark.parametrize("option", ["Low res only", "High res only"])
def test_inpaint_only_of_one_pass_still_pastes_back(webui, seen, option):
    """Whichever pass it acts in, what the user did not mask comes back."""
    picture, mask = noise(144, 144), boxed(144, 144, (45, 36, 90, 84))
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
    unit = inpaint(picture, mask, hr_option=option)
    result = pictures(webui.txt2img(**request(unit, **hires)))[0]
    assert len(seen.hints) == 1
    assert 0 < seen.held < 2 * STEPS
    assert_kept(result, picture, mask)


@pytest.mark.parametrize(
    ("width", "height", "mode", "shown"),
    [
        (100, 76, "Just Resize", (96, 72)),  # the encoder drops what is over 8
        (72, 136, "Crop and Resize", (72, 136)),
        (120, 72, "Resize and Fill", (120, 72)),
    ],
    ids=["odd", "tall", "wide"],
)
def test_inpaint_only_keeps_a_picture_of_another_aspect(webui, width, height, mode, shown):
    """The unit's picture, brought to the size by OpenCV's own resize at a hand-made place."""
    picture = noise(80, 60)
    mask = boxed(80, 60, (30, 20, 50, 40))
    sizes = {  # resized to, at
        "Just Resize": ((100, 76), (0, 0)),
        "Crop and Resize": ((181, 136), (-54, 0)),
        "Resize and Fill": ((96, 72), (12, 0)),
    }
    (new, (left, top)) = sizes[mode]
    large = cv2.resize(picture, new, interpolation=cv2.INTER_CUBIC)
    white = cv2.resize(mask, new, interpolation=cv2.INTER_CUBIC) > 127
    expected = np.zeros((height, width, 3), np.uint8)
    masked = np.full((height, width), 255, np.uint8)
    cut = np.s_[max(top, 0) : top + new[1], max(left, 0) : left + new[0]]
    part = np.s_[max(-top, 0) :, max(-left, 0) :]
    rows, columns = expected[cut].shape[:2]
    expected[cut] = large[part][:rows, :columns]
    masked[cut] = white[part][:rows, :columns] * 255
    expected, masked = expected[: shown[1], : shown[0]], masked[: shown[1], : shown[0]]
    unit = inpaint(picture, mask, resize_mode=mode)
    result = pictures(webui.txt2img(**request(unit, width=width, height=height)))[0]
    assert result.shape[:2] == (shown[1], shown[0])
    assert_kept(result, expected, masked)


# --- what the network is shown, and what is held ------------------------------------------


@pytest.mark.parametrize("module", ["inpaint_only", "inpaint_global_harmonious"])
def test_hint_is_the_picture_with_minus_one_in_the_mask(webui, seen, module):
    webui.txt2img(**request(inpaint(module=module)))
    hint = masked_hint(seen)
    inside = boxed() > 127
    assert (hint[inside] == -1.0).all()
    assert np.array_equal(hint[~inside], (noise() / np.float32(255)).astype(np.float32)[~inside])


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM", "UniPC"])
def test_kept_part_is_held_to_the_pictures_latent(webui, seen, sampler):
    """After guidance every prediction holds the latent of the picture in every kept cell."""
    from modules import shared

    webui.txt2img(**request(inpaint(), sampler_name=sampler))
    pixels = torch.from_numpy(noise()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    with torch.no_grad():
        dtype = next(shared.sd_model.first_stage_model.parameters()).dtype
        posterior = shared.sd_model.encode_first_stage(pixels.to(dtype))
        latent = (posterior.mode() * shared.sd_model.scale_factor).float()
    cells = boxed().reshape(SIZE // 8, 8, SIZE // 8, 8).max(axis=(1, 3))
    far = torch.from_numpy(cv2.dilate(cells, np.ones((3, 3), np.uint8)) == 0)
    assert 0 < far.sum() < far.numel()
    assert seen.held == len(seen.x0) >= STEPS - 1  # DDIM makes one evaluation less of four
    scale = latent.abs().max()
    for x0 in seen.x0:
        assert (x0.float() - latent)[:, :, far].abs().max() < 2e-3 * scale  # epsilon and back


def test_mask_of_the_latent_covers_every_touched_cell_once(webui, seen):
    """Max-pooling by 10 with stride 8 grows by one pixel, not by a cell."""
    webui.txt2img(**request(inpaint(mask=boxed(box=(32, 24, 56, 48)))))
    (mask,) = {mask.numpy().tobytes() for _, mask in seen.latents}
    found = np.frombuffer(mask, np.float32).reshape(SIZE // 8, SIZE // 8)
    # Box edges lie on cell edges: the neighbouring cells see one pixel of it.
    expected = np.zeros((SIZE // 8, SIZE // 8), np.float32)
    expected[2:7, 3:8] = 1.0
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("start", "end", "held"),
    [(0.0, 1.0, 6), (0.0, 0.5, 3), (0.5, 1.0, 3), (0.3, 0.6, 2)],
    ids=["all", "first-half", "second-half", "middle"],
)
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_kept_part_is_held_inside_the_window_only(webui, seen, sampler, start, end, held):
    unit = inpaint(guidance_start=start, guidance_end=end)
    answer = webui.txt2img(**request(unit, steps=6, sampler_name=sampler))
    assert seen.held == held
    assert len(seen.x0) == 6
    assert_kept(pictures(answer)[0], noise(), boxed())  # pasted back whatever the window was


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0},
        {"enabled": False},
        {"guidance_start": 1.0},
        {"guidance_start": 0.6, "guidance_end": 0.3},
        {"effective_region_mask": encoded(np.zeros((SIZE, SIZE), np.uint8))},
    ],
    ids=["strength-0", "disabled", "late", "reversed", "empty-region"],
)
def test_inpaint_unit_without_effect_gives_the_plain_picture(webui, plain, seen, fields):
    result = pictures(webui.txt2img(**request(inpaint(**fields))))[0]
    assert np.array_equal(result, plain)
    assert seen.held == 0


def test_full_mask_is_plain_control(webui, seen):
    full = np.full((SIZE, SIZE), 255, np.uint8)
    only = webui.txt2img(**request(inpaint(mask=full)))
    free = webui.txt2img(**request(inpaint(mask=full, module="inpaint")))
    assert seen.held == 0
    assert np.array_equal(pictures(only)[0], pictures(free)[0])


# --- inpaint_global_harmonious ------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("count", [0, 1, 3])
def test_global_harmonious_repaints_everything(webui, seen, count):
    answer = webui.txt2img(**request(inpaint(module="inpaint_global_harmonious"), *others(count)))
    result = pictures(answer)[0]
    kept = kept_by(boxed(), SIGMA)
    assert seen.held == 0
    assert np.abs(result[kept].astype(int) - noise()[kept]).mean() > 5


# --- img2img ------------------------------------------------------------------------------


def img2img(*units, picture=None, mask=None, **fields):
    init = noise() if picture is None else picture
    base = {
        "init_images": [Image.fromarray(init)],
        "denoising_strength": 1.0,
        "mask_blur": 0,
        "inpainting_fill": 1,
        "inpaint_full_res": False,
    }
    if mask is not None:
        base["mask"] = Image.fromarray(mask)
    return request(*units, **{**base, **fields})


FOLLOWER = {"module": "inpaint_only", "model": "control_demo_inpaint"}
AREAS = {
    "whole": ({"inpaint_full_res": False}, (0, 0, SIZE, SIZE)),
    # Box 30 x 32 and 16 of padding, grown to a square of 64.
    "only-masked": ({"inpaint_full_res": True, "inpaint_full_res_padding": 16}, (13, 8, 77, 72)),
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("module", ["inpaint_only", "inpaint_global_harmonious"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_host_inpainting_shows_the_network_the_hosts_part(webui, seen, area, module, count):
    """`inpaint_only` leaves the keeping to the host; both show the network the host's crop."""
    fields, box = AREAS[area]
    unit = {**FOLLOWER, "module": module}
    answer = webui.img2img(**img2img(unit, *others(count), mask=boxed(), **fields))
    assert_kept(pictures(answer)[0], noise(), boxed(), sigma=1)
    assert seen.held == 0
    part = Image.fromarray(noise()).crop(box).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    white = Image.fromarray(boxed()).crop(box).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    inside = np.array(white) > 127
    hint = masked_hint(seen)
    assert (hint[inside] == -1.0).all()
    assert np.array_equal(np.round(hint[~inside] * 255), np.array(part)[~inside])
    assert seen.comments == [], "nothing is wrong in the recommended flow"


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("mask", ["no", "black"])
def test_own_picture_without_a_mask_is_inpainted_where_the_host_paints(webui, seen, area, mask):
    fields, box = AREAS[area]
    blank = {"mask": encoded(np.zeros((SIZE, SIZE), np.uint8))} if mask == "black" else {}
    unit = {**FOLLOWER, "image": encoded(noise()), **blank}
    answer = webui.img2img(**img2img(unit, mask=boxed(), **fields))
    result = pictures(answer)[0]
    assert_kept(result, noise(), boxed(), sigma=1)
    inside = boxed() > 127
    assert np.abs(result[inside].astype(int) - noise()[inside]).mean() > 5
    white = Image.fromarray(boxed()).crop(box).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    assert np.array_equal((masked_hint(seen) == -1.0).all(axis=2), np.array(white) > 127)


@pytest.mark.parametrize(
    "empty", [None, "", {"image": None, "mask": None}, {"image": "", "mask": ""}], ids=str
)
def test_every_way_to_send_no_picture_follows_the_host(webui, seen, empty):
    answer = webui.img2img(**img2img({**FOLLOWER, "image": empty}, mask=boxed()))
    assert_kept(pictures(answer)[0], noise(), boxed(), sigma=1)
    assert seen.held == 0
    assert seen.comments == []


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_img2img_with_the_units_own_mask_keeps_the_rest(webui, sampler):
    """Without a mask of the host's the unit keeps what it does not mask, as in txt2img."""
    answer = webui.img2img(**img2img(inpaint(), picture=noise(seed=3), sampler_name=sampler))
    assert_kept(pictures(answer)[0], noise(), boxed())


# --- outpainting --------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DDIM"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_outpainting_adds_a_border_and_keeps_the_picture(webui, seen, sampler, count):
    picture = noise(64, 96)
    unit = inpaint(picture, np.zeros((96, 64), np.uint8), resize_mode="Resize and Fill")
    answer = webui.txt2img(**request(unit, *others(count), width=128, sampler_name=sampler))
    expected = np.zeros((96, 128, 3), np.uint8)
    expected[:, 32:96] = picture
    border = np.full((96, 128), 255, np.uint8)
    border[:, 32:96] = 0
    assert (masked_hint(seen)[border > 0] == -1.0).all()
    result = pictures(answer)[0]
    assert_kept(result, expected, border)
    filled = np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]), 0)
    assert np.abs(result[:, :28] - filled).mean() > 10, "the border is what was filled in"


@pytest.mark.usefixtures("untouched")
def test_outpainting_in_img2img_follows_the_hosts_resize_and_fill(webui, seen):
    """The unit has no picture of its own: the host's border is what there is to paint."""
    picture = noise(51, 96)
    answer = webui.img2img(**img2img(FOLLOWER, picture=picture, resize_mode=2))
    expected = np.zeros((SIZE, SIZE, 3), np.uint8)
    border = np.full((SIZE, SIZE), 255, np.uint8)
    left = SIZE // 2 - 51 // 2  # the host's centre
    expected[:, left : left + 51] = picture
    border[:, left : left + 51] = 0
    assert (masked_hint(seen)[border > 0] == -1.0).all()
    assert seen.held == STEPS
    assert_kept(pictures(answer)[0], expected, border)


def test_outpainting_of_a_masked_picture_repaints_border_and_mask(webui):
    picture, mask = noise(64, 96), boxed(64, 96, (20, 40, 40, 60))
    unit = inpaint(picture, mask, resize_mode="Resize and Fill")
    result = pictures(webui.txt2img(**request(unit, width=128)))[0]
    expected, both = np.zeros((96, 128, 3), np.uint8), np.full((96, 128), 255, np.uint8)
    expected[:, 32:96], both[:, 32:96] = picture, mask
    assert_kept(result, expected, both)
