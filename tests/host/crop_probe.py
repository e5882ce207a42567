"""Run a WebUI's own img2img preparation and compare it with `lib_controlnet.prepare.crop`.

A program for `test_crop_host.py`: its arguments are the WebUI's folder and a number of cases. It
works on the embedded host and on A1111, since it touches only what both have: `p.init` runs with
the sampler and the VAE replaced by stand-ins that note down what reaches them.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WEBUI, CASES = sys.argv[1], int(sys.argv[2])
EXTENSION = str(Path(__file__).resolve().parents[2])
sys.argv[1:] = ["--skip-torch-cuda-test"]
sys.path[:1] = [WEBUI]  # in place of this folder; the extension's must come after the host's
sys.path.append(EXTENSION)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from modules import initialize  # noqa: E402

initialize.imports()  # the host's settings must exist before its other modules are imported

from modules import images, processing, sd_samplers, sd_samplers_common, shared  # noqa: E402
from PIL import Image  # noqa: E402

from lib_controlnet.enums import ResizeMode  # noqa: E402
from lib_controlnet.host.request import read_request  # noqa: E402
from lib_controlnet.pictures.maps import Size, fit_map, placement  # noqa: E402
from lib_controlnet.prepare.crop import host_picture, prepare_mask  # noqa: E402
from lib_controlnet.prepare.inputs import PictureSource, choose, control_picture  # noqa: E402
from lib_controlnet.units.request import GenerationRequest  # noqa: E402
from lib_controlnet.units.unit import ControlUnit, parse_unit  # noqa: E402

SIDES = (40, 64, 97, 128, 200)
WIDTHS, HEIGHTS = (64, 100, 128, 192), (64, 76, 128)
FIT, LATENT_UPSCALE = 2, 3
Img2Img = processing.StableDiffusionProcessingImg2Img
seen: dict[str, Any] = {}


def note_image(image: torch.Tensor, *_: object) -> torch.Tensor:
    seen["image"] = image
    height, width = image.shape[2:]
    return torch.zeros(1, 4, height // 8, width // 8)


def note_mask(_source: object, _latent: object, mask: object, *_: object) -> torch.Tensor:
    seen["mask"] = mask
    return torch.zeros(1)


def stand_in() -> None:
    """Keep the sampler, the VAE and the checkpoint out of `p.init`."""
    for module in (processing, sd_samplers_common, *_all_of("processing_img2img")):
        if hasattr(module, "images_tensor_to_samples"):
            module.images_tensor_to_samples = note_image
    sd_samplers.create_sampler = lambda *_: SimpleNamespace()
    model = SimpleNamespace(cond_stage_key="txt", is_sdxl=False)
    for owner in (Img2Img, type(shared)):
        if hasattr(owner, "sd_model"):
            owner.sd_model = property(lambda _: model, lambda *_: None)
    Img2Img.img2img_image_conditioning = lambda _, *arguments: note_mask(*arguments)
    shared.device = torch.device("cpu")


def _all_of(name: str) -> list[Any]:
    return [module for key, module in sys.modules.items() if key.rpartition(".")[2] == name]


def noise(rng: random.Random, width: int, height: int, channels: int) -> np.ndarray:
    random_pixels = np.random.default_rng(rng.randrange(2**31))
    return random_pixels.integers(0, 256, (height, width, channels), dtype=np.uint8)


def make_init(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """An img2img picture: RGB, partly transparent, grey, or with a palette."""
    kind = rng.choice(["RGB", "RGB", "RGBA", "L", "P"])
    picture = Image.fromarray(noise(rng, *size, 4 if kind == "RGBA" else 3))
    return picture.convert(kind) if kind in ("L", "P") else picture


def make_mask(rng: random.Random, size: tuple[int, int]) -> Image.Image:
    """White box on black; sometimes in the alpha channel, sometimes coloured, sometimes blank."""
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    if rng.random() < 0.9:
        x, y = rng.randrange(width), rng.randrange(height)
        mask[y : y + rng.randrange(1, 40), x : x + rng.randrange(1, 40)] = 255
    kind = rng.random()
    if kind < 0.3:
        clear = np.zeros((height, width, 4), np.uint8)
        clear[:, :, 3] = mask // rng.choice([1, 2])
        return Image.fromarray(clear)
    return Image.fromarray(mask).convert("RGB" if kind < 0.5 else "L")


def make(rng: random.Random) -> Any:
    """An img2img request with random pictures, sizes and rules."""
    size = rng.choice(SIDES), rng.choice(SIDES)
    mask_size = size if rng.random() < 0.8 else (rng.choice(SIDES), rng.choice(SIDES))
    shared.opts.img2img_background_color = rng.choice(["#ffffff", "#12ab34"])
    p = Img2Img(
        init_images=[make_init(rng, size)],
        mask=make_mask(rng, mask_size) if rng.random() < 0.9 else None,
        resize_mode=rng.choice([0, 1, FIT, LATENT_UPSCALE]),
        width=rng.choice(WIDTHS),
        height=rng.choice(HEIGHTS),
        inpainting_fill=1,
        inpaint_full_res=rng.random() < 0.7,
        inpaint_full_res_padding=rng.choice([0, 5, 32]),
        inpainting_mask_invert=rng.choice([0, 0, 1]),
        batch_size=1,
    )
    p.mask_blur_x, p.mask_blur_y = rng.choice([0, 4, 9]), rng.choice([0, 4])
    p.mask_round = rng.random() < 0.5
    return p


def under_latent(flat: Image.Image, p: Any) -> Image.Image:
    """The part of a picture that lies under a latent stretched from whole cells to whole cells."""
    ends = [
        round((given // 8 * 8) * wanted / (wanted // 8 * 8))
        for given, wanted in zip(flat.size, (p.width, p.height), strict=True)
    ]
    more = [max(end - given, 0) for end, given in zip(ends, flat.size, strict=True)]
    wide = np.pad(np.array(flat), ((0, more[1]), (0, more[0]), (0, 0)), mode="edge")
    return Image.fromarray(wide[: ends[1], : ends[0]])


def compare(p: Any, rng: random.Random) -> None:
    """Picture, mask and crop; then the pictures that units get."""
    request = read_request(p)
    ours = host_picture(
        *(request.init_image, request.inpaint, request.size, request.resize_mode),
        request.background,
    )
    flat = images.flatten(request.init_image, shared.opts.img2img_background_color)
    seen.clear()
    p.init([""], [1], [1])
    theirs = (seen["image"][0].permute(1, 2, 0).float().numpy() * 255).round().astype(np.uint8)
    region = getattr(p, "paste_to", None)
    if request.resize_mode == LATENT_UPSCALE and region is None:
        # The host encodes the picture as it is and stretches the latent.
        assert np.array_equal(theirs, np.array(flat)), f"it was resized: {request}"
        theirs = np.array(images.resize_image(0, under_latent(flat, p), p.width, p.height))
    assert np.array_equal(ours.image, theirs), f"pictures differ: {request}"
    assert (ours.mask is None) == (seen["mask"] is None), f"a mask too many or few: {request}"
    if ours.mask is not None:
        mask = np.array(seen["mask"].convert("RGB"))[:, :, 0]
        assert np.array_equal(ours.mask, mask), f"masks differ: {request}"
    expected = None if ours.region is None else (*ours.region[:2], *_extent(ours.region))
    assert region == expected, f"regions differ: {request}"
    compare_followed(request, theirs, ours.mask, region is not None)
    compare_own(request, ours.region, rng)


def compare_followed(
    request: GenerationRequest, theirs: np.ndarray, mask: np.ndarray | None, is_cropped: bool
) -> None:
    """A unit without a picture lies on the host's pixels; so does its mask."""
    unit = parse_unit({"module": "inpaint"})
    picture = control_picture(choose(unit, request), PictureSource(), True)
    placed = fit_map(picture.image, request.size, picture.resize_mode)
    inside = np.ones(placed.shape[:2], bool)
    if request.resize_mode == FIT and not is_cropped:
        wanted, left, top = placement(
            Size.from_array(picture.image), request.size, picture.resize_mode
        )
        inside[:] = False
        inside[top : top + wanted.height, left : left + wanted.width] = True
    assert np.array_equal(placed[inside][:, :3], theirs[inside]), f"it does not follow: {request}"
    white = np.zeros(placed.shape[:2], bool) if mask is None else mask > 127
    assert np.array_equal(placed[inside][:, 3] > 127, white[inside]), f"its mask: {request}"
    assert (placed[~inside][:, 3] == 255).all(), f"the border is not masked: {request}"


def compare_own(
    request: GenerationRequest, region: tuple[int, int, int, int] | None, rng: random.Random
) -> None:
    """A unit's own picture and mask are laid over the host's and cut by the host's functions."""
    size = rng.choice(SIDES), rng.choice(SIDES)
    image = noise(rng, *size, 3)
    mask = noise(rng, *size, 1)[:, :, 0]
    mode = rng.choice(list(ResizeMode))
    unit: ControlUnit = parse_unit({"image": image, "mask": mask, "resize_mode": mode})
    found = control_picture(choose(unit, request), PictureSource(), True).image
    if region is None:
        assert np.array_equal(found, np.dstack([image, mask])), f"it was touched: {request}"
        return
    assert region_of(request) == region
    planes = []
    for plane in (image, mask):
        laid = images.resize_image(
            list(ResizeMode).index(mode), Image.fromarray(plane), *request.init_image.size
        )
        cut = images.resize_image(2, laid.crop(region), request.size.width, request.size.height)
        planes.append(np.array(cut.convert("RGB")))
    expected = np.dstack([planes[0], planes[1][:, :, 0]])
    assert np.array_equal(found, expected), f"own pictures differ ({mode}): {request}"


def region_of(request: GenerationRequest) -> tuple[int, int, int, int]:
    """The crop by the host's own functions."""
    from modules import masking

    rules = request.inpaint
    mask = prepare_mask(rules)
    found = masking.get_crop_region_v2(mask, rules.padding)
    return masking.expand_crop_region(
        found, request.size.width, request.size.height, mask.width, mask.height
    )


def _extent(region: tuple[int, int, int, int]) -> tuple[int, int]:
    return region[2] - region[0], region[3] - region[1]


def main() -> None:
    stand_in()
    rng = random.Random(0)
    regions = 0
    for _ in range(CASES):
        p = make(rng)
        compare(p, rng)
        regions += getattr(p, "paste_to", None) is not None
    print(f"{CASES} cases equal, {regions} of them cropped")


if __name__ == "__main__":
    main()
