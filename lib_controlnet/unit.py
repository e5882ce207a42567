"""What the user asked of one unit: an immutable value parsed from every form clients send.

Field names, order and defaults are the public contract of the HTTP and Python interfaces; the
spellings accepted here are the union of what every published version and Forge accepted.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lib_controlnet.enums import (
    ActingRegion,
    BatchOption,
    ControlMode,
    ControlNetUnionControlType,
    HiResOption,
    InputMode,
    PuLIDMode,
    ResizeMode,
)
from lib_controlnet.errors import UnitError, shown

log = logging.getLogger(__name__)

NO_MODULE: Final = "none"
NO_MODEL: Final = "None"
MAX_WEIGHT: Final = 2.0
MAX_FEATHER: Final = 512.0


@dataclass(frozen=True)
class AlphaLayer:
    """A drawn layer whose alpha channel is the mask (Forge's `image_fg`)."""

    picture: Any


@dataclass(frozen=True)
class ControlUnit:
    """One unit, as asked. Pictures stay undecoded here (see `inputs.py`).

    Attributes are documented by the interface reference; units and ranges:
        weight: strength, 0 to 2; 0 contributes nothing.
        guidance_start, guidance_end: fractions of the sampling steps, 0 to 1.
        processor_res, threshold_a, threshold_b: preprocessor sliders, -1 means their default.
        advanced_weighting: strength per layer, shallowest skip first, middle last; replaces
            `weight` and the fall-off of the control mode.
        effective_region_mask: picture, white where the unit acts, drawn over the control image;
            given without a `region`, it is the unit's region.
        region: the part of the picture on which the unit acts.
        region_feather: width of the soft border of that part, in pixels of the first pass's
            picture, half of it on each side; 0 to 512.
        batch_option: whether every picture of a batch gets all units, or one each. One unit that
            asks for the latter decides for all.
        notes: what was changed while parsing, one sentence each, for the user.
    """

    is_ui: bool = False
    input_mode: InputMode = InputMode.SIMPLE
    batch_images: Any = None
    output_dir: str = ""
    loopback: bool = False
    enabled: bool = False
    module: str = NO_MODULE
    model: str = NO_MODEL
    weight: float = 1.0
    image: Any = None
    resize_mode: ResizeMode = ResizeMode.INNER_FIT
    low_vram: bool = False
    processor_res: int = -1
    threshold_a: float = -1
    threshold_b: float = -1
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    pixel_perfect: bool = False
    control_mode: ControlMode = ControlMode.BALANCED
    inpaint_crop_input_image: bool = True
    hr_option: HiResOption = HiResOption.BOTH
    save_detected_map: bool = True
    advanced_weighting: tuple[float, ...] | None = None
    effective_region_mask: Any = None
    pulid_mode: PuLIDMode = PuLIDMode.FIDELITY
    union_control_type: ControlNetUnionControlType = ControlNetUnionControlType.UNKNOWN
    ipadapter_input: Any = None
    mask: Any = None
    batch_mask_dir: str | None = None
    animatediff_batch: bool = False
    batch_modifiers: tuple[Any, ...] = ()
    batch_image_files: tuple[Any, ...] = ()
    batch_keyframe_idx: Any = None
    region: ActingRegion = ActingRegion.WHOLE
    region_feather: float = 0.0
    batch_option: BatchOption = BatchOption.DEFAULT
    index: int = 0
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How messages call this unit."""
        return f"unit {self.index}"

    @property
    def acting_region(self) -> ActingRegion:
        """Where the unit acts; a mask without a `region` is the clients' older way to say so."""
        if self.region is ActingRegion.WHOLE and self.effective_region_mask is not None:
            return ActingRegion.OWN
        return self.region

    @property
    def has_model(self) -> bool:
        """Whether a control model is chosen."""
        return self.model != NO_MODEL

    def with_notes(self, *notes: str) -> ControlUnit:
        """The same unit with sentences appended to `notes`."""
        return dataclasses.replace(self, notes=self.notes + notes)


PUBLIC_FIELDS: Final = tuple(
    field.name for field in dataclasses.fields(ControlUnit) if field.name not in ("index", "notes")
)
DEFAULT_UNIT: Final = ControlUnit()

_ALIASES: Final[dict[str, str]] = {
    "guidance": "guidance_end",
    "lowvram": "low_vram",
    "input_image": "image",
    "mask_image": "mask",
    "batch_image_dir": "batch_images",
}
_GUESS_MODE: Final = ("guessmode", "guess_mode")
_IGNORED_FORGE_KEYS: Final = (
    "batch_input_gallery",
    "batch_mask_gallery",
    "generated_image",
    "use_preview_as_input",
)


def parse_unit(value: Mapping[str, Any] | object, index: int = 0) -> ControlUnit:
    """Make a `ControlUnit` of a request's dict or of any object with a unit's attributes.

    A dict without `enabled` is an enabled unit: that is what HTTP clients mean. An object's own
    default stands.

    Args:
        value: a mapping with the interface's keys and aliases, or a unit-like object.
        index: the unit's place among all units, for messages.

    Raises:
        UnitError: a field holds an impossible value; the message names unit, field and value.
    """
    if isinstance(value, ControlUnit):
        return dataclasses.replace(value, index=index)
    notes: list[str] = []
    if isinstance(value, Mapping):
        try:
            given = _resolve_aliases(dict(value), notes)
        except UnitError as error:
            msg = f"unit {index}: {error}"
            raise UnitError(msg) from error
        given.setdefault("enabled", True)
    else:
        given = {name: getattr(value, name) for name in PUBLIC_FIELDS if hasattr(value, name)}
    fields: dict[str, Any] = {}
    for name, raw in given.items():
        try:
            fields[name] = _PARSERS[name](raw, notes)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            msg = f"unit {index}: {name} {error}"
            raise UnitError(msg) from error
    return ControlUnit(**fields, index=index, notes=tuple(notes))


def _resolve_aliases(given: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Rename legacy keys; the current name wins unless it is empty."""
    for old, new in _ALIASES.items():
        if old not in given:
            continue
        value = given.pop(old)
        if _is_empty(given.get(new)):
            given[new] = value
    for old in _GUESS_MODE:
        if old in given:
            flag = given.pop(old)
            try:
                mode = ControlMode.CONTROL if _boolean(flag, notes) else ControlMode.BALANCED
            except ValueError as error:
                msg = f"{old} {error}"
                raise UnitError(msg) from error
            given.setdefault("control_mode", mode)
    scribble = given.pop("image_fg", None)
    if not _is_empty(scribble) and _is_empty(given.get("mask")):
        given["mask"] = AlphaLayer(scribble)
    given.pop("mask_image_fg", None)
    for key in _IGNORED_FORGE_KEYS:
        given.pop(key, None)
    unknown = sorted(set(given) - set(PUBLIC_FIELDS))
    for key in unknown:
        given.pop(key)
    if unknown:
        notes.append(f"unknown keys ignored: {', '.join(map(str, unknown))}")
    return given


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and value == "")


def _boolean(value: object, _notes: list[str]) -> bool:
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("true", "1", "on", "yes"):
            return True
        if text in ("false", "0", "off", "no", ""):
            return False
        msg = f"is {shown(value)}, must be true or false"
        raise ValueError(msg)
    return bool(value)


def _number(value: object) -> float:
    if value is None or isinstance(value, bool):
        msg = f"is {shown(value)}, must be a number"
        raise ValueError(msg)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"is {shown(value)}, must be a number"
        raise ValueError(msg) from error
    if not math.isfinite(number):
        msg = f"is {shown(value)}, must be a finite number"
        raise ValueError(msg)
    return number


def _weight(value: object, notes: list[str]) -> float:
    number = _number(value)
    clamped = min(max(number, 0.0), MAX_WEIGHT)
    if clamped != number:
        notes.append(f"weight {number:g} lies outside 0 to {MAX_WEIGHT:g}: {clamped:g} is used")
    return clamped


def _fraction(value: object, _notes: list[str]) -> float:
    number = _number(value)
    if not 0.0 <= number <= 1.0:
        msg = f"is {number:g}, must be between 0 and 1"
        raise ValueError(msg)
    return number


def _feather(value: object, _notes: list[str]) -> float:
    number = _number(value)
    if not 0.0 <= number <= MAX_FEATHER:
        msg = f"is {number:g}, must be between 0 and {MAX_FEATHER:g} pixels"
        raise ValueError(msg)
    return number


def _slider(value: object, _notes: list[str]) -> float:
    return -1 if value is None else _number(value)


def _resolution(value: object, notes: list[str]) -> int:
    return int(_slider(value, notes))


def _layer_weights(value: object, _notes: list[str]) -> tuple[float, ...] | None:
    if value is None or isinstance(value, str) and value.strip() in ("", "None"):
        return None
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        msg = f"is {shown(value)}, must be a list of numbers, one per layer"
        raise ValueError(msg)
    weights = tuple(_number(item) for item in value)  # type: ignore[attr-defined]
    return weights or None


def _name_or(default: str) -> Callable[[object, list[str]], str]:
    def parse(value: object, _notes: list[str]) -> str:
        text = "" if value is None else str(value).strip()
        return default if text.lower() in ("", "none") else text

    return parse


def _choice(kind: Any, default: object) -> Callable[[object, list[str]], Any]:
    def parse(value: object, _notes: list[str]) -> Any:
        return default if value is None else kind.parse(value)

    return parse


def _picture(value: object, _notes: list[str]) -> Any:
    return None if isinstance(value, str) and value.strip() == "" else value


def _text(value: object, _notes: list[str]) -> str:
    return "" if value is None else str(value)


def _anything(value: object, _notes: list[str]) -> Any:
    return value


def _tuple(value: object, _notes: list[str]) -> tuple[Any, ...]:
    return () if value is None else tuple(value)  # type: ignore[arg-type]


_PARSERS: Final[dict[str, Callable[[Any, list[str]], Any]]] = {
    "is_ui": _boolean,
    "input_mode": _choice(InputMode, InputMode.SIMPLE),
    "batch_images": _anything,
    "output_dir": _text,
    "loopback": _boolean,
    "enabled": _boolean,
    "module": _name_or(NO_MODULE),
    "model": _name_or(NO_MODEL),
    "weight": _weight,
    "image": _picture,
    "resize_mode": _choice(ResizeMode, ResizeMode.INNER_FIT),
    "low_vram": _boolean,
    "processor_res": _resolution,
    "threshold_a": _slider,
    "threshold_b": _slider,
    "guidance_start": _fraction,
    "guidance_end": _fraction,
    "pixel_perfect": _boolean,
    "control_mode": _choice(ControlMode, ControlMode.BALANCED),
    "inpaint_crop_input_image": _boolean,
    "hr_option": _choice(HiResOption, HiResOption.BOTH),
    "save_detected_map": _boolean,
    "advanced_weighting": _layer_weights,
    "effective_region_mask": _picture,
    "pulid_mode": _choice(PuLIDMode, PuLIDMode.FIDELITY),
    "union_control_type": _choice(ControlNetUnionControlType, ControlNetUnionControlType.UNKNOWN),
    "ipadapter_input": _anything,
    "mask": _picture,
    "batch_mask_dir": _anything,
    "animatediff_batch": _boolean,
    "batch_modifiers": _tuple,
    "batch_image_files": _tuple,
    "batch_keyframe_idx": _anything,
    "region": _choice(ActingRegion, ActingRegion.WHOLE),
    "region_feather": _feather,
    "batch_option": _choice(BatchOption, BatchOption.DEFAULT),
}
