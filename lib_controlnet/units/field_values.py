"""One value of a unit's field, in every form in which JSON and Python callers write it.

Each parser takes the value and a list that gets a sentence for whatever it changed; it raises
ValueError with the rest of a sentence ("is 'x', must be a number") for what has no meaning.
null, and text that is empty where it stands for something else than a text, mean the default:
`parse_unit` leaves those out before it comes here.
"""

from __future__ import annotations

import math
import os
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lib_controlnet.enums import ControlMode, truth
from lib_controlnet.errors import quote
from lib_controlnet.units.weight_types import LayerCurve, WeightType, parse_curve

Parser = Callable[[Any, list[str]], Any]

NO_MODULE: Final = "none"
NO_MODEL: Final = "None"


@dataclass(frozen=True)
class AlphaLayer:
    """A drawn layer whose alpha channel is the mask (Forge's `image_fg`)."""

    picture: Any


def boolean(value: object, _notes: list[str]) -> bool:
    """true and false, 1 and 0, and their words; "" is false."""
    found = truth(bool(value) if isinstance(value, np.bool_) else value)
    if found is None:
        msg = f"is {quote(value)}, must be true or false"
        raise ValueError(msg)
    return found


def number(value: object) -> float:
    """A finite number, or a text of one as JSON and the page's scripts read it."""
    # Python reads 1_0 as ten, and the digits of all scripts.
    is_pythons = isinstance(value, str) and ("_" in value or not value.strip().isascii())
    if isinstance(value, (bool, np.bool_)) or is_pythons:
        msg = f"is {quote(value)}, must be a number"
        raise ValueError(msg)
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"is {quote(value)}, must be a number"
        raise ValueError(msg) from error
    if not math.isfinite(found):
        msg = f"is {quote(value)}, must be a finite number"
        raise ValueError(msg)
    return found


@dataclass(frozen=True)
class Within:
    """A number in a range, ends included.

    Attributes:
        is_forgiving: scripts, whose schedules overshoot, may give what is out of range.
    """

    least: float
    most: float
    unit: str = ""
    is_forgiving: bool = False

    def __call__(self, value: object, _notes: list[str]) -> float:
        found = number(value)
        if not self.least <= found <= self.most:
            msg = f"is {found:g}, must be between {self.least:g} and {self.most:g}{self.unit}"
            raise ValueError(msg)
        return found

    def bring_into_range(self, value: object, notes: list[str]) -> float:
        """The number, or the end of the range that is next to it."""
        found = number(value)
        clamped = min(max(found, self.least), self.most)
        if clamped != found:
            notes.append(
                f"{found:g} lies outside {self.least:g} to {self.most:g}: {clamped:g} is used"
            )
        return clamped


def slider(value: object, _notes: list[str]) -> float:
    """A preprocessor's slider, whose range is known with the preprocessor."""
    return number(value)


def whole(value: object, notes: list[str]) -> int:
    """A whole number; a fraction is cut off."""
    found = number(value)
    if found != int(found) and found >= 1:
        notes.append(f"{quote(value)} is no whole number: {int(found)} is used")
    return int(found)


def layer_weights(value: object, _notes: list[str]) -> tuple[float, ...] | LayerCurve | None:
    """Numbers, one per layer, or a weight type; an empty list and "None" are none."""
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    if isinstance(value, LayerCurve):
        return value
    if isinstance(value, str) and (curve := parse_curve(value)) is not None:
        return curve
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        types = ", ".join(WeightType)
        msg = f"is {quote(value)}, must be a list of numbers, one per layer, or one of {types}"
        raise ValueError(msg)
    return tuple(number(item) for item in value) or None


def name_or(default: str) -> Parser:
    """A name; "none" in any case is the default."""

    def parse(value: object, notes: list[str]) -> str:
        found = text(value, notes).strip()
        return default if found.lower() == "none" else found

    return parse


def text(value: object, _notes: list[str]) -> str:
    """Text, or a path of Python."""
    if isinstance(value, (str, os.PathLike)):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    msg = f"is {quote(value)}, must be text"
    raise ValueError(msg)


_MAX_COLOUR: Final = 30
"""Characters of a colour; the longest name of CSS has 20."""


def colour(value: object, _notes: list[str]) -> str:
    """A colour as `#rrggbb`: so, as `#rgb`, by its name in CSS, or three numbers from 0 to 255."""
    parts: Any = value
    if isinstance(value, str):
        text = value.strip().lower() if len(value) <= _MAX_COLOUR else ""
        if named := _read_colour(text):
            return named
        parts = text.strip("[]()").split(",")
    try:
        levels = [number(part) for part in parts]
    except (TypeError, ValueError):
        levels = []
    if len(levels) != 3 or not all(level in range(256) for level in levels):
        msg = (
            f"is {quote(value)}, must be a colour such as #ff0000, red, or three whole numbers "
            "from 0 to 255"
        )
        raise ValueError(msg)
    return f"#{bytes(map(int, levels)).hex()}"


def _read_colour(text: str) -> str:
    """`#rrggbb` of a text that is a colour; "" of one that is none."""
    digits = text.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    if len(digits) == 6 and all(digit in string.hexdigits for digit in digits):
        return f"#{digits}"
    from PIL import ImageColor

    found = ImageColor.getrgb(text) if text in ImageColor.colormap else ()
    return f"#{bytes(found[:3]).hex()}" if found else ""


def choice(kind: Any) -> Parser:
    """A member of a `Choice`, in any of its spellings."""
    return lambda value, _notes: kind.parse(value)


def guess_mode(value: object, notes: list[str]) -> ControlMode:
    """The switch that became the control mode."""
    return ControlMode.CONTROL if boolean(value, notes) else ControlMode.BALANCED


def alpha_layer(value: object, _notes: list[str]) -> AlphaLayer:
    """A mask out of Forge's `image_fg`."""
    return AlphaLayer(value)


def is_given(value: object) -> bool:
    """Whether there is a picture: null, blank text and an object without any are none."""
    if isinstance(value, Mapping):
        return any(is_given(value.get(key)) for key in ("image", "mask"))
    return value is not None and not (isinstance(value, str) and not value.strip())


def picture(value: object, _notes: list[str]) -> Any:
    """A picture as it comes, undecoded; an object must have one of the keys that hold it."""
    for item in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(item, Mapping) and item and not {"image", "mask"} & set(item):
            msg = f'is an object with the keys {quote(list(item))}, must have "image"'
            raise ValueError(msg)
    if isinstance(value, (bool, int, float)):
        msg = f"is {quote(value)}, must be a picture (base64 text)"
        raise ValueError(msg)
    return value


def items(value: object, _notes: list[str]) -> tuple[Any, ...]:
    """Items of a list."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        msg = f"is {quote(value)}, must be a list"
        raise ValueError(msg)
    return tuple(value)


def functions(value: object, notes: list[str]) -> tuple[Any, ...]:
    """Functions, which only Python callers can give."""
    found = items(value, notes)
    if not all(callable(item) for item in found):
        msg = f"is {quote(value)}, must be a list of functions, which HTTP cannot carry"
        raise ValueError(msg)
    return found


def pictures(value: object, _notes: list[str]) -> Any:
    """A folder's path, or several pictures."""
    if isinstance(value, (bool, int, float, Mapping)):
        msg = f"is {quote(value)}, must be a folder or a list of pictures"
        raise ValueError(msg)
    return value


def keyframes(value: object, notes: list[str]) -> Any:
    """Numbers of frames as a text or a list."""
    return value if isinstance(value, str) else items(value, notes)


def embeddings(value: object, _notes: list[str]) -> Any:
    """Embeddings as they come, unread; see `prepare.embeddings`."""
    if isinstance(value, (list, tuple)) and not value:
        msg = "is an empty list; this input cannot be empty"
        raise ValueError(msg)
    if isinstance(value, (bool, int, float)):
        msg = f"is {quote(value)}, must be base64 text, or lists of numbers"
        raise ValueError(msg)
    return value
