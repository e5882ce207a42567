"""The maps of an animation: one for each of its frames, where a unit has as many pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lib_controlnet.errors import ControlNetError, UnitError
from lib_controlnet.pictures.maps import fit_map
from lib_controlnet.prepare.detection import detect_unit
from lib_controlnet.prepare.inputs import choose
from lib_controlnet.prepare.units import Preparation, answer_failure

if TYPE_CHECKING:
    from lib_controlnet.engine.prepared import PreparedUnit
    from lib_controlnet.units.batch import BatchPicture
    from lib_controlnet.units.unit import ControlUnit


def add_frames(
    prepared: Sequence[PreparedUnit],
    units: Sequence[ControlUnit],
    frames: Mapping[int, Sequence[BatchPicture]],
    preparation: Preparation,
    comments: list[str],
) -> list[PreparedUnit]:
    """The prepared units, those of an animation with the maps of all its frames.

    Args:
        prepared: made of `units`.
        units: of the plan's only turn.
        frames: the plan's.
        preparation: how the first frames were prepared.
        comments: gets a sentence for a unit that is skipped.

    Raises:
        ControlNetError: a frame cannot be prepared; it is named.
    """
    pictures = {id(unit): frames.get(i, ()) for i, unit in enumerate(units)}
    complete = []
    for made in prepared:
        with answer_failure(made.unit, preparation, comments):
            complete.append(_with_frames(made, pictures[id(made.unit)], preparation))
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
    request, maps = preparation.request, []
    for number, picture in enumerate(pictures[1:], 2):
        if preparation.interrupted():
            return made
        try:
            choice = choose(picture.give_to(made.unit), request)
            frame = detect_unit(choice, preparation.source, preparation.cache)
        except ControlNetError as error:
            msg = f"{error} (frame {number} of {len(pictures)}: {picture.name})"
            raise type(error)(msg, error.status_code) from error
        shown = frame.detection.image
        if frame.resize_mode is not made.resize_mode:  # only one of them takes the host's mask
            shown = fit_map(shown, request.size, frame.resize_mode)
        maps.append(shown)
    return dataclasses.replace(made, frames=tuple(maps))
