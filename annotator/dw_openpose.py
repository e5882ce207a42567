"""DWPose: the skeletons of people with hands and faces, found all at once."""

from __future__ import annotations

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
        with lend_opened(BOXES, open_onnx) as network:
            boxes, something = find_boxes(image, network, (_PERSON,))
        if something and not len(boxes):
            boxes = np.array([[0.0, 0.0, image.shape[1], image.shape[0]]])
        people = []
        if len(boxes):
            with lend_opened(POINTS, open_onnx) as network:
                points, scores = find_points(image, boxes, network, _SIZE)
            parts = map(openpose_parts, points, scores)
            people = [Person(**part) for part in parts if any_found(part)]
        pose = Pose(kept[1], kept[0], tuple(people))
        return Detected(draw_pose(pose), pose_json(pose))


def any_found(parts: dict[str, np.ndarray | None]) -> bool:
    """Whether a person has any point at all."""
    return any(part is not None and part.any() for part in parts.values())
