"""Where a unit has to act, as strength per pixel of a pass, and how a layer's cells follow it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from matrix import pictures
from matrix.geometry import HostPicture, hires_canvas, placement
from matrix.orders import size_of
from matrix.pairwise import Case

CERTAIN = 0.02
"""Cells far from every border, compared with 0 and 1."""
NEAR_BORDER = 0.125
"""Cells at a border, compared with the mean over the pixels that they see: one pixel of eight, for
a size that is rounded otherwise than the host's."""


def expected(
    case: Case, record: dict[str, Any], one_pass: dict[str, Any], host_picture: HostPicture
) -> np.ndarray | None:
    """Strength per pixel before any feather, float (H, W) in [0, 1]; None for the whole picture."""
    if case["region"] == "whole":
        return None
    if case["region"] == "own":
        place = placement(case, record, one_pass)
        mask = pictures.region_mask(place.picture.size)
        drawn = dataclasses.replace(place, picture=mask)
        grey = host_picture(drawn.picture, drawn.steps).convert("L")
        return np.array(grey).astype(np.float32) / 255
    width, height = (8 * cells for cells in one_pass["latent"])
    mask = pictures.unpacked(record["mask"])[:height, :width].astype(np.float32) / 255
    return mask if case["region"] == "inside" else 1 - mask


def feather_of(case: Case, record: dict[str, Any], one_pass: dict[str, Any]) -> float:
    """The feather in pixels of a pass: it is given in those of the first one."""
    if not one_pass["is_hires"]:
        return float(case["feather"])
    numbers = record["numbers"]
    canvas = hires_canvas(case, (numbers["hr_upscale_to_x"], numbers["hr_upscale_to_y"]))
    return float(case["feather"]) * canvas[0] / size_of(case)[0]


def complaints(strengths: np.ndarray, region: np.ndarray, feather: float) -> Iterator[str]:
    """Compare a layer's strengths (h, w), as shares of its factor, with a region (H, W)."""
    size = strengths.shape[::-1]
    reach = 2 * int(feather / 2 + 2) + 1
    around = np.ones((reach, reach), np.uint8)
    # Beyond the picture there is nothing that a cell could see.
    on = _cells(cv2.erode(region, around) > 0.999, size) > 0.999
    off = _cells(cv2.dilate(region, around) < 0.001, size) > 0.999
    for name, cells, value in (("inside", on, 1.0), ("outside", off, 0.0)):
        if cells.any() and np.abs(strengths[cells] - value).max() > CERTAIN:
            worst = strengths[cells][np.abs(strengths[cells] - value).argmax()]
            yield f"{name} the region the strength is {worst:.3f} of what it has to be"
    near = _cells(_softened(region, feather), size)
    away = np.abs(strengths - near).max()
    if away > NEAR_BORDER:
        yield f"at the region's border the strength is off by {away:.2f}"


def _cells(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean over the pixels of each cell."""
    return cv2.resize(plane.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _softened(region: np.ndarray, feather: float) -> np.ndarray:
    """A border that rises over `feather` pixels, half on each side.

    A bell curve is near enough: an S over a width has the deviation of a triangle of that width.
    The border of the picture counts as going on.
    """
    if not feather:
        return region
    deviation = feather / np.sqrt(24)
    return cv2.GaussianBlur(region, (0, 0), deviation, None, 0, cv2.BORDER_REPLICATE)
