"""The skeletons of animals, with the 17 points of AP-10K."""

from __future__ import annotations

from typing import Final

import numpy as np

from .dw_openpose import BOXES, find_figures
from .pose_drawing import Pose, draw_pose, pose_json
from .registry import Detected, Detector, register
from .weights import WeightFile

POINTS: Final = WeightFile(
    "rtmpose-m_simcc-ap10k_pt-aic-coco_210e-256x256-7a041aa1_20230206.onnx",
    "openpose",
    54_478_120,
    "mmpose, Apache-2.0",
    exact=False,
    repo="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/rtmpose-m_simcc-ap10k_pt-aic-coco_210e-256x256-7a041aa1_20230206.onnx",
)
_SIZE: Final = (256, 256)
_ANIMALS: Final = range(14, 24)
"""Bird to giraffe, among the classes of COCO."""


@register
class AnimalOpenPose(Detector):
    """Limbs of birds and four-legged animals. Every point is drawn, however unsure."""

    name = "animal_openpose"
    tags = ("OpenPose",)
    sized = True
    weights = (BOXES, POINTS)

    def detect(self, image: np.ndarray, *, kept: tuple[int, int]) -> Detected:
        """A picture of all animals, and the same as JSON.

        Args:
            image: uint8 (H, W, 3) RGB.
            kept: height and width of the part of it that is no padding.
        """
        animals = []
        for points, scores in find_figures(image, _ANIMALS, POINTS, _SIZE):
            there = (scores > 0)[:, None]
            animals.append(np.concatenate([points * there, there], axis=-1))
        pose = Pose(kept[1], kept[0], animals=tuple(animals))
        return Detected(draw_pose(pose), pose_json(pose))
