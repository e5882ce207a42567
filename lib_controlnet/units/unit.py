"""What the user asked of one unit: an immutable value parsed from every form clients send.

Field names, order and defaults are the public contract of the HTTP and Python interfaces; the
spellings accepted here are the union of what every published version and Forge accepted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
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
    Speed,
)
from lib_controlnet.errors import UnitError
from lib_controlnet.units import field_values as values
from lib_controlnet.units.field_values import NO_MODEL, NO_MODULE
from lib_controlnet.units.fields import Axis, Written, row, rows
from lib_controlnet.units.weight_curve import WeightCurve, parse_weight_curve
from lib_controlnet.units.weight_types import LayerCurve


@dataclass(frozen=True)
class ControlUnit:
    """One unit, as asked. Pictures stay undecoded here (see `inputs.py`).

    Attributes are documented by the interface reference; units and ranges:
        weight: strength, 0 to 2; 0 contributes nothing.
        guidance_start, guidance_end: fractions of the sampling steps, 0 to 1.
        processor_res, threshold_a, threshold_b: preprocessor sliders, -1 means their default.
        advanced_weighting: strength per layer, shallowest skip first, middle last; replaces
            `weight` and the fall-off of the control mode. Or a curve that spreads `weight`.
        effective_region_mask: picture, white where the unit acts, drawn over the control image;
            given without a `region`, it is the unit's region.
        ipadapter_input: embeddings that take the place of those of the pictures.
        region: the part of the picture on which the unit acts.
        region_feather: width of the soft border of that part, in pixels of the first pass's
            picture, half of it on each side; 0 to 512.
        union_apart: the unit is evaluated by itself where a Union would evaluate it with others.
        batch_option: whether every picture of a batch gets all units, or one each. One unit that
            asks for the latter decides for all.
        style_align: whether the pictures of a batch share their style. One unit that asks for it
            decides for all, and need not be enabled.
        speed: in which evaluations its network is evaluated; its residuals are reused in others.
            The default is what the setting `controlnet_speed` says.
        region_colour: `#rrggbb`, the colour of the unit's region in `region_map`.
        region_map: picture painted in a few colours; that of one unit serves all with a colour.
        region_palette: the colours of all units that have the same `region_map`.
        weight_curve: what the strength is multiplied by over the steps of each pass.
        notes: what was changed while parsing, one sentence each, for the user.
        is_request: made of a request's dict, whose numbers must be in range.
        fault: why a unit that is switched off could not be switched on.
    """

    is_ui: bool = row(False, is_asked=False)
    input_mode: InputMode = row(InputMode.SIMPLE)
    batch_images: Any = row("", aliases={"batch_image_dir": None}, parse=values.pictures)
    output_dir: str = row("", parse=values.text)
    loopback: bool = row(False)
    enabled: bool = row(False, axis=Axis(0, "Enabled"), attributes=("control_net_enabled",))
    module: str = row(NO_MODULE, Written.ALWAYS, Axis(7, "Preprocessor"), ("control_net_module",))
    model: str = row(NO_MODEL, Written.ALWAYS, Axis(1, "Model"), ("control_net_model",))
    weight: float = row(
        1.0,
        Written.ALWAYS,
        Axis(2, "Weight"),
        ("control_net_weight",),
        view="weight",
        parse=values.Within(0.0, 2.0, is_forgiving=True),
    )
    image: Any = row(
        None,
        attributes=("control_net_image", "control_net_input_image"),
        aliases={"input_image": None},
        parse=values.picture,
    )
    resize_mode: ResizeMode = row(
        ResizeMode.INNER_FIT, Written.ALWAYS, Axis(6, "Resize Mode"), ("control_net_resize_mode",)
    )
    low_vram: bool = row(
        False, Written.ONLY_READ, None, ("control_net_lowvram",), {"lowvram": None}
    )
    processor_res: int = row(
        -1, Written.ALWAYS, Axis(8, "Pre Resolution"), ("control_net_pres",), parse=values.whole
    )
    threshold_a: float = row(
        -1, Written.ALWAYS, Axis(9, "Pre Threshold A"), ("control_net_pthr_a",), parse=values.slider
    )
    threshold_b: float = row(
        -1,
        Written.ALWAYS,
        Axis(10, "Pre Threshold B"),
        ("control_net_pthr_b",),
        parse=values.slider,
    )
    guidance_start: float = row(
        0.0,
        Written.ALWAYS,
        Axis(3, "Guidance Start"),
        ("control_net_guidance_start",),
        view="start_guidance_percent",
        parse=values.Within(0.0, 1.0),
    )
    guidance_end: float = row(
        1.0,
        Written.ALWAYS,
        Axis(4, "Guidance End"),
        ("control_net_guidance_end", "control_net_guidance_strength"),
        {"guidance": None},
        view="stop_guidance_percent",
        parse=values.Within(0.0, 1.0),
    )
    pixel_perfect: bool = row(False, Written.ALWAYS, None, ("control_net_pixel_perfect",))
    control_mode: ControlMode = row(
        ControlMode.BALANCED,
        Written.ALWAYS,
        Axis(5, "Control Mode"),
        ("control_net_control_mode",),
        {"guessmode": values.guess_mode, "guess_mode": values.guess_mode},
    )
    inpaint_crop_input_image: bool = row(True)
    hr_option: HiResOption = row(
        HiResOption.BOTH,
        Written.IF_SET,
        Axis(14, "Hires-Fix Option"),
        ("control_net_hr_option",),
        view="hr_option",
    )
    save_detected_map: bool = row(True, Written.ONLY_READ)
    advanced_weighting: tuple[float, ...] | LayerCurve | None = row(
        None, Written.LAST_IF_SET, view="advanced_weighting", parse=values.layer_weights
    )
    effective_region_mask: Any = row(None, view="effective_region_mask", parse=values.picture)
    pulid_mode: PuLIDMode = row(PuLIDMode.FIDELITY, Written.IF_SET)
    union_control_type: ControlNetUnionControlType = row(
        ControlNetUnionControlType.UNKNOWN,
        Written.IF_SET,
        Axis(15, "Union Control Type"),
        ("control_net_union_control_type",),
    )
    ipadapter_input: Any = row(None, view="control_context_override", parse=values.embeddings)
    mask: Any = row(
        None, aliases={"mask_image": None, "image_fg": values.alpha_layer}, parse=values.picture
    )
    batch_mask_dir: str | None = row(None, parse=values.text)
    animatediff_batch: bool = row(False)
    batch_modifiers: tuple[Any, ...] = row((), parse=values.functions)
    batch_image_files: tuple[Any, ...] = row((), parse=values.items)
    batch_keyframe_idx: Any = row(None, parse=values.keyframes)
    region: ActingRegion = row(
        ActingRegion.WHOLE, Written.IF_SET, Axis(12, "Region"), ("control_net_region",)
    )
    region_feather: float = row(
        0.0,
        Written.IF_SET,
        Axis(13, "Region Feather"),
        ("control_net_region_feather",),
        parse=values.Within(0.0, 512.0, " pixels"),
    )
    batch_option: BatchOption = row(BatchOption.DEFAULT)
    style_align: bool = row(False)
    union_apart: bool = row(
        False, Written.IF_SET, Axis(16, "Union Apart"), ("control_net_union_apart",)
    )
    speed: Speed = row(Speed.DEFAULT, Written.IF_SET, Axis(17, "Speed"), ("control_net_speed",))
    region_colour: str = row(
        "", Written.IF_SET, aliases={"region_color": None}, parse=values.colour
    )
    region_map: Any = row(None, parse=values.picture)
    weight_curve: WeightCurve | None = row(
        None,
        Written.IF_SET,
        Axis(18, "Weight Curve"),
        ("control_net_weight_curve",),
        parse=parse_weight_curve,
    )
    region_palette: tuple[str, ...] = ()
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
        has_own = self.effective_region_mask is not None or self.region_colour
        if self.region is ActingRegion.WHOLE and has_own:
            return ActingRegion.OWN
        return self.region

    @property
    def has_model(self) -> bool:
        """Whether a control model is chosen."""
        return self.model != NO_MODEL

    def with_notes(self, *notes: str) -> ControlUnit:
        """The same unit with sentences appended to `notes`."""
        return dataclasses.replace(self, notes=self.notes + notes)


FIELDS: Final = rows(ControlUnit)
"""The public fields by name, in order."""
SLIDERS: Final = ("processor_res", "threshold_a", "threshold_b")
"""Those that mean what the preprocessor says; pixel perfect takes the place of the first."""

_IGNORED_KEYS: Final = (
    "batch_input_gallery",
    "batch_mask_gallery",
    "generated_image",
    "use_preview_as_input",
    "mask_image_fg",
)
MAX_KEY: Final = 60
MAX_KEYS: Final = 20


def aliases() -> dict[str, str]:
    """Older key -> field."""
    return {old: field.name for field in FIELDS.values() for old in field.aliases}


def canonical(key: object) -> str | None:
    """The field or older name that a key means, whatever its letters' case; None if unknown.

    "Control Mode", "controlMode" and "control-mode" are `control_mode`.
    """
    return _keys(tuple(FIELDS))[1].get(letters(key))


def letters(key: object) -> str:
    """What tells keys apart: small letters and digits."""
    return "".join(c for c in str(key)[:MAX_KEY].lower() if c.isalnum())


@lru_cache(maxsize=4)
def _keys(fields: tuple[str, ...]) -> tuple[frozenset[str], dict[str, str]]:
    """Every key of the interface, and by its letters alone, for fields of these names."""
    names = (*_IGNORED_KEYS, *aliases(), *fields)
    return frozenset(names), {name.replace("_", ""): name for name in names}


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
    if is_request is None:
        is_request = isinstance(value, Mapping)
    notes: list[str] = []
    try:
        if isinstance(value, Mapping):
            given, unknown = present_names(value)
            notes += [f"unknown keys ignored: {quote_keys(unknown)}"] if unknown else []
            given["enabled"] = True if given.get("enabled") is None else given["enabled"]
        else:
            given = {name: getattr(value, name) for name in FIELDS if hasattr(value, name)}
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
    field, said = FIELDS[name], list[str]()
    parse = field.parse
    if isinstance(parse, values.Within) and parse.is_forgiving and not is_request:
        parse = parse.bring_into_range
    is_blank = _is_empty(raw) and (raw is None or parse is not values.boolean)
    try:
        found = field.default if is_blank else parse(raw, said)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        msg = f"{name} {error}"
        raise ValueError(msg) from error
    notes += [f"{name} {sentence}" for sentence in said]
    return found


def present_names(
    sent: Mapping[str, Any], *, is_strict: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Fields under their present names, which win unless they are empty, and unknown keys.

    Args:
        sent: with keys of the interface, older ones among them, in any letter case.
        is_strict: whether the value of an older key must have a meaning; else it is kept.

    Raises:
        ValueError: the value of an older key has none.
    """
    (names, _letters), unknown = _keys(tuple(FIELDS)), list[str]()
    given = {key: value for key, value in sent.items() if key in names}
    for key, value in sent.items():
        if key in names:
            continue
        name = canonical(key)
        if name is None or name in given:
            unknown.append(str(key))
        else:
            given[name] = value
    for name, field in FIELDS.items():
        for old, convert in field.aliases.items():
            value = given.get(old)
            if _is_empty(value):
                continue
            try:
                value = convert(value, []) if convert else value
            except ValueError as error:
                if is_strict:
                    msg = f"{old} {error}"
                    raise ValueError(msg) from error
            if _is_empty(given.get(name)):
                given[name] = value
    return {name: value for name, value in given.items() if name in FIELDS}, unknown


def quote_keys(keys: list[str]) -> str:
    """Keys of a request in an order of their own, each in part, and the first of them."""
    listed = [key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}..." for key in sorted(keys)]
    return ", ".join(listed[:MAX_KEYS]) + (", ..." if len(listed) > MAX_KEYS else "")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
