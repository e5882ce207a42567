"""The unit as other programs build, copy and change it; `unit.py` holds what is made of it.

A plain class: no data model library of the host is involved, so the host may use any version.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lib_controlnet.detect import preprocess
from lib_controlnet.enums import Choice
from lib_controlnet.pictures.decode import decode_image, to_rgb
from lib_controlnet.pictures.maps import join_mask
from lib_controlnet.prepare.inputs import PictureSource, read_mask, split_picture
from lib_controlnet.units import infotext
from lib_controlnet.units.fields import Written
from lib_controlnet.units.unit import FIELDS, aliases, canonical, parse_unit, present_names
from lib_controlnet.units.weight_curve import WeightCurve
from lib_controlnet.units.weight_types import LayerCurve

log = logging.getLogger(__name__)

_SEVERAL_PICTURES: Final = "IP-Adapter"
_INPAINT: Final = "Inpaint"
_NOTICES: Final = 512


class ControlNetUnit:
    """One unit; `vars(unit)` holds exactly the public fields in their published order.

    Construction is by keyword and forgiving: unknown keys are passed over, older names of a field
    count when the field itself is not given, every spelling of a choice becomes its enum member.
    What is out of date or unknown is logged once. A value that makes no sense is kept as it is,
    and reported with the unit's number when a generation starts.
    """

    if TYPE_CHECKING:  # the table of fields says what there is

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, **fields: Any) -> None:
        given = _rename(fields)
        for name, field in FIELDS.items():
            setattr(self, name, _as_choice(name, given.get(name, _publish(field.default))))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ControlNetUnit):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in FIELDS)

    __hash__ = None  # type: ignore[assignment]  # a mutable value

    def __repr__(self) -> str:
        shown = {
            name: _brief(value)
            for name, value in vars(self).items()
            if name not in FIELDS or not _same(value, _publish(FIELDS[name].default))
        }
        return f"ControlNetUnit({', '.join(f'{name}={text}' for name, text in shown.items())})"

    @property
    def __pydantic_serializer__(self) -> Any:
        """What pydantic 2 asks where a host's model may hold anything, such as its script list."""
        return _make_serializer()

    def get(self, name: str, default: Any = None) -> Any:
        """A field as a dict gives it: AnimateDiff takes all slots of a request for dicts."""
        return getattr(self, name, default)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ControlNetUnit:
        """Make a unit of a request's dict, checking every value.

        Raises:
            UnitError: a field holds an impossible value.
        """
        report(values)
        unit = parse_unit(values)
        if unit.fault:  # it is switched off: whoever switches it on is told
            return cls(**{**values, "enabled": False})
        return cls(**{name: _publish(getattr(unit, name)) for name in FIELDS})

    @staticmethod
    def infotext_fields() -> tuple[str, ...]:
        """Names of the fields that go into generation parameters, in order."""
        return tuple(field.name for field in infotext.fields(Written.ALWAYS))

    def serialize(self) -> str:
        """The unit as the value of one `ControlNet {i}` generation parameter."""
        return infotext.serialize(self)

    @classmethod
    def parse(cls, text: str) -> ControlNetUnit:
        """Make an enabled unit of a `ControlNet {i}` generation parameter.

        Raises:
            ValueError: the text is no such parameter.
        """
        return cls(enabled=True, **infotext.parse(text))

    @property
    def is_inpaint(self) -> bool:
        """Whether the preprocessor works on the part that is to be painted anew."""
        return _INPAINT in self._tags()

    @property
    def is_ipadapter(self) -> bool:
        """Whether the preprocessor belongs to the control type IP-Adapter."""
        return _SEVERAL_PICTURES in self._tags() or "ip-adapter" in str(self.module)

    @property
    def accepts_multiple_inputs(self) -> bool:
        """Whether several pictures may be given."""
        return self.is_ipadapter

    @property
    def uses_clip(self) -> bool:
        """Whether the preprocessor is an image encoder of CLIP."""
        module = str(self.module).lower()
        by_name = module == "clip_vision" or module.startswith("revision_")
        return by_name or ("ip-adapter" in module and "face_id" not in module)

    @property
    def is_animate_diff_batch(self) -> bool:
        """Whether the unit's pictures are the frames of an animation."""
        return bool(getattr(self, "animatediff_batch", False))

    def _tags(self) -> tuple[str, ...]:
        found = preprocess.find(self.module)
        return () if found is None else tuple(found.tags)

    def get_input_images_rgba(self) -> list[np.ndarray] | None:
        """The unit's own pictures, uint8 (H, W, 4) with the mask last; None if it has none.

        Raises:
            ControlNetError: a picture cannot be decoded; local paths and URLs are not read.
        """
        unit = parse_unit(self)
        several = unit.image if isinstance(unit.image, (list, tuple)) else [unit.image]
        if not several or not all(isinstance(item, Mapping) for item in several):
            several = [unit.image]
        found = []
        for picture in several:
            image, mask = split_picture(parse_unit(ControlNetUnit(image=picture, mask=self.mask)))
            if image is not None:
                found.append(_rgba(image, mask))
        return found or None


class FurtherUnits(list):
    """Units beyond the script's slots, in the place of the last one.

    The slots are counted once, when the page is built, and the arguments of all scripts behind
    them lie by that count: a longer slice would shift them, for every later generation.
    """


def flatten(args: Iterable[Any]) -> list[Any]:
    """The script's arguments, one for each unit."""
    found: list[Any] = []
    for value in args:
        found += value if isinstance(value, FurtherUnits) else [value]
    return found


def is_unit_like(value: Any) -> bool:
    """Whether a script argument is a unit, a dict of one, or looks like one."""
    if isinstance(value, (ControlNetUnit, Mapping)):
        return True
    return all(hasattr(value, name) for name in ("enabled", "module", "model", "weight"))


def to_unit(value: Any) -> ControlNetUnit:
    """The unit itself, or one made of a dict or of an object that looks like one."""
    if isinstance(value, ControlNetUnit):
        return value
    if isinstance(value, Mapping):
        return ControlNetUnit.from_dict(value)
    return ControlNetUnit(**{name: getattr(value, name) for name in FIELDS if hasattr(value, name)})


def _publish(value: Any) -> Any:
    """A value as the object holds it: lists, which other programs change, and curves as texts."""
    if isinstance(value, LayerCurve | WeightCurve):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _rgba(image: Any, mask: Any) -> np.ndarray:
    pixels = to_rgb(decode_image(image, "the unit's image"))
    if mask is None:
        return join_mask(pixels, None)
    return join_mask(pixels, read_mask(mask, "the unit's mask", PictureSource()))


def _rename(fields: Mapping[str, Any]) -> dict[str, Any]:
    report(fields)
    return present_names(fields, is_strict=False)[0]


def report(fields: Mapping[str, Any]) -> None:
    """Log every older name, older value and unknown key, each once in a process."""
    older = aliases()
    for name, value in fields.items():
        kind = FIELDS[name].kind if name in FIELDS else None
        if name in older:
            _notice(f"the field {name!r} of a unit is out of date, use {older[name]!r}")
        elif canonical(name) is None:
            _notice(f"a unit has no field {_brief(name)}; it is ignored")
        elif kind is not None and not isinstance(value, kind):
            member = _as_choice(name, value)
            if isinstance(member, Choice) and str(member) != str(value):
                _notice(f"{name}={value!r} of a unit is out of date, use {str(member)!r}")


@lru_cache(maxsize=_NOTICES)
def _notice(text: str) -> None:
    """Log a text; the cache makes it once."""
    log.warning("ControlNetUnit: %s", text)


def _as_choice(name: str, value: Any) -> Any:
    """The enum member for a choice field; anything unreadable stays as it is."""
    kind = FIELDS[name].kind
    if kind is None or value is None:
        return value
    try:
        return kind.parse(value)
    except ValueError:
        return value


def _same(left: Any, right: Any) -> bool:
    """Equality that also answers for arrays and for containers of arrays."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return (
            isinstance(left, np.ndarray)
            and isinstance(right, np.ndarray)
            and np.array_equal(left, right)
        )
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)) and type(left) is type(right):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


@lru_cache(maxsize=1)
def _make_serializer() -> Any:
    """Writes the fields as they are, and of pictures that they are there."""
    from pydantic_core import SchemaSerializer, core_schema

    written = core_schema.plain_serializer_function_ser_schema(lambda unit: _plain(vars(unit)))
    return SchemaSerializer(core_schema.any_schema(serialization=written))


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, float, int, type(None))) else _brief(value)


def _brief(value: Any) -> str:
    """A short text for a value in a log line; pictures are named by their size."""
    if isinstance(value, np.ndarray):
        return f"<array {value.shape}>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_brief(item)}" for key, item in value.items()) + "}"
    text = repr(str(value) if isinstance(value, Choice) else value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"
