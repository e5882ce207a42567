"""Units of a generation request that lie where the host does not look for them.

The host reads units at one place, `alwayson_scripts.controlnet.args`, and passes over every key
that it does not know: a picture without control would be the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lib_controlnet.enums import truth
from lib_controlnet.errors import UnitError
from lib_controlnet.units.fields import Written
from lib_controlnet.units.unit import FIELDS, MAX_KEY, canonical, letters, present_names

SCRIPTS: Final = "alwayson_scripts"
SCRIPT: Final = "controlnet"
ARGS: Final = "args"
MAX_NODES: Final = 20_000
"""Objects and lists of a request that are looked at; a picture counts nothing."""
_NAMES: Final = ("module", "model")
_PICTURES: Final = ("image", "mask")
_TELLING: Final = ("image", "mask", "effective_region_mask", "low_vram", "hr_option")
"""Fields by which a unit is known, whatever it lies under, as by those always written."""
_PLACE: Final = f'units as "{SCRIPTS}": {{"{SCRIPT}": {{"{ARGS}": [{{...}}, ...]}}}}'
_NAMED: Final = re.compile(r"\bControlNet \d{1,3}: ")
Found = Iterator[tuple[str, Mapping[str, Any]]]


def is_asked(unit: object) -> bool:
    """Whether leaving a unit out would change the picture."""
    if not isinstance(unit, Mapping):
        return unit is not None
    return truth(unit.get("enabled", True)) is not False


def refuse(body: Mapping[str, Any], units: list[Any]) -> None:
    """Refuse a request whose units would be passed over.

    A client may repeat its units under an older key for older servers; that is no harm.

    Args:
        body: the request.
        units: those at the right place.

    Raises:
        UnitError: there is a unit elsewhere that is switched on.
    """
    if not units and _NAMED.search(str(body.get("infotext") or "")):
        msg = (
            "infotext names ControlNet units, but holds no picture of theirs, so they would not "
            f"act; send {_PLACE}, or there one unit that is switched off for a picture without"
        )
        raise UnitError(msg)
    for where, unit in _search(body, units):
        if _asks(unit) and not any(unit == known for known in units):
            msg = f"{where} holds a ControlNet unit, which is not looked for there; send {_PLACE}"
            raise UnitError(msg)


def _asks(unit: Mapping[str, Any]) -> bool:
    """Whether a misplaced unit is switched on and names anything."""
    fields = present_names(unit, is_strict=False)[0]
    if not is_asked({"enabled": fields.get("enabled", True)}):
        return False
    named = (str(fields.get(name) or "none").strip().lower() != "none" for name in _NAMES)
    return any(named) or any(fields.get(name) for name in _PICTURES)


def _search(body: Mapping[str, Any], units: list[Any]) -> Found:
    walk = _Walk()
    flat: dict[str, Any] = {}
    # What bears our name comes first: the rest of the request cannot use up the look at it.
    for key, value in sorted(body.items(), key=lambda item: not _is_named_ours(item[0])):
        name = letters(key)
        if key == SCRIPTS and isinstance(value, Mapping):
            for script, given in value.items():
                if str(script).lower() == SCRIPT and isinstance(given, Mapping):
                    rest = {name: item for name, item in given.items() if name != ARGS}
                    yield from walk.below(rest, f"{SCRIPTS}.{script}", is_ours=True)
        elif key == "script_args" and body.get("script_name"):
            continue  # that script's own business
        elif name.startswith(SCRIPT) and canonical(name.removeprefix(SCRIPT)) is not None:
            flat[name.removeprefix(SCRIPT)] = value
        else:
            yield from walk.below(value, str(key)[:MAX_KEY], is_ours=name.startswith(SCRIPT))
    if flat:
        yield "a key such as controlnet_module", flat
    for index, unit in enumerate(units):
        for key, value in unit.items() if isinstance(unit, Mapping) else ():
            if canonical(key) is None:
                where = f"{SCRIPTS}.{SCRIPT}.{ARGS}[{index}].{str(key)[:MAX_KEY]}"
                yield from walk.below(value, where, is_ours=False)


class _Walk:
    """Looks through the objects and lists of one request, up to `MAX_NODES` of them in all."""

    def __init__(self) -> None:
        self.left = MAX_NODES

    def below(self, root: object, where: str, is_ours: bool) -> Found:
        """Units in a value.

        Args:
            root: the value.
            where: how messages call it.
            is_ours: it lies under a name of ours, so that less makes a unit.
        """
        waiting = [root]
        while waiting and self.left > 0:
            value = waiting.pop()
            if isinstance(value, Mapping):
                self.left -= 1
                if _is_unit(value, is_ours):
                    yield where, value
                else:
                    waiting += _containers(value.values())
            elif isinstance(value, list):
                self.left -= 1
                waiting += _containers(value)
            elif is_ours and value is root and isinstance(value, str) and value.strip():
                yield where, {"module": value}  # units as a text of JSON, or a model's name


def _containers(values: Any) -> list[Any]:
    return [value for value in values if isinstance(value, (Mapping, list))]


def _is_unit(value: Mapping[str, Any], is_ours: bool) -> bool:
    telling = {field.name for field in FIELDS.values() if field.written is Written.ALWAYS}
    known = present_names(value, is_strict=False)[0].keys() & {*telling, *_TELLING}
    return bool(known & {*_NAMES, *_PICTURES}) and len(known) >= (1 if is_ours else 2)


def _is_named_ours(key: object) -> bool:
    return key == SCRIPTS or letters(key).startswith(SCRIPT)
