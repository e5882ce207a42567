"""Boosted depth: the search for sizes and patches as published, and both networks at work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from neural import check_memory_is_given_back, check_odd_pictures, save_weights, smooth_picture
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from weights import weights_folder

from annotator._boost import (
    Patch,
    best_side,
    blend_mask,
    boost,
    find_patches,
    fit,
    two_scales,
)
from annotator.leres import MERGE, RES101, _merge, cut
from annotator.nets.pix2pix import build
from lib_controlnet.detect.preprocess import run_preprocessor

LUMA = np.float32([0.2, 0.5, 0.3])


def scene(height: int, width: int, seed: int, cell: int, zones: float) -> np.ndarray:
    """Coloured tiles on the left, pale ones beside them, nothing on the right."""
    rng = np.random.default_rng(seed)
    size = (height // cell + 1, width // cell + 1, 3)
    tiles = rng.integers(0, 256, size, dtype=np.uint8)
    image = np.kron(tiles, np.ones((cell, cell, 1), np.uint8))[:height, :width]
    zone = np.arange(width) * zones // width
    image[:, zone == 1] = image[:, zone == 1] // 4 + 96
    image[:, zone > 1] = 128
    return image


def estimate(image: np.ndarray, side: int) -> np.ndarray:
    """In the place of a network: blurred luma, sinking towards the top."""
    seen = cv2.resize(image, (side, side)).astype(np.float32) @ LUMA
    slope = np.arange(side, dtype=np.float32)[:, None] * (64 / side)
    return cv2.resize(
        cv2.blur(seen, (9, 9)) + slope, image.shape[1::-1], interpolation=cv2.INTER_CUBIC
    )


def merge(whole: np.ndarray, details: np.ndarray) -> np.ndarray:
    """In the place of the other network: a blend of coarse and fine."""
    whole, details = whole.astype(np.float32), details.astype(np.float32)
    fine = details - cv2.blur(details, (65, 65))
    mixed = 0.5 * whole + 0.5 * cv2.blur(whole, (65, 65)) + fine
    return mixed.astype(np.float32) * 0.4 + 0.3


@pytest.mark.parametrize(
    ("name", "made_of", "side"),
    [
        ("patches", (512, 768, 0, 16, 3), 448),
        ("whole", (512, 512, 2, 8, 1), 1344),
        ("large", (640, 1024, 9, 64, 1.8), 896),
    ],
)
def test_depth_is_that_of_the_published_code(
    name: str, made_of: tuple[float, ...], side: int
) -> None:
    """With the same functions in the place of both networks; resizes of single precision."""
    image = scene(*made_of)
    assert best_side(image)[0] == side
    found = boost(image, estimate, merge)
    assert found.shape == image.shape[:2]
    assert np.abs(found[::16, ::16] - read_output(f"boost_{name}")).max() < 1e-5


def test_patches_are_busy_and_the_largest_come_first() -> None:
    large = cv2.resize(scene(512, 768, 0, 16, 3), (1990, 1326), interpolation=cv2.INTER_CUBIC)
    patches = find_patches(large, 71)
    assert patches
    sides = [patch.side for patch in patches]
    assert sides == sorted(sides, reverse=True)
    assert min(sides) >= 896
    for patch in patches:
        rows, columns = patch.cells(1)
        assert 0 <= rows.start < rows.stop <= 1326
        assert 0 <= columns.start < columns.stop <= 1990
    assert not find_patches(np.full((1000, 1000, 3), 9, np.uint8), 71)


def test_a_patch_grows_about_its_middle_and_scales() -> None:
    grown = Patch(100, 60, 896).grow(33)
    assert grown == Patch(84, 44, 929)
    assert grown.cells(0.5) == (slice(22, 486), slice(42, 506))


def test_the_line_is_that_of_least_squares() -> None:
    values = np.random.default_rng(1).random((64, 64), dtype=np.float32) * 0.01 + 5
    target = values * 40 - 3 + np.random.default_rng(2).random((64, 64), dtype=np.float32)
    line = np.polyfit(values.ravel().astype(float), target.ravel().astype(float), 1)
    assert np.allclose(fit(values, target), np.polyval(line, values.astype(float)), atol=1e-4)
    assert np.allclose(fit(np.ones((4, 4)), target[:4, :4]), target[:4, :4].mean())


def test_the_mask_is_a_blurred_square() -> None:
    square = np.zeros((800, 800), np.float32)
    square[120:680, 120:680] = 1
    blurred = cv2.GaussianBlur(square, (201, 201), 50)
    blurred = (blurred - blurred.min()) / (blurred.max() - blurred.min())
    expected = cv2.resize(blurred, (240, 180), interpolation=cv2.INTER_LINEAR)
    assert np.abs(blend_mask(180, 240, 800) - expected).max() < 1e-5


def test_a_flat_picture_has_a_flat_depth() -> None:
    flat = np.full((128, 128, 3), 77, np.uint8)
    found = two_scales(flat, 896, lambda image, _: np.ones(image.shape[:2], np.float32), merge)
    assert not found.any()


def test_published_layout_of_the_merging_network_loads_strictly() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys("leres_merge").items()}
    count = sum(parameter.numel() for parameter in build(state).parameters())
    assert (len(state), count) == (21, 79_564_801)
    state["model.model.0.bias"] = torch.empty(64, device="meta")
    with pytest.raises(RuntimeError, match=r"model\.0\.bias"):
        build(state)


def test_merging_is_that_of_the_reference() -> None:
    """In double precision, where only the formulas count; the stored output has 24 bits."""
    state = random_state(read_keys("leres_merge_small"), gain=1.3)
    network = build({key: tensor.double() for key, tensor in state.items()}).eval()
    with torch.no_grad():
        found = network(random_input((1, 2, 1024, 1024), -1, 1).double())
    assert relative_error(found[:, :, ::16, ::16], read_output("leres_merge_small")) < 1e-6


@pytest.mark.parametrize("channel", [0, 1])
def test_the_merging_network_sees_the_whole_first_and_the_details_second(channel: int) -> None:
    class Choose(torch.nn.Conv2d):
        """Hands out one of its channels, which lie in -1 to 1."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert (float(x.min()), float(x.max())) == (-1, 1)
            return x[:, channel : channel + 1]

    pair = [np.float32([[0, 0.25], [0.5, 1]]), np.float32([[1, 0], [0.75, 0.5]])]
    assert np.array_equal(_merge(Choose(1, 1, 1), *pair), pair[channel])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path / "weights") as folder:
        state = random_state(read_keys("leres_small"))
        save_weights(folder, RES101, {"depth_model": state})
        save_weights(folder, MERGE, random_state(read_keys("leres_merge_small")))
        yield folder


@pytest.mark.usefixtures("folder")
def test_preprocessor_end_to_end() -> None:
    check_odd_pictures("depth_leres++")
    picture = smooth_picture(64, 128)
    plain, fine = (
        run_preprocessor(name, picture, 64).image for name in ("depth_leres", "depth_leres++")
    )
    assert not np.array_equal(plain, fine)
    assert (fine.min(), fine.max()) == (0, 255)
    cropped = run_preprocessor("depth_leres++", picture, 64, (0, 50)).image
    assert np.array_equal(cropped, np.where(fine > 127, fine, 0))
    check_memory_is_given_back("depth_leres++")


def test_depth_of_any_range_becomes_a_map() -> None:
    found = cut(boost(scene(128, 192, 3, 8, 3), estimate, merge), 0, 0)
    assert (found.min(), found.max()) == (0, 255)
