"""DWPose: the skeletons of people with hands and faces, found all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ._onnx import open_onnx
from .networks import lend_opened
from .pose.wholebody import find_boxes, find_points, openpose_parts
from .pose_drawing import Person, Pose, draw_pose, pose_json
from .registry import Detected, Detector, register
from .weights import WeightFile

BOXES: Final = WeightFile(
    "yolox_l.onnx",
    "openpose",
    216_746_733,
    "Apache-2.0",
    sha256="7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
    repo="yzd-v/DWPose",
)
POINTS: Final = WeightFile(
    "dw-ll_ucoco_384.onnx",
    "openpose",
    134_399_116,
    "Apache-2.0",
    sha256="724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
    repo="yzd-v/DWPose",
)
_SIZE: Final = (288, 384)
_PERSON: Final = 0


def find_figures(
    image: np.ndarray,
    classes: Sequence[int],
    file: WeightFile,
    size: tuple[int, int],
    *,
    or_whole: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points (p, 2) in pixels and their scores (p,) of every figure in a picture.

    Args:
        image: uint8 (H, W, 3) RGB.
        classes: of COCO's 80, in the order in which they are wanted.
        file: the network that finds the points of one figure.
        size: width and height of what that network sees.
        or_whole: where something may be seen, but surely nothing of these classes, take the
            picture as a whole.
    """
    with lend_opened(BOXES, open_onnx) as network:
        boxes, something = find_boxes(image, network, classes)
    if or_whole and something and not len(boxes):
        boxes = np.array([[0.0, 0.0, image.shape[1], image.shape[0]]])
    if not len(boxes):
        return []
    with lend_opened(file, open_onnx) as network:
        return list(zip(*find_points(image, boxes, network, size), strict=True))


@register
class DwOpenPoseFull(Detector):
    """Bodies, hands and faces, drawn as OpenPose draws them.

    A picture in which something may be seen, but surely no person, is taken for one person as a
    whole: close-ups are like that.
    """

    name = "dw_openpose_full"
    tags = ("OpenPose",)
    sized = True
    weights = (BOXES, POINTS)

    def detect(self, image: np.ndarray, *, kept: tuple[int, int]) -> Detected:
        """A picture of everybody, and the same as JSON.

        Args:
            image: uint8 (H, W, 3) RGB.
            kept: height and width of the part of it that is no padding.
        """
        found = find_figures(image, (_PERSON,), POINTS, _SIZE, or_whole=True)
        parts = (openpose_parts(points, scores) for points, scores in found)
        people = [Person(**part) for part in parts if any_found(part)]
        pose = Pose(kept[1], kept[0], tuple(people))
        return Detected(draw_pose(pose), pose_json(pose))


def any_found(parts: dict[str, np.ndarray | None]) -> bool:
    """Whether a person has any point at all."""
    return any(part is not None and part.any() for part in parts.values())
