"""AnimateDiff: its frames are the pictures of one generation, and a unit gives one hint for each.

Where AnimateDiff is on, units in batch mode belong to it: their pictures are not run one after the
other. It also takes over the batch tab of img2img, which it reaches through `process_batch` of the
host. Both need AnimateDiff's own modules; without them nothing of the host is touched.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from modules import img2img

from lib_controlnet.enums import ActingRegion, InputMode, OnError
from lib_controlnet.errors import ControlNetError, UnitError
from lib_controlnet.pictures.maps import fit_map
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units import batch

if TYPE_CHECKING:
    import numpy as np

    from lib_controlnet.engine.prepared import PreparedUnit
    from lib_controlnet.units.batch import BatchPicture, BatchSource
    from lib_controlnet.units.unit import ControlUnit

_PARAMETERS: Final = "scripts.animatediff_utils"
_BATCH_TAB: Final = "scripts.animatediff_i2ibatch"
_ORIGINAL: Final = "__controlnet_original__"

Frames = dict[int, tuple["BatchPicture", ...]]
"""Pictures by position of their unit."""


def parameters(p: Any) -> Any | None:
    """What AnimateDiff was asked for in this generation; None where it is absent or off."""
    try:
        module = importlib.import_module(_PARAMETERS)
    except ImportError:
        return None
    found = module.get_animatediff_arg(p)
    return found if found is not None and found.enable else None


def frames_of(p: Any, units: Sequence[ControlUnit], source: BatchSource, count: int) -> Frames:
    """The pictures of the units whose batch is an animation.

    Args:
        p: the host's processing object; modifiers of AnimateDiff get it.
        units: the enabled units.
        source: where pictures may come from.
        count: frames, which are the pictures of the host's batch.

    Raises:
        ControlNetError: pictures are missing or broken, or there are fewer than frames.
    """
    asked = [i for i, unit in enumerate(units) if unit.input_mode is InputMode.BATCH]
    if not asked:
        return {}
    is_on = parameters(p) is not None
    return {
        i: _frames(p, units[i], source, count) for i in asked if is_on or units[i].animatediff_batch
    }


def _frames(p: Any, unit: ControlUnit, source: BatchSource, count: int) -> tuple[BatchPicture, ...]:
    if unit.batch_keyframe_idx or batch.keyframe_line(unit.batch_images):
        msg = (
            f"{unit.name}: keyframes are for SparseCtrl and IP-Adapter models, which are not "
            "supported yet; give one control picture for each frame"
        )
        raise UnitError(msg)
    given = list(unit.batch_image_files) or unit.batch_images
    pictures = batch.frames(dataclasses.replace(unit, batch_images=given), source)
    for modifier in unit.batch_modifiers:
        known = {str(picture.value): picture for picture in pictures}
        kept = modifier([str(picture.value) for picture in pictures], p)
        pictures = tuple(known[str(name)] for name in kept)
    if len(pictures) not in (1, count) and len(pictures) < count:
        msg = (
            f"{unit.name}: there are {len(pictures)} control pictures for the {count} frames of "
            "the animation; give one for each, or a single one for all"
        )
        raise UnitError(msg)
    return pictures[:count]


def with_first_frames(units: Sequence[ControlUnit], frames: Frames) -> list[ControlUnit]:
    """The units as they are, but those of an animation with the picture of its first frame.

    Raises:
        ImageError: a file has gone since it was listed.
    """
    return [frames[i][0].given_to(unit) if i in frames else unit for i, unit in enumerate(units)]


def refuse_turns(units: Sequence[ControlUnit], frames: Frames, run: object | None) -> None:
    """Refuse frames of an animation beside pictures of a batch.

    Raises:
        UnitError: both are asked for.
    """
    if frames and run is not None:
        msg = (
            f"{units[min(frames)].name}: frames of an animation and pictures of a batch cannot be "
            "mixed in one generation; use one of them"
        )
        raise UnitError(msg)


def add_frames(
    prepared: Sequence[PreparedUnit],
    units: Sequence[ControlUnit],
    frames: Frames,
    preparation: Preparation,
    comments: list[str],
) -> list[PreparedUnit]:
    """The prepared units, those of an animation with the maps of all its frames.

    Args:
        prepared: made of `units`.
        units: from `with_first_frames`.
        frames: from `frames_of`.
        preparation: how the first frames were prepared.
        comments: gets a sentence for a unit that is skipped.

    Raises:
        ControlNetError: a frame cannot be prepared; it is named.
    """
    pictures = {id(unit): frames.get(i, ()) for i, unit in enumerate(units)}
    complete = []
    for made in prepared:
        try:
            complete.append(_with_frames(made, pictures[id(made.unit)], preparation))
        except ControlNetError as error:
            if preparation.on_error is OnError.STOP:
                raise
            comments.append(f"ControlNet: {error} (unit skipped)")
    return complete


def _with_frames(
    made: PreparedUnit, pictures: Sequence[BatchPicture], preparation: Preparation
) -> PreparedUnit:
    if not pictures:
        return made
    if made.effect or made.fills:
        msg = (
            f"{made.unit.name}: {made.unit.module} brings pixels of one picture into the result, "
            "and an animation has several; choose another preprocessor"
        )
        raise UnitError(msg)
    # The region is that of the unit, and its model has been found already.
    plain = dataclasses.replace(made.unit, region=ActingRegion.WHOLE, effective_region_mask=None)
    alone = dataclasses.replace(preparation, base=None, on_error=OnError.STOP)
    maps: list[np.ndarray] = []
    for number, picture in enumerate(pictures[1:], 2):
        try:
            frame = prepare_units([picture.given_to(plain)], alone, [])
        except ControlNetError as error:
            msg = f"{error} (frame {number} of {len(pictures)}: {picture.name})"
            raise type(error)(msg, error.status_code) from error
        if not frame:  # interrupted
            return made
        shown = frame[0].detected
        if frame[0].resize_mode is not made.resize_mode:  # only one of them takes the host's mask
            shown = fit_map(shown, preparation.request.size, frame[0].resize_mode)
        maps.append(shown)
    return dataclasses.replace(made, frames=tuple(maps))


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
