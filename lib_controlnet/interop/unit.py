"""The unit as other programs build, copy and change it; `unit.py` holds what is made of it.

A plain class: no data model library of the host is involved, so the host may use any version.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np

from lib_controlnet.detect import preprocess
from lib_controlnet.enums import (
    ActingRegion,
    BatchOption,
    Choice,
    ControlMode,
    ControlNetUnionControlType,
    HiResFixOption,
    InputMode,
    PuLIDMode,
    ResizeMode,
)
from lib_controlnet.pictures.decode import decode_image, to_rgb
from lib_controlnet.pictures.maps import join_mask
from lib_controlnet.prepare.inputs import PictureSource, read_mask, split_picture
from lib_controlnet.units import infotext
from lib_controlnet.units.unit import DEFAULT_UNIT, PUBLIC_FIELDS, AlphaLayer, canonical, parse_unit

log = logging.getLogger(__name__)

_CHOICES: Final[dict[str, type[Choice]]] = {
    "input_mode": InputMode,
    "resize_mode": ResizeMode,
    "control_mode": ControlMode,
    "hr_option": HiResFixOption,
    "pulid_mode": PuLIDMode,
    "union_control_type": ControlNetUnionControlType,
    "region": ActingRegion,
    "batch_option": BatchOption,
}
_RENAMED: Final[dict[str, str]] = {
    "guidance": "guidance_end",
    "lowvram": "low_vram",
    "input_image": "image",
    "mask_image": "mask",
    "batch_image_dir": "batch_images",
    "guessmode": "control_mode",
    "guess_mode": "control_mode",
    "image_fg": "mask",
}
_LISTS: Final = ("batch_modifiers", "batch_image_files")
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

    def __init__(self, **fields: Any) -> None:
        given = _current_names(fields)
        for name in PUBLIC_FIELDS:
            default = [] if name in _LISTS else getattr(DEFAULT_UNIT, name)
            setattr(self, name, _as_choice(name, given.get(name, default)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ControlNetUnit):
            return NotImplemented
        return all(_same(getattr(self, name), getattr(other, name)) for name in PUBLIC_FIELDS)

    __hash__ = None  # type: ignore[assignment]  # a mutable value

    def __repr__(self) -> str:
        shown = {
            name: _brief(value)
            for name, value in vars(self).items()
            if not _same(value, getattr(DEFAULT_UNIT, name, None)) and name not in _LISTS
        }
        return f"ControlNetUnit({', '.join(f'{name}={text}' for name, text in shown.items())})"

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
        fields = {name: getattr(unit, name) for name in PUBLIC_FIELDS}
        fields.update({name: list(fields[name]) for name in _LISTS})
        if fields["advanced_weighting"] is not None:
            fields["advanced_weighting"] = list(fields["advanced_weighting"])
        return cls(**fields)

    @staticmethod
    def infotext_fields() -> tuple[str, ...]:
        """Names of the fields that go into generation parameters, in order."""
        return infotext.FIELDS

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


def flattened(args: Iterable[Any]) -> list[Any]:
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
    return ControlNetUnit(
        **{name: getattr(value, name) for name in PUBLIC_FIELDS if hasattr(value, name)}
    )


def _rgba(image: Any, mask: Any) -> np.ndarray:
    pixels = to_rgb(decode_image(image, "the unit's image"))
    if mask is None:
        return join_mask(pixels, None)
    return join_mask(pixels, read_mask(mask, "the unit's mask", PictureSource()))


def _current_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under their present names; a present name wins over an older one."""
    given = {name: value for name, value in fields.items() if name in PUBLIC_FIELDS}
    report(fields)
    for old, new in _RENAMED.items():
        if old not in fields or new in given:
            continue
        value = fields[old]
        if new == "control_mode":
            value = ControlMode.CONTROL if value else ControlMode.BALANCED
        elif old == "image_fg":
            value = None if value is None else AlphaLayer(value)
        given[new] = value
    return given


def report(fields: Mapping[str, Any]) -> None:
    """Log every older name, older value and unknown key, each once in a process."""
    for name, value in fields.items():
        if name in _RENAMED:
            _notice(f"the field {name!r} of a unit is out of date, use {_RENAMED[name]!r}")
        elif canonical(name) is None:
            _notice(f"a unit has no field {_brief(name)}; it is ignored")
        elif name in _CHOICES and not isinstance(value, _CHOICES[name]):
            member = _as_choice(name, value)
            if isinstance(member, Choice) and str(member) != str(value):
                _notice(f"{name}={value!r} of a unit is out of date, use {str(member)!r}")


@lru_cache(maxsize=_NOTICES)
def _notice(text: str) -> None:
    """Log a text; the cache makes it once."""
    log.warning("ControlNetUnit: %s", text)


def _as_choice(name: str, value: Any) -> Any:
    """The enum member for a choice field; anything unreadable stays as it is."""
    kind = _CHOICES.get(name)
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


def _brief(value: Any) -> str:
    """A short text for a value in a log line; pictures are named by their size."""
    if isinstance(value, np.ndarray):
        return f"<array {value.shape}>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_brief(item)}" for key, item in value.items()) + "}"
    text = repr(str(value) if isinstance(value, Choice) else value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"
