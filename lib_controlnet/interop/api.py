"""The Python API that other extensions call: units, listings, and writing units into a run.

Others import it by the names that `lib_controlnet.interop.aliases` registers. None of them is
`lib_controlnet.external_code`: finding that, several extensions conclude that they run on Forge.

Nothing here imports the host. What only the host knows (settings, folders, the loaded model)
comes from the objects that the script hands to `lib_controlnet.interop.services`.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from lib_controlnet.detect import listing
from lib_controlnet.enums import (
    ActingRegion,
    BatchOption,
    ControlMode,
    ControlNetUnionControlType,
    HiResFixOption,
    InputMode,
    PuLIDMode,
    ResizeMode,
)
from lib_controlnet.errors import ImageError
from lib_controlnet.interop.plugins import Preprocessor, PreprocessorParameter
from lib_controlnet.interop.services import services
from lib_controlnet.interop.unit import (
    ControlNetUnit,
    FurtherUnits,
    flatten,
    is_unit_like,
    to_unit,
)
from lib_controlnet.pictures import maps
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.pictures.maps import Size

__all__ = [
    "ActingRegion",
    "BatchOption",
    "ControlMode",
    "ControlNetUnionControlType",
    "ControlNetUnit",
    "HiResFixOption",
    "InputMode",
    "Preprocessor",
    "PreprocessorParameter",
    "PuLIDMode",
    "ResizeMode",
    "control_mode_from_value",
    "decode_base64",
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
    "logger",
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
logger = logging.getLogger("ControlNet")

API_VERSION: Final = 3
SCRIPT_TITLE: Final = "controlnet"
RESIZE_MODES: Final = len(ResizeMode)

Args = TypeVar("Args", bound="list[Any] | tuple[Any, ...]")


def get_api_version() -> int:
    """Version of this interface; 3 since units are objects with named fields only."""
    return API_VERSION


def get_max_models_num() -> int:
    """Number of unit slots in each tab (setting `control_net_unit_count`)."""
    return services().unit_count()


def get_models(update: bool = False) -> list[str]:
    """Control models as `name [hash]`, without "None"; `update` scans the folders again."""
    if update:
        services().refresh_models()
    return list(services().catalog.names())


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
    """All units among the script arguments of a host processing object.

    Objects that were never given arguments hold `{}` there, and have no units.
    """
    args = p.script_args
    return get_all_units(p.scripts, args) if isinstance(args, (list, tuple)) else []


def get_all_units(script_runner: Any, script_args: Sequence[Any]) -> list[ControlNetUnit]:
    """All units in the slice of arguments that belongs to this extension's script."""
    script = find_cn_script(script_runner)
    if script is None:
        return []
    return get_all_units_from(script_args[script.args_from : script.args_to])


def get_all_units_from(script_args: Iterable[Any]) -> list[ControlNetUnit]:
    """All units among the given arguments; dicts and look-alikes are turned into units."""
    script_args = flatten(script_args)
    units = [to_processing_unit(value) for value in script_args if is_unit_like(value)]
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
    units = [value for value in flatten(script_args) if is_unit_like(value)]
    return to_processing_unit(units[index]) if 0 <= index < len(units) else None


def to_processing_unit(unit: Mapping[str, Any] | Any) -> ControlNetUnit:
    """A unit object for a unit, a dict of its fields, or an object that looks like one.

    A unit is returned as it is, so that callers may change it.
    """
    return to_unit(unit)


def update_cn_script_in_processing(p: Any, cn_units: Sequence[Any], **_ignored: Any) -> None:
    """Put units into the script arguments of a host processing object.

    The host's property setter is used, and the container keeps its type (tuple or list). An object
    that was never given arguments (`{}`) stays as it is.
    """
    args = getattr(p, "script_args_value", None)
    if not isinstance(args, (list, tuple)):
        args = p.script_args
    if isinstance(args, (list, tuple)):
        p.script_args = update_cn_script(p.scripts, args, cn_units)


def update_cn_script(script_runner: Any, script_args: Args, cn_units: Sequence[Any]) -> Args:
    """Arguments with this extension's slice replaced by the given units.

    Fewer units than slots are filled up with disabled ones; more of them share the last slot, so
    that the arguments of no other script move.

    Returns:
        A new container of the same type, or the given one if the script is absent or has no
        slots, or the arguments end before its slice.
    """
    script = find_cn_script(script_runner)
    if script is None or script.args_from is None or len(script_args) < script.args_from:
        return script_args
    first, end = int(script.args_from), int(script.args_to)
    slots = end - first
    if slots < 1:
        return script_args
    units: list[Any] = [to_processing_unit(unit) for unit in cn_units]
    units += [ControlNetUnit() for _ in range(slots - len(units))]
    if len(units) > slots:
        units[slots - 1 :] = [FurtherUnits(units[slots - 1 :])]
    return type(script_args)([*script_args[:first], *units, *script_args[end:]])


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


def resize_mode_from_value(value: str | int | ResizeMode) -> ResizeMode:
    """The resize mode for any spelling a client may use; numbers above 3 count as 0.

    Raises:
        ValueError: the value is none of the choices.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > RESIZE_MODES:
        log.warning("there is no resize mode %d, %s is used", value, ResizeMode.RESIZE)
        return ResizeMode.RESIZE
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
    target, mode = Size(target_W, target_H), resize_mode_from_value(resize_mode)
    return maps.pixel_perfect_resolution(Size.from_array(image), target, mode)


def to_base64_nparray(encoding: str) -> np.ndarray:
    """Decode a base64 picture or data URL to uint8 (H, W, 3 or 4).

    Raises:
        ImageError: the text is no picture.
    """
    return decode_image(encoding, "image", keep_alpha=True)


def decode_base64(encoding: str) -> Any:
    """The torch object in a base64 text, such as `/controlnet/detect` gives for embeddings.

    Only tensors and plain containers are read, never code.

    Raises:
        ImageError: the text is no such object.
    """
    import torch

    try:
        data = base64.b64decode(encoding, validate=True)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes: binascii, pickle and zip errors of all kinds
        msg = f"the text is no base64 of a torch tensor: {type(error).__name__}"
        raise ImageError(msg) from error
    if found is None:  # the host's restricted loader says so instead of raising
        msg = "the text is no base64 of a torch tensor that may be loaded"
        raise ImageError(msg)
    return found


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
