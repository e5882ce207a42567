"""How a unit's strength goes over the steps of a pass: points, and straight lines between them.

0.2@0.1, 0.8@0.5       the factor of the strength at a share of the steps
1@0, 1@0.5, 0@0.5      two points at one place are a jump
ease out | 0.5@0       first pass and hires pass; a name of `SHAPES` stands for its points
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from lib_controlnet.errors import quote
from lib_controlnet.units.field_values import number

Point = tuple[float, float]
"""Progress, 0 to 1, and the factor there, 0 to `MOST`."""
Points = tuple[Point, ...]
"""By progress; () stands for the factor 1 everywhere."""

MOST: Final = 2.0
MAX_POINTS: Final = 64
"""Of one pass."""
MAX_CHARACTERS: Final = 8_000
"""Of the text of one pass; the longest that is written has some three thousand."""
PASSES: Final = ("first", "hires")

_QUARTERS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
SHAPES: Final[Mapping[str, Points]] = MappingProxyType(
    {
        "linear": ((0.0, 1.0), (1.0, 0.0)),
        "ease in": tuple((place, place**2) for place in _QUARTERS),
        "ease out": tuple((place, (1.0 - place) ** 2) for place in _QUARTERS),
        "pulse": ((0.0, 0.0), (0.5, 1.0), (1.0, 0.0)),
    }
)
"""Names that are understood: a straight fall, slowly in, slowly out, up and down again."""

_FORMS: Final = (
    "must be points such as 0.2@0.1, 0.8@0.5 (factor@progress), one of "
    f"{', '.join(SHAPES)}, or two of these with | between them for first pass and hires pass"
)


@dataclass(frozen=True)
class WeightCurve:
    """The points of each pass; as text, what `parse_weight_curve` reads."""

    first: Points = ()
    hires: Points = ()

    def __str__(self) -> str:
        first, hires = ", ".join(map(_write, self.first)), ", ".join(map(_write, self.hires))
        return first if self.first == self.hires else f"{first} | {hires}".strip()

    def of_pass(self, is_hires: bool) -> Points:
        """The points of a pass."""
        return self.hires if is_hires else self.first


def _write(point: Point) -> str:
    place, factor = (str(int(value)) if value == int(value) else repr(value) for value in point)
    return f"{factor}@{place}"


def parse_weight_curve(value: Any, _notes: Sequence[str] = ()) -> WeightCurve | None:
    """A curve in any of its forms; None for one that says nothing.

    Args:
        value: a text, a list of pairs (progress, factor), or an object that has text or list for
            `first` and `hires`, the passes.

    Raises:
        ValueError: it has no meaning; the rest of a sentence.
    """
    if isinstance(value, WeightCurve):
        return value
    try:
        first, hires = map(_read_side, _split(value))
    except ValueError as error:
        msg = f"is {quote(value)}, {error}"
        raise ValueError(msg) from error
    return WeightCurve(first, hires) if first or hires else None


def _split(value: Any) -> tuple[Any, Any]:
    """What is given for each pass."""
    sides = value.split("|") if isinstance(value, str) else [value]
    if isinstance(value, Mapping):
        if set(value) - set(PASSES):
            msg = 'must have nothing but "first" and "hires"'
            raise ValueError(msg)
        sides = [value.get(name) for name in PASSES]
    if len(sides) > len(PASSES):
        raise ValueError(_FORMS)
    return sides[0], sides[-1]


def _read_side(side: Any) -> Points:
    if side is None:
        return ()
    if isinstance(side, (list, tuple)):
        return _check([_read_pair(pair) for pair in side[: MAX_POINTS + 1]])
    if not isinstance(side, str):
        raise ValueError(_FORMS)
    if len(side) > MAX_CHARACTERS:
        msg = f"must have at most {MAX_CHARACTERS} characters for a pass"
        raise ValueError(msg)
    name = " ".join(side.lower().split())
    if name in SHAPES:
        return SHAPES[name]
    pieces = [] if name == "none" else side.split(",")
    return _check([_read_point(piece) for piece in pieces if piece.strip()])


def _read_point(text: str) -> Point:
    factor, at, place = text.partition("@")
    if not at:
        raise ValueError(_FORMS)
    return _number(place), _number(factor)


def _read_pair(pair: Any) -> Point:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        msg = f"must be a list of pairs [progress, factor], and one is {quote(pair)}"
        raise ValueError(msg)
    place, factor = pair
    return _number(place), _number(factor)


def _number(value: Any) -> float:
    try:
        return number(value)
    except ValueError as error:
        msg = f"must be made of numbers, and {quote(value)} is none"
        raise ValueError(msg) from error


def _check(points: Sequence[Point]) -> Points:
    """Points in their order; where two are at one place they stay as they came."""
    if len(points) > MAX_POINTS:
        msg = f"must have at most {MAX_POINTS} points for a pass"
        raise ValueError(msg)
    found = sorted(points, key=lambda point: point[0])
    for place, factor in found:
        if not 0.0 <= place <= 1.0:
            msg = f"must have its points between 0 and 1 (shares of the steps), not at {place:g}"
            raise ValueError(msg)
        if not 0.0 <= factor <= MOST:
            msg = f"must have factors between 0 and {MOST:g}, not {factor:g}"
            raise ValueError(msg)
    for (one, _), _between, (third, _) in zip(found, found[1:], found[2:], strict=False):
        if one == third:
            msg = f"must have at most two points at one place (a jump), not three at {one:g}"
            raise ValueError(msg)
    return tuple(found)
