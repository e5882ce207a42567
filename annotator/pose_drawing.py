"""Poses as points, their picture as the openpose control models know it, and their JSON form.

Skeleton and colours: Cao et al., "OpenPose", arXiv:1812.08008; sizes of strokes and dots as in
Zhang et al. (2023), arXiv:2302.05543, whose models were trained on such pictures. Animals: the 17
points of AP-10K, Yu et al., arXiv:2108.12617.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

BODY_POINTS: Final = 18
"""Nose, neck, right shoulder, elbow, wrist, the left three, right hip, knee, ankle, the left
three, right eye, left eye, right ear, left ear."""
HAND_POINTS: Final = 21
"""Wrist, then four points of each finger from the thumb on, outwards."""
FACE_POINTS: Final = 70
"""Contour, brows, nose, eyes and mouth (68), and the middle of each eye."""
ANIMAL_POINTS: Final = 17

SEEN: Final = 0.05
"""Least confidence of a point that is drawn; that of OpenPose (its option `render_threshold`)."""
FARTHEST_FRACTION: Final = 2
"""A part whose coordinates are all nearer to 0 is in fractions of the canvas, see `Person`."""

KEYS: Final = {
    "pose_keypoints_2d": "body",
    "face_keypoints_2d": "face",
    "hand_left_keypoints_2d": "left_hand",
    "hand_right_keypoints_2d": "right_hand",
}
"""JSON key -> field of `Person`."""

Point = tuple[float, float]
Colour = tuple[int, int, int]

_HALF_WIDTH: Final = 4
_BODY_DOT: Final = 4
_HAND_DOT: Final = 4
_HAND_LINE: Final = 2
_FACE_DOT: Final = 3
_ANIMAL_LINE: Final = 5
_LIMB_SHADE: Final = 0.6
_FACE_KEY_DOT: Final = 10
_LOOKED_AT: Final = 512
"""Pixels of the longer side at which a picture is looked at."""
_LIT: Final = 64
"""Least level of what is not black."""
_ALIKE: Final = 0.25
_LEAST_SHARE: Final = 0.02
_MOST_SHARE: Final = 0.85
"""Least part of a picture's light that has one of the colours, and all of them."""


def _colours(*codes: str) -> tuple[Colour, ...]:
    return tuple((int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in codes)


_LIMBS: Final = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
_BODY_COLOURS: Final = _colours(
    *("ff0000", "ff5500", "ffaa00", "ffff00", "aaff00", "55ff00", "00ff00", "00ff55", "00ffaa"),
    *("00ffff", "00aaff", "0055ff", "0000ff", "5500ff", "aa00ff", "ff00ff", "ff00aa", "ff0055"),
)
_FINGERS: Final = tuple(
    (0 if step == 0 else 4 * finger + step, 4 * finger + step + 1)
    for finger in range(5)
    for step in range(4)
)
_HAND_COLOURS: Final = tuple(
    tuple(round(255 * part) for part in colorsys.hsv_to_rgb(i / len(_FINGERS), 1, 1))
    for i in range(len(_FINGERS))
)
_HAND_DOT_COLOUR: Final = (0, 0, 255)
_FACE_COLOUR: Final = (255, 255, 255)
_ANIMAL_LIMBS: Final = (
    *((0, 1), (1, 2), (0, 2), (2, 3), (3, 8), (8, 9), (9, 10), (3, 5), (5, 6), (6, 7)),
    *((3, 4), (4, 14), (14, 15), (15, 16), (4, 11), (11, 12), (12, 13)),
)
_ANIMAL_COLOURS: Final = _colours(
    *("ffffff", "64ff64", "96ffff", "6432ff", "3296c8", "00ffff", "009600", "0000ff", "000096"),
    *("ff32ff", "ff00ff", "ff0000", "960000", "ffff64", "009600", "ffff00", "969696"),
)
_FACE_KEY_LIMBS: Final = ((0, 2), (1, 2), (3, 2), (4, 2))
_NOSE: Final = 2
_MEETING: Final = 3
"""Least number of other colours at the nose; that of a cut face may be out of the picture."""
_FACE_KEY_COLOURS: Final = _colours("ff0000", "00ff00", "0000ff", "ffff00", "ff00ff")


_BODY_PAIRS: Final = ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17))
_ANIMAL_PAIRS: Final = ((0, 1), *((i, i + 3) for i in (5, 6, 7, 11, 12, 13)))
_FACE_SUMS: Final = (
    *((range(8), 16), (range(17, 22), 43), (range(31, 33), 66), (range(36, 40), 81)),
    *((range(40, 42), 87), (range(48, 51), 102), (range(55, 57), 114)),
    *((range(60, 62), 124), (range(65, 66), 132), (range(68, 69), 137)),
)
"""Points of the face's right side; the sum of their numbers and their partners'."""


@dataclass(frozen=True)
class Skeleton:
    """How the points of one kind of part are drawn, sizes in pixels.

    Attributes:
        points: how many there are.
        limbs: numbers of the two points that each joins, in the order in which they are drawn.
        lines: colour of each limb.
        width: of a limb; a body's is a slim ellipse that is so wide in the middle.
        dots: colour of each point, empty where points have none.
        radius: of the dots.
        pairs: numbers of the points of the right and the left side that belong together.
    """

    points: int
    limbs: tuple[tuple[int, int], ...]
    lines: tuple[Colour, ...]
    width: int
    dots: tuple[Colour, ...]
    radius: int
    pairs: tuple[tuple[int, int], ...]


def skeletons() -> dict[str, Skeleton]:
    """What `draw_pose` draws with: for `body`, `hand`, `face` and `animal`."""
    shaded = tuple(_shade(colour) for colour in _BODY_COLOURS[: len(_LIMBS)])
    face = tuple((i, total - i) for numbers, total in _FACE_SUMS for i in numbers)
    fingers = tuple((red, green, blue) for red, green, blue in _HAND_COLOURS)
    hand, white = (_HAND_DOT_COLOUR,) * HAND_POINTS, (_FACE_COLOUR,) * FACE_POINTS
    return {
        "body": Skeleton(
            *(BODY_POINTS, _LIMBS, shaded, 2 * _HALF_WIDTH, _BODY_COLOURS, _BODY_DOT, _BODY_PAIRS)
        ),
        "hand": Skeleton(HAND_POINTS, _FINGERS, fingers, _HAND_LINE, hand, _HAND_DOT, ()),
        "face": Skeleton(FACE_POINTS, (), (), 0, white, _FACE_DOT, face),
        "animal": Skeleton(
            *(ANIMAL_POINTS, _ANIMAL_LIMBS, _ANIMAL_COLOURS, _ANIMAL_LINE, (), 0, _ANIMAL_PAIRS)
        ),
    }


@dataclass(frozen=True, eq=False)
class Person:
    """Points of one person; a part that was not looked for or not found is None.

    Each part is float (points, 3): x, y and confidence, 0 to 1. Below `SEEN` a point is missing. A
    part whose coordinates all lie within -2 to 2 is in fractions of the canvas, else in pixels:
    fractions may reach out of it, and nobody is drawn on two pixels.
    """

    body: np.ndarray | None = None
    left_hand: np.ndarray | None = None
    right_hand: np.ndarray | None = None
    face: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Pose:
    """Everything found in a picture of `width` x `height` pixels.

    Attributes:
        people: in the order in which they are drawn.
        animals: float (17, 3) each, by the rules of `Person`.
    """

    width: int
    height: int
    people: tuple[Person, ...] = ()
    animals: tuple[np.ndarray, ...] = ()


def draw_pose(
    pose: Pose, *, body: bool = True, hands: bool = True, face: bool = True
) -> np.ndarray:
    """Draw the points of a pose, person by person: body, left and right hand, face.

    Args:
        pose: what to draw; its size is the picture's.
        body: draw limbs and joints.
        hands: draw fingers.
        face: draw the dots of faces.

    Returns:
        uint8 (pose.height, pose.width, 3), black where nothing is.
    """
    canvas = np.zeros((pose.height, pose.width, 3), np.uint8)
    for person in pose.people:
        if body:
            _draw_body(canvas, pixels(person.body, pose))
        if hands:
            _draw_hand(canvas, pixels(person.left_hand, pose))
            _draw_hand(canvas, pixels(person.right_hand, pose))
        if face:
            _draw_face(canvas, pixels(person.face, pose))
    for animal in pose.animals:
        _draw_animal(canvas, pixels(animal, pose))
    return canvas


def draw_face_keys(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Draw a face by five points, as InstantID's control model knows it.

    Wang et al. (2024), arXiv:2401.07519.

    Args:
        points: float (5, 2) in pixels: the eye at the picture's left and the other one, nose,
            the mouth's corner at the left and the other one.
        width, height: of the picture.

    Returns:
        uint8 (height, width, 3), black where nothing is.
    """
    canvas = np.zeros((height, width, 3), np.uint8)
    spots: list[Point] = [(float(x), float(y)) for x, y in points]
    for first, second in _FACE_KEY_LIMBS:
        _draw_limb(canvas, spots[first], spots[second], _FACE_KEY_COLOURS[first])
    for spot, colour in zip(spots, _FACE_KEY_COLOURS, strict=True):
        cv2.circle(canvas, _whole(spot), _FACE_KEY_DOT, colour, thickness=-1)
    return canvas


def shows_face_keys(image: np.ndarray) -> bool:
    """Whether a picture (H, W, 3 or more) looks like one of `draw_face_keys`, at any size.

    Its colours tell, whatever edges they have to black: all five, hardly another, and others
    meet at a spot of the nose's. Drawn poses have these and more.
    """
    step = max(1, max(image.shape[:2]) // _LOOKED_AT)
    seen = image[::step, ::step, :3].astype(np.float32)
    level = seen.max(axis=2)
    places = np.argwhere(level > _LIT)
    if not 0 < len(places) < level.size / 2:
        return False
    pure = seen[level > _LIT] / level[level > _LIT, None]
    wanted = np.array(_FACE_KEY_COLOURS, np.float32) / 255
    alike = np.abs(pure[:, None] - wanted).max(axis=2) < _ALIKE
    shares = alike.mean(axis=0)
    if shares.min() < _LEAST_SHARE or shares.sum() < _MOST_SHARE:
        return False
    nose = places[alike[:, _NOSE]]
    first, last = np.percentile(nose, (5, 95), axis=0)
    size = last - first + 1
    is_near = (np.abs(places - (first + last) / 2) <= size.max()).all(axis=1)
    is_spot = len(nose) > size.prod() / 2 and size.max() < 4 * size.min()
    return bool(is_spot and alike[is_near].any(axis=0).sum() > _MEETING)


def find(part: np.ndarray) -> np.ndarray:
    """bool (points,): which points of a part are there."""
    return part[:, 2] >= SEEN


def in_fractions(part: np.ndarray) -> bool:
    """Whether a part's coordinates are fractions of the canvas, not pixels."""
    return bool((np.abs(part[find(part), :2]) <= FARTHEST_FRACTION).all())


def pixels(part: np.ndarray | None, pose: Pose) -> list[Point | None]:
    """Points of a part in pixels of the canvas; None where a point is missing."""
    if part is None:
        return []
    scale = np.array([pose.width, pose.height] if in_fractions(part) else [1, 1], np.float64)
    return [
        (float(x), float(y)) if there else None
        for (x, y), there in zip(part[:, :2] * scale, find(part), strict=True)
    ]


def _draw_body(canvas: np.ndarray, points: list[Point | None]) -> None:
    if not points:
        return
    for (first, second), colour in zip(_LIMBS, _BODY_COLOURS, strict=False):  # one colour more
        start, end = points[first], points[second]
        if start is not None and end is not None:
            _draw_limb(canvas, start, end, colour)
    for point, colour in zip(points, _BODY_COLOURS, strict=False):
        if point is not None:
            cv2.circle(canvas, _whole(point), _BODY_DOT, colour, thickness=-1)


def _draw_limb(canvas: np.ndarray, start: Point, end: Point, colour: Colour) -> None:
    """A slim ellipse from joint to joint, in a darker shade."""
    across, down = start[0] - end[0], start[1] - end[1]
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    axes = (int(math.hypot(across, down) / 2), _HALF_WIDTH)
    angle = int(math.degrees(math.atan2(down, across)))
    outline = np.array(cv2.ellipse2Poly(_whole(middle), axes, angle, 0, 360, 1))
    cv2.fillConvexPoly(canvas, outline, _shade(colour))


def _shade(colour: Colour) -> Colour:
    red, green, blue = (int(part * _LIMB_SHADE) for part in colour)
    return red, green, blue


def _draw_hand(canvas: np.ndarray, points: list[Point | None]) -> None:
    seen = _off_the_edges(points)
    if not seen:
        return
    for (first, second), colour in zip(_FINGERS, _HAND_COLOURS, strict=True):
        start, end = seen[first], seen[second]
        if start is not None and end is not None:
            cv2.line(canvas, _whole(start), _whole(end), colour, _HAND_LINE)
    _draw_dots(canvas, seen, _HAND_DOT, _HAND_DOT_COLOUR)


def _draw_face(canvas: np.ndarray, points: list[Point | None]) -> None:
    _draw_dots(canvas, _off_the_edges(points), _FACE_DOT, _FACE_COLOUR)


def _draw_animal(canvas: np.ndarray, points: list[Point | None]) -> None:
    for (first, second), colour in zip(_ANIMAL_LIMBS, _ANIMAL_COLOURS, strict=True):
        start, end = points[first], points[second]
        if start is not None and end is not None:
            cv2.line(canvas, _whole(start), _whole(end), colour, _ANIMAL_LINE)


def _draw_dots(canvas: np.ndarray, points: list[Point | None], radius: int, colour: Colour) -> None:
    for point in points:
        if point is not None:
            cv2.circle(canvas, _whole(point), radius, colour, thickness=-1)


def _off_the_edges(points: list[Point | None]) -> list[Point | None]:
    """Hand and face points, without those in the first column or row or before: missing ones."""
    return [point if point is not None and min(_whole(point)) > 0 else None for point in points]


def _whole(point: Point) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def pose_json(pose: Pose) -> dict[str, Any]:
    """The JSON form: people in fractions of the canvas, animals in pixels.

    A missing point is (0, 0, 0), a missing part null. If anybody reaches so far out of the canvas
    that fractions would be taken for pixels, all people are written in pixels.
    """
    parts = [getattr(person, part) for person in pose.people for part in KEYS.values()]
    fractions = all(_fits(part, pose) for part in parts if part is not None)
    return {
        "people": [
            {
                key: _flat(getattr(person, part), pose, as_fractions=fractions)
                for key, part in KEYS.items()
            }
            for person in pose.people
        ],
        "animals": [_flat(animal, pose, as_fractions=False) for animal in pose.animals],
        "canvas_height": pose.height,
        "canvas_width": pose.width,
    }


def _fits(part: np.ndarray, pose: Pose) -> bool:
    """Whether a part lies within the canvas, so that every reader takes its fractions as such."""
    end = (1, 1) if in_fractions(part) else (pose.width, pose.height)
    return bool((np.abs(part[find(part), :2]) <= end).all())


def _flat(part: np.ndarray | None, pose: Pose, *, as_fractions: bool) -> list[float] | None:
    if part is None:
        return None
    there = find(part)
    points = np.where(there[:, None], part[:, :2], 0.0)
    size = np.array([pose.width, pose.height], np.float64)
    if in_fractions(part) and not as_fractions:
        points *= size
    elif as_fractions and not in_fractions(part):
        fractions = points / size
        # Times the size, a reader must not end up in the pixel before.
        points = np.where(fractions * size < points, np.nextafter(fractions, np.inf), fractions)
    return np.column_stack([points, there]).ravel().tolist()
