"""Axes of the host's X/Y/Z grid script.

The grid runs every cell on a shallow copy of `p`. A cell's values are kept in one attribute of
that copy, so neither the caller's units nor any setting changes.
"""

from __future__ import annotations

import csv
import itertools
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from modules import scripts, shared

from lib_controlnet.detect import listing, preprocess
from lib_controlnet.enums import truth
from lib_controlnet.errors import ControlNetError, quote
from lib_controlnet.interop import unit as unit_object
from lib_controlnet.units.field_values import number
from lib_controlnet.units.fields import Axis, Field
from lib_controlnet.units.overrides import FIRST_UNIT_ONLY
from lib_controlnet.units.unit import FIELDS, NO_MODEL, parse_unit
from lib_controlnet.units.weight_curve import parse_weight_curve

if TYPE_CHECKING:
    from lib_controlnet.host.runtime import Runtime

log = logging.getLogger(__name__)

ATTRIBUTE: Final = "controlnet_cell"
SCRIPT_FILE: Final = "xyz_grid.py"
PREFIX: Final = "[ControlNet] "
_NUMBER: Final = r"([+-]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}))"
"""Of bounded length, so that no text makes a pattern try many ways to share its digits out."""
_RANGE: Final = re.compile(rf"{_NUMBER}\s*-\s*{_NUMBER}(?:\s*\(\s*{_NUMBER}\s*\))?")
_COUNTED: Final = re.compile(rf"{_NUMBER}\s*-\s*{_NUMBER}\s*\[\s*([0-9]{{1,12}})\s*\]")
_KEPT: Final = re.compile(r"\0([0-9]{1,9})\0")
"""Stands for what is in brackets while commas are looked for."""
WINDOW: Final = ("guidance_start", "guidance_end")
WINDOW_AXIS: Final = Axis(11, "Window (start-end)")
UNCHANGED: Final = "as in the unit"
MAX_CHARACTERS: Final = 50_000
"""Of what is typed for one axis."""
MAX_VALUES: Final = 1000
"""Numbers on one axis."""


class GridError(ControlNetError, RuntimeError, ValueError):
    """A grid that cannot be made as it is asked for."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(f"{PREFIX}{message.removeprefix(PREFIX)}", status_code)


def cell_values(p: Any) -> dict[str, Any]:
    """Values of the grid cell that `p` generates, by field of a unit."""
    return dict(getattr(p, ATTRIBUTE, None) or {})


def register(runtime: Runtime) -> None:
    """Add the axes to the grid script, once.

    The host loads its own scripts first, so the script is there when extensions are loaded. Later
    is too late for a host without a page, which asks the script for its axes before all callbacks.
    """
    for data in scripts.scripts_data:
        if data.script_class.__module__ != SCRIPT_FILE:
            continue
        options = data.module.axis_options
        present = {option.label for option in options}
        options += [o for o in axes(data.module.AxisOption, runtime) if o.label not in present]
        return
    log.debug("the host has no %s, so there are no ControlNet axes", SCRIPT_FILE)


def axes(make: Callable[..., Any], runtime: Runtime) -> list[Any]:
    """The axes in the order users know, then those that are new.

    Args:
        make: the host's `AxisOption`.
        runtime: lists the models.
    """

    def axis(label: Axis, *fields: str, kind: Callable[[str], Any], **more: Any) -> Any:
        title = label.title
        return make(
            *(PREFIX + title, per_unit(kind, title), apply(title, *fields)),
            format_value=legend(title, fields[0], runtime),
            confirm=make_check(title, fields, runtime),
            **more,
        )

    def of_field(field: Field, label: Axis) -> Any:
        offered = listed.get(field.name) or ((lambda: field.choices) if field.choices else None)
        cost = 0.9 if field.name == "model" else 0.0
        more: dict[str, Any] = {"prepare": split, "choices": offered, "cost": cost}
        if isinstance(field.default, bool):
            return axis(label, field.name, kind=_boolean, **more)
        if isinstance(field.default, (int, float)):
            return axis(label, field.name, kind=_number_of, prepare=split_numbers)
        kind = _curve if field.parse is parse_weight_curve else str
        return axis(label, field.name, kind=kind, **more)

    listed: dict[str, Callable[[], list[str]]] = {
        "model": lambda: [NO_MODEL, *runtime.catalog.names()],
        "module": lambda: listing.labels_for(listing.ALL),
    }
    made = {field.axis: of_field(field, field.axis) for field in FIELDS.values() if field.axis}
    made[WINDOW_AXIS] = axis(WINDOW_AXIS, *WINDOW, kind=_window, prepare=split)
    return [made[label] for label in sorted(made)]


def apply(title: str, *fields: str) -> Callable[[Any, Any, Any], None]:
    """What a cell does with its value: one field takes it whole, several share its parts."""

    def change(p: Any, value: Any, _values: Any) -> None:
        _check_acts(p, title, fields)
        cell = cell_values(p)
        for position, field in enumerate(fields):
            part = value if len(fields) == 1 else _part(value, position)
            cell[field] = _join(cell.get(field), part, title)
        setattr(p, ATTRIBUTE, cell)

    return change


def _part(value: Any, position: int) -> Any:
    if isinstance(value, list):
        return [_part(item, position) for item in value]
    return None if value is None else value[position]


def _join(present: Any, value: Any, title: str) -> Any:
    """A field's value where another axis of the grid may have set it for other units.

    Raises:
        GridError: both set it for the same unit, so that one of the legends would be wrong.
    """
    if present is None or value is None:
        return value if present is None else present
    if isinstance(present, list) and isinstance(value, list):
        count = max(len(present), len(value))
        pairs = zip(*(v + [None] * (count - len(v)) for v in (present, value)), strict=True)
        return [_join(one, other, title) for one, other in pairs]
    msg = (
        f"{title}: two axes of the grid set the same value of one unit; use one of them, or lists "
        "such as [0.5, None] and [None, 0.8] for different units"
    )
    raise GridError(msg)


def _check_acts(p: Any, title: str, fields: tuple[str, ...]) -> None:
    """Refuse a grid that varies a unit which does nothing.

    Raises:
        GridError: no unit is enabled, and no axis enables one.
    """
    plots = (getattr(shared.state, f"xyz_plot_{name}", None) for name in "xyz")
    labels = [getattr(getattr(plot, "axis", None), "label", "") for plot in plots]
    if "enabled" in fields or f"{PREFIX}Enabled" in labels:
        return
    if not any(_is_enabled(unit) for unit in _arguments(p)):
        msg = f"{title}: no unit is enabled, so the grid would vary nothing; enable one"
        raise GridError(msg)


def _arguments(p: Any) -> list[Any]:
    """The script's arguments, one for each unit; none where `p` was never given any."""
    runner, args = getattr(p, "scripts", None), getattr(p, "script_args", None)
    for script in getattr(runner, "alwayson_scripts", None) or []:
        if hasattr(script, "controlnet_runtime") and isinstance(args, (list, tuple)):
            return unit_object.flatten(args[script.args_from : script.args_to])
    return []


def _is_enabled(unit: Any) -> bool:
    if unit is None:
        return False
    try:
        return parse_unit(unit).enabled
    except ControlNetError:
        return True  # the generation says what is wrong with it


def legend(title: str, field: str, runtime: Runtime) -> Callable[[Any, Any, Any], str]:
    """What stands at a row or column of the grid: the value that its cells really get."""

    def show_value(value: Any) -> str:
        if value is None:
            return UNCHANGED
        if isinstance(value, list):
            return f"[{', '.join(map(show_value, value))}]"
        if isinstance(value, tuple):
            return "-".join(map(str, value))
        if field == "model":
            return listing.find_offered(runtime.catalog, str(value)) or str(value)
        if field == "module":
            return preprocess.get(value).title
        given = getattr(parse_unit({field: value}), field)
        return str(value if given == value else getattr(given, "value", given))

    def format_value(p: Any, _option: Any, value: Any) -> str:
        text = show_value(value)
        several = sum(map(_is_enabled, _arguments(p))) > 1
        is_one = value is not None and not isinstance(value, list)
        first_only = field in FIRST_UNIT_ONLY and several and is_one
        return f"{PREFIX}{title}: {text}{' (unit 0)' if first_only else ''}"

    return format_value


def split(text: str) -> list[str]:
    """Values separated by commas; a bracket list `[a, b]` is one value, for unit 0, 1, ...

    Brackets may stand inside values, `name [hash]`, and those inside lists.
    """
    _check_length(text)
    plain = ",".join(text.replace("\0", " ").splitlines())
    kept: list[str] = []
    pieces: list[str] = []
    after = 0
    for start, end in _find_brackets(plain):
        pieces += [plain[after:start], f"\0{len(kept)}\0"]
        kept.append(plain[start:end])
        after = end
    rows = csv.reader(["".join([*pieces, plain[after:]])], skipinitialspace=True)
    cells = [cell.strip() for row in rows for cell in row]
    return [_KEPT.sub(lambda found: kept[int(found[1])], cell) for cell in cells]


def _find_brackets(text: str) -> list[tuple[int, int]]:
    """Start and end of what is in outermost brackets; those without a partner are text."""
    opened: list[int] = []
    found: list[tuple[int, int]] = []
    for place, character in enumerate(text):
        if character == "[":
            opened.append(place)
        elif character == "]" and opened:
            start = opened.pop()
            while found and found[-1][0] > start:
                found.pop()
            found.append((start, place + 1))
    return found


def split_numbers(text: str) -> list[str]:
    """Like `split`; `1-5`, `1-5 (+2)` and `0-1 [5]` stand for the numbers of a range."""
    _check_length(text)
    # "[5]" behind a range is a count, not a list of values for units.
    ranges = _COUNTED.sub(lambda found: ", ".join(_count(found)), text)
    numbers = (number for cell in split(ranges) for number in _expand(cell))
    found = list(itertools.islice(numbers, MAX_VALUES + 1))
    _check_values(text, len(found))
    return found


def _check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        msg = (
            f"the values {quote(text)} have {len(text)} characters; at most "
            f"{MAX_CHARACTERS} are read"
        )
        raise GridError(msg)


def _check_values(text: str, count: float) -> None:
    if count > MAX_VALUES:
        msg = f"{quote(text)} stands for more than {MAX_VALUES} numbers"
        raise GridError(msg)


def _expand(cell: str) -> list[str]:
    found = _RANGE.fullmatch(cell.strip())
    if found is None:
        return [cell]
    start, end = float(found[1]), float(found[2])
    step = float(found[3]) if found[3] else (1.0 if end >= start else -1.0)
    if step == 0.0 or (end - start) * step < 0:
        msg = f"the range {cell!r} never reaches its end"
        raise GridError(msg)
    _check_values(cell, (end - start) / step)
    count = int((end - start) / step + 1e-9) + 1
    return [str(round(start + i * step, 8)) for i in range(count)]


def _count(found: re.Match[str]) -> list[str]:
    start, end, count = float(found[1]), float(found[2]), int(found[3])
    _check_values(found[0], count)
    width = (end - start) / max(count - 1, 1)
    return [str(round(start + i * width, 8)) for i in range(count)]


def per_unit(kind: Callable[[str], Any], title: str = "the axis") -> Callable[[Any], Any]:
    """Reads one value, or a bracket list of values; blank and None leave a unit as it is."""

    def read(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [one(str(item)) for item in value]
        word = str(value).strip()
        if _find_brackets(word) == [(0, len(word))]:
            return [one(item) for item in split(word[1:-1])]
        return one(word)

    def one(text: str) -> Any:
        word = text.strip()
        try:
            return None if word in ("", "None") else kind(word)
        except GridError:
            raise
        except ValueError as error:
            msg = f"{title}: {quote(word)} is no value of this axis"
            raise GridError(msg) from error

    return read


def make_check(
    title: str, fields: tuple[str, ...], runtime: Runtime
) -> Callable[[Any, list[Any]], None]:
    """Refuses a grid with an impossible value before its first cell."""

    def confirm(p: Any, values: list[Any]) -> None:
        if not values:
            msg = f"{title}: the axis has no values; type some, or choose Nothing"
            raise GridError(msg)
        slots = len(_arguments(p))
        longest = max((len(value) for value in values if isinstance(value, list)), default=0)
        if slots and longest > slots:
            msg = f"{title}: a list gives values for {longest} units, and there are {slots}"
            raise GridError(msg)
        try:
            for value in _flat(values):
                parts = value if isinstance(value, tuple) else (value,)
                parse_unit(dict(zip(fields, parts, strict=True)))
                if fields == ("model",):
                    runtime.find_model(value)
                if fields == ("module",):
                    preprocess.get(value)
        except ControlNetError as error:
            msg = f"{title}: {str(error).removeprefix('unit 0: ')}"
            raise GridError(msg) from error

    return confirm


def _flat(values: list[Any]) -> list[Any]:
    nested = [_flat(value) if isinstance(value, list) else [value] for value in values]
    return [value for inner in nested for value in inner if value is not None]


def _number_of(word: str) -> float:
    value = number(word)
    return int(value) if value.is_integer() else value


def _boolean(word: str) -> bool:
    found = truth(word)
    if found is None:
        msg = f"{quote(word)} is neither True nor False"
        raise GridError(msg)
    return found


def _curve(word: str) -> str:
    """A curve; what the commas of one without quotes have left of it is refused."""
    for side in word.split("|"):
        _factor, at, place = side.partition("@")
        if at and "," not in side and place.strip() not in ("0", "0.0"):
            msg = (
                f"Weight Curve: {quote(word)} is one point of a curve; put each curve in quotes, "
                'such as "1@0, 0@1", "0@0, 1@1", and write one that stays as 0.5@0'
            )
            raise GridError(msg)
    return word


def _window(word: str) -> tuple[float, float]:
    found = _RANGE.fullmatch(word.strip())
    if found is None:
        msg = f"{word!r} is no window; write start-end, such as 0-0.5"
        raise GridError(msg)
    return float(found[1]), float(found[2])
