"""Poses as texts that people and pose editors hand in, and as the points that an editor moves.

A text is a pose in the form of `detect.pose`, a list of them, or a file of OpenPose, which does
not tell its canvas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet.detect.pose import drawing, read_pose
from lib_controlnet.errors import ControlNetError
from lib_controlnet.limits import MAX_POSE_BODY, MAX_VALUES, MEGABYTE

if TYPE_CHECKING:
    import numpy as np

    from annotator.pose_drawing import Pose

Points = list[list[float] | None]
"""x and y in pixels of the canvas; None for a missing point."""

_WHERE: Final = "the pose"


def parse_pose(text: Any, width: Any = None, height: Any = None) -> Pose:
    """Read a pose's text; of several in a list the first.

    Args:
        text: whatever was handed in.
        width, height: of the canvas where the text does not tell it.

    Raises:
        ControlNetError: it is no pose, or larger than any honest one; the message says where and
            what.
    """
    data = _parse(text)
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, Mapping):
        msg = f"{_WHERE} is no JSON object with people or animals"
        raise ControlNetError(msg)
    if data.get("canvas_width") is None and data.get("canvas_height") is None:
        data = {**data, "canvas_width": width, "canvas_height": height}
    return read_pose(data, _WHERE)


def _parse(text: Any) -> Any:
    if not isinstance(text, str) or not text.strip():
        msg = f"{_WHERE} is empty; expected JSON with people or animals"
        raise ControlNetError(msg)
    if len(text) > MAX_POSE_BODY:
        msg = f"{_WHERE} is larger than {MAX_POSE_BODY // MEGABYTE} MB of text"
        raise ControlNetError(msg)
    if sum(text.count(mark) for mark in ",[{") > MAX_VALUES:
        msg = f"{_WHERE} holds more than {MAX_VALUES} values"
        raise ControlNetError(msg)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        msg = f"{_WHERE} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise ControlNetError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{_WHERE} is no JSON that can be read: its numbers or its nesting are too long"
        raise ControlNetError(msg) from error


def as_figures(pose: Pose) -> dict[str, Any]:
    """The points of a pose by figure, for an editor.

    Returns:
        `width` and `height` of the canvas, and `figures`: in the order in which they are drawn, an
        object of parts (fields of `Person`, or `animal`), `Points` each.
    """
    people = [
        {
            part: _list_points(getattr(person, part), pose)
            for part in drawing.KEYS.values()
            if getattr(person, part) is not None
        }
        for person in pose.people
    ]
    animals = [{"animal": _list_points(animal, pose)} for animal in pose.animals]
    return {"width": pose.width, "height": pose.height, "figures": [*people, *animals]}


def _list_points(part: np.ndarray, pose: Pose) -> Points:
    return [None if point is None else list(point) for point in drawing.pixels(part, pose)]
