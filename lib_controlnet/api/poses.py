"""What `/controlnet/render_openpose_json` takes and does: poses as JSON to pictures.

The models give the shape of the body and the names that generated clients use; what the numbers
have to be is checked in `lib_controlnet.detect.pose`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from PIL import Image
from pydantic import BaseModel, Field

from lib_controlnet.detect.pose import drawing, read_pose
from lib_controlnet.errors import ControlNetError
from lib_controlnet.limits import MAX_FIGURES, MAX_IMAGES, MAX_TOGETHER

NO_POSE: Final = "No pose data detected."


Number = float | None
Numbers = list[float | tuple[Number, Number, Number] | tuple[Number, Number] | None]
"""x, y and confidence of points, in one list or a list for each; null for a missing point."""


class Person(BaseModel):
    """Lists of x, y and confidence, per part of one person; null for a missing part."""

    pose_keypoints_2d: Numbers | None = Field(...)
    hand_right_keypoints_2d: Numbers | None = None
    hand_left_keypoints_2d: Numbers | None = None
    face_keypoints_2d: Numbers | None = None


class PoseData(BaseModel):
    """Everybody in one picture; coordinates are fractions of the canvas or pixels."""

    people: list[Person] | None = None
    animals: list[Numbers | None] | None = None
    canvas_width: int
    canvas_height: int


def render(
    poses: Sequence[PoseData], encode: Callable[[Image.Image], str]
) -> tuple[list[str], str]:
    """One RGB picture per pose, as `encode` makes text of it.

    The second value is a sentence on the poses with figures of which nothing is seen.

    Raises:
        ControlNetError: a pose is malformed, or they are too many or too large.
    """
    if len(poses) > MAX_IMAGES:
        msg = f"{len(poses)} poses are sent; at most {MAX_IMAGES} at a time"
        raise ControlNetError(msg)
    read = [
        read_pose({**dict(data), "people": data.people and list(map(dict, data.people))}, where)
        for data, where in ((data, f"poses[{i}]") for i, data in enumerate(poses))
    ]
    if sum(len(pose.people) + len(pose.animals) for pose in read) > MAX_FIGURES:
        msg = f"the poses hold more than {MAX_FIGURES} people and animals; send fewer at a time"
        raise ControlNetError(msg)
    if sum(pose.width * pose.height for pose in read) > MAX_TOGETHER:
        millions = MAX_TOGETHER // 1_000_000
        msg = f"the canvases have more than {millions} million pixels; send fewer at a time"
        raise ControlNetError(msg)
    pictures, empty = [], []
    for i, pose in enumerate(read):
        picture = drawing.draw_pose(pose)
        pictures.append(encode(Image.fromarray(picture)))
        if (pose.people or pose.animals) and not picture.any():
            empty.append(f"poses[{i}]")
    note = f"nothing of {', '.join(empty)} is seen: no point with a confidence is inside"
    return pictures, note if empty else ""
