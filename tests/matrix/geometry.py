"""What a control network must be shown, by the host's own arithmetic on pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from matrix import pictures
from matrix.cases import FROM_PICTURE, UPSCALE
from matrix.orders import size_of
from matrix.pairwise import Case
from PIL import Image, ImageOps

CELL = 8
FIT = 2
RESIZE_MODES = ("Just Resize", "Crop and Resize", "Resize and Fill")

HostPicture = Callable[[Image.Image, list[list[Any]]], Image.Image]
"""Runs steps such as ["resize", mode, width, height] and ["crop", box] in the host."""


@dataclass(frozen=True)
class Placement:
    """How a picture comes to the pass: the host's steps, and what of the result is certain.

    Attributes:
        picture: what the steps start from.
        mask: the mask that belongs to it, L.
        steps: for the host.
        mask_steps: the same for the mask; the host fits a mask into a border where it stretches the
            picture's latent.
        inner: box of the result that the picture covers; outside is a border that each side of the
            comparison fills in its own way.
    """

    picture: Image.Image
    mask: Image.Image | None
    steps: list[list[Any]]
    mask_steps: list[list[Any]]
    inner: tuple[int, int, int, int]


def placement(
    case: Case, record: dict[str, Any], one_pass: dict[str, Any], unit: int = 0
) -> Placement:
    """Where a unit's picture lies in a pass."""
    is_own = case.get("source", "own") == "own"
    if is_own:
        picture, mask, mode = pictures.own_picture(unit), pictures.own_mask(), _own_mode(case)
    else:
        picture = Image.fromarray(pictures.unpacked(record["given"]))
        mask, mode = prepared_mask(case, record), int(case["host_resize"]) % 3
    numbers, size = record["numbers"], size_of(case)
    shown = tuple(CELL * cells for cells in one_pass["latent"])
    if one_pass["is_hires"]:
        canvas = hires_canvas(case, (numbers["hr_upscale_to_x"], numbers["hr_upscale_to_y"]))
        left, top = (CELL * (numbers[f"truncate_{axis}"] // 2) for axis in "xy")
    else:
        canvas, left, top = size, 0, 0
    cut = ["crop", [left, top, left + shown[0], top + shown[1]]]
    paste_to = numbers.get("paste_to") if case["path"] in FROM_PICTURE else None
    if paste_to and case.get("crop") == "yes":
        x, y, width, height = paste_to
        steps = [["crop", [x, y, x + width, y + height]], ["resize", FIT, *canvas], cut]
        if is_own:
            given = pictures.unpacked(record["given"])
            steps.insert(0, ["resize", mode, given.shape[1], given.shape[0]])
        return Placement(picture, mask, steps, steps, (0, 0, *shown))
    inner = _inner(picture.size, canvas, mode)
    inner = (inner[0] - left, inner[1] - top, inner[2] - left, inner[3] - top)
    mask_mode = mode if is_own else int(case["host_resize"])
    steps, mask_steps = ([["resize", one, *canvas], cut] for one in (mode, mask_mode))
    if not is_own and case["host_resize"] == "3":
        # The latent of the picture in its own size is stretched: from whole cells to whole cells.
        ends = [
            round(CELL * (given // CELL) * wanted / (CELL * (wanted // CELL)))
            for given, wanted in zip(picture.size, canvas, strict=True)
        ]
        picture = _with_repeated_edge(picture, ends)
        steps.insert(0, ["crop", [0, 0, *ends]])
    return Placement(picture, mask, steps, mask_steps, inner)


def _with_repeated_edge(picture: Image.Image, ends: list[int]) -> Image.Image:
    """The picture up to `ends` or more: a latent that is stretched has its last cells repeated."""
    plane = np.array(picture.convert("RGB"))
    width, height = (max(end - side, 0) for end, side in zip(ends, picture.size, strict=True))
    return Image.fromarray(np.pad(plane, ((0, height), (0, width), (0, 0)), mode="edge"))


def hires_canvas(case: Case, target: tuple[int, int]) -> tuple[int, int]:
    """Size of the whole picture in a hires pass.

    The host enlarges what the first pass drew, which is the picture's whole cells, or the picture
    that was given: to the target, or as a latent to the target's whole cells.
    """
    is_latent, is_given = case["upscaler"] == "Latent", case["path"] == UPSCALE
    sides = []
    for first, wanted in zip(size_of(case), target, strict=True):
        drawn = first if is_given and not is_latent else CELL * (first // CELL)
        reached = CELL * (wanted // CELL) if is_latent else wanted
        sides.append(round(first * (reached / drawn)))
    return sides[0], sides[1]


def _own_mode(case: Case) -> int:
    return RESIZE_MODES.index(case["resize"])


def _inner(size: tuple[int, int], canvas: tuple[int, int], mode: int) -> tuple[int, int, int, int]:
    """The part of the canvas that a picture covers, drawn in by the pixel that may be shared."""
    if mode != FIT:
        return (0, 0, *canvas)
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    margins = [int((whole - part * scale) / 2) for whole, part in zip(canvas, size, strict=True)]
    margins = [margin + 2 if margin else 0 for margin in margins]
    return (*margins, canvas[0] - margins[0], canvas[1] - margins[1])


def prepared_mask(case: Case, record: dict[str, Any]) -> Image.Image | None:
    """The inpaint mask in the size given: inverted and blurred as asked."""
    if record["given_mask"] is None:
        return None
    mask = Image.fromarray(pictures.unpacked(record["given_mask"]))
    if case["invert"] == "1":
        mask = ImageOps.invert(mask)
    plane = np.array(mask)
    blur = [int(text) for text in case["blur"].split(",")]
    for sigma, across in zip(blur, (False, True), strict=True):
        if sigma:
            length = 2 * int(2.5 * sigma + 0.5) + 1
            plane = cv2.GaussianBlur(plane, (1, length) if across else (length, 1), sigma)
    return Image.fromarray(plane)


@dataclass(frozen=True)
class Shown:
    """The picture and the mask of a placement, as the host would make them.

    Attributes:
        picture: int16 (H, W, 3).
        masked: bool (H, W); None without a mask.
        certain: bool (H, W), where the comparison counts.
    """

    picture: np.ndarray
    masked: np.ndarray | None
    certain: np.ndarray


def shown(place: Placement, host_picture: HostPicture) -> Shown:
    """Run a placement's steps on picture and mask."""
    picture = np.array(host_picture(place.picture, place.steps).convert("RGB")).astype(np.int16)
    masked = None
    if place.mask is not None:
        grey = host_picture(place.mask, place.mask_steps).convert("L")
        masked = np.array(grey) > 127
    certain = np.zeros(picture.shape[:2], bool)
    left, top, right, bottom = (max(side, 0) for side in place.inner)
    certain[top:bottom, left:right] = True
    return Shown(picture, masked, certain)
