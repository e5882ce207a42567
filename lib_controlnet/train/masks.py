"""Random masks of what is to be filled in, as people paint them: for training inpaint controls."""

from __future__ import annotations

import cv2
import numpy as np


def random_mask(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Boolean (height, width), True where the picture is to be filled in.

    A rectangle, a round patch, some brush strokes, or scattered patches.
    """
    kind = rng.random()
    if kind < 0.4:
        return _rectangle(width, height, rng)
    if kind < 0.65:
        return _round_patch(width, height, rng)
    if kind < 0.85:
        return _strokes(width, height, rng)
    return _scatter(width, height, rng)


def _rectangle(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    w, h = rng.uniform(0.25, 0.75, 2) * (width, height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    mask[int(y) : int(y + h), int(x) : int(x + w)] = True
    return mask


def _round_patch(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = min(width, height) * rng.uniform(0.15, 0.4)
    radius = radius * (1 + 0.2 * np.sin(3 * turn + rng.uniform(0, 6)))
    centre = rng.uniform(0.2, 0.8, 2) * (width, height)
    points = np.stack([np.cos(turn), np.sin(turn)], 1) * radius[:, None] + centre
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], (1,))
    return mask > 0


def _strokes(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 5)):
        points = rng.uniform(0, (width, height), (rng.integers(2, 5), 2)).astype(np.int32)
        brush = max(1, int(min(width, height) * rng.uniform(0.06, 0.2)))
        cv2.polylines(mask, [points], False, (1,), brush)
    return mask > 0


def _scatter(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Patches that cover a fifth to three fifths of the picture."""
    cells = int(rng.integers(4, 8))
    coarse = rng.normal(size=(cells, cells)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return smooth > np.quantile(smooth, 1 - rng.uniform(0.2, 0.6))
