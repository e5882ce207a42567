"""Run a WebUI's own img2img preparation and compare it with `lib_controlnet.crop`.

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

from modules import processing, sd_samplers, sd_samplers_common, shared  # noqa: E402
from PIL import Image  # noqa: E402

from lib_controlnet.crop import host_picture  # noqa: E402
from lib_controlnet.host.request import read_request  # noqa: E402

SIDES = (40, 64, 97, 128, 200)
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


def make(rng: random.Random) -> Any:
    """An img2img request with random sizes, mask and rules."""
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    noise = np.random.default_rng(rng.randrange(2**31))
    pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    if rng.random() < 0.9:
        x, y = rng.randrange(width), rng.randrange(height)
        mask[y : y + rng.randrange(1, 40), x : x + rng.randrange(1, 40)] = 255
    picture = Image.fromarray(mask)
    if rng.random() < 0.3:
        clear = np.zeros((height, width, 4), np.uint8)
        clear[:, :, 3] = mask // rng.choice([1, 2])
        picture = Image.fromarray(clear)
    p = Img2Img(
        init_images=[Image.fromarray(pixels)],
        mask=picture if rng.random() < 0.9 else None,
        resize_mode=rng.choice([0, 1, 2]),
        width=rng.choice([64, 128, 192]),
        height=rng.choice([64, 128]),
        inpainting_fill=1,
        inpaint_full_res=rng.random() < 0.7,
        inpaint_full_res_padding=rng.choice([0, 5, 32]),
        inpainting_mask_invert=rng.choice([0, 0, 1]),
        batch_size=1,
    )
    p.mask_blur_x, p.mask_blur_y = rng.choice([0, 4, 9]), rng.choice([0, 4])
    p.mask_round = rng.random() < 0.5
    return p


def compare(p: Any) -> None:
    request = read_request(p)
    ours = host_picture(request.init_image, request.inpaint, request.size, request.resize_mode)
    seen.clear()
    p.init([""], [1], [1])
    theirs = (seen["image"][0].permute(1, 2, 0).float().numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(ours.image, theirs), f"pictures differ: {request}"
    assert (ours.mask is None) == (seen["mask"] is None), f"a mask too many or few: {request}"
    if ours.mask is not None:
        mask = np.array(seen["mask"].convert("RGB"))[:, :, 0]
        assert np.array_equal(ours.mask, mask), f"masks differ: {request}"
    region = getattr(p, "paste_to", None)
    expected = None if ours.region is None else (*ours.region[:2], *_extent(ours.region))
    assert region == expected, f"regions differ: {request}"


def _extent(region: tuple[int, int, int, int]) -> tuple[int, int]:
    return region[2] - region[0], region[3] - region[1]


def main() -> None:
    stand_in()
    rng = random.Random(0)
    regions = 0
    for _ in range(CASES):
        p = make(rng)
        compare(p)
        regions += getattr(p, "paste_to", None) is not None
    print(f"{CASES} cases equal, {regions} of them cropped")


if __name__ == "__main__":
    main()
