"""The Python API that other extensions call: units, listings, and writing units into a run.

Nothing here imports the host. What only the host knows (settings, folders, the loaded model)
comes from the runtime object that `lib_controlnet.host.a1111.runtime()` hands out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from lib_controlnet import infotext, listing
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
from lib_controlnet.image import decode_image
from lib_controlnet.unit import DEFAULT_UNIT, PUBLIC_FIELDS, parse_unit

__all__ = [
    "ActingRegion",
    "BatchOption",
    "ControlMode",
    "ControlNetUnionControlType",
    "ControlNetUnit",
    "HiResFixOption",
    "InputMode",
    "PuLIDMode",
    "ResizeMode",
    "control_mode_from_value",
    "find_cn_script",
    "get_all_units",
    "get_all_units_from",
    "get_all_units_in_processing",
    "get_api_version",
    "get_max_models_num",
    "get_models",
    "get_modules",
    "get_modules_detail",
    "get_single_unit_from",
    "is_cn_script",
    "pixel_perfect_resolution",
    "resize_mode_from_value",
    "to_base64_nparray",
    "to_processing_unit",
    "update_cn_script",
    "update_cn_script_in_place",
    "update_cn_script_in_processing",
    "visualize_inpaint_mask",
]

log = logging.getLogger(__name__)

API_VERSION: Final = 3
SCRIPT_TITLE: Final = "controlnet"

Args = TypeVar("Args", list, tuple)

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
_ALIASES: Final[dict[str, str]] = {
    "guidance": "guidance_end",
    "lowvram": "low_vram",
    "input_image": "image",
    "mask_image": "mask",
}
_LISTS: Final = ("batch_modifiers", "batch_image_files")


class ControlNetUnit:
    """One unit as other extensions build, copy and change it.

    `vars(unit)` holds exactly the public fields in their published order. Construction is by
    keyword and forgiving: unknown keys are ignored, older names of a field count when the field
    itself is not given, every spelling of a choice becomes its enum member. A value that makes
    no sense is kept as it is, and reported with the unit's number when a generation starts.
    """

    def __init__(self, **fields: Any) -> None:
        for old, new in _ALIASES.items():
            if old in fields:
                fields.setdefault(new, fields[old])
        for name in PUBLIC_FIELDS:
            default = getattr(DEFAULT_UNIT, name)
            if name in _LISTS:
                default = []
            setattr(self, name, _as_choice(name, fields.get(name, default)))

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
        unit = parse_unit(values)
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


def _runtime() -> Any:
    """The running extension's services (see `lib_controlnet.host.a1111.Runtime`)."""
    from lib_controlnet.host.a1111 import runtime

    return runtime()


def get_api_version() -> int:
    """Version of this interface; 3 since units are objects with named fields only."""
    return API_VERSION


def get_max_models_num() -> int:
    """Number of unit slots in each tab (setting `control_net_unit_count`)."""
    return int(_runtime().unit_count())


def get_models(update: bool = False) -> list[str]:
    """Control models as `name [hash]`, without "None"; `update` scans the folders again."""
    runtime = _runtime()
    if update:
        runtime.refresh_models()
    return list(runtime.catalog.names())


def get_modules(alias_names: bool = False) -> list[str]:
    """Preprocessors in the order of the panel; `alias_names` gives labels instead of names."""
    return listing.module_names(labels=alias_names)


def get_modules_detail(alias_names: bool = False) -> dict[str, Any]:
    """For every preprocessor whether it needs no model, and its visible sliders."""
    return listing.module_detail(labels=alias_names)


def is_cn_script(script: Any) -> bool:
    """Whether a host script object is this extension's."""
    return str(script.title()).lower() == SCRIPT_TITLE


def find_cn_script(script_runner: Any) -> Any | None:
    """The first always-on script titled "ControlNet" in a runner, or None."""
    if script_runner is None:
        return None
    return next((s for s in script_runner.alwayson_scripts if is_cn_script(s)), None)


def get_all_units_in_processing(p: Any) -> list[ControlNetUnit]:
    """All units among the script arguments of a host processing object."""
    return get_all_units(p.scripts, p.script_args)


def get_all_units(script_runner: Any, script_args: Sequence[Any]) -> list[ControlNetUnit]:
    """All units in the slice of arguments that belongs to this extension's script."""
    script = find_cn_script(script_runner)
    if script is None:
        return []
    return get_all_units_from(script_args[script.args_from : script.args_to])


def get_all_units_from(script_args: Iterable[Any]) -> list[ControlNetUnit]:
    """All units among the given arguments; dicts and look-alikes are turned into units."""
    script_args = list(script_args)
    units = [to_processing_unit(value) for value in script_args if _is_unit_like(value)]
    if script_args and not units:
        kinds = sorted({type(value).__name__ for value in script_args})
        log.warning(
            "No ControlNetUnit detected in args. It is very likely that you are having an "
            "extension conflict. Found instead: %s.",
            ", ".join(kinds),
        )
    return units


def get_single_unit_from(script_args: Iterable[Any], index: int = 0) -> ControlNetUnit | None:
    """The unit at a place among the units in the given arguments, or None."""
    units = [value for value in script_args if _is_unit_like(value)]
    return to_processing_unit(units[index]) if 0 <= index < len(units) else None


def to_processing_unit(unit: Mapping[str, Any] | Any) -> ControlNetUnit:
    """A unit object for a unit, a dict of its fields, or an object that looks like one.

    A unit is returned as it is, so that callers may change it.
    """
    if isinstance(unit, ControlNetUnit):
        return unit
    if isinstance(unit, Mapping):
        return ControlNetUnit.from_dict(unit)
    return ControlNetUnit(
        **{name: getattr(unit, name) for name in PUBLIC_FIELDS if hasattr(unit, name)}
    )


def _is_unit_like(value: Any) -> bool:
    if isinstance(value, (ControlNetUnit, Mapping)):
        return True
    return all(hasattr(value, name) for name in ("enabled", "module", "model", "weight"))


def update_cn_script_in_processing(p: Any, cn_units: Sequence[Any], **_ignored: Any) -> None:
    """Put units into the script arguments of a host processing object.

    The host's property setter is used, and the container keeps its type (tuple or list).
    """
    args = getattr(p, "script_args_value", None)
    if not isinstance(args, (list, tuple)):
        args = p.script_args
    p.script_args = update_cn_script(p.scripts, args, cn_units)


def update_cn_script(script_runner: Any, script_args: Args, cn_units: Sequence[Any]) -> Args:
    """Arguments with this extension's slice replaced by the given units.

    Fewer units than slots are filled up with disabled ones. More units than slots widen the
    script's slice (`args_to`), and the slices of the scripts behind it move along.

    Returns:
        A new container of the same type, or the given one if the script is absent or the
        arguments end before its slice.
    """
    script = find_cn_script(script_runner)
    if script is None or script.args_from is None or len(script_args) < script.args_from:
        return script_args
    units = [to_processing_unit(unit) for unit in cn_units]
    units += [ControlNetUnit() for _ in range(get_max_models_num() - len(units))]
    first, end = script.args_from, script.args_to
    updated = [*script_args[:first], *units, *script_args[end:]]
    _move_slices(script_runner, script, len(units) - (end - first))
    return type(script_args)(updated)


def update_cn_script_in_place(
    script_runner: Any, script_args: MutableSequence[Any], cn_units: Sequence[Any], **_ignored: Any
) -> None:
    """Like `update_cn_script`, changing the given list itself.

    Raises:
        TypeError: the arguments are not a list.
    """
    if not isinstance(script_args, list):
        msg = f"script_args is {type(script_args).__name__}, must be a list to be changed in place"
        raise TypeError(msg)
    script_args[:] = update_cn_script(script_runner, script_args, cn_units)


def _move_slices(script_runner: Any, script: Any, growth: int) -> None:
    """Widen a script's argument slice and move the slices behind it."""
    if growth == 0:
        return
    end = script.args_to
    for other in getattr(script_runner, "scripts", script_runner.alwayson_scripts):
        if other is not script and other.args_from is not None and other.args_from >= end:
            other.args_from += growth
            other.args_to += growth
    script.args_to = end + growth


def resize_mode_from_value(value: str | int | ResizeMode) -> ResizeMode:
    """The resize mode for any spelling a client may use.

    Raises:
        ValueError: the value is none of the choices.
    """
    return ResizeMode.parse(value)


def control_mode_from_value(value: str | int | ControlMode) -> ControlMode:
    """The control mode for any spelling a client may use.

    Raises:
        ValueError: the value is none of the choices.
    """
    return ControlMode.parse(value)


def pixel_perfect_resolution(
    image: np.ndarray, target_H: int, target_W: int, resize_mode: ResizeMode
) -> int:
    """Short side at which a preprocessor works so that no pixel is wasted or invented.

    Args:
        image: uint8 (H, W) or (H, W, C).
        target_H: height of the picture to generate, in pixels.
        target_W: width of the picture to generate, in pixels.
        resize_mode: how the map will be fitted to the picture.
    """
    height, width = image.shape[:2]
    factors = target_H / height, target_W / width
    fits_inside = resize_mode_from_value(resize_mode) is ResizeMode.OUTER_FIT
    return round((min(factors) if fits_inside else max(factors)) * min(height, width))


def to_base64_nparray(encoding: str) -> np.ndarray:
    """Decode a base64 picture or data URL to uint8 (H, W, 3 or 4).

    Raises:
        ImageError: the text is no picture.
    """
    return decode_image(encoding, "image", keep_alpha=True)


def visualize_inpaint_mask(image: np.ndarray) -> np.ndarray:
    """Show a mask kept in a fourth channel as transparency.

    Args:
        image: uint8 (H, W, C); with C = 4 the last channel is a mask, 255 = repaint.

    Returns:
        The picture with alpha 255 - mask // 2, or the given one if it has no mask.
    """
    if image.ndim != 3 or image.shape[2] != 4:
        return image
    shown = image.copy()
    shown[..., 3] = 255 - image[..., 3] // 2
    return shown
