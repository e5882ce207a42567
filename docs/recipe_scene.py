"""The recipe's scene: a cup on a table, the mask over it, a teapot to replace it, the depth.

Everything but the photograph is drawn here, in fractions of the picture's width and height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import photographs
from PIL import Image

WIDTH, HEIGHT = 256, 192
CROP_LEFT: Final = 0.4  # of what a 4:3 crop of the photograph leaves over
INK: Final = (24, 22, 30)
POT: Final = (246, 246, 246)
CLOTH: Final = (200, 120, 60)
PEN: Final = 3

Points = np.ndarray
Pair = tuple[float, float]


@dataclass(frozen=True)
class SceneParts:
    """What the requests are made of, all HEIGHT x WIDTH.

    Attributes:
        photograph: uint8 (H, W, 3).
        mask: uint8 (H, W), white over the cup, most of its saucer and the spoon.
        figure: uint8 (H, W, 3), an inked teapot on a plain ground.
        depth: uint8 (H, W, 3), near is white: the table, the saucer and the old cup.
    """

    photograph: np.ndarray
    mask: np.ndarray
    figure: np.ndarray
    depth: np.ndarray


def make_parts() -> SceneParts:
    """Load the photograph and draw the rest."""
    return SceneParts(photograph(), mask(), figure(), depth())


def photograph() -> np.ndarray:
    """The largest 4:3 crop of the cup of coffee, uint8 (H, W, 3)."""
    whole = photographs.load("coffee")
    height = whole.shape[0]
    width = height * WIDTH // HEIGHT
    left = int((whole.shape[1] - width) * CROP_LEFT)
    crop = Image.fromarray(whole[:, left : left + width])
    return np.asarray(crop.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))


def mask() -> np.ndarray:
    """An ellipse that runs over the picture's upper edge, with a disk over the spoon's end."""
    canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
    _ellipse(canvas, (0.475, 0.42), (0.33, 0.46), 255)
    _ellipse(canvas, (0.70, 0.22), (0.065, 0.09), 255)
    return canvas


def figure() -> np.ndarray:
    """A teapot as someone may draw it: outlines in ink, one colour inside, uint8 (H, W, 3)."""
    canvas = np.full((HEIGHT, WIDTH, 3), CLOTH, np.uint8)
    spout = np.concatenate(
        [
            curve((0.60, 0.50), (0.68, 0.48), (0.70, 0.26)),
            curve((0.76, 0.27), (0.74, 0.56), (0.60, 0.62)),
        ]
    )
    handle = np.concatenate(
        [
            curve((0.36, 0.36), (0.16, 0.30), (0.19, 0.52)),
            curve((0.19, 0.52), (0.22, 0.70), (0.38, 0.68)),
        ]
    )
    closed = [
        spout,
        arc((0.475, 0.55), (0.165, 0.24)),
        arc((0.475, 0.36), (0.105, 0.10), 180, 360),
        arc((0.475, 0.225), (0.035, 0.045)),
    ]
    # All outlines first, then all fills: one silhouette without lines inside.
    cv2.polylines(canvas, [pixels(handle)], False, INK, 7 + 2 * PEN)
    for points in closed:
        cv2.polylines(canvas, [pixels(points)], True, INK, 2 * PEN)
    cv2.polylines(canvas, [pixels(handle)], False, POT, 7)
    for points in closed:
        cv2.fillPoly(canvas, [pixels(points)], POT)
    return canvas


def depth() -> np.ndarray:
    """Depth of the whole photograph, drawn by hand, uint8 (H, W, 3)."""
    near = np.repeat(np.linspace(0.1, 0.4, HEIGHT, dtype=np.float32)[:, None], WIDTH, axis=1)
    cv2.fillPoly(near, [pixels([(0, 0), (0.12, 0), (0, 0.24)])], 0.0)
    _ellipse(near, (0.475, 0.565), (0.375, 0.395), 0.55)
    side = [(0.23, 0.30), (0.30, 0.62), (0.38, 0.70), (0.55, 0.70), (0.63, 0.60), (0.71, 0.30)]
    cv2.fillPoly(near, [pixels(side)], 0.75)
    _ellipse(near, (0.475, 0.285), (0.222, 0.235), 0.9)
    _ellipse(near, (0.475, 0.33), (0.155, 0.13), 0.6)
    handle = [(0.29, 0.57), (0.39, 0.60), (0.36, 0.76), (0.27, 0.75)]
    cv2.fillPoly(near, [pixels(handle)], 0.8)
    return np.repeat((near * 255).astype(np.uint8)[..., None], 3, axis=2)


def pixels(points: Points | list[Pair]) -> np.ndarray:
    """Fractions of width and height -> int32 (n, 2) pixels."""
    return (np.asarray(points) * (WIDTH, HEIGHT)).round().astype(np.int32)


def curve(start: Pair, pull: Pair, end: Pair, count: int = 24) -> Points:
    """A quadratic Bezier curve, float (count, 2)."""
    t = np.linspace(0, 1, count)[:, None]
    a, b, c = (np.asarray(point) for point in (start, pull, end))
    return a * (1 - t) ** 2 + 2 * b * t * (1 - t) + c * t**2


def arc(centre: Pair, radii: Pair, start: float = 0, end: float = 360) -> Points:
    """A part of an ellipse between two angles in degrees, float (48, 2)."""
    t = np.radians(np.linspace(start, end, 48))
    return np.stack([centre[0] + radii[0] * np.cos(t), centre[1] + radii[1] * np.sin(t)], 1)


def _ellipse(canvas: np.ndarray, centre: Pair, radii: Pair, value: float) -> None:
    cv2.fillPoly(canvas, [pixels(arc(centre, radii))], value)
