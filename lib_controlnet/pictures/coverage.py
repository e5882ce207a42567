"""Masks at another size: each cell is the mean of exactly the pixels, or parts, that it covers.

So a mask whose edges lie on the edges of cells stays what it is, which no interpolation gives.
"""

from __future__ import annotations

import numpy as np


def cell_edges(given: int, wanted: int, first: int, count: int) -> np.ndarray:
    """Where cells begin and end on a row of pixels.

    Args:
        given: pixels of the row.
        wanted: cells that the whole row is divided into.
        first: number of the first cell asked for, 0 to `wanted` - 1.
        count: cells asked for.

    Returns:
        float64 (count + 1,), 0 to `given`, ascending.
    """
    return np.arange(first, first + count + 1, dtype=np.float64) * given / wanted


def cover(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The mean of a plane over cells.

    Works in the memory of the result and of the pixels under it, once in each direction.

    Args:
        plane: (H, W), any numbers.
        rows, columns: edges of the cells (see `cell_edges`), h + 1 and w + 1 of them.

    Returns:
        float32 (h, w). A plane of one value gives that value exactly.
    """
    top, bottom = int(rows[0]), int(np.ceil(rows[-1]))
    left, right = int(columns[0]), int(np.ceil(columns[-1]))
    plane, rows, columns = plane[top:bottom, left:right], rows - top, columns - left
    if (len(rows) - 1) * plane.shape[1] <= plane.shape[0] * (len(columns) - 1):
        found = _cover_rows(_cover_rows(plane, rows).T, columns).T
    else:
        found = _cover_rows(_cover_rows(plane.T, columns).T, rows)
    return np.ascontiguousarray(found, np.float32)


def _cover_rows(plane: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(n, W) float64: the mean over the rows, and parts of rows, between `edges` (n + 1,)."""
    starts, ends = edges[:-1, None], edges[1:, None]
    lowest = np.floor(starts)
    total = np.zeros((len(starts), plane.shape[1]))
    for step in range(int((np.ceil(ends) - lowest).max())):
        row = lowest + step
        share = np.minimum(ends, row + 1) - np.maximum(starts, row)
        picked = plane[np.minimum(row[:, 0].astype(int), len(plane) - 1)]
        total += share.clip(0.0) / (ends - starts) * picked
    return total
