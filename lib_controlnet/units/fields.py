"""What is known of each field of a unit, in one row: all that reads or writes units asks for it.

The rows stand with the attributes of `unit.ControlUnit`; `unit.FIELDS` has them by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

from lib_controlnet.enums import Choice
from lib_controlnet.units import field_values as values
from lib_controlnet.units.field_values import Parser, Within

T = TypeVar("T")
_ROW: Final = "row"


class Written(IntEnum):
    """Whether generation parameters hold a field, in the order in which they do."""

    ALWAYS = 0
    IF_SET = 1
    """Only where it differs from its default; older readers skip it."""
    LAST_IF_SET = 2
    NEVER = 3
    ONLY_READ = 4
    """Other programs write it."""


class Axis(NamedTuple):
    """Of the X/Y/Z grid: its place among ours, by which requests name it, and its title."""

    place: int
    title: str


@dataclass(frozen=True)
class Field:
    """One field of a unit; order, names and defaults are the contract of the interfaces.

    Attributes:
        written: whether it is part of the generation parameters.
        axis: of the X/Y/Z grid.
        attributes: of the host's processing object, by which scripts set it; the last one wins.
        aliases: older keys of requests, with what makes a value of theirs where it differs.
        view: what it is called on `control_params`, which other extensions read.
        parse: makes a value of what a client sent.
        is_asked: it says what is wanted; else where the unit comes from.
    """

    name: str
    default: Any
    written: Written
    axis: Axis | None
    attributes: tuple[str, ...]
    aliases: Mapping[str, Parser | None]
    view: str
    parse: Parser
    is_asked: bool = True

    @property
    def kind(self) -> type[Choice] | None:
        """The class of a choice."""
        return type(self.default) if isinstance(self.default, Choice) else None

    @property
    def choices(self) -> list[str]:
        """What users choose from, as they see it; nothing where they type."""
        if isinstance(self.default, bool):
            return ["False", "True"]
        return [] if self.kind is None else [str(member) for member in self.kind]

    @property
    def limits(self) -> tuple[float, float] | None:
        """The ends of a number's range, if it has any whatever the preprocessor."""
        return (self.parse.least, self.parse.most) if isinstance(self.parse, Within) else None

    @property
    def initial(self) -> Any:
        """The default as its widget holds it."""
        return str(self.default) if isinstance(self.default, Choice) else self.default


def row(
    default: T,
    written: Written = Written.NEVER,
    axis: Axis | None = None,
    attributes: tuple[str, ...] = (),
    aliases: Mapping[str, Parser | None] = MappingProxyType({}),
    view: str = "",
    parse: Parser | None = None,
    is_asked: bool = True,
) -> T:
    """A field of the dataclass in whose body it stands; see `Field`.

    Without `parse`, a default that is a choice, a name, or true or false tells how values are read.
    """
    facts = (written, axis, attributes, aliases, view, parse or _parser_by(default), is_asked)
    return dataclasses.field(default=default, metadata={_ROW: facts})


def _parser_by(default: object) -> Parser:
    if isinstance(default, Choice):
        return values.choice(type(default))
    return values.name_or(default) if isinstance(default, str) else values.boolean


def rows(unit: type) -> dict[str, Field]:
    """The fields of a dataclass that have a row, in order."""
    return {
        field.name: Field(field.name, field.default, *field.metadata[_ROW])
        for field in dataclasses.fields(unit)
        if _ROW in field.metadata
    }
