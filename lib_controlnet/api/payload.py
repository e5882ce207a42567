"""A look at the units of a generation request before the host takes them.

The host copies as many units as it has slots and drops the others without a word, as it does with
units at other places, fails with a server error on arguments that are no list, and fails after the
generation on values that it cannot write into its answer, which repeats the request.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from fastapi.routing import APIRoute

from lib_controlnet.api import strays
from lib_controlnet.errors import ControlNetError, UnitError
from lib_controlnet.settings import BY_KEY
from lib_controlnet.units.unit import parse_unit

log = logging.getLogger(__name__)

ROUTES: Final = {"/sdapi/v1/txt2img": False, "/sdapi/v1/img2img": True}
"""The host's routes that take units, and whether they are img2img's."""
OPTIONS: Final = "/sdapi/v1/options"
"""The host's route that changes settings."""
MAX_DEPTH: Final = 32
LEAST, MOST = -(2**63), 2**64 - 1
"""Whole numbers that the host's JSON writer knows."""
UNNAMED: Final = "an argument"

Check = Callable[[object], None]


class RefusedRequest(HTTPException):
    """The answer to a request that is refused; the host repeats its text under `errors`."""

    def __str__(self) -> str:
        return str(self.detail)


def watch(app: FastAPI, checks: Mapping[str, Check]) -> None:
    """Have routes of the host run a check on their parsed body first.

    Args:
        app: an application whose routes are complete.
        checks: by path; each gets the body and may raise a `ControlNetError`.
    """
    for route in app.routes:
        if not isinstance(route, APIRoute) or "POST" not in route.methods:
            continue
        if route.path in checks:
            watcher = Depends(_watcher(checks[route.path]))
            # After the host's own, so that a caller without a password learns nothing.
            route.dependant.dependencies.append(
                get_parameterless_sub_dependant(depends=watcher, path=route.path_format)
            )


def _watcher(check: Check) -> Callable[..., Any]:
    async def watch_body(request: Request) -> None:
        try:
            body = await request.json()  # parsed already; starlette keeps it
        except (ValueError, RecursionError):
            return  # the host says so itself
        try:
            check(body)
        except ControlNetError as error:
            log.warning("refused: %s", error.detail)
            raise RefusedRequest(error.status_code, error.detail) from error

    return watch_body


def read_settings(body: object, *path: str) -> Mapping[str, object]:
    """The settings that a body changes; empty where it is of another form, which the host says."""
    for name in path:
        body = body.get(name) if isinstance(body, Mapping) else None
    return body if isinstance(body, Mapping) else {}


def check_units(body: object, slots: int, drops_surplus: bool = False) -> None:
    """Refuse what the host would drop silently or fail on, and what no unit can mean.

    Args:
        body: the request. A unit that is switched off and cannot be written into the answer is
            replaced by an empty one, in place, before the host takes the request.
        slots: units that the host takes.
        drops_surplus: further units are the host's to drop, not an error.

    Raises:
        ControlNetError: a sentence about the units.
    """
    if not isinstance(body, Mapping):
        return
    units = _units(body.get(strays.SCRIPTS))
    _check_count(units, slots, drops_surplus)
    for index, unit in enumerate(units):
        try:
            _check_values(unit, f"unit {index}")
        except UnitError:
            if strays.is_asked(unit):
                raise
            units[index] = {"enabled": False}
        if strays.is_asked(unit):
            parse_unit(unit, index)  # at once, not when the queue has come to it
    strays.refuse(body, units)


def _units(scripts: object) -> list[Any]:
    """The list of units at its place in a request; an empty one where there is none.

    Raises:
        ControlNetError: what lies there is no list.
    """
    if isinstance(scripts, list) and scripts:  # pairs, which older hosts take for an object
        msg = f"{strays.SCRIPTS} is a list; expected an object"
        raise ControlNetError(msg)
    if not isinstance(scripts, Mapping):
        return []
    found: list[Any] = []
    for key, given in scripts.items():
        if str(key).lower() != strays.SCRIPT:
            continue
        where = f"{strays.SCRIPTS}.{strays.SCRIPT}"
        if not isinstance(given, Mapping):
            msg = f'{where} is {_kind(given)}; expected an object with a list "args"'
            raise ControlNetError(msg)
        _check_values({name: value for name, value in given.items() if name != strays.ARGS}, where)
        units = given.get(strays.ARGS, [])
        if not isinstance(units, list):
            msg = f"{where}.args is {_kind(units)}; expected a list of units"
            raise ControlNetError(msg)
        if found and units:
            msg = f"{where} is given twice, in different letters; send one list of units"
            raise ControlNetError(msg)
        found = units or found
    return found


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def _check_count(units: list[Any], slots: int, drops_surplus: bool) -> None:
    surplus = [
        index for index, unit in enumerate(units) if index >= slots and strays.is_asked(unit)
    ]
    if surplus and not drops_surplus:
        msg = (
            f"unit {surplus[0]}: {len(units)} units are sent, but there are {slots} slots; raise "
            f'"{BY_KEY["control_net_unit_count"].label}" under Settings > ControlNet and reload '
            "the UI, or send fewer"
        )
        raise UnitError(msg)


def _check_values(root: object, where: str) -> None:
    """Every value must survive being written into the answer.

    Raises:
        UnitError: one would not.
    """
    waiting: list[tuple[object, str, int]] = [(root, "", 0)]
    while waiting:
        value, field, depth = waiting.pop()
        if depth > MAX_DEPTH:
            msg = f"{where}: {field or UNNAMED} is nested more than {MAX_DEPTH} levels deep"
            raise UnitError(msg)
        if isinstance(value, Mapping):
            for key, item in value.items():
                name = field or key[:100]
                waiting += [(key, name, depth), (item, name, depth + 1)]
        elif isinstance(value, list):
            waiting += [(item, field, depth + 1) for item in value]
        elif (fault := _fault(value)) is not None:
            msg = f"{where}: {field or UNNAMED} {fault}"
            raise UnitError(msg)


def _fault(value: object) -> str | None:
    """Why a number or text cannot be written as JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, must be a finite number"
    if isinstance(value, int) and not LEAST <= value <= MOST:
        return "is a whole number beyond 64 bits"
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "holds half a surrogate pair, which is no character"
    return None
