"""Choices a user makes; the UI string is the value. Parsed once, at the edge, with `parse`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

from lib_controlnet.errors import quote

E = TypeVar("E", bound="Choice")


_WORDS: Final = {
    **dict.fromkeys(("true", "1", "1.0", "on", "yes", "t", "y"), True),
    **dict.fromkeys(("false", "0", "0.0", "off", "no", "f", "n", ""), False),
}


def truth(value: object) -> bool | None:
    """What a switch's value means: true and false, 1 and 0, their words; None if it is none."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


class Choice(str, Enum):
    """A string enum that understands the spellings of older clients.

    Members compare equal to their UI string. `parse` accepts the member, its value, its name,
    `ClassName.NAME`, its index in definition order and the class's legacy aliases; letter case
    does not matter.
    """

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def aliases(cls) -> dict[str, str]:
        """Legacy spelling (lower case) -> member name."""
        return {}

    @classmethod
    def in_order(cls: type[E]) -> list[E]:
        """The members that indices mean, from 0."""
        return list(cls)

    @classmethod
    def parse(cls: type[E], value: object) -> E:
        """Turn any accepted spelling into a member.

        Raises:
            ValueError: the value is none of the choices; the message lists them.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(cls._complaint(value))
        members = cls.in_order()
        if isinstance(value, int):
            return cls._by_index(min(max(value, -1), len(members) + 9), value, members)
        text = str(value).strip()
        if isinstance(value, float) or text.replace(".", "", 1).isdecimal():
            return cls._by_index(float(text), value, members)
        key = text.removeprefix(f"{cls.__name__}.").lower()
        for member in cls:
            if key in (str(member.value).lower(), member.name.lower()):
                return member
        name = cls.aliases().get(key)
        if name is not None:
            return cls[name]
        raise ValueError(cls._complaint(value))

    @classmethod
    def _by_index(cls: type[E], number: float, value: object, members: list[E]) -> E:
        if not math.isfinite(number):
            raise ValueError(cls._complaint(value))
        name = cls.aliases().get(str(int(number)))
        if name is not None:
            return cls[name]
        if number != int(number) or not 0 <= number < len(members):
            raise ValueError(cls._complaint(value))
        return members[int(number)]

    @classmethod
    def _complaint(cls, value: object) -> str:
        choices = ", ".join(f'"{member.value}"' for member in cls)
        return f"is {quote(value)}, must be one of {choices}"


class ResizeMode(Choice):
    """How a control image is brought to the size of the picture."""

    RESIZE = "Just Resize"
    INNER_FIT = "Crop and Resize"
    OUTER_FIT = "Resize and Fill"

    @classmethod
    def aliases(cls) -> dict[str, str]:
        return {
            "inner fit (scale to fit)": "INNER_FIT",
            "scale to fit (inner fit)": "INNER_FIT",
            "outer fit (shrink to fit)": "OUTER_FIT",
            "envelope (outer fit)": "OUTER_FIT",
            "3": "RESIZE",  # the host's "just resize (latent upscale)"
        }


class ControlMode(Choice):
    """Which side wins: the prompt, the control, or neither (the paper's "guess mode")."""

    BALANCED = "Balanced"
    PROMPT = "My prompt is more important"
    CONTROL = "ControlNet is more important"


class HiResOption(Choice):
    """In which pass of a hires fix a unit is active."""

    BOTH = "Both"
    LOW_RES_ONLY = "Low res only"
    HIGH_RES_ONLY = "High res only"

    @classmethod
    def aliases(cls) -> dict[str, str]:
        return {f"hiresfixoption.{member.name.lower()}": member.name for member in cls}


HiResFixOption = HiResOption


class InputMode(Choice):
    """Where a unit's pictures come from."""

    SIMPLE = "simple"
    BATCH = "batch"
    MERGE = "merge"


class PuLIDMode(Choice):
    """Strength preset of PuLID units."""

    FIDELITY = "Fidelity"
    STYLE = "Extremely style"


class Speed(Choice):
    """In which evaluations of the sampler a unit's network is evaluated, see `engine.key_steps`.

    By default those that the setting `controlnet_speed` says.
    """

    DEFAULT = "Default"
    EXACT = "Exact"
    FAST = "Fast"
    FASTEST = "Fastest"
    ADAPTIVE = "Adaptive"


UNION_TYPES_MOST: Final = 32
"""Types of a union model that can be asked for; published ones have 6, 8 or 9."""


class ControlNetUnionControlType(Choice):
    """The control a union model is asked to follow; a member's index is the type's number.

    Types that have no published name are called by their numbers, up to `UNION_TYPES_MOST`.
    """

    _ignore_ = "number"

    OPENPOSE = "OpenPose"
    DEPTH = "Depth"
    SOFT_EDGE = "Soft Edge"
    HARD_EDGE = "Hard Edge"
    NORMAL_MAP = "Normal Map"
    SEGMENTATION = "Segmentation"
    TILE = "Tile"
    INPAINT = "Inpaint"
    FUSE = "Fuse"
    for number in range(9, UNION_TYPES_MOST):
        vars()[f"TYPE_{number}"] = str(number)
    UNKNOWN = "Unknown"

    @classmethod
    def in_order(cls) -> list[ControlNetUnionControlType]:
        return [kind for kind in cls if kind is not cls.UNKNOWN]

    @classmethod
    def _complaint(cls, value: object) -> str:
        named = ", ".join(f'"{kind.value}"' for kind in cls if not kind.value.isdecimal())
        last = UNION_TYPES_MOST - 1
        return f"is {quote(value)}, must be one of {named}, or a type's number, 0 to {last}"


UNION_TYPES: Final[Mapping[str, ControlNetUnionControlType]] = {
    "openpose": ControlNetUnionControlType.OPENPOSE,
    "depth": ControlNetUnionControlType.DEPTH,
    "scribble": ControlNetUnionControlType.SOFT_EDGE,
    "softedge": ControlNetUnionControlType.SOFT_EDGE,
    "canny": ControlNetUnionControlType.HARD_EDGE,
    "lineart": ControlNetUnionControlType.HARD_EDGE,
    "mlsd": ControlNetUnionControlType.HARD_EDGE,
    "normalmap": ControlNetUnionControlType.NORMAL_MAP,
    "segmentation": ControlNetUnionControlType.SEGMENTATION,
    "tile": ControlNetUnionControlType.TILE,
    "inpaint": ControlNetUnionControlType.INPAINT,
}
"""What a union model is asked to follow, by control type in lower case."""


def union_type(control_type: str) -> ControlNetUnionControlType:
    """What a union model is asked to follow for a control type; unknown for most of them."""
    return UNION_TYPES.get(control_type.lower(), ControlNetUnionControlType.UNKNOWN)


class BatchOption(Choice):
    """Which pictures of a batch a unit controls."""

    DEFAULT = "All ControlNet units for all images in a batch"
    SEPARATE = "Each ControlNet unit for each image in a batch"


class ActingRegion(Choice):
    """The part of the picture on which a unit acts."""

    WHOLE = "Whole picture"
    OWN = "Own mask"
    INSIDE = "Inside the inpaint mask"
    OUTSIDE = "Outside the inpaint mask"

    @classmethod
    def aliases(cls) -> dict[str, str]:
        return {"effective region mask": "OWN"}


class BaseModel(Choice):
    """Family of the base checkpoint, read from tensor shapes, never from a file name."""

    SD1 = "SD1"
    SD2 = "SD2"
    SDXL = "SDXL"
    UNKNOWN = "unknown"


class Storage(Choice):
    """When control networks are stored in 8 bits (setting `controlnet_store_8_bit`)."""

    NEVER = "Never"
    SHORT = "When memory is short"
    ALWAYS = "Always"


class OnnxEngine(Choice):
    """What runs the ONNX files of preprocessors (setting `controlnet_onnx_engine`)."""

    AUTOMATIC = "Automatic"
    OPENCV = "OpenCV"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "OpenVINO"


class LastUsed(Choice):
    """What is kept of the units of a generation (setting `controlnet_last_used`)."""

    AUTOMATIC = "Automatic"
    NEVER = "Never"
    SETTINGS = "Without pictures"
    PICTURES = "With pictures"


class OnError(Choice):
    """What a failing unit does to the generation (setting `control_net_on_error`)."""

    STOP = "stop"
    SKIP = "skip"


LATENT_SCALE: Final = 8
"""Pixels per latent cell along each axis, for every supported base model."""

LATENT_CHANNELS: Final = 4
"""Channels of the noisy latent; inpainting and edit U-Nets append their own conditioning."""
