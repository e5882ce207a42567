"""Poses as JSON, in the form OpenPose writes and pose editors exchange.

One object per picture: `people` (flat lists of x, y, confidence per part), `animals` (one flat
list each), `canvas_width`, `canvas_height`. Confidence below 1 means a missing point.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lib_controlnet import preprocess
from lib_controlnet.errors import ControlNetError
from lib_controlnet.image import check_size
from lib_controlnet.limits import MAX_FIGURES, MAX_SIDE, MAX_WORKED

if TYPE_CHECKING:
    from annotator.pose_drawing import Person, Pose

# Beside the declarations, under whatever name they were loaded.
drawing: Final = importlib.import_module(f"{preprocess.declarations.__package__}.pose_drawing")

_FARTHEST: Final = 10 * MAX_SIDE
"""Pixels from the canvas's corner beyond which a coordinate can only be a mistake."""

_FEWEST: Final = {
    "body": drawing.BODY_POINTS,
    "face": 1,
    "left_hand": drawing.HAND_POINTS,
    "right_hand": drawing.HAND_POINTS,
}
"""Field of `Person` -> the points it needs at least."""

pose_json = drawing.pose_json


def read_pose(data: Mapping[str, Any], where: str = "pose") -> Pose:
    """Make a pose of parsed JSON.

    Lists longer than a part has points are cut, as some tools append feet; an empty list is a
    missing part, except for the body.

    Args:
        data: the object for one picture.
        where: how messages call it.

    Raises:
        ControlNetError: something is missing or malformed; the message says where and what.
    """
    people, animals = data.get("people"), data.get("animals")
    if people is None and animals is None:
        msg = f"{where} has neither people nor animals"
        raise ControlNetError(msg)
    people, animals = people or (), animals or ()
    if len(people) + len(animals) > MAX_FIGURES:
        found = len(people) + len(animals)
        msg = f"{where} has {found} people and animals; at most {MAX_FIGURES} can be drawn"
        raise ControlNetError(msg)
    width, height = (_side(data.get(key), f"{where}.{key}") for key in _CANVAS)
    check_size(width, height, f"{where}: the canvas")
    if width * height > MAX_WORKED:
        msg = (
            f"{where}: the canvas is {width} x {height} pixels; at most "
            f"{MAX_WORKED // 1_000_000} million can be drawn on, make it smaller"
        )
        raise ControlNetError(msg)
    return drawing.Pose(
        width,
        height,
        tuple(_person(person, f"{where}.people[{i}]") for i, person in enumerate(people)),
        tuple(
            _points(numbers, f"{where}.animals[{i}]", drawing.ANIMAL_POINTS)
            for i, numbers in enumerate(animals)
        ),
    )


_CANVAS: Final = ("canvas_width", "canvas_height")


def _side(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        msg = f"{where} is {value!r}; expected a whole number of pixels"
        raise ControlNetError(msg)
    return int(value)


def _person(data: Mapping[str, Any], where: str) -> Person:
    parts = {}
    for key, field in drawing.KEYS.items():
        numbers = data.get(key)
        if numbers is not None and (len(numbers) or field == "body"):
            count = _FEWEST[field]
            parts[field] = _points(numbers, f"{where}.{key}", count, keeps_more=field == "face")
    return drawing.Person(**parts)


def _points(
    numbers: Sequence[float], where: str, count: int, *, keeps_more: bool = False
) -> np.ndarray:
    """float64 (points, 3) of a flat list."""
    if len(numbers) % 3 or len(numbers) < 3 * count:
        msg = (
            f"{where} has {len(numbers)} numbers; expected x, y and confidence of "
            f"{count} points, {3 * count} numbers"
        )
        raise ControlNetError(msg)
    try:
        points = np.array(numbers, np.float64).reshape(-1, 3)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{where} holds something that is not a number"
        raise ControlNetError(msg) from error
    if not (np.abs(points) <= _FARTHEST).all():  # also where it is not a number at all
        msg = f"{where} holds a number beyond {_FARTHEST}, far outside every canvas"
        raise ControlNetError(msg)
    return points if keeps_more else points[:count]
