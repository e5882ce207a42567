"""SCRFD: faces with five points each, the eyes, the nose and the corners of the mouth.

Guo et al., "Sample and Computation Redistribution for Efficient Face Detection",
arXiv:2105.04714.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from .wholebody import Network, best_of_overlapping

POINTS: Final = 5

_SIDE: Final = 640
_STRIDES: Final = (8, 16, 32)
_PER_CELL: Final = 2
_SURE: Final = 0.5
_OVERLAP: Final = 0.4
_MEAN: Final = 127.5
_SCALE: Final = 128.0
_KINDS: Final = {"scores": 1, "boxes": 4, "points": 2 * POINTS}


def find_faces(picture: np.ndarray, network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Faces, the surest first.

    Args:
        picture: uint8 (h, w, 3), RGB.
        network: gives scores, distances to a box's edges and to the points, for two faces per
            cell of three grids.

    Returns:
        float (n, 4): left, top, right, bottom; and (n, 5, 2), both in pixels.
    """
    height, width = picture.shape[:2]
    if height > width:
        inner = max(int(_SIDE * width / height), 1), _SIDE
    else:
        inner = _SIDE, max(int(_SIDE * (height / width)), 1)
    given = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    given[: inner[1], : inner[0]] = cv2.resize(picture, inner)
    planes = (given.transpose(2, 0, 1)[None].astype(np.float32) - _MEAN) / np.float32(_SCALE)
    scores, boxes, points = decode_faces(network(planes))
    factor = inner[1] / height
    kept = best_of_overlapping(boxes / factor, scores, _OVERLAP)
    return boxes[kept] / factor, points[kept] / factor


def decode_faces(outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sure faces among a network's outputs, whatever their order.

    Args:
        outputs: for every stride scores (..., n, 1), boxes (..., n, 4) and points (..., n, 10).

    Returns:
        float (n,), (n, 4), (n, 5, 2), in pixels of the network's input.
    """
    by_form = {
        (output.shape[-1], output.reshape(-1, output.shape[-1]).shape[0]): output
        for output in outputs
    }
    found = []
    for stride in _STRIDES:
        cells = _SIDE // stride
        scores, boxes, points = (
            by_form[channels, cells * cells * _PER_CELL].reshape(-1, channels)
            for channels in _KINDS.values()
        )
        grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1) * stride
        centres = grid.reshape(-1, 2).repeat(_PER_CELL, axis=0)
        sure = np.flatnonzero(scores[:, 0] >= _SURE)
        centre, reach = centres[sure], boxes[sure] * stride
        corners = np.hstack([centre - reach[:, :2], centre + reach[:, 2:]])
        spots = centre[:, None] + points[sure].reshape(-1, POINTS, 2) * stride
        found.append((scores[sure, 0], corners, spots))
    scores, corners, spots = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scores, corners, spots
