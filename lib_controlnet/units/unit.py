"""What the user asked of one unit: an immutable value parsed from every form clients send.

Field names, order and defaults are the public contract of the HTTP and Python interfaces; the
spellings accepted here are the union of what every published version and Forge accepted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
from lib_controlnet.errors import UnitError
from lib_controlnet.units import field_values as values
from lib_controlnet.units.field_values import NO_MODEL, NO_MODULE

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
        is_request: made of a request's dict, whose numbers must be in range.
        fault: why a unit that is switched off could not be switched on.
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
    is_request: bool = False
    fault: str = ""

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


_OWN_FIELDS: Final = ("index", "notes", "is_request", "fault")
PUBLIC_FIELDS: Final = tuple(
    field.name for field in dataclasses.fields(ControlUnit) if field.name not in _OWN_FIELDS
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
    "mask_image_fg",
)
MAX_KEY: Final = 60
MAX_KEYS: Final = 20


def canonical(key: object) -> str | None:
    """The field or older name that a key means, whatever its letters' case; None if unknown.

    "Control Mode", "controlMode" and "control-mode" are `control_mode`.
    """
    return _KEYS.get("".join(c for c in str(key)[:MAX_KEY].lower() if c.isalnum()))


def parse_unit(
    value: Mapping[str, Any] | object, index: int = 0, *, is_request: bool | None = None
) -> ControlUnit:
    """Make a `ControlUnit` of a request's dict or of any object with a unit's attributes.

    A dict without `enabled` is an enabled unit: that is what HTTP clients mean. An object's own
    default stands. null means the default, and so does "" except for what is true or false. A
    unit that is switched off is never refused, whatever it holds: see `ControlUnit.fault`.

    Args:
        value: a mapping with the interface's keys and aliases, or a unit-like object.
        index: the unit's place among all units, for messages.
        is_request: a weight out of range is an error; else it is brought into range and noted,
            for scripts whose schedules overshoot. None: it is for a mapping.

    Raises:
        UnitError: a field holds an impossible value; the message names unit, field and value.
    """
    if isinstance(value, ControlUnit):
        return dataclasses.replace(value, index=index)
    if isinstance(value, (str, bytes, int, float, list, tuple)):
        msg = (
            f"unit {index}: the argument is {type(value).__name__}, not a unit; send one object "
            'per unit, such as {"module": "canny", "model": "...", "image": "..."}'
        )
        raise UnitError(msg)
    is_mapping = isinstance(value, Mapping)
    is_request = is_mapping if is_request is None else is_request
    notes: list[str] = []
    try:
        if is_mapping:
            given = _resolve_aliases(value, notes)
            given["enabled"] = True if given.get("enabled") is None else given["enabled"]
        else:
            given = {name: getattr(value, name) for name in PUBLIC_FIELDS if hasattr(value, name)}
        enabled = _field("enabled", given.pop("enabled", False), notes)
    except ValueError as error:
        msg = f"unit {index}: {error}"
        raise UnitError(msg) from error
    own = {"enabled": enabled, "index": index, "is_request": is_request}
    try:
        fields = {name: _field(name, raw, notes, is_request) for name, raw in given.items()}
    except ValueError as error:
        msg = f"unit {index}: {error}"
        if not enabled:
            return ControlUnit(**own, fault=msg)
        raise UnitError(msg) from error
    return ControlUnit(**fields, **own, notes=tuple(notes))


def _field(name: str, raw: Any, notes: list[str], is_request: bool = True) -> Any:
    """A field's value; the name is put in front of what is said about it."""
    said: list[str] = []
    parse = _PARSERS[name]
    if name == "weight" and not is_request:
        parse = _brought_into_range
    try:
        found = DEFAULTS[name] if _means_default(name, raw) else parse(raw, said)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        msg = f"{name} {error}"
        raise ValueError(msg) from error
    notes += [f"{name} {sentence}" for sentence in said]
    return found


def _means_default(name: str, raw: object) -> bool:
    if raw is None:
        return True
    is_blank = isinstance(raw, str) and not raw.strip()
    return is_blank and _PARSERS[name] is not values.boolean


def _brought_into_range(value: object, notes: list[str]) -> float:
    number = values.number(value)
    clamped = min(max(number, 0.0), MAX_WEIGHT)
    if clamped != number:
        notes.append(f"{number:g} lies outside 0 to {MAX_WEIGHT:g}: {clamped:g} is used")
    return clamped


def _resolve_aliases(sent: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Fields under their present names; the present name wins unless it is empty.

    Raises:
        ValueError: `guess_mode` is neither true nor false.
    """
    given = {key: value for key, value in sent.items() if key in _NAMES}
    unknown = []
    for key, value in sent.items():
        if key in _NAMES:
            continue
        name = canonical(key)
        if name is None or name in given:
            unknown.append(str(key))
        else:
            given[name] = value
    for old, new in _ALIASES.items():
        value = given.pop(old, None)
        if _is_empty(given.get(new)) and not _is_empty(value):
            given[new] = value
    for old in _GUESS_MODE:
        flag = given.pop(old, None)
        if flag is not None:
            try:
                mode = ControlMode.CONTROL if values.boolean(flag, []) else ControlMode.BALANCED
            except ValueError as error:
                msg = f"{old} {error}"
                raise ValueError(msg) from error
            given.setdefault("control_mode", mode)
    scribble = given.pop("image_fg", None)
    if not _is_empty(scribble) and _is_empty(given.get("mask")):
        given["mask"] = AlphaLayer(scribble)
    for key in _IGNORED_FORGE_KEYS:
        given.pop(key, None)
    if unknown:
        notes.append(f"unknown keys ignored: {shown_keys(unknown)}")
    return given


def shown_keys(keys: list[str]) -> str:
    """Keys of a request in an order of their own, each in part, and the first of them."""
    listed = [key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}..." for key in sorted(keys)]
    return ", ".join(listed[:MAX_KEYS]) + (", ..." if len(listed) > MAX_KEYS else "")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


_PARSERS: Final[dict[str, values.Parser]] = {
    "is_ui": values.boolean,
    "input_mode": values.choice(InputMode),
    "batch_images": values.pictures,
    "output_dir": values.text,
    "loopback": values.boolean,
    "enabled": values.boolean,
    "module": values.name_or(NO_MODULE),
    "model": values.name_or(NO_MODEL),
    "weight": values.within(0.0, MAX_WEIGHT),
    "image": values.picture,
    "resize_mode": values.choice(ResizeMode),
    "low_vram": values.boolean,
    "processor_res": values.whole,
    "threshold_a": values.slider,
    "threshold_b": values.slider,
    "guidance_start": values.within(0.0, 1.0),
    "guidance_end": values.within(0.0, 1.0),
    "pixel_perfect": values.boolean,
    "control_mode": values.choice(ControlMode),
    "inpaint_crop_input_image": values.boolean,
    "hr_option": values.choice(HiResOption),
    "save_detected_map": values.boolean,
    "advanced_weighting": values.layer_weights,
    "effective_region_mask": values.picture,
    "pulid_mode": values.choice(PuLIDMode),
    "union_control_type": values.choice(ControlNetUnionControlType),
    "ipadapter_input": values.unsupported("IP-Adapter"),
    "mask": values.picture,
    "batch_mask_dir": values.text,
    "animatediff_batch": values.boolean,
    "batch_modifiers": values.functions,
    "batch_image_files": values.listed,
    "batch_keyframe_idx": values.keyframes,
    "region": values.choice(ActingRegion),
    "region_feather": values.within(0.0, MAX_FEATHER, " pixels"),
    "batch_option": values.choice(BatchOption),
}
DEFAULTS: Final[dict[str, Any]] = {name: getattr(DEFAULT_UNIT, name) for name in PUBLIC_FIELDS}
_NAMES: Final = (*_ALIASES, *_GUESS_MODE, *_IGNORED_FORGE_KEYS, "image_fg", *PUBLIC_FIELDS)
_KEYS: Final[dict[str, str]] = {name.replace("_", ""): name for name in _NAMES}
"""Every key of the interface by its letters alone."""
