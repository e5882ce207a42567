"""The same request gives the same picture in every host: embedded or real.

The pictures in `tests/data/pictures` were made by the embedded host. Run against a real WebUI that
has the demo models (`--webui-url`), these tests compare it with the embedded host. After the demo
models changed, make the pictures again with `python tests/http/test_same_pictures.py`, which
starts an embedded host of its own.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

FOLDER = Path(__file__).resolve().parents[1] / "data" / "pictures"
SIZE = 128
MEAN_LEVELS = 1.0
"""Allowed mean difference in levels of 255: torch versions and attention kernels round
differently, and sampling amplifies the last bits."""
FAR_LEVELS, FAR_SHARE = 16, 0.01
"""At most 1 % of the pixels may differ by more than 16 levels (edges that moved by a pixel)."""


def scene() -> Image.Image:
    """A drawing with a circle and a square, RGB."""
    picture = Image.new("RGB", (SIZE, SIZE), (90, 140, 220))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((16, 24, 72, 80), fill=(220, 60, 50), outline=(20, 20, 20), width=2)
    draw.rectangle((66, 60, 112, 106), fill=(250, 220, 90), outline=(20, 20, 20), width=2)
    return picture


def mask() -> Image.Image:
    """White over the square."""
    picture = Image.new("L", (SIZE, SIZE), 0)
    ImageDraw.Draw(picture).rectangle((58, 52, 120, 114), fill=255)
    return picture


def depth() -> Image.Image:
    """The same scene as a depth map: the square is nearest."""
    picture = Image.new("RGB", (SIZE, SIZE), (30, 30, 30))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((16, 24, 72, 80), fill=(140, 140, 140))
    draw.rectangle((66, 60, 112, 106), fill=(230, 230, 230))
    return picture


def encoded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def units(count: int, own: bool) -> list[dict]:
    """One unit (canny), or three (canny, depth, scribble) with different modes and windows."""
    image = encoded(scene()) if own else None
    edges = {"module": "canny", "model": "control_demo_canny", "image": image}
    if count == 1:
        return [edges]
    return [
        {**edges, "weight": 0.8},
        {
            "module": "none",
            "model": "control_demo_depth",
            "image": encoded(depth()),
            "weight": 0.6,
            "guidance_end": 0.6,
            "control_mode": "My prompt is more important",
        },
        {
            "module": "scribble_xdog",
            "model": "control_demo_scribble",
            "image": image,
            "weight": 0.5,
            "guidance_start": 0.2,
            "control_mode": "ControlNet is more important",
        },
    ]


BASE = {
    "prompt": "a red circle and a yellow square on a blue background",
    "negative_prompt": "",
    "steps": 8,
    "width": SIZE,
    "height": SIZE,
    "cfg_scale": 4,
    "seed": 77,
}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6}
INPAINT = {"denoising_strength": 0.8, "inpainting_fill": 1, "mask_blur": 2}
CASES: dict[str, tuple[str, dict, int]] = {
    "txt2img-euler-none": ("txt2img", {"sampler_name": "Euler"}, 0),
    "txt2img-euler-one": ("txt2img", {"sampler_name": "Euler"}, 1),
    "txt2img-dpmpp2m-three": ("txt2img", {"sampler_name": "DPM++ 2M"}, 3),
    "txt2img-ddim-three": ("txt2img", {"sampler_name": "DDIM"}, 3),
    "txt2img-hires-one": ("txt2img", {"sampler_name": "Euler", **HIRES}, 1),
    "img2img-euler-one": ("img2img", {"sampler_name": "Euler", "denoising_strength": 0.7}, 1),
    "img2img-heun-three": ("img2img", {"sampler_name": "Heun", "denoising_strength": 0.7}, 3),
    "inpaint-whole-one": ("inpaint", {"sampler_name": "Euler", **INPAINT}, 1),
    "inpaint-only-masked-one": (
        "inpaint",
        {
            "sampler_name": "Euler",
            **INPAINT,
            "inpaint_full_res": True,
            "inpaint_full_res_padding": 8,
        },
        1,
    ),
    "inpaint-whole-three": ("inpaint", {"sampler_name": "Euler", **INPAINT}, 3),
}


def payload(name: str) -> tuple[str, dict]:
    """Route and request of a case."""
    kind, fields, count = CASES[name]
    request = {**BASE, **fields}
    if kind != "txt2img":
        request["init_images"] = [encoded(scene())]
    if kind == "inpaint":
        request["mask"] = encoded(mask())
    if count:
        own = kind == "txt2img"
        request["alwayson_scripts"] = {"ControlNet": {"args": units(count, own)}}
    return ("txt2img" if kind == "txt2img" else "img2img"), request


def picture_of(answer: dict) -> np.ndarray:
    """First picture of an answer, uint8 (H, W, 3)."""
    data = base64.b64decode(answer["images"][0])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("name", list(CASES))
def test_picture_equals_the_reference(webui, name):
    route, request = payload(name)
    result = picture_of(webui.generate(route, **request)).astype(int)
    reference = np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB")).astype(int)
    assert result.shape == reference.shape
    difference = np.abs(result - reference)
    share = (difference.max(axis=2) > FAR_LEVELS).mean()
    assert difference.mean() <= MEAN_LEVELS, f"mean {difference.mean():.2f} levels, {share:.2%} far"
    assert share <= FAR_SHARE, f"{share:.2%} of the pixels differ by more than {FAR_LEVELS} levels"


def test_references_differ_from_each_other():
    pictures = [np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB")) for name in CASES]
    same_size = [p.astype(int) for p in pictures if p.shape == (SIZE, SIZE, 3)]
    for i, one in enumerate(same_size):
        for other in same_size[i + 1 :]:
            assert np.abs(one - other).mean() > MEAN_LEVELS


def pictures(generate: Callable[..., dict]) -> Iterator[tuple[str, np.ndarray]]:
    """Every case's picture, made by a function (route, **request) -> answer."""
    for name in CASES:
        route, request = payload(name)
        yield name, picture_of(generate(route, **request))


def main() -> None:
    """Make the reference pictures with an embedded host in this process."""
    import sys
    import tempfile

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "minihost"))
    import embedded

    host = embedded.start(tempfile.mkdtemp())
    FOLDER.mkdir(parents=True, exist_ok=True)

    def generate(route: str, **request: object) -> dict:
        answer = host.post(f"/sdapi/v1/{route}", request)
        answer.raise_for_status()
        return answer.json()

    for name, picture in pictures(generate):
        Image.fromarray(picture).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
