"""RetinaFace: faces of what its network gives.

Deng et al., arXiv:1905.00641. Every cell of three grids stands for two squares; boxes and points
are told relative to the square.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .wholebody import best_of_overlapping

_GRIDS: Final = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
"""Pixels per cell, and the sides of a cell's two squares."""
_SHIFT: Final = 0.1
_GROWTH: Final = 0.2
_SURE: Final = 0.97
_OVERLAP: Final = 0.4


def anchors(width: int, height: int) -> np.ndarray:
    """Squares of a picture (n, 4): centre, width and height in pixels."""
    found = []
    for step, sides in _GRIDS:
        rows, columns = -(-height // step), -(-width // step)
        y, x, side = np.meshgrid(np.arange(rows), np.arange(columns), sides, indexing="ij")
        squares = np.stack([(x + 0.5) * step, (y + 0.5) * step, side, side], axis=-1)
        found.append(squares.reshape(-1, 4))
    return np.concatenate(found)


def decode_faces(
    boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """The sure faces, the surest first.

    Args:
        boxes: float (n, 4): shift of the centre and logarithm of the size, by square.
        scores: float (n,).
        points: float (n, 10): shifts of five points from the square's centre.
        width, height: of the picture.

    Returns:
        float (m, 4): left, top, right, bottom; and (m, 5, 2), both in pixels.
    """
    sure = np.flatnonzero(scores > _SURE)
    squares = anchors(width, height)[sure]
    centre, side = squares[:, :2], squares[:, 2:]
    middle = centre + boxes[sure, :2] * _SHIFT * side
    half = side * np.exp(boxes[sure, 2:] * _GROWTH) / 2
    corners = np.hstack([middle - half, middle + half])
    spots = centre[:, None] + points[sure].reshape(-1, 5, 2) * _SHIFT * side[:, None]
    kept = best_of_overlapping(corners, scores[sure], _OVERLAP, last_pixel=0)
    return corners[kept], spots[kept]
