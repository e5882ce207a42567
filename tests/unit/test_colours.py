"""Holding colours (tile_colorfix) and giving brightness back (recolor), against OpenCV."""

import cv2
import numpy as np
import pytest
import torch

from lib_controlnet.detect import preprocess
from lib_controlnet.engine.effects.recolor import Recolor, with_brightness
from lib_controlnet.engine.effects.tile_colorfix import HoldColours, box_blur
from lib_controlnet.engine.injection import RegionMask
from lib_controlnet.engine.step import Row
from lib_controlnet.engine.window import Window

ROWS = (Row(0, is_cond=True), Row(1, is_cond=True), Row(0, is_cond=False), Row(1, is_cond=False))
RADIUS = 3


def latents(count=4, seed=0, size=(10, 14)):
    return torch.randn(count, 4, *size, generator=torch.Generator().manual_seed(seed))


def blurred(latent):
    """The same blur by OpenCV."""
    side = (2 * RADIUS + 1,) * 2
    planes = latent.flatten(0, 1).numpy()
    out = np.stack([cv2.blur(plane, side, borderType=cv2.BORDER_REPLICATE) for plane in planes])
    return torch.from_numpy(out).view_as(latent)


def hold(**fields):
    defaults = {"radius": RADIUS, "sharpness": 0.0, "weight": 1.0, "window": Window()}
    return HoldColours(blurred(latents(1, seed=9)), **{**defaults, **fields})


def test_box_blur_is_opencvs_with_repeated_borders():
    torch.testing.assert_close(box_blur(latents(), RADIUS), blurred(latents()), atol=1e-5, rtol=0)


def test_colours_are_the_controls_and_details_stay():
    x0 = latents()
    before = x0.clone()
    held = hold().before_guidance(x0, ROWS)
    assert torch.equal(x0, before)
    details = x0 - blurred(x0)
    expected = details + blurred(latents(1, seed=9))
    torch.testing.assert_close(held, expected, atol=1e-5, rtol=0)


def test_sharpness_blurs_the_unconditional_rows_only():
    x0 = latents()
    plain, sharp = hold().before_guidance(x0, ROWS), hold(sharpness=0.4).before_guidance(x0, ROWS)
    assert torch.equal(sharp[:2], plain[:2])
    expected = 0.4 * blurred(plain[2:]) + 0.6 * plain[2:]
    torch.testing.assert_close(sharp[2:], expected, atol=1e-5, rtol=0)


def test_weight_is_the_share_of_the_correction():
    x0 = latents()
    half = hold(weight=0.25).before_guidance(x0, ROWS)
    torch.testing.assert_close(half, 0.75 * x0 + 0.25 * hold().before_guidance(x0, ROWS))


def test_region_and_images_leave_the_rest_to_the_bit():
    x0 = latents()
    mask = torch.zeros(1, 1, 80, 112)
    mask[..., :56] = 1
    region = hold(region=RegionMask(mask)).before_guidance(x0, ROWS)
    assert torch.equal(region[..., 8:], x0[..., 8:])
    torch.testing.assert_close(region[..., :6], hold().before_guidance(x0, ROWS)[..., :6])
    second = hold(images=frozenset({1})).before_guidance(x0, ROWS)
    assert torch.equal(second[0::2], x0[0::2])
    assert torch.equal(second[1::2], hold().before_guidance(x0, ROWS)[1::2])


def picture(seed=0):
    pixels = np.random.default_rng(seed).random((12, 16, 3), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize("by_value", [False, True], ids=["luminance", "intensity"])
def test_own_brightness_changes_nothing(by_value):
    image = picture()
    pixels = image.permute(1, 2, 0).numpy()
    if by_value:
        own = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)[:, :, 2] * 255
    else:
        own = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[:, :, 0] * 2.55
    placed = np.repeat(own.round().astype(np.uint8)[:, :, None], 3, axis=2)
    torch.testing.assert_close(Recolor(by_value).finish(image, placed), image, atol=0.02, rtol=0)


def test_another_brightness_keeps_the_colours():
    image = picture() * 0.4 + 0.3
    brightness = np.full((12, 16), 128, np.uint8)
    by_value = with_brightness(image, brightness, by_value=True)
    torch.testing.assert_close(by_value.amax(0), torch.full((12, 16), 128 / 255))
    ratio = by_value / by_value.amax(0)
    torch.testing.assert_close(ratio, image / image.amax(0), atol=2e-3, rtol=0)
    by_lightness = with_brightness(image, brightness, by_value=False).permute(1, 2, 0).numpy()
    lab = cv2.cvtColor(by_lightness, cv2.COLOR_RGB2LAB)
    old = cv2.cvtColor(image.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2LAB)
    assert np.abs(lab[:, :, 0] - 100 * 128 / 255).max() < 0.5
    assert np.abs(lab[:, :, 1:] - old[:, :, 1:]).max() < 2


def test_brightness_acts_in_its_region_only():
    image = picture()
    mask = torch.zeros(1, 1, 12, 16)
    mask[..., 8:] = 1
    placed = np.full((12, 16, 3), 20, np.uint8)
    out = Recolor(by_value=True, region=RegionMask(mask)).finish(image, placed)
    assert torch.equal(out[..., :8], image[..., :8])
    torch.testing.assert_close(out[..., 8:].amax(0), torch.full((12, 8), 20 / 255))


@pytest.mark.parametrize(
    ("name", "red", "green"), [("recolor_luminance", 136, 224), ("recolor_intensity", 255, 255)]
)
def test_recolor_brightness_of_pure_colours(name, red, green):
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, :4, 0] = 255
    image[:, 4:, 1] = 255
    found = preprocess.run_preprocessor(name, image).image
    assert (found[:, :4] == red).all()
    assert (found[:, 4:] == green).all()


def test_recolor_of_a_photograph_is_its_brightness(photograph):
    found = preprocess.run_preprocessor("recolor_intensity", photograph).image
    assert np.array_equal(found[:, :, 0], photograph.max(axis=2))
    grey = preprocess.run_preprocessor("recolor_luminance", photograph).image
    # CIE 1976 from linear sRGB, written out.
    linear = photograph / 255.0
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.212671, 0.715160, 0.072169])
    lightness = np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, y * (29 / 3) ** 3)
    assert np.abs(grey[:, :, 0] - lightness * 2.55).max() < 2.5
    assert (grey == grey[:, :, :1]).all()


def test_recolor_gamma_darkens_above_one():
    image = np.full((4, 4, 3), 128, np.uint8)
    found = preprocess.run_preprocessor("recolor_intensity", image, None, (2.0,)).image
    assert (found == int(255 * (128 / 255) ** 2)).all()
