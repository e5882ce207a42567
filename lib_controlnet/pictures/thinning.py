"""One-pixel lines: directional non-maximum suppression and thinning.

Thinning and its structuring elements follow Lvmin Zhang, "High Quality Edge Thinning using Pure
Python" (2023): hit-or-miss deletions until nothing changes, then one pruning pass.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

_MAX_PASSES: Final = 32
_OUTSIDE: Final = 2
"""Marks pixels beyond the border, which match line and background alike."""


def _turn(*seeds: list[list[int]]) -> tuple[np.ndarray, ...]:
    return tuple(np.rot90(np.array(seed), turn) for turn in range(4) for seed in seeds)


# 1 must be line, -1 must be background, 0 may be either.
_THINNING: Final = _turn(
    [[-1, -1, -1], [0, 1, 0], [1, 1, 1]],
    [[0, -1, -1], [1, 1, -1], [0, 1, 0]],
)
_PRUNING: Final = _turn(
    [[-1, -1, -1], [-1, 1, -1], [0, 0, -1]],
    [[-1, -1, -1], [-1, 1, -1], [-1, 0, 0]],
)
_DIRECTIONS: Final = tuple(
    np.array(kernel, np.uint8)
    for kernel in (
        [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
        [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
    )
)


def ridge_pixels(image: np.ndarray) -> np.ndarray:
    """Keep the pixels that are maximal along at least one of four directions.

    Args:
        image: (H, W), uint8 or float32.

    Returns:
        The same type and shape; every other pixel is 0.
    """
    kept = np.zeros_like(image)
    for kernel in _DIRECTIONS:
        np.putmask(kept, cv2.dilate(image, kernel) == image, image)
    return kept


def thin(binary: np.ndarray, prune: bool) -> np.ndarray:
    """Thin white lines to one pixel.

    Args:
        binary: uint8 (H, W), 0 or 255.
        prune: also remove the one-pixel spurs that enlarging leaves at line ends.
    """
    height, width = binary.shape
    framed = np.full((height + 2, width + 2), _OUTSIDE, np.uint8)
    framed[1:-1, 1:-1] = binary > 0
    flat = framed.ravel()
    line = np.flatnonzero(flat == 1)
    for _ in range(_MAX_PASSES):
        before = line.size
        line = _delete_matches(flat, line, width + 2, _THINNING)
        if line.size == before:
            break
    if prune:
        _delete_matches(flat, line, width + 2, _PRUNING)
    return np.where(framed[1:-1, 1:-1] > 0, np.uint8(255), np.uint8(0))


def _delete_matches(
    flat: np.ndarray, line: np.ndarray, stride: int, kernels: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Delete, kernel by kernel, the line pixels a kernel fits; only line pixels are visited.

    Args:
        flat: the framed picture, flattened (0, 1, `_OUTSIDE`); changed in place.
        line: indices of its line pixels. stride: its row length.

    Returns:
        The indices that are left.
    """
    for kernel in kernels:
        fits = np.ones(line.size, bool)
        for (row, column), wanted in np.ndenumerate(kernel):
            if wanted == 0 or (row, column) == (1, 1):
                continue
            neighbours = flat[line + (row - 1) * stride + (column - 1)]
            fits &= neighbours != (0 if wanted == 1 else 1)
        flat[line[fits]] = 0
        line = line[~fits]
    return line
