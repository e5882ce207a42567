"""Control pictures for the demo ControlNets, exact or roughened as users' pictures are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from lib_controlnet.train.masks import random_mask

from .scenes import Scene, boundary
from .shapes import smooth_noise

LOW, HIGH = 100, 200


@dataclass(frozen=True)
class Source:
    """What the hints of a scene are made of.

    Attributes:
        picture: uint8 (s, s, 3).
        edges: uint8 (s, s), 255 on Canny edges of the un-inked picture and on free lines.
        borders: uint8 (s, s), 255 on region boundaries and on free lines.
        depth: uint8 (s, s), 255 is near.
    """

    picture: np.ndarray
    edges: np.ndarray
    borders: np.ndarray
    depth: np.ndarray


def canny_edges(picture: np.ndarray) -> np.ndarray:
    """Canny edges of a uint8 (s, s, 3) picture, 0 or 255."""
    return cv2.Canny(np.ascontiguousarray(picture), LOW, HIGH)


def source_of(scene: Scene) -> Source:
    """What hints of a scene are made of."""
    lines = scene.lines.astype(np.uint8) * 255
    return Source(
        picture=scene.picture,
        edges=canny_edges(scene.flat) | lines,
        borders=boundary(scene.labels).astype(np.uint8) * 255 | lines,
        depth=(scene.depth * 255).astype(np.uint8),
    )


def _three(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane.astype(np.float32)[..., None] / 255, 3, axis=2)


def _patches(rng: np.random.Generator, size: int, share: float) -> np.ndarray:
    """Boolean (s, s) organic patches covering about `share`."""
    noise = smooth_noise(rng, size, rng.uniform(3, 7))
    return noise > np.quantile(noise, 1 - share)


def canny(source: Source, rng: np.random.Generator) -> np.ndarray:
    """Edges as a user's Canny gives them: single lines, sometimes doubled, broken or noisy."""
    kind = rng.random()
    if kind < 0.55:
        edges = source.edges
    elif kind < 0.85:
        edges = source.borders
    else:
        edges = canny_edges(source.picture)
    edges = edges.copy()
    if rng.random() < 0.25:
        edges[_patches(rng, len(edges), rng.uniform(0.03, 0.2))] = 0
    return _three(edges)


def depth(source: Source, rng: np.random.Generator) -> np.ndarray:
    """Depth, near is white, sometimes blurred or with another contrast as estimators give."""
    plane = source.depth.astype(np.float32)
    if rng.random() < 0.35:
        plane = cv2.GaussianBlur(plane, (0, 0), rng.uniform(0.5, 2.0))
    if rng.random() < 0.5:
        plane = plane * rng.uniform(0.8, 1.0) + rng.uniform(0, 25)
    return _three(np.clip(plane, 0, 255))


def inpaint(source: Source, rng: np.random.Generator) -> np.ndarray:
    """The picture in [0, 1] with -1 in all three channels where it is to be filled."""
    hint = source.picture.astype(np.float32) / 255
    if rng.random() < 0.04:
        return np.full_like(hint, -1.0)
    hint[random_mask(len(hint), len(hint), rng)] = -1.0
    return hint


def scribble(source: Source, rng: np.random.Generator) -> np.ndarray:
    """Thick, wobbly, partly missing white lines on black."""
    lines = source.borders if rng.random() < 0.75 else source.edges
    size = len(lines)
    thick = cv2.dilate(lines, np.ones((2, 2), np.uint8))
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    wobble = rng.uniform(0, 2.2)
    cells = size / rng.uniform(14, 40)
    x = x + wobble * smooth_noise(rng, size, cells)
    y = y + wobble * smooth_noise(rng, size, cells)
    moved = cv2.remap(thick, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    width = int(rng.integers(1, 4))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    drawn = cv2.dilate((moved > 80).astype(np.uint8) * 255, brush)
    if rng.random() < 0.5:
        drawn[_patches(rng, size, rng.uniform(0.05, 0.3))] = 0
    return _three(drawn)


HINTS: Final[dict[str, Callable[[Source, np.random.Generator], np.ndarray]]] = {
    "canny": canny,
    "depth": depth,
    "inpaint": inpaint,
    "scribble": scribble,
}
