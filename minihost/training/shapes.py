"""Outlines of the named shapes, and the organic label maps of mosaic scenes."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

TURN: Final = 2 * np.pi


def outline(shape: str, centre: np.ndarray, radius: float, angle: float) -> list[np.ndarray]:
    """Closed polygons of a named shape; a ring has two, outer and inner.

    Args:
        shape: one of `vocabulary.SHAPES`.
        centre: (2,) x and y in pixels.
        radius: half of the size in pixels.
        angle: rotation in radians.

    Returns:
        list of float (n, 2) point arrays.
    """
    if shape in ("circle", "ring"):
        t = np.linspace(0, TURN, 64, endpoint=False)
        unit = [np.stack([np.cos(t), np.sin(t)], 1)]
        if shape == "ring":
            unit.append(unit[0] * 0.52)
    elif shape == "heart":
        t = np.linspace(0, TURN, 64, endpoint=False)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        unit = [np.stack([x, -y - 2.5], 1) / 15.5]
    else:
        unit = [_corners(shape)]
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [p @ rotation * radius + centre for p in unit]


def _corners(shape: str) -> np.ndarray:
    if shape == "square":
        return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.86
    if shape == "triangle":
        t = np.arange(3) * TURN / 3 - np.pi / 2
        return np.stack([np.cos(t), np.sin(t)], 1) * 1.12 + [0, 0.12]
    if shape == "star":
        t = np.arange(10) * TURN / 10 - np.pi / 2
        r = np.where(np.arange(10) % 2 == 0, 1.15, 0.5)[:, None]
        return np.stack([np.cos(t), np.sin(t)], 1) * r
    msg = f"unknown shape {shape!r}"
    raise ValueError(msg)


def fill(size: int, polygons: list[np.ndarray]) -> np.ndarray:
    """Boolean (size, size) inside of polygons, even-odd rule."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(p * 16).astype(np.int32) for p in polygons], 1, shift=4)
    return mask.astype(bool)


def smooth_noise(rng: np.random.Generator, size: int, cells: float) -> np.ndarray:
    """Float (size, size) smooth noise of unit deviation with about `cells` bumps a side."""
    n = max(int(round(cells)), 1) + 3
    grid = rng.standard_normal((n, n)).astype(np.float32)
    step = size / max(cells, 1.0)
    wide = cv2.resize(grid, (int(step * n) + 1, int(step * n) + 1), interpolation=cv2.INTER_CUBIC)
    x, y = rng.integers(0, max(wide.shape[0] - size, 1), 2)
    out = wide[y : y + size, x : x + size]
    return (out - out.mean()) / (out.std() + 1e-6)


def mosaic_labels(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Int32 (size, size) label map of organic regions.

    Args:
        size: pixels of a side.
        scale: pixels of a side divided by those of a 128-pixel scene at this resolution;
            regions keep about their size in pixels.
    """
    kind = rng.choice(4, p=[0.35, 0.25, 0.2, 0.2])
    if kind == 0:
        return _quantised_noise(rng, size, scale)
    if kind == 1:
        return _voronoi(rng, size, scale)
    if kind == 2:
        return _blobs(rng, size, scale)
    coarse = _quantised_noise(rng, size, scale)
    return coarse * 100 + _blobs(rng, size, scale)


def _quantised_noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    cells = rng.uniform(1.5, 4.0) * scale
    field = smooth_noise(rng, size, cells)
    gain = rng.uniform(0.2, 0.6)
    for octave in range(1, rng.integers(1, 4)):
        field = field + gain**octave * smooth_noise(rng, size, cells * 2**octave)
    levels = np.sort(rng.uniform(-1.2, 1.2, rng.integers(1, 5)))
    return np.digitize(field, levels).astype(np.int32)


def _voronoi(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    count = int(rng.integers(6, 22) * scale)
    sites = rng.uniform(0, size, (count, 2)).astype(np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    if rng.random() < 0.6:
        bend = size / scale * rng.uniform(0.02, 0.07)
        x = x + bend * smooth_noise(rng, size, 4 * scale)
        y = y + bend * smooth_noise(rng, size, 4 * scale)
    distance = (x[..., None] - sites[:, 0]) ** 2 + (y[..., None] - sites[:, 1]) ** 2
    return distance.argmin(-1).astype(np.int32)


def _blobs(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    labels = np.zeros((size, size), np.int32)
    unit = size / scale
    for i in range(1, int(rng.integers(3, 10) * scale) + 1):
        t = np.linspace(0, TURN, 72, endpoint=False)
        radius = np.ones_like(t)
        for k in range(2, 7):
            radius += rng.normal(0, 0.3 / k) * np.sin(k * t + rng.uniform(0, TURN))
        radius *= unit * rng.uniform(0.07, 0.28)
        stretch = rng.uniform(0.5, 1.0)
        points = np.stack([np.cos(t) * radius, np.sin(t) * radius * stretch], 1)
        angle = rng.uniform(0, TURN)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        labels[fill(size, [points @ turn + rng.uniform(0, size, 2)])] = i
    return labels


def free_lines(rng: np.random.Generator, size: int, count: int) -> list[np.ndarray]:
    """Smooth open curves as float (n, 2) point arrays inside a square of `size` pixels."""
    curves = []
    for _ in range(count):
        steps = rng.integers(10, 40)
        turns = np.cumsum(rng.normal(0, 0.35, steps)) + rng.uniform(0, TURN)
        moves = np.stack([np.cos(turns), np.sin(turns)], 1) * size / 40
        curves.append(np.cumsum(moves, 0) + rng.uniform(0, size, 2))
    return curves
