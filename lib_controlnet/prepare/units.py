"""From what was asked to what will run: picture, detected map and model of every unit."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np

from lib_controlnet import families
from lib_controlnet.detect import preprocess
from lib_controlnet.detect.listing import takes_several
from lib_controlnet.detect.sliders import find_misplaced
from lib_controlnet.engine.prepared import ModelReference, PreparedUnit
from lib_controlnet.enums import ActingRegion, BatchOption, OnError, union_type
from lib_controlnet.errors import ControlNetError, UnitError
from lib_controlnet.pictures.maps import fit_map
from lib_controlnet.pictures.region import Region
from lib_controlnet.prepare.ahead import LoadingAhead
from lib_controlnet.prepare.detection import detect_unit, follow_model
from lib_controlnet.prepare.embeddings import read_embeddings
from lib_controlnet.prepare.inputs import (
    PictureSource,
    choose,
    choose_all,
    host_region,
    own_region,
)
from lib_controlnet.units.unit import NO_MODULE, SLIDERS

if TYPE_CHECKING:
    from annotator.registry import Detector
    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.prepare.ahead import Models
    from lib_controlnet.prepare.detection import UnitMap
    from lib_controlnet.prepare.inputs import ChosenPicture
    from lib_controlnet.units.plan import Frames
    from lib_controlnet.units.request import GenerationRequest
    from lib_controlnet.units.unit import ControlUnit

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What preparing units needs beside the units.

    Attributes:
        request: the generation.
        models: finds and loads control models.
        base: the checkpoint that is loaded now; models are checked against it at once.
        source: how pictures may be read.
        cache: detections to reuse.
        interrupted: whether the user has asked to stop.
        on_error: what a failing unit does to the generation.
        later: by position, a unit with its pictures of the turns to come, as far as they are known.
        skip: is told the number of a unit that is passed over, and why.
    """

    request: GenerationRequest
    models: Models
    base: BaseUNet | None
    source: PictureSource = PictureSource()
    cache: preprocess.DetectionCache | None = None
    interrupted: Callable[[], bool] = bool
    on_error: OnError = OnError.STOP
    later: Callable[[int], Iterable[ControlUnit]] = lambda _position: ()
    skip: Callable[[int, str], None] = lambda _index, _reason: None


def prepare_units(
    units: Sequence[ControlUnit],
    preparation: Preparation,
    comments: list[str],
    frames: Mapping[int, Frames] = MappingProxyType({}),
) -> list[PreparedUnit]:
    """Prepare all enabled units, in their order.

    Args:
        units: every unit; disabled ones are passed over.
        preparation: see there.
        comments: gets one sentence for whatever the user should know.
        frames: of an animation, by position of their unit, which has the first of its pictures.

    Raises:
        ControlNetError: a unit cannot do what it was asked (only with `OnError.STOP`).
    """
    drawn: list[tuple[int, PreparedUnit, ChosenPicture]] = []
    with _load_ahead(units, preparation) as loading:
        for position, unit in enumerate(units):
            if not unit.enabled:
                continue
            comments += [f"ControlNet {unit.name}: {note}" for note in unit.notes]
            if loading.interrupted():
                return []
            with _answer_failure(unit, loading, comments):
                choices = choose_all(unit, loading.request, takes_several(unit.module))
                later = _choose_later(position, unit, frames, loading)
                made = _prepare(choices, loading, comments, later)
                drawn.append((position, made, choices[0]))
    maps = [made for _position, made, _choice in drawn]
    prepared: list[PreparedUnit] = []
    for position, made, choice in drawn:
        with _answer_failure(made.unit, preparation, comments):
            # A region may be another unit's mask, so all maps must be there.
            placed = _with_region(made, choice, maps, preparation.source)
            prepared.append(_with_frames(placed, frames.get(position), preparation))
    return _take_turns(prepared)


@contextmanager
def _load_ahead(units: Sequence[ControlUnit], preparation: Preparation) -> Iterator[Preparation]:
    """Inside, models are loaded in the order of their units while preprocessors run."""
    models, base = preparation.models, preparation.base
    if base is None:
        yield preparation
        return
    paths = []
    with suppress(ControlNetError):  # it stops at what is refused where its turn comes
        for unit in units:
            if unit.enabled and unit.has_model and preprocess.get(unit.module).needs_model:
                paths.append(models.find_model(unit.model))
    ahead = LoadingAhead(models, base)
    with ahead.begin(paths):
        yield dataclasses.replace(preparation, models=ahead)


def _choose_later(
    position: int, unit: ControlUnit, frames: Mapping[int, Frames], preparation: Preparation
) -> Iterator[ChosenPicture]:
    """The pictures of a unit that come after its present one, in turns or in frames."""
    units = preparation.later(position)
    if position in frames:
        units = (picture.give_to(unit) for picture in frames[position].pictures[1:])
    for later in units:
        yield choose(later, preparation.request)


@contextmanager
def _answer_failure(
    unit: ControlUnit, preparation: Preparation, comments: list[str]
) -> Iterator[None]:
    """A unit that fails in here stops the generation, or is passed over with a comment."""
    try:
        with name_unit(unit.name):
            yield
    except ControlNetError as error:
        if preparation.on_error is OnError.STOP:
            raise
        comments.append(f"ControlNet: {error} (unit skipped)")
        preparation.skip(unit.index, str(error))


def _with_region(
    made: PreparedUnit, choice: ChosenPicture, drawn: Sequence[PreparedUnit], source: PictureSource
) -> PreparedUnit:
    """The unit with the region it acts on.

    Raises:
        UnitError: the region refers to a mask that does not exist.
    """
    unit = made.unit
    if unit.acting_region is ActingRegion.WHOLE:
        return made
    if unit.acting_region is ActingRegion.OWN:
        return dataclasses.replace(made, region=own_region(choice, source))
    inside = host_region(unit, choice.request) or _find_drawn(unit, drawn)
    if inside is None:
        msg = (
            f"{unit.name}: region is {unit.region.value!r}, but there is no inpaint mask; paint "
            "one in the img2img tab, use a unit with an inpaint preprocessor, or choose another "
            "region"
        )
        raise UnitError(msg)
    outside = unit.region is ActingRegion.OUTSIDE
    return dataclasses.replace(made, region=inside.invert() if outside else inside)


def _with_frames(
    made: PreparedUnit, given: Frames | None, preparation: Preparation
) -> PreparedUnit:
    """The unit with the maps of an animation, one for each of its frames.

    Raises:
        ControlNetError: a frame cannot be prepared; it is named.
    """
    if given is None:
        return made
    pictures = given.pictures
    if not pictures:
        return dataclasses.replace(made, keyframes=())
    if made.effect or made.fills:
        msg = (
            f"{made.unit.name}: {made.unit.module} brings pixels of one picture into the result, "
            "and an animation has several; choose another preprocessor"
        )
        raise UnitError(msg)
    request, maps = preparation.request, []
    embeddings = list(made.embeddings)
    for number, picture in enumerate(pictures[1:], 2):
        if preparation.interrupted():
            return made
        try:
            choice = choose(picture.give_to(made.unit), request)
            later = (choose(one.give_to(made.unit), request) for one in pictures[number:])
            frame = detect_unit(choice, preparation.source, preparation.cache, later)
        except ControlNetError as error:
            msg = f"{error} (frame {number} of {len(pictures)}: {picture.name})"
            raise type(error)(msg, error.status_code) from error
        if frame.detection.embedding is not None and made.unit.ipadapter_input is None:
            embeddings.append((frame.detection.embedding,))
        shown = frame.detection.image
        if frame.resize_mode is not made.resize_mode:  # only one of them takes the host's mask
            shown = fit_map(shown, request.size, frame.resize_mode)
        maps.append(shown)
    return dataclasses.replace(
        made, frames=tuple(maps), embeddings=tuple(embeddings), keyframes=given.keyframes
    )


def _find_drawn(unit: ControlUnit, drawn: Sequence[PreparedUnit]) -> Region | None:
    """The mask of the first unit that has an inpaint preprocessor, for hosts without a mask."""
    for other in drawn:
        if other.detected.shape[2] == 4:  # RGB plus mask
            mask = np.ascontiguousarray(other.detected[:, :, 3])
            # "Resize and Fill" adds a border that is to be painted, so it is part of the mask.
            return Region(mask, other.resize_mode, unit.region_feather, border=255)
    return None


def _take_turns(prepared: list[PreparedUnit]) -> list[PreparedUnit]:
    """Give each unit its own pictures of a batch, if one of them asks for that."""
    if all(made.unit.batch_option is BatchOption.DEFAULT for made in prepared):
        return prepared
    count = len(prepared)
    return [dataclasses.replace(made, turn=(i, count)) for i, made in enumerate(prepared)]


@contextmanager
def name_unit(name: str) -> Iterator[None]:
    """Errors that pass say which unit they are about."""
    try:
        yield
    except ControlNetError as error:
        text = str(error)
        if text.startswith(name):
            raise
        named = f"{name}: {text}"
        raise type(error)(named, error.status_code) from error


def _prepare(
    choices: Sequence[ChosenPicture],
    preparation: Preparation,
    comments: list[str],
    later: Iterable[ChosenPicture],
) -> PreparedUnit:
    """Prepare a unit.

    Args:
        choices: its pictures; more than one where they act together.
        preparation: see there.
        comments: gets one sentence for whatever the user should know.
        later: its pictures of turns to come.
    """
    unit = choices[0].unit
    detector = preprocess.get(unit.module)
    preprocess.require(detector)
    comments += _judge_sliders(unit, detector)
    model: ModelReference | None = families.find_fileless(detector.name)
    if detector.needs_model:
        model = _choose_model(unit, preparation)
        if remark := preparation.models.remark(unit.model):
            comments.append(f"ControlNet {unit.name}: {remark}")
    elif model is not None and preparation.base is not None:
        model.network(preparation.base)  # before a weight file is fetched for nothing
    with _await(model, preparation):
        return _detect(choices, model, preparation, comments, later)


@contextmanager
def _await(model: ModelReference | None, preparation: Preparation) -> Iterator[None]:
    """At the end a model that was loaded meanwhile is there; what is wrong with it counts first."""
    base = preparation.base
    try:
        yield
    finally:
        if base is not None and isinstance(model, ChosenModel) and model.held is None:
            model.network(base)


def _detect(
    choices: Sequence[ChosenPicture],
    model: ModelReference | None,
    preparation: Preparation,
    comments: list[str],
    later: Iterable[ChosenPicture],
) -> PreparedUnit:
    """Prepare a unit whose model is known, see `_prepare`."""
    unit = choices[0].unit
    detector = preprocess.get(unit.module)
    choices = [follow_model(choice, preparation.models) for choice in choices]
    if not detector.gives_picture and unit.ipadapter_input is not None:
        given = read_embeddings(unit.ipadapter_input, f"{unit.name}: ipadapter_input")
        asked = (unit.threshold_a, unit.threshold_b)
        return PreparedUnit(
            *(choices[0].unit, unit.resize_mode, _NOTHING, model),
            values=preprocess.settle(unit.module, unit.processor_res, asked).values,
            embeddings=(given,),
        )
    if unit.ipadapter_input is not None:
        comments.append(
            f"ControlNet {unit.name}: ipadapter_input is ignored: the preprocessor {unit.module} "
            "makes a map"
        )
    reading = preparation.source, preparation.cache
    if len(choices) > 1:
        every = [detect_unit(choice, *reading, choices[i:]) for i, choice in enumerate(choices, 1)]
    else:
        every = [detect_unit(choices[0], *reading, later)]
    if every[0].paints_nothing:
        comments.append(
            f"ControlNet {unit.name}: nothing is masked, so the picture comes back as it is; draw "
            "a mask, or choose Resize and Fill and a size of other proportions"
        )
    said = dict.fromkeys(note for one in every for note in one.detection.notes)
    comments += [f"ControlNet {unit.name}: {note}" for note in said]
    return _put_together(choices[0], model, every)


_NOTHING: Final = np.zeros((8, 8, 3), np.uint8)
"""The map of a unit that brings its embeddings along."""


def _put_together(
    choice: ChosenPicture, model: ModelReference | None, every: Sequence[UnitMap]
) -> PreparedUnit:
    unit, request, made = choice.unit, choice.request, every[0]
    detector, detection = made.detector, made.detection
    is_given = detector.name == NO_MODULE
    maker = preprocess.find_maker(detection.image) if is_given else detector
    embeddings = tuple(
        one.detection.embedding for one in every if one.detection.embedding is not None
    )
    return PreparedUnit(
        unit=unit,
        resize_mode=made.resize_mode,
        detected=detection.image,
        model=model,
        control_type=union_type(detector.tags[0] if detector.tags else ""),
        soft_in_hires=detector.soft_in_hires,
        effect=None if made.held_by_host else detector.effect or None,
        values=detection.values,
        fills=detector.fills,
        masks=detector.gives_picture and detector.uses_mask and request.inpaint is None,
        masked=detector.masked,
        embeddings=(embeddings,) if embeddings else (),
        pictures=tuple(one.detection.display for one in every) if embeddings else (),
        partner="" if maker is None else maker.partner,
        is_given=is_given,
    )


def _judge_sliders(unit: ControlUnit, detector: Detector) -> list[str]:
    """One sentence for each slider of the preprocessor whose default is taken instead.

    Raises:
        UnitError: a request asks for a number out of range.
    """
    fields = SLIDERS[1:] if unit.pixel_perfect else SLIDERS
    said = []
    for found in find_misplaced(detector, {field: getattr(unit, field) for field in fields}):
        if unit.is_request and found.is_meant:
            msg = f"{unit.name}: {found.refusal}"
            raise UnitError(msg)
        said.append(f"ControlNet {unit.name}: {found.note}")
    return said


@dataclasses.dataclass(eq=False)
class ChosenModel:
    """The control model that a unit has chosen, see `ModelReference`.

    Attributes:
        name: what messages call the unit.
        path: its file.
        models: loads it.
        held: the network while the unit is in use; another unit's never takes its place.
    """

    name: str
    path: Path
    models: Models
    held: ControlNetwork | None = None

    def network(self, base: BaseUNet) -> ControlNetwork:
        """The network for a base, see `ModelReference.network`."""
        with name_unit(self.name):
            self.held = self.models.network(self.path, base)
        return self.held


def _choose_model(unit: ControlUnit, preparation: Preparation) -> ChosenModel:
    """The unit's model, loaded if there is a base to load it for and nobody does so meanwhile."""
    if not unit.has_model:
        msg = (
            f"{unit.name}: You have not selected any ControlNet Model. Choose one that fits the "
            f"preprocessor {unit.module!r}, or disable the unit"
        )
        raise UnitError(msg)
    chosen = ChosenModel(unit.name, preparation.models.find_model(unit.model), preparation.models)
    base = preparation.base
    if base is not None and not preparation.models.can_wait(chosen.path, base):
        chosen.network(base)
    return chosen
