"""The img2img picture, its mask and its crop, against hand-made tables and plain formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare import crop
from lib_controlnet.prepare.crop import (
    crop_control,
    crop_region,
    host_picture,
    prepare_mask,
)
from lib_controlnet.units.request import InpaintRules


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (height, width, channels), dtype=np.uint8)


def host_resize(mode: int, image: np.ndarray, size: Size) -> np.ndarray:
    """What the preparation does to a picture (H, W, 3) or a mask (H, W)."""
    found = np.array(crop._resize(mode, Image.fromarray(image), size).convert("RGB"))
    return found if image.ndim == 3 else found[:, :, 0]


def mask_with(box: tuple[int, int, int, int], width: int = 200, height: int = 100) -> Image.Image:
    """Black, white inside (left, top, right, bottom)."""
    plane = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box
    plane[top:bottom, left:right] = 255
    return Image.fromarray(plane)


def rules(mask: Image.Image, **changes: object) -> InpaintRules:
    plain = InpaintRules(mask, 0, 0, invert=False, binary=True, only_masked=False, padding=0)
    return dataclasses.replace(plain, **changes)


REGIONS = [
    # white box in a 200 x 100 mask, padding, requested size, region by hand
    ((80, 40, 120, 60), 0, (64, 64), (80, 30, 120, 70)),
    ((80, 40, 120, 60), 10, (64, 64), (70, 20, 130, 80)),
    ((80, 40, 120, 60), 0, (128, 64), (80, 40, 120, 60)),
    ((80, 40, 120, 61), 0, (128, 64), (79, 40, 121, 61)),
    ((80, 40, 121, 60), 0, (64, 64), (80, 30, 121, 71)),  # 21 rows more: 10 above, 11 below
    ((90, 0, 130, 10), 0, (64, 64), (90, 0, 130, 40)),  # shifted down
    ((90, 90, 130, 100), 0, (64, 64), (90, 60, 130, 100)),  # shifted up
    ((0, 40, 10, 80), 0, (64, 64), (0, 40, 40, 80)),
    ((190, 40, 200, 80), 0, (64, 64), (160, 40, 200, 80)),
    ((20, 45, 180, 55), 0, (64, 64), (20, 0, 180, 100)),  # taller than the mask: clamped
    ((0, 0, 200, 100), 32, (64, 64), (0, 0, 200, 100)),
    ((50, 50, 51, 51), 0, (512, 512), (50, 50, 51, 51)),
]


@pytest.mark.parametrize("case", REGIONS, ids=str)
def test_crop_region_table(case: tuple) -> None:
    box, padding, size, expected = case
    assert crop_region(mask_with(box), padding, Size(*size)) == expected


def test_black_mask_has_no_region() -> None:
    assert crop_region(mask_with((0, 0, 0, 0)), 32, Size(64, 64)) is None


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_crop_region_holds_the_mask_and_stays_inside(data: st.DataObject) -> None:
    left = data.draw(st.integers(0, 199))
    top = data.draw(st.integers(0, 99))
    right, bottom = data.draw(st.integers(left + 1, 200)), data.draw(st.integers(top + 1, 100))
    padding = data.draw(st.integers(0, 300))
    size = Size(data.draw(st.integers(8, 900)), data.draw(st.integers(8, 900)))
    found = crop_region(mask_with((left, top, right, bottom)), padding, size)
    assert found is not None
    assert 0 <= found[0] <= left
    assert 0 <= found[1] <= top
    assert right <= found[2] <= 200
    assert bottom <= found[3] <= 100


# --- mask ---------------------------------------------------------------------------------


def gaussian(sigma: float) -> np.ndarray:
    half = int(2.5 * sigma + 0.5)
    x = np.arange(-half, half + 1)
    weights = np.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


@pytest.mark.parametrize(("blur_x", "blur_y"), [(4, 4), (0, 0), (8, 0), (0, 2.5)])
def test_mask_is_blurred_per_axis(blur_x: float, blur_y: float) -> None:
    mask = mask_with((80, 40, 120, 60))
    expected = np.array(mask, float)
    for sigma, axis in ((blur_x, 1), (blur_y, 0)):
        if sigma:
            kernel = gaussian(sigma)
            expected = np.apply_along_axis(np.convolve, axis, expected, kernel, mode="same")
    found = np.array(prepare_mask(rules(mask, blur_x=blur_x, blur_y=blur_y)), float)
    assert np.abs(found - expected).max() <= 2.0  # OpenCV rounds after each axis


def test_mask_is_inverted_before_the_blur() -> None:
    mask = mask_with((80, 40, 120, 60))
    found = np.array(prepare_mask(rules(mask, invert=True)))
    assert np.array_equal(found, 255 - np.array(mask))


def test_mask_uses_alpha_only_where_it_is_not_opaque() -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0, :3] = 255
    rgba[:, :, 3] = 255
    opaque = np.array(prepare_mask(rules(Image.fromarray(rgba))))
    assert opaque.tolist() == [[255, 0], [0, 0]]
    rgba[:, :, 3] = [[0, 128], [129, 255]]
    cut = np.array(prepare_mask(rules(Image.fromarray(rgba))))
    assert cut.tolist() == [[0, 0], [255, 255]]
    soft = np.array(prepare_mask(rules(Image.fromarray(rgba), binary=False)))
    assert soft.tolist() == [[0, 128], [129, 255]]


# --- resize -------------------------------------------------------------------------------

RESIZES = [
    # mode, source (w, h), target (w, h), inner size, its place
    (0, (40, 20), (30, 30), (30, 30), (0, 0)),
    (1, (40, 20), (30, 30), (60, 30), (-15, 0)),
    (1, (20, 41), (30, 30), (30, 61), (0, -15)),
    (2, (40, 20), (30, 30), (30, 15), (0, 8)),
    (2, (20, 40), (30, 31), (15, 31), (8, 0)),
    (3, (40, 20), (30, 30), (30, 15), (0, 8)),
    (2, (30, 30), (30, 30), (30, 30), (0, 0)),
]


@pytest.mark.parametrize("case", RESIZES, ids=str)
def test_host_resize_places_the_picture(case: tuple) -> None:
    mode, source, target, inner, (x, y) = case
    image = noise(source[1], source[0])
    resized = np.array(Image.fromarray(image).resize(inner, Image.Resampling.LANCZOS))
    found = host_resize(mode, image, Size(*target))
    assert found.shape == (target[1], target[0], 3)
    part = found[max(y, 0) : y + inner[1], max(x, 0) : x + inner[0]]
    assert np.array_equal(
        part, resized[max(-y, 0) :, max(-x, 0) :][: part.shape[0], : part.shape[1]]
    )


def test_fitting_fills_the_border_from_the_edge() -> None:
    image = np.repeat(noise(1, 40), 20, axis=0)  # columns of one colour
    found = host_resize(2, image, Size(40, 60))
    assert np.array_equal(found[0], image[0])
    assert np.array_equal(found[-1], image[0])


# --- the whole preparation ----------------------------------------------------------------


def test_without_mask_the_picture_is_resized() -> None:
    image = noise(100, 200)
    found = host_picture(Image.fromarray(image), None, Size(64, 64), 1)
    assert found.mask is None
    assert found.region is None
    assert np.array_equal(found.image, host_resize(1, image, Size(64, 64)))


def test_latent_upscale_stretches_the_whole_cells() -> None:
    image = noise(100, 200)
    found = host_picture(Image.fromarray(image), None, Size(64, 64), 3)
    assert np.array_equal(found.image, host_resize(0, image[:96], Size(64, 64)))


@pytest.mark.parametrize(
    ("picture_size", "size"),
    [
        (Size(128, 96), Size(192, 64)),
        (Size(150, 120), Size(128, 128)),
        (Size(103, 79), Size(160, 120)),
        (Size(128, 128), Size(100, 76)),
        (Size(150, 127), Size(140, 109)),
    ],
)
def test_latent_upscale_lies_under_the_stretched_latent(picture_size: Size, size: Size) -> None:
    """A latent is stood for by the means over its cells, of a ramp."""
    y, x = np.mgrid[: picture_size.height, : picture_size.width]
    ramp = (90 * x / picture_size.width + 150 * y / picture_size.height).astype(np.float32)
    latent = F.interpolate(
        F.avg_pool2d(torch.from_numpy(ramp)[None, None], 8),
        (size.height // 8, size.width // 8),
        mode="bilinear",
    )[0, 0].numpy()
    picture = Image.fromarray(np.dstack([ramp.round().astype(np.uint8)] * 3))
    found = host_picture(picture, None, size, 3).image[:, :, 0].astype(np.float32)
    h, w = latent.shape
    cells = found[: 8 * h, : 8 * w].reshape(h, 8, w, 8).mean((1, 3))
    pixel = 90 / size.width + 150 / size.height
    assert np.abs(cells - latent)[1:-1, 1:-1].max() < 0.5 + 0.6 * pixel


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_whole_picture_resizes_picture_and_mask_alike(mode: int) -> None:
    image, mask = noise(100, 200), mask_with((80, 40, 120, 60))
    found = host_picture(Image.fromarray(image), rules(mask), Size(64, 64), mode)
    assert found.region is None
    assert np.array_equal(found.image, host_resize(mode, image, Size(64, 64)))
    assert np.array_equal(found.mask, host_resize(mode, np.array(mask), Size(64, 64)))


def test_only_masked_crops_then_fits() -> None:
    image, mask = noise(100, 200), mask_with((80, 40, 120, 60))
    asked = rules(mask, only_masked=True, padding=4)
    found = host_picture(Image.fromarray(image), asked, Size(96, 96), 1)
    assert found.region == (76, 26, 124, 74)
    assert np.array_equal(found.image, host_resize(2, image[26:74, 76:124], Size(96, 96)))
    plane = np.array(mask)[26:74, 76:124]
    assert np.array_equal(found.mask, host_resize(2, plane, Size(96, 96)))


def test_only_masked_with_a_blank_mask_is_plain_img2img() -> None:
    image = noise(100, 200)
    blank = rules(mask_with((0, 0, 0, 0)), only_masked=True)
    found = host_picture(Image.fromarray(image), blank, Size(64, 64), 1)
    assert found.mask is None
    assert found.region is None
    assert np.array_equal(found.image, host_resize(1, image, Size(64, 64)))


def test_transparent_picture_lies_on_the_background() -> None:
    image = Image.new("RGBA", (64, 64), (10, 20, 30, 0))
    assert (host_picture(image, None, Size(64, 64), 0).image == 255).all()
    green = host_picture(image, None, Size(64, 64), 0, background="#00ff00").image
    assert green[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_own_picture_equal_to_the_init_picture_crops_alike(mode: int) -> None:
    """The law that keeps a control picture over what is painted."""
    image, mask = noise(100, 200), mask_with((80, 40, 120, 60))
    asked = rules(mask, only_masked=True, padding=4)
    host = host_picture(Image.fromarray(image), asked, Size(96, 64), 1)
    assert host.region is not None
    own = crop_control(image, Size(200, 100), host.region, Size(96, 64), mode)
    assert np.array_equal(own, host.image)


def test_own_picture_of_another_size_is_laid_over_first() -> None:
    image = noise(50, 100, 4)
    region = (20, 10, 84, 74)
    found = crop_control(image, Size(200, 100), region, Size(64, 64), 0)
    planes = (image[:, :, :3], image[:, :, 3])
    laid = np.dstack([host_resize(0, plane, Size(200, 100)) for plane in planes])
    assert np.array_equal(found, laid[10:74, 20:84])
