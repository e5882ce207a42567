"""One unit's picture through its preprocessor, the same way for a preview and for a generation."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lib_controlnet import families
from lib_controlnet.detect import ahead, preprocess
from lib_controlnet.enums import LATENT_SCALE, ResizeMode
from lib_controlnet.errors import ControlNetError, UnitError
from lib_controlnet.pictures.maps import Size, fit_map, pixel_perfect_resolution, placement
from lib_controlnet.prepare.inputs import control_picture, has_mask

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from annotator.registry import Detector
    from lib_controlnet.detect.preprocess import Detection, DetectionCache
    from lib_controlnet.prepare.inputs import ChosenPicture, ControlPicture, PictureSource
    from lib_controlnet.units.request import GenerationRequest
    from lib_controlnet.units.unit import ControlUnit

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class UnitMap:
    """What a unit's preprocessor made of its picture.

    Attributes:
        detection: the map.
        detector: what made it.
        resize_mode: how the map is brought to the picture's size.
        held_by_host: the host keeps what is not masked, which the preprocessor asks for.
        paints_nothing: it asks for that, and nothing is masked.
    """

    detection: Detection
    detector: Detector
    resize_mode: ResizeMode
    held_by_host: bool
    paints_nothing: bool


class Finder(Protocol):
    """Finds control models."""

    def find_model(self, name: str) -> Path:
        """File of a model; raises ModelNotFoundError."""
        ...


def follow_model(choice: ChosenPicture, models: Finder) -> ChosenPicture:
    """The choice with the preprocessor that the unit's model asks for, if it leaves it to that.

    Raises:
        UnitError: no model is chosen, or it asks for none.
        CheckpointError: the model's file cannot be used.
    """
    unit = choice.unit
    detector = preprocess.get(unit.module)
    if not detector.follows_model:
        return choice
    if not unit.has_model:
        msg = f"{unit.name}: {detector.name} follows the control model; choose one first"
        raise UnitError(msg)
    module = families.preprocessor_for(models.find_model(unit.model))
    if not module:
        msg = (
            f"{unit.name}: {detector.name} knows no preprocessor for {unit.model}; choose a model "
            f"of the control type {detector.tags[0]}, or another preprocessor"
        )
        raise UnitError(msg)
    return dataclasses.replace(choice, unit=dataclasses.replace(unit, module=module))


def detect_unit(
    choice: ChosenPicture,
    source: PictureSource,
    cache: DetectionCache | None = None,
    later: Iterable[ChosenPicture] = (),
) -> UnitMap:
    """Run a unit's preprocessor on the picture that was chosen.

    Args:
        choice: the picture, from `choose`.
        source: how pictures may be read.
        cache: detections to reuse.
        later: pictures of the same unit in turns to come, which may be detected with this one.

    Raises:
        ControlNetError: there is no picture, it cannot be decoded, or the preprocessor is
            unavailable.
    """
    unit, request = choice.unit, choice.request
    detector = preprocess.get(unit.module)
    picture = control_picture(choice, source, detector.uses_mask, detector.identity)
    if picture.is_held and detector.held_as:
        detector = preprocess.get(detector.held_as)
        log.info(
            "%s: A1111 inpaint and ControlNet inpaint duplicated. "
            "Falls back to inpaint_global_harmonious.",
            unit.name,
        )  # no comment: it is how inpainting in img2img is meant to be used
    keeps_unmasked = detector.effect is preprocess.declarations.Effect.INPAINT_ONLY
    held_by_host = keeps_unmasked and picture.is_held
    paints_nothing = keeps_unmasked and _paints_nothing(picture, request)
    if detector.fills:
        picture = _with_border(picture, request)
    asked = _resolution(unit, picture, request), (unit.threshold_a, unit.threshold_b)
    if cache is not None and later:
        coming = itertools.chain([picture.image], _read_later(later, source, detector))
        ahead.run_ahead(detector.name, coming, *asked, cache, pixel_perfect=unit.pixel_perfect)
    detection = preprocess.run_preprocessor(
        *(detector.name, picture.image, *asked, cache),
        pixel_perfect=unit.pixel_perfect,
        seed=request.seed,
    )
    return UnitMap(detection, detector, picture.resize_mode, held_by_host, paints_nothing)


def _read_later(
    later: Iterable[ChosenPicture], source: PictureSource, detector: Detector
) -> Iterator[np.ndarray]:
    """Pictures of turns to come, up to the first that cannot be read, which says so in its turn."""
    try:
        for choice in later:
            found = control_picture(choice, source, detector.uses_mask, detector.identity)
            yield (_with_border(found, choice.request) if detector.fills else found).image
    except ControlNetError as error:
        log.debug("not read ahead: %s", error)


def _paints_nothing(picture: ControlPicture, request: GenerationRequest) -> bool:
    """Whether neither the mask nor the border of "Resize and Fill" leaves anything to paint."""
    size = Size.from_array(picture.image)
    placed, _left, _top = placement(size, request.size, picture.resize_mode)
    has_border = placed.width < request.size.width or placed.height < request.size.height
    return not has_border and not has_mask(picture.image)


def _with_border(picture: ControlPicture, request: GenerationRequest) -> ControlPicture:
    """The picture with the border of "Resize and Fill" and that border in its mask.

    A hires pass follows in a size of about the same proportions; twice the first size keeps the
    detail that it can show.
    """
    if picture.resize_mode is not ResizeMode.OUTER_FIT:
        return picture
    canvas = request.size.scale(2) if request.has_hires else request.size
    filled = fit_map(picture.image, canvas, ResizeMode.OUTER_FIT)
    return dataclasses.replace(picture, image=filled)


def _resolution(unit: ControlUnit, picture: ControlPicture, request: GenerationRequest) -> float:
    if not unit.pixel_perfect:
        return unit.processor_res
    target = request.size.multiple_of_down(LATENT_SCALE)
    return pixel_perfect_resolution(Size.from_array(picture.image), target, picture.resize_mode)
