"""OpenPose: hands and faces, looked for where a body's joints say they are.

Simon et al., "Hand Keypoint Detection in Single Images using Multiview Bootstrapping",
arXiv:1704.07809.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import cv2
import numpy as np

from .body import STRIDE, as_input, resize, smooth

if TYPE_CHECKING:
    from torch import nn

HAND_POINTS: Final = 21
FACE_POINTS: Final = 70

_SMALLEST: Final = 20
"""Side of a box in pixels below which nothing is to be seen."""
_BATCH: Final = 4
"""Boxes in one run of a network, which bounds its memory."""
_HAND_SIDES: Final = (184, 368, 552, 736)
_HAND_BLUR: Final = 0.8
_HAND_MAP: Final = 128
_FACE_SIDE: Final = 384
_PEAK: Final = 0.05

_LEFT_ARM: Final = (5, 6, 7)
_RIGHT_ARM: Final = (2, 3, 4)
_NOSE: Final = 0
_EYES: Final = (14, 15)
_EARS: Final = (16, 17)


class Box(NamedTuple):
    """A rectangle inside a picture, in pixels from the top left."""

    x: int
    y: int
    width: int
    height: int

    def cut(self, picture: np.ndarray) -> np.ndarray:
        return picture[self.y : self.y + self.height, self.x : self.x + self.width]


def hand_boxes(body: np.ndarray, width: int, height: int) -> tuple[Box | None, Box | None]:
    """Squares where the left and the right hand are; None where an arm is not all there.

    Args:
        body: part of 18 points.
        width, height: of the picture.
    """
    left, right = (_hand_box(body[list(arm)], width, height) for arm in (_LEFT_ARM, _RIGHT_ARM))
    return left, right


def _hand_box(arm: np.ndarray, width: int, height: int) -> Box | None:
    if not arm[:, 2].all():
        return None
    shoulder, elbow, wrist = arm[:, :2]
    forearm, upper_arm = np.hypot(*(wrist - elbow)), np.hypot(*(elbow - shoulder))
    side = 1.5 * max(forearm, 0.9 * upper_arm)
    x, y = np.maximum(wrist + 0.33 * (wrist - elbow) - side / 2, 0)
    side = min(side, width - x, height - y)
    return Box(int(x), int(y), int(side), int(side)) if side >= _SMALLEST else None


def face_box(body: np.ndarray, width: int, height: int) -> Box | None:
    """A square round the nose, cut at the edges; None without nose, eyes and ears."""
    nose = body[_NOSE, :2]
    reaches = [
        factor * np.abs(body[index, :2] - nose).max()
        for indices, factor in ((_EYES, 3.0), (_EARS, 1.5))
        for index in indices
        if body[index, 2]
    ]
    if not (body[_NOSE, 2] and reaches):
        return None
    reach = max(reaches)
    x, y = np.maximum(nose - reach, 0)
    # A face larger than the picture is a square at the corner.
    edges = ((x, width), (y, height))
    side = min([2 * reach, *(far - near for near, far in edges if near + reach > far)])
    if side < _SMALLEST:
        return None
    left, top, side = int(x), int(y), int(side)
    return Box(left, top, min(side, width - left), min(side, height - top))


def find_hands(
    picture: np.ndarray, boxes: Sequence[Box], network: nn.Module
) -> list[np.ndarray | None]:
    """Points of the hand in each box, None where none is found.

    Args:
        picture: uint8 (h, w, 3), BGR.
        boxes: of left and right hands alike.
        network: `nets.openpose.hand_net`.
    """
    found = []
    for some in _batches(boxes):
        crops = [cv2.GaussianBlur(box.cut(picture), (0, 0), _HAND_BLUR) for box in some]
        maps = np.zeros((len(some), HAND_POINTS, _HAND_MAP, _HAND_MAP))
        for side in _HAND_SIDES:
            given = np.stack([resize(crop, side, side) for crop in crops])
            (given_back,) = network(as_input(given, network))
            for mean, scores in zip(maps, given_back.float().cpu().numpy(), strict=True):
                for channel, score in zip(mean, scores, strict=False):  # without the background
                    large = resize(score, score.shape[1] * STRIDE, score.shape[0] * STRIDE)
                    channel += resize(large, _HAND_MAP, _HAND_MAP) / len(_HAND_SIDES)
        found += [hand_points(mean, box) for mean, box in zip(maps, some, strict=True)]
    return found


def hand_points(maps: np.ndarray, box: Box) -> np.ndarray | None:
    """The points of a hand: the best spot of the strongest blob of each map.

    Args:
        maps: float64 (21, n, n) over the box.
        box: where it lies in the picture.

    Returns:
        A part of 21 points, None if there is none of them.
    """
    spots = np.zeros((len(maps), 3))
    side = maps.shape[1]
    for spot, score_map in zip(spots, maps, strict=True):
        blobs = (smooth(score_map) > _PEAK).astype(np.uint8)
        count, labels = cv2.connectedComponents(blobs, connectivity=8)
        if count > 1:
            strength = np.bincount(labels.ravel(), score_map.ravel(), count)
            inside = np.where(labels == strength[1:].argmax() + 1, score_map, 0)
            row, column = divmod(int(inside.argmax()), side)
            spot[:] = int(column * box.width / side), int(row * box.height / side), 1
    return _place(spots, box)


def find_faces(
    picture: np.ndarray, boxes: Sequence[Box], network: nn.Module
) -> list[np.ndarray | None]:
    """Points of the face in each box, None where none is found.

    Args:
        picture: uint8 (h, w, 3), BGR.
        boxes: of faces.
        network: `nets.openpose.face_net`.
    """
    from torch.nn import functional

    found = []
    for some in _batches(boxes):
        given = np.stack([resize(box.cut(picture), _FACE_SIDE, _FACE_SIDE) for box in some])
        (maps,) = network(as_input(given, network))
        for box, scores in zip(some, maps[:, :FACE_POINTS].float(), strict=True):
            size = (box.height, box.width)
            large = functional.interpolate(scores[None], size, mode="bilinear", align_corners=True)
            found.append(face_points(large[0].cpu().numpy(), box))
    return found


def face_points(maps: np.ndarray, box: Box) -> np.ndarray | None:
    """The points of a face: the best spot of each map, in a slot of its own.

    Args:
        maps: float (70, h, w), one value per pixel of the box.
        box: where it lies in the picture.

    Returns:
        A part of 70 points, None if there is none of them.
    """
    flat = maps.reshape(len(maps), -1)
    rows, columns = np.divmod(flat.argmax(axis=1), maps.shape[2])
    spots = np.column_stack([columns, rows, flat.max(axis=1) > _PEAK]).astype(np.float64)
    return _place(spots, box)


def _place(spots: np.ndarray, box: Box) -> np.ndarray | None:
    """Points (n, 3) of a box in the picture; those in its first row or column are missing."""
    spots[(spots[:, :2] < 1).any(axis=1) | (spots[:, 2] == 0)] = 0
    if not spots.any():
        return None
    spots[spots[:, 2] > 0, :2] += box.x, box.y
    return spots


def _batches(boxes: Sequence[Box]) -> Iterator[Sequence[Box]]:
    for start in range(0, len(boxes), _BATCH):
        yield boxes[start : start + _BATCH]
