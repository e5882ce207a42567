"""Poses as JSON, in the form OpenPose writes and pose editors exchange.

One object per picture: `people` (lists of x, y, confidence per part), `animals` (one list each),
`canvas_width`, `canvas_height`. A confidence of 0 means a missing point.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lib_controlnet.detect import preprocess
from lib_controlnet.detect.pose_layouts import LAYOUTS, find_layout, reorder
from lib_controlnet.errors import ControlNetError, quote
from lib_controlnet.limits import MAX_FIGURES, MAX_SIDE, MAX_WORKED
from lib_controlnet.pictures.decode import check_size

if TYPE_CHECKING:
    from annotator.pose_drawing import Pose

# Beside the declarations, under whatever name they were loaded.
drawing: Final = importlib.import_module(f"{preprocess.declarations.__package__}.pose_drawing")

_FARTHEST: Final = 10 * MAX_SIDE
"""Pixels from the canvas's corner beyond which a coordinate can only be a mistake."""

_FEWEST: Final = {
    "face": 1,
    "left_hand": drawing.HAND_POINTS,
    "right_hand": drawing.HAND_POINTS,
}
"""Field of `Person`, but the body -> the points it needs at least."""
_BODY: Final = (
    f"{drawing.BODY_POINTS} points, {3 * drawing.BODY_POINTS} numbers, or OpenPose's 25, 75 numbers"
)
"""What a body's list may hold."""
_TRIPLE: Final = 3
_SUREST: Final = 2
"""A confidence beyond that of 0 to 1, and beyond MS COCO's 0, 1 and 2, is none."""

pose_json = drawing.pose_json


def read_pose(data: Mapping[str, Any], where: str = "pose") -> Pose:
    """Make a pose of parsed JSON.

    Points are numbers in one list or a list for each; null is a missing point, null or an empty
    list a missing part, except for a body that stands alone. A body may list its points in any
    order of `pose_layouts`.

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
    people, animals = _figures(people, f"{where}.people"), _figures(animals, f"{where}.animals")
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
    parts = [_parts(person, f"{where}.people[{i}]") for i, person in enumerate(people)]
    beasts = [
        _animal(numbers, f"{where}.animals[{i}]") for i, numbers in enumerate(animals) if numbers
    ]
    _bring_to_18(parts)
    return drawing.Pose(
        width, height, tuple(drawing.Person(**part) for part in parts), tuple(beasts)
    )


_CANVAS: Final = ("canvas_width", "canvas_height")


def _figures(given: Any, where: str) -> Sequence[Any]:
    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        msg = f"{where} is {quote(given)}; expected a list"
        raise ControlNetError(msg)
    return given


def _side(value: Any, where: str) -> int:
    if value is None:
        msg = f"{where} is missing; files of OpenPose do not tell it, add that of the picture"
        raise ControlNetError(msg)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or value != value // 1 or abs(value) > _FARTHEST:
        msg = f"{where} is {quote(value)}; expected a whole number of pixels up to {MAX_SIDE}"
        raise ControlNetError(msg)
    return int(value)


def _parts(data: Any, where: str) -> dict[str, np.ndarray]:
    """The parts of a person that are there, float64 (points, 3) each, bodies in their own order."""
    if not isinstance(data, Mapping) or not any(key in data for key in drawing.KEYS):
        msg = f"{where} has none of {', '.join(drawing.KEYS)}, the lists of x, y and confidence"
        raise ControlNetError(msg)
    parts = {}
    for key, field in drawing.KEYS.items():
        numbers, name, count = data.get(key), f"{where}.{key}", _FEWEST.get(field)
        _check_list(numbers, name)
        if numbers is None or (len(numbers) == 0 and _has_others(data, key)):
            continue
        wanted = f"{count} points, {_TRIPLE * count} numbers" if count else _BODY
        points = _points(numbers, name, wanted)
        if len(points) < count if count else len(points) not in LAYOUTS:
            raise ControlNetError(_describe(name, _TRIPLE * len(points), wanted))
        parts[field] = points if field in ("body", "face") else points[:count]
    return parts


def _check_list(given: Any, where: str) -> None:
    """Refuse what is no list of points; null is a missing one."""
    if given is not None and not isinstance(given, (list, tuple)):
        msg = f"{where} is {quote(given)}; expected a list of x, y and confidence of each point"
        raise ControlNetError(msg)


def _has_others(data: Mapping[str, Any], key: str) -> bool:
    """Whether a person without this part has another, or the part is not the body."""
    return drawing.KEYS[key] != "body" or any(data.get(other) for other in drawing.KEYS)


def _describe(where: str, count: int, wanted: str) -> str:
    return f"{where} has {count} numbers; expected x, y and confidence of {wanted}"


def _animal(numbers: Sequence[Any], where: str) -> np.ndarray:
    _check_list(numbers, where)
    wanted = f"{drawing.ANIMAL_POINTS} points, {_TRIPLE * drawing.ANIMAL_POINTS} numbers"
    points = _points(numbers, where, wanted)
    if len(points) < drawing.ANIMAL_POINTS:
        raise ControlNetError(_describe(where, _TRIPLE * len(points), wanted))
    return points[: drawing.ANIMAL_POINTS]


def _bring_to_18(people: Sequence[dict[str, np.ndarray]]) -> None:
    """Put all bodies in the order that is drawn; those of one file were listed by one program."""
    by_count: dict[int, list[np.ndarray]] = {}
    for parts in people:
        if "body" in parts:
            by_count.setdefault(len(parts["body"]), []).append(parts["body"])
    orders = {count: find_layout(bodies) for count, bodies in by_count.items()}
    for parts in people:
        if "body" in parts:
            parts["body"] = reorder(parts["body"], orders[len(parts["body"])])


def _points(given: Sequence[Any], where: str, wanted: str) -> np.ndarray:
    """float64 (points, 3) of one list of numbers or of a list for each point."""
    rows = _rows(given, where, wanted)
    try:
        points = np.array(rows, np.float64).reshape(len(rows), _TRIPLE)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{where} holds something that is not a number"
        raise ControlNetError(msg) from error
    if not (np.abs(points) <= _FARTHEST).all():  # also where it is not a number at all
        msg = f"{where} holds a number beyond {_FARTHEST}, far outside every canvas"
        raise ControlNetError(msg)
    surest = points[:, 2].max(initial=0)
    if surest > _SUREST:
        msg = (
            f"{where} holds the confidence {surest:g}; expected x, y and confidence of each point, "
            "which is 0 to 1"
        )
        raise ControlNetError(msg)
    return points


def _rows(given: Sequence[Any], where: str, wanted: str) -> list[Sequence[Any]]:
    """x, y and confidence of each point; zeros for what is null."""
    if any(isinstance(row, (list, tuple)) for row in given):
        rows = [(0, 0, 0) if row is None else row for row in given]
        if any(not isinstance(row, (list, tuple)) or len(row) not in (2, _TRIPLE) for row in rows):
            msg = f"{where} holds points that are not x, y and confidence, three numbers each"
            raise ControlNetError(msg)
        rows = [row if len(row) == _TRIPLE else (*row, any(row)) for row in rows]
    elif len(given) % _TRIPLE:
        raise ControlNetError(_describe(where, len(given), wanted))
    else:
        rows = [given[i : i + _TRIPLE] for i in range(0, len(given), _TRIPLE)]
    return [(0, 0, 0) if None in row else row for row in rows]
