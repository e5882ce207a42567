"""OpenPose: the skeletons of people, with their hands and faces where wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from .networks import Build, lend
from .pose.body import find_bodies
from .pose.parts import Box, face_box, find_faces, find_hands, hand_boxes
from .pose_drawing import Person, Pose, draw_pose, pose_json
from .registry import Detected, Detector, register
from .weights import WeightFile

_LICENCE: Final = "OpenPose, CMU: academic or non-profit, non-commercial research use"

BODY: Final = WeightFile(
    "body_pose_model.pth",
    "openpose",
    209_267_595,
    _LICENCE,
    sha256="25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
    repo="lllyasviel/Annotators",
)
HAND: Final = WeightFile(
    "hand_pose_model.pth",
    "openpose",
    147_341_049,
    _LICENCE,
    sha256="b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
    repo="lllyasviel/Annotators",
)
FACE: Final = WeightFile(
    "facenet.pth",
    "openpose",
    153_718_792,
    _LICENCE,
    sha256="8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
    repo="lllyasviel/Annotators",
)


class OpenPose(Detector):
    """Skeletons on black. Each network is loaded only where it is needed.

    Differences from other implementations: a face always has 70 points, each in its own place,
    missing ones included; the canvas of the JSON is the picture without its padding.

    Fields:
        body: draw it; bodies are looked for in any case, hands and faces being found by them.
        hands, face: look for them and draw them.
    """

    tags = ("OpenPose",)
    sized = True
    weights: ClassVar[tuple[WeightFile, ...]] = (BODY,)
    body: ClassVar[bool] = True
    hands: ClassVar[bool] = False
    face: ClassVar[bool] = False

    def detect(self, image: np.ndarray, *, kept: tuple[int, int]) -> Detected:
        """A picture of everybody, and the same as JSON.

        Args:
            image: uint8 (H, W, 3) RGB.
            kept: height and width of the part of it that is no padding.
        """
        from .nets.openpose import build_body

        picture = np.ascontiguousarray(image[:, :, ::-1])
        with lend(BODY, build_body) as network:
            bodies = find_bodies(picture, network)
        hands = self._hands(picture, bodies)
        faces = self._faces(picture, bodies)
        shown = bodies if self.body else [np.zeros_like(body) for body in bodies]
        people = tuple(map(Person, shown, hands[0], hands[1], faces))
        pose = Pose(kept[1], kept[0], people)
        return Detected(draw_pose(pose), pose_json(pose))

    def _hands(
        self, picture: np.ndarray, bodies: Sequence[np.ndarray]
    ) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
        """Left hands and right hands, one of each per body; all of them in one batch."""
        from .nets.openpose import build_hand

        height, width = picture.shape[:2]
        sides = [hand_boxes(body, width, height) if self.hands else (None, None) for body in bodies]
        boxes = [box for pair in sides for box in pair]
        parts = _in_boxes(boxes, picture, find_hands, HAND, build_hand)
        return parts[::2], parts[1::2]

    def _faces(self, picture: np.ndarray, bodies: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        from .nets.openpose import build_face

        height, width = picture.shape[:2]
        boxes = [face_box(body, width, height) if self.face else None for body in bodies]
        return _in_boxes(boxes, picture, find_faces, FACE, build_face)


def _in_boxes(
    boxes: Sequence[Box | None],
    picture: np.ndarray,
    find: Callable[[np.ndarray, Sequence[Box], Any], list[np.ndarray | None]],
    weight: WeightFile,
    build: Build[Any],
) -> list[np.ndarray | None]:
    """What a network gives for the boxes that are there, None for the others."""
    there = [box for box in boxes if box is not None]
    if not there:
        return [None for _ in boxes]
    with lend(weight, build) as network:
        found = iter(find(picture, there, network))
    return [None if box is None else next(found) for box in boxes]


@register
class OpenPoseBody(OpenPose):
    """Bodies alone."""

    name = "openpose"


@register
class OpenPoseFace(OpenPose):
    """Bodies and faces."""

    name = "openpose_face"
    face = True
    weights = (BODY, FACE)


@register
class OpenPoseFaceOnly(OpenPose):
    """Faces alone; the bodies that they are found by are left out of the JSON, too."""

    name = "openpose_faceonly"
    body = False
    face = True
    weights = (BODY, FACE)


@register
class OpenPoseHand(OpenPose):
    """Bodies and hands."""

    name = "openpose_hand"
    hands = True
    weights = (BODY, HAND)


@register
class OpenPoseFull(OpenPose):
    """Bodies, hands and faces."""

    name = "openpose_full"
    priority = 100
    hands = True
    face = True
    weights = (BODY, HAND, FACE)
