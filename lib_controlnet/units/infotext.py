"""Generation parameters: write a unit as one `ControlNet {i}` value, and read such values back.

The order of the fields and their text are data in users' pictures: they never change. A value
that holds a comma or a colon is written as a JSON string, so that it survives the round trip.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from lib_controlnet.enums import Choice
from lib_controlnet.units.field_values import number, whole
from lib_controlnet.units.fields import Field, Written
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.units.weight_curve import parse_weight_curve
from lib_controlnet.units.weight_types import parse_curve

log = logging.getLogger(__name__)

KEY: Final = "ControlNet"
NOTES: Final = "ControlNet notes"
"""Key of what the user should know of a generation, one sentence a line."""
REPORT: Final = "ControlNet report"
"""Key of what ran, unit by unit, in the answer; never in a text."""
STYLE_ALIGN: Final = "ControlNet StyleAlign"
"""Key that is there where the pictures of the batch shared their style."""
COMPANY: Final = "Evaluated With"
TALLY: Final = "Evaluated"
STORED: Final = "Stored"
IF_SET: Final = (Written.IF_SET, Written.LAST_IF_SET)

_OWN_KEY: Final = re.compile(rf"{KEY}[ -]?([0-9]{{0,2}})")
_LEGACY_KEY: Final = re.compile(r"ControlNet-([0-9]{1,2}) (.+)")
MAX_CHARACTERS: Final = 20_000
"""Of one unit's text; the longest that is written has some hundreds."""
_MAX_RANGE: Final = 64
"""Characters of a value in round brackets."""
_LEGACY_NAMES: Final[dict[str, str]] = {
    "preprocessor": "module",
    "guidance_strength": "guidance_end",
    "preprocessor_resolution": "processor_res",
}


def fields(*kinds: Written) -> list[Field]:
    """The fields of some kinds in the order in which they are written."""
    return sorted((f for f in FIELDS.values() if f.written in kinds), key=lambda f: f.written)


def serialize(unit: Any, defaults: Mapping[str, float] | None = None) -> str:
    """One unit as text, for example `Module: canny, Model: control_canny [d14c016b], ...`.

    Args:
        unit: anything with the attributes of a unit; those written if they are set may be missing.
        defaults: what the preprocessor really uses for `processor_res`, `threshold_a` and
            `threshold_b`. Where that is not the unit's number (-1, or out of range) it is
            written in its own type; a number the user chose is written as a float.
    """
    defaults = defaults or {}
    parts = []
    for field in fields(Written.ALWAYS):
        value = getattr(unit, field.name)
        if field.name in defaults and defaults[field.name] != value:
            text = str(defaults[field.name])
        else:
            text = _text(field, value)
        parts.append(f"{title(field.name)}: {_quote(text)}")
    for field in fields(*IF_SET):
        value = getattr(unit, field.name, field.default)
        if value != field.default:
            parts.append(f"{title(field.name)}: {_quote(_text(field, value))}")
    return ", ".join(parts)


def describe_company(others: Sequence[int]) -> str:
    """What follows a unit that was computed in one evaluation with others; nothing reads it back.

    Args:
        others: the numbers of their parameters.
    """
    return f", {COMPANY}: {' '.join(map(str, others))}" if others else ""


def describe_tallies(tallies: Sequence[tuple[int, int]]) -> str:
    """What follows a unit that reused residuals; nothing reads it back.

    Args:
        tallies: for each pass the evaluations of its network, and those of the sampler.
    """
    passes = " and ".join(f"{made} of {total}" for made, total in tallies)
    return f", {TALLY}: {passes}" if passes else ""


def describe_storage(stored: str) -> str:
    """What follows a unit whose network is not stored exactly; nothing reads it back."""
    return f", {STORED}: {stored}" if stored else ""


def is_own_key(key: str) -> bool:
    """Whether a generation parameter is ours: a unit, such as `ControlNet 0`, or beside them."""
    return key in (NOTES, REPORT, STYLE_ALIGN) or re.fullmatch(rf"{KEY} \d+", key) is not None


def title(name: str) -> str:
    """`guidance_start` as it is written: `Guidance Start`."""
    return " ".join(word.capitalize() for word in name.split("_"))


def _text(field: Field, value: Any) -> str:
    if isinstance(value, Choice):
        return str(value.value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(int(value) if field.parse is whole else float(value))
    if isinstance(value, (list, tuple)):
        return " ".join(str(float(item)) for item in value)
    return str(value)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]', text) else text


def parse(text: str, unread: dict[str, str] | None = None) -> dict[str, Any]:
    """Fields of one written unit, by field name; unknown keys are left out.

    Values of Forge and of earlier versions are understood. Those that cannot be read are left
    out; nothing else makes a unit fail.

    Args:
        text: anybody's.
        unread: gets by its title what is wrong with each value that cannot be read, the rest of
            a sentence; without it that is logged.

    Raises:
        ValueError: no field can be read from the text.
    """
    if len(text) > MAX_CHARACTERS:
        msg = f"{text[:60]!r}... has {len(text)} characters; at most {MAX_CHARACTERS} are read"
        raise ValueError(msg)
    found, faults = dict[str, Any](), {} if unread is None else unread
    for key, raw in _parts(text):
        name = _field_name(key)
        value = _unquote(raw)
        if name == "starting/ending":
            found.update(_window(value))
        elif name in FIELDS and FIELDS[name].written is not Written.NEVER:
            try:
                parsed = _value(FIELDS[name], value)
            except ValueError as error:
                faults[title(name)] = str(error)
                continue
            if parsed is not None:
                found[name] = parsed
    if unread is None:
        for name, fault in faults.items():
            log.warning("ControlNet parameters: %s %s; that is left out", name, fault)
    if not found:
        names = ", ".join(title(field.name) for field in fields(Written.ALWAYS))
        msg = f"{text[:60]!r} holds none of the fields {names}"
        raise ValueError(msg)
    return found


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values of `key: value, key: "quoted", key: (in, brackets)`, in one pass.

    A scanner, since what is pasted is anybody's text: no pattern looks at a character twice.
    """
    place = 0
    while (colon := text.find(":", place)) >= 0:
        start = max(place, *(text.rfind(mark, place, colon) + 1 for mark in ',"'))
        if start == colon:  # no key
            place = colon + 1
            continue
        value, end = _value_at(text, colon + 1)
        yield text[start:colon].strip(), value
        place = end + 1


def _value_at(text: str, place: int) -> tuple[str, int]:
    """The value that begins there, and where it ends: at a comma, or behind the text."""
    start = _behind_spaces(text, place)
    if text.startswith('"', start):
        stop = _behind_quotes(text, start)
    elif text.startswith("(", start):
        stop = text.find(")", start, start + _MAX_RANGE) + 1
    else:
        stop = 0
    end = _behind_spaces(text, stop) if stop else len(text)
    if stop and (end == len(text) or text[end] == ","):
        return text[start:stop], end
    end = text.find(",", start)
    end = end if end >= 0 else len(text)
    return text[start:end].rstrip(), end


def _behind_spaces(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _behind_quotes(text: str, start: int) -> int:
    """Where quoted text ends, behind the closing mark; 0 if it does not."""
    place = start + 1
    while place < len(text):
        if text[place] == '"':
            return place + 1
        place += 2 if text[place] == "\\" else 1
    return 0


def _field_name(key: str) -> str:
    name = key.strip().lower().replace(" ", "_")
    return _LEGACY_NAMES.get(name, name)


def _window(value: str) -> dict[str, float]:
    """`starting/ending: (0, 1)` as the versions of early 2023 wrote it."""
    start, comma, end = value.strip(" ()").partition(",")
    try:
        return {"guidance_start": number(start), "guidance_end": number(end)} if comma else {}
    except ValueError:
        return {}


def _value(field: Field, text: str) -> Any:
    """One value in its field's type; None for one that says nothing.

    Raises:
        ValueError: it has no meaning; the rest of a sentence.
    """
    default = field.default
    if isinstance(default, bool):
        return text.strip().lower() == "true"
    if isinstance(default, str) and field.kind is None:
        return default if text.strip().lower() in ("none", "") else text
    if field.kind is not None:
        return field.kind.parse(text)
    if field.parse is parse_weight_curve:
        return parse_weight_curve(text)
    if default is None:
        return parse_curve(text) or tuple(map(number, text.split())) or None
    found = number(text)
    return int(found) if found.is_integer() and isinstance(default, int) else found


def parse_all(
    params: Mapping[str, Any], unread: dict[int, dict[str, str]] | None = None
) -> dict[int, dict[str, Any]]:
    """Units in a picture's parameters by number, in today's and in the old flat notation.

    Args:
        params: the host's parsed generation parameters.
        unread: gets by number what cannot be read, see `parse`.
    """

    def read(index: int, text: str) -> dict[str, Any]:
        return parse(text, None if unread is None else unread.setdefault(index, {}))

    units: dict[int, dict[str, Any]] = {}
    legacy: dict[int, list[str]] = {}
    for key, value in params.items():
        if not isinstance(value, str):
            continue
        if (flat := _LEGACY_KEY.fullmatch(key)) is not None:
            legacy.setdefault(int(flat[1]), []).append(f"{flat[2]}: {_quote(value)}")
            continue
        own = _OWN_KEY.fullmatch(key)
        if own is None:
            continue
        index = int(own[1] or 0)
        try:
            units[index] = read(index, value)
        except ValueError as error:
            log.warning("Failed to parse infotext %s: %s", key, error)
    for index, parts in legacy.items():
        try:
            units.setdefault(index, read(index, ", ".join(parts)))
        except ValueError as error:
            log.warning("Failed to parse infotext of unit %d: %s", index, error)
    return units


def parse_text(
    text: str, unread: dict[int, dict[str, str]] | None = None
) -> dict[int, dict[str, Any]]:
    """Units by number in a whole text of generation parameters; the last line holds them.

    Args:
        text: anybody's.
        unread: see `parse_all`.
    """
    line = text.strip().rpartition("\n")[2]
    return parse_all({key: _unquote(raw) for key, raw in _parts(line)}, unread)


def _unquote(raw: str) -> str:
    try:
        return str(json.loads(raw)) if raw.startswith('"') else raw
    except ValueError:
        return raw
