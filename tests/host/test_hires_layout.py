"""Where the picture lies in a hires pass: under the very cells that the host has enlarged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support import tiny_base

CELL = 8
CASES = [
    # first pass, target before the crop, cells that the crop takes
    ((64, 64), (96, 96), (0, 0)),
    ((64, 64), (100, 100), (0, 0)),
    ((64, 48), (83, 62), (0, 0)),
    ((72, 104), (108, 156), (0, 0)),
    ((64, 64), (103, 103), (0, 3)),
    ((136, 88), (170, 110), (5, 0)),
    ((100, 76), (150, 114), (0, 0)),
    ((100, 76), (200, 152), (4, 1)),
    ((44, 60), (90, 123), (0, 0)),
]


def processing(first: tuple[int, int], target: tuple[int, int], **fields: Any) -> SimpleNamespace:
    """What is asked of the host's processing object, in the hires pass."""
    upscaled = {"hr_upscale_to_x": target[0], "hr_upscale_to_y": target[1]}
    sizes = {"width": first[0], "height": first[1], **upscaled, "is_hr_pass": True}
    given = {"firstpass_image": None, "latent_scale_mode": None, "enable_hr": True}
    return SimpleNamespace(**{**sizes, **given, **fields})


def enlarged(
    drawn: np.ndarray, target: tuple[int, int], lost: tuple[int, int], is_latent: bool
) -> np.ndarray:
    """What the host makes of the first pass's picture (H, W): the second pass's, from its cells.

    A latent is stood for by the means over its cells.
    """
    width, height = target
    cells = height // CELL, width // CELL
    plane = torch.from_numpy(drawn)[None, None]
    if is_latent:
        latent = F.interpolate(F.avg_pool2d(plane, CELL), cells, mode="bilinear")
    else:
        scaled = F.interpolate(plane, (height, width), mode="bilinear")
        latent = F.avg_pool2d(scaled[..., : CELL * cells[0], : CELL * cells[1]], CELL)
    left, top = lost[0] // 2, lost[1] // 2
    right, bottom = latent.shape[3] - (lost[0] - left), latent.shape[2] - (lost[1] - top)
    return latent[0, 0, top:bottom, left:right].numpy()


@pytest.mark.parametrize("is_latent", [True, False], ids=["latent", "picture"])
@pytest.mark.parametrize("is_given", [False, True], ids=["drawn", "given"])
@pytest.mark.parametrize(("first", "target", "lost"), CASES)
def test_map_lies_where_the_host_has_put_the_first_passs_picture(
    host: Any,
    first: tuple[int, int],
    target: tuple[int, int],
    lost: tuple[int, int],
    is_given: bool,
    is_latent: bool,
) -> None:
    from lib_controlnet.enums import ResizeMode
    from lib_controlnet.host import generation
    from lib_controlnet.pictures.placement import place_map

    y, x = np.mgrid[: first[1], : first[0]]
    ramp = (x / first[0] + 2 * y / first[1]).astype(np.float32) * 80
    covered = ramp if is_given else ramp[: first[1] // CELL * CELL, : first[0] // CELL * CELL]
    expected = enlarged(covered, target, lost, is_latent)
    p = processing(first, target)
    p.latent_scale_mode = {"mode": "bilinear", "antialias": False} if is_latent else None
    p.firstpass_image = Image.new("RGB", first) if is_given else None
    info = generation.pass_info(p, torch.zeros(1, 4, *expected.shape), tiny_base("SD1"))
    shown = np.repeat(ramp.round().astype(np.uint8)[:, :, None], 3, axis=2)
    placed = place_map(shown, info.geometry, ResizeMode.RESIZE)[:, :, 0].astype(np.float32)
    means = placed.reshape(expected.shape[0], CELL, expected.shape[1], CELL).mean((1, 3))
    middle = (slice(1, -1), slice(1, -1))
    step = 80 * max(1 / target[0], 2 / target[1])  # levels for a pixel of the second pass
    assert np.abs(means - expected)[middle].max() < 0.5 + step
