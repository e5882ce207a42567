"""Points of whole figures from two networks: one finds boxes, one the points in each box.

Boxes: YOLOX, Ge et al., arXiv:2107.08430. Points: RTMPose, Jiang et al., arXiv:2303.07399, which
gives one score per half pixel along each axis; DWPose, Yang et al., arXiv:2307.15880, is an
RTMPose of people with the 133 points of COCO-WholeBody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import cv2
import numpy as np

Network = Callable[[np.ndarray], "list[np.ndarray]"]

_SIDE: Final = 640
_GREY: Final = 114
_STRIDES: Final = (8, 16, 32)
_CANDIDATE: Final = 0.1
_SURE: Final = 0.3
_OVERLAP: Final = 0.45
"""Of two boxes that share more than this of their union, the weaker one goes."""

_MARGIN: Final = 1.25
_PER_PIXEL: Final = 2
_MEAN: Final = (123.675, 116.28, 103.53)
_STD: Final = (58.395, 57.12, 57.375)


def find_boxes(
    picture: np.ndarray, network: Network, classes: Sequence[int]
) -> tuple[np.ndarray, bool]:
    """Boxes of some kinds of things.

    Args:
        picture: uint8 (h, w, 3), RGB.
        network: YOLOX.
        classes: of COCO's 80, in the order in which their boxes are wanted.

    Returns:
        float (n, 4): left, top, right, bottom in pixels, by class and falling score; and whether
        anything at all may be in the picture.
    """
    height, width = picture.shape[:2]
    factor = min(_SIDE / height, _SIDE / width)
    inner = max(int(width * factor), 1), max(int(height * factor), 1)
    given = np.full((_SIDE, _SIDE, 3), _GREY, np.uint8)
    given[: inner[1], : inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_LINEAR)
    rows = network(given.transpose(2, 0, 1)[None].astype(np.float32))[0][0]
    boxes, scores = decode_boxes(rows)
    return pick_boxes(boxes / factor, scores, classes), bool((scores > _CANDIDATE).any())


def decode_boxes(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (n, 4) and scores per class (n, c) of a network's rows (n, 5 + c).

    A row is a box of one cell of one of three grids, in cells: offset of the centre, logarithm
    of the size; then how sure it is of any thing, and of each class.
    """
    cells, strides = [], []
    for stride in _STRIDES:
        count = _SIDE // stride
        grid = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1)
        cells.append(grid.reshape(-1, 2))
        strides.append(np.full((count * count, 1), stride))
    stride = np.concatenate(strides)
    centre = (rows[:, :2] + np.concatenate(cells)) * stride
    half = np.exp(rows[:, 2:4]) * stride / 2
    return np.hstack([centre - half, centre + half]), rows[:, 4:5] * rows[:, 5:]


def pick_boxes(boxes: np.ndarray, scores: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """The sure ones (n, 4) of some classes, without those that cover a better one again."""
    picked = [np.zeros((0, 4))]
    for kind in classes:
        sure = np.flatnonzero(scores[:, kind] > _SURE)
        kept = best_of_overlapping(boxes[sure], scores[sure, kind], _OVERLAP)
        picked.append(boxes[sure[kept]])
    return np.concatenate(picked)


def best_of_overlapping(
    boxes: np.ndarray, scores: np.ndarray, limit: float, last_pixel: int = 1
) -> list[int]:
    """Indices of boxes (n, 4) by falling score (n,), without those that cover a better one.

    Args:
        limit: the share of their union that two boxes may have in common.
        last_pixel: 1 where right and bottom belong to the box, 0 where they are beyond it.
    """
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[_share(boxes[best], boxes[left], last_pixel) <= limit]
    return kept


def _share(box: np.ndarray, others: np.ndarray, last_pixel: int) -> np.ndarray:
    """Common area over united area (n,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.maximum(high - low + last_pixel, 0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2] + last_pixel).prod(axis=1)
    return common / ((box[2:] - box[:2] + last_pixel).prod() + areas - common)


def find_points(
    picture: np.ndarray, boxes: np.ndarray, network: Network, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the figure in each box.

    Args:
        picture: uint8 (h, w, 3), RGB.
        boxes: float (n, 4), at least one: left, top, right, bottom in pixels.
        network: RTMPose; gives the scores along x and along y.
        size: width and height of its input.

    Returns:
        float (n, points, 2) in pixels of the picture, and (n, points), their scores.
    """
    crops, centres, extents = zip(*(crop(picture, box, size) for box in boxes), strict=True)
    centred = (np.stack(crops) - _MEAN) / _STD
    along_x, along_y = network(centred.transpose(0, 3, 1, 2).astype(np.float32))
    points, scores = decode_points(along_x, along_y)
    centre, extent = np.array(centres)[:, None], np.array(extents)[:, None]
    return points / size * extent + centre - extent / 2, scores


def crop(
    picture: np.ndarray, box: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A box with a margin, in the network's size, black beyond the picture's edges.

    Returns:
        uint8 (height, width, 3); the box's centre, and its width and height once it has the
        margin and the network's proportions.
    """
    width, height = size
    centre = (box[:2] + box[2:]) / 2
    wide, tall = (box[2:] - box[:2]) * _MARGIN
    extent = np.array([max(wide, tall * width / height), max(tall, wide * height / width)])
    factor = width / max(extent[0], 1e-6)
    shift = np.array(size) / 2 - factor * centre
    matrix = np.array([[factor, 0, shift[0]], [0, factor, shift[1]]])
    return cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_LINEAR), centre, extent


def decode_points(along_x: np.ndarray, along_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, p, 2) in pixels of the network's input, and scores (n, p).

    Args:
        along_x, along_y: (n, p, bins) each, two bins a pixel.
    """
    spots = np.stack([along_x.argmax(axis=-1), along_y.argmax(axis=-1)], axis=-1)
    scores = np.minimum(along_x.max(axis=-1), along_y.max(axis=-1))
    return spots / _PER_PIXEL, scores


_NECK: Final = 17
# Point of OpenPose's body, and where it is among COCO's points with the neck behind its body.
_BODY: Final = (
    *((0, 0), (1, _NECK), (2, 6), (3, 8), (4, 10), (5, 5), (6, 7), (7, 9), (8, 12), (9, 14)),
    *((10, 16), (11, 11), (12, 13), (13, 15), (14, 2), (15, 1), (16, 4), (17, 3)),
)
_SHOULDERS: Final = [5, 6]
_FACE: Final = slice(23, 91)
_LEFT_HAND: Final = slice(91, 112)
_RIGHT_HAND: Final = slice(112, 133)
_EYES: Final = [14, 15]
_BELIEVED: Final = 0.3


def openpose_parts(points: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray | None]:
    """The 133 points of a person as parts of OpenPose.

    Args:
        points: float (133, 2) in pixels.
        scores: float (133,).

    Returns:
        "body" (18, 3), "left_hand" and "right_hand" (21, 3), "face" (70, 3); hands and face None
        where none of their points is believed. The last two points of a face are the body's eyes.
    """
    marked = np.column_stack([points, scores >= _BELIEVED])
    neck = marked[_SHOULDERS].mean(axis=0)
    neck[2] = (scores[_SHOULDERS] > _BELIEVED).all()
    with_neck = np.vstack([marked[:_NECK], neck])
    body = with_neck[[source for _, source in _BODY]]
    face = marked[_FACE] if marked[_FACE, 2].any() else None
    parts = {
        "body": body,
        "left_hand": marked[_LEFT_HAND] if marked[_LEFT_HAND, 2].any() else None,
        "right_hand": marked[_RIGHT_HAND] if marked[_RIGHT_HAND, 2].any() else None,
        "face": None if face is None else np.vstack([face, body[_EYES]]),
    }
    return {name: None if part is None else part * part[:, 2:] for name, part in parts.items()}
