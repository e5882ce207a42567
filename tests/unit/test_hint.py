"""Where a control map lies on a pass, and what the network is given."""

import numpy as np
import pytest
import torch

from lib_controlnet.enums import ResizeMode
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry, place_map, to_hint


@pytest.mark.parametrize(
    ("latent", "canvas", "expected"),
    [
        (Size(64, 64), None, (Size(512, 512), 0, 0, Size(512, 512))),
        (Size(64, 96), Size(512, 768), (Size(512, 768), 0, 0, Size(512, 768))),
        # 770 px: the encoder floors to 96 cells and sees the first 768 pixels.
        (Size(96, 64), Size(770, 512), (Size(770, 512), 0, 0, Size(768, 512))),
        # Hires cover: 5 of 101 columns cropped, 2 of them at the left.
        (Size(96, 64), Size(808, 512), (Size(808, 512), 16, 0, Size(768, 512))),
        (Size(64, 90), Size(512, 768), (Size(512, 768), 0, 24, Size(512, 720))),
    ],
    ids=["plain", "tall", "floored", "crop-x", "crop-y"],
)
def test_geometry_of_a_latent(latent, canvas, expected):
    geometry = PassGeometry.of_latent(latent, canvas)
    assert (geometry.canvas, geometry.left, geometry.top, geometry.size) == expected


def test_place_map_cropped_hires_shows_the_same_pixels():
    rows = np.arange(64, dtype=np.uint8)[:, None, None]
    columns = np.arange(96, dtype=np.uint8)[None, :, None]
    picture = np.broadcast_to(rows + 2 * columns, (64, 96, 3)).astype(np.uint8)
    geometry = PassGeometry(Size(96, 64), 16, 8, Size(64, 40))
    placed = place_map(picture, geometry, ResizeMode.RESIZE)
    assert np.array_equal(placed, picture[8:48, 16:80])


def test_hint_is_rgb_between_0_and_1():
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, :8] = (255, 51, 0)
    hint = to_hint(picture)
    assert hint.shape == (1, 3, 8, 16)
    assert hint.dtype == torch.float32
    assert hint[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.2, 0.0])


def test_hint_masked_pixels_are_minus_one_in_all_channels():
    picture = np.full((8, 8, 4), 128, np.uint8)
    picture[:, :4, 3] = 0
    picture[:, 4:, 3] = 255
    hint = to_hint(picture)
    assert torch.equal(hint[..., 4:], torch.full((1, 3, 8, 4), -1.0))
    assert hint[..., :4].min() == pytest.approx(128 / 255)
