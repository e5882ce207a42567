"""What a generation does with units that have several pictures, planned before it begins.

They act all at once ("merge"), one after the other in turns (a batch), or as the frames of an
animation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lib_controlnet.enums import InputMode
from lib_controlnet.errors import UnitError, quote
from lib_controlnet.limits import MAX_MERGED
from lib_controlnet.units.batch import (
    BatchPicture,
    BatchSource,
    give_all,
    keyframe_line,
    pair_masks,
    pictures_of,
)
from lib_controlnet.units.unit import ControlUnit
from lib_controlnet.units.weight_types import LayerCurve

MOST_DIGITS: Final = 9
"""Of the number of a frame."""


@dataclass(frozen=True)
class Animation:
    """What the host knows of an animation.

    Attributes:
        count: frames, which are the pictures of the host's batch.
        takes_batches: whether all units in batch mode belong to it; else those that say so do.
        owner: what a unit's modifiers are given beside the names of its pictures.
    """

    count: int = 1
    takes_batches: Callable[[], bool] = bool
    owner: Any = None


@dataclass(frozen=True)
class Frames:
    """Pictures of a unit for the frames of an animation.

    Attributes:
        pictures: () for a unit that has a picture of its own.
        keyframes: numbers of the frames that they are for, ascending, from 0; () where one picture
            is for all.
    """

    pictures: tuple[BatchPicture, ...] = ()
    keyframes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Which picture each unit gets, and when.

    Attributes:
        units: all units that take part; of one that merges, one for each of its pictures.
        turns: pictures by position in `units`, for those that have one for every turn.
        frames: in an animation, what each unit has for its frames.
        count: turns; the shortest of `turns` decides, 1 without any.
        folders: folders that the pictures of the turns lie in.
    """

    units: tuple[ControlUnit, ...]
    turns: Mapping[int, tuple[BatchPicture, ...]]
    frames: Mapping[int, Frames]
    count: int
    folders: tuple[Path, ...] = ()

    def name_of(self, turn: int) -> BatchPicture:
        """The picture that names a turn's results: that of the last unit with pictures."""
        return self.turns[max(self.turns)][turn]

    def at(
        self, turn: int, result: Any = None, instead: Any = None, stem: str | None = None
    ) -> list[ControlUnit]:
        """The units of one turn, each with one picture; of an animation, that of the first frame.

        Args:
            turn: 0 to `count` - 1.
            result: what the turn before gave; units with `loopback` take it.
            instead: a picture from another script for all units of the batch, or a list of them
                (None: the unit's own).
            stem: name of the host's own picture of this turn; a picture of the same name is
                preferred to the one whose turn it is.

        Raises:
            ImageError: a file has gone since it was listed.
        """
        return [
            self.unit_at(position, turn, result, instead, stem)
            for position in range(len(self.units))
        ]

    def unit_at(
        self,
        position: int,
        turn: int,
        result: Any = None,
        instead: Any = None,
        stem: str | None = None,
    ) -> ControlUnit:
        """One of the units of a turn, see `at`."""
        unit = self.units[position]
        if unit.loopback and result is not None:
            return BatchPicture("the last result", result).give_to(unit)
        framed = self.frames.get(position, Frames()).pictures
        if framed:
            return framed[0].give_to(unit)
        if position not in self.turns:
            return unit
        foreign = instead
        if isinstance(instead, (list, tuple)):
            foreign = instead[position] if position < len(instead) else None
        if foreign is not None:
            return BatchPicture("picture of a script", foreign).give_to(unit)
        pictures = self.turns[position]
        named = [picture for picture in pictures if stem is not None and picture.stem == stem]
        return (named[0] if named else pictures[turn]).give_to(unit)


def plan(
    units: Sequence[ControlUnit],
    source: BatchSource,
    animation: Animation = Animation(),
    takes_several: Callable[[ControlUnit], bool] = lambda _unit: False,
) -> Plan:
    """Plan a generation.

    Args:
        units: the enabled units.
        source: where pictures may come from.
        animation: what the host knows of one.
        takes_several: whether several pictures of a unit act together, as one.

    Raises:
        UnitError: a unit names no pictures, or a folder that is absent, closed or empty; or there
            are fewer pictures than frames, frames beside turns, or no such keyframes.
        ImageError: a file or picture cannot be used; it is named.
    """
    single = tuple(one for unit in units for one in _unfold(unit, source, takes_several(unit)))
    batches = [i for i, unit in enumerate(single) if _is_batch(unit)]
    takes_all = bool(batches) and animation.takes_batches()
    framed = [i for i in batches if takes_all or single[i].animatediff_batch]
    if 0 < len(framed) < len(batches):
        msg = (
            f"{single[framed[0]].name}: frames of an animation and pictures of a batch cannot be "
            "mixed in one generation; use one of them"
        )
        raise UnitError(msg)
    frames = {i: _frames_of(single[i], source, animation) for i in framed}
    if frames or (single and animation.count > 1 and animation.takes_batches()):
        frames = {i: frames.get(i, Frames()) for i in range(len(single))}
    folders: list[Path] = []
    turns = {i: pair_masks(single[i], source, folders) for i in batches if i not in frames}
    count = min(map(len, turns.values()), default=1)
    return Plan(single, turns, frames, count, tuple(folders))


def _is_batch(unit: ControlUnit) -> bool:
    """Whether it has pictures that are for turns or frames."""
    listed = unit.animatediff_batch and unit.batch_image_files  # kept out of AnimateDiff's sight
    return unit.input_mode is InputMode.BATCH or bool(listed)


def _unfold(unit: ControlUnit, source: BatchSource, takes_several: bool) -> Iterator[ControlUnit]:
    """The unit, or of one in merge mode a unit per picture, at an equal share of its weight."""
    if unit.input_mode is not InputMode.MERGE:
        yield unit
        return
    pictures = pictures_of(unit, source, [], MAX_MERGED)
    if takes_several:
        yield give_all(pictures, unit)
        return
    share = 1 / len(pictures)
    shared = dataclasses.replace(
        unit,
        weight=unit.weight * share,
        advanced_weighting=_share(unit.advanced_weighting, share),
    )
    for picture in pictures:
        yield picture.give_to(shared)


def _share(own: tuple[float, ...] | LayerCurve | None, share: float) -> Any:
    if own is None or isinstance(own, LayerCurve):
        return own if own is None else own.scale(share)
    return tuple(weight * share for weight in own)


def _frames_of(unit: ControlUnit, source: BatchSource, animation: Animation) -> Frames:
    """One picture for every frame or for each keyframe, or a single one for all."""
    given = list(unit.batch_image_files) or unit.batch_images
    pictures = pair_masks(dataclasses.replace(unit, batch_images=given), source, [])
    for modifier in unit.batch_modifiers:
        known = {str(picture.value): picture for picture in pictures}
        kept = modifier([str(picture.value) for picture in pictures], animation.owner)
        pictures = tuple(known[str(name)] for name in kept)
    asked = unit.batch_keyframe_idx or keyframe_line(unit.batch_images)
    if asked:
        return _pair_keyframes(unit, asked, pictures, animation.count)
    if len(pictures) not in (1, animation.count) and len(pictures) < animation.count:
        msg = (
            f"{unit.name}: there are {len(pictures)} control pictures for the {animation.count} "
            "frames of the animation; give one for each, or a single one for all"
        )
        raise UnitError(msg)
    pictures = pictures[: animation.count]
    return Frames(pictures, () if len(pictures) == 1 else tuple(range(len(pictures))))


def _pair_keyframes(
    unit: ControlUnit, asked: Any, pictures: Sequence[BatchPicture], count: int
) -> Frames:
    """Pictures by the frames that they are for.

    Raises:
        UnitError: these are no numbers of frames, or there is no picture for one of them.
    """
    words = asked.replace(",", " ").split() if isinstance(asked, str) else list(asked)
    numbers = [_frame_number(word) for word in words]
    if len(set(numbers)) < len(numbers) or not all(0 <= number < count for number in numbers):
        msg = (
            f"{unit.name}: batch_keyframe_idx is {quote(asked)}, must be different numbers from 0 "
            f"to {count - 1}, those of the frames that have a control picture"
        )
        raise UnitError(msg)
    if len(pictures) < len(numbers):
        msg = (
            f"{unit.name}: there are {len(pictures)} control pictures for the {len(numbers)} "
            "keyframes; give one for each"
        )
        raise UnitError(msg)
    pairs = sorted(zip(numbers, pictures, strict=False), key=lambda pair: pair[0])
    return Frames(tuple(picture for _, picture in pairs), tuple(number for number, _ in pairs))


def _frame_number(word: object) -> int:
    """The number of a frame; -1 for what is none."""
    text = str(word).strip()
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else -1
