"""AnimateDiff: its frames are the pictures of one generation, and a unit gives one hint for each.

Where AnimateDiff is on, units in batch mode belong to it: their pictures are not run one after the
other. It also takes over the batch tab of img2img, which it reaches through `process_batch` of the
host. Both need AnimateDiff's own modules; without them nothing of the host is touched.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from modules import img2img

from lib_controlnet.enums import InputMode
from lib_controlnet.errors import UnitError
from lib_controlnet.host.runs.batch import batch_size
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.units.plan import Animation

_PARAMETERS: Final = "scripts.animatediff_utils"
_BATCH_TAB: Final = "scripts.animatediff_i2ibatch"
_ORIGINAL: Final = "__controlnet_original__"


def parameters(p: Any) -> Any | None:
    """What AnimateDiff was asked for in this generation; None where it is absent or off."""
    try:
        module = importlib.import_module(_PARAMETERS)
    except ImportError:
        return None
    found = module.get_animatediff_arg(p)
    return found if found is not None and found.enable else None


def animation_of(p: Any) -> Animation:
    """What is known of the animation that a generation makes, if it makes one."""
    return Animation(batch_size(p), lambda: parameters(p) is not None, p)


def ready_units(p: Any, script: Any) -> None:
    """Give AnimateDiff units that it can read, before it looks at them.

    Those of a request it takes for objects as well, and all that a unit names for a folder.

    Args:
        p: the host's processing object, with scripts and arguments.
        script: the one that the units are arguments of.
    """
    if parameters(p) is None:
        return
    args = list(p.script_args)
    own = slice(script.args_from, script.args_to)
    args[own] = [_readable(value) for value in args[own]]
    p.script_args = args


def _readable(value: Any) -> Any:
    """A unit as AnimateDiff can read it; one that is to be refused, and anything else, as it is."""
    if isinstance(value, Mapping):
        try:
            value = ControlNetUnit.from_dict(value)
        except UnitError:
            return value
    if not isinstance(value, ControlNetUnit) or not value.get("enabled"):
        return value
    unit: Any = copy.copy(value)
    listed = unit.batch_images
    if isinstance(listed, Path):
        listed = unit.batch_images = str(listed)
    if not isinstance(listed, (str, list, tuple)):
        return unit
    if unit.input_mode is InputMode.SIMPLE and unit.image is None and listed:
        unit.input_mode = InputMode.BATCH
    if unit.input_mode is InputMode.MERGE:
        unit.batch_input_gallery = True  # that there are pictures: it would put in its video's
    if isinstance(listed, str) or not listed:
        return unit
    unit.batch_images = ""
    if unit.input_mode is InputMode.MERGE:
        unit.image = list(listed)
    else:  # no folder: it leaves alone what has a picture
        unit.input_mode, unit.image = InputMode.SIMPLE, listed[0]
        unit.batch_image_files, unit.animatediff_batch = list(listed), True
    return unit


def take_batch_tab() -> None:
    """Let AnimateDiff run the batch tab of img2img in the generations where it is on."""
    try:
        importlib.import_module(_BATCH_TAB)
    except ImportError:
        return
    original = img2img.process_batch
    if hasattr(original, _ORIGINAL):
        return

    @functools.wraps(original)
    def process_batch(p: Any, *args: Any, **kwargs: Any) -> Any:
        asked = parameters(p)
        if asked is None:
            return original(p, *args, **kwargs)
        asked.is_i2i_batch = True
        run = importlib.import_module(_BATCH_TAB).animatediff_i2i_batch
        return run(p, *args, **kwargs)

    setattr(process_batch, _ORIGINAL, original)
    img2img.process_batch = process_batch


def give_back_batch_tab() -> None:
    """Undo `take_batch_tab`."""
    original = getattr(img2img.process_batch, _ORIGINAL, None)
    if original is not None:
        img2img.process_batch = original
