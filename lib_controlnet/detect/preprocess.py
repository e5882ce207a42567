"""Finds a preprocessor, runs it on a picture, and keeps its results.

Geometry happens here, so that a detector sees a picture
of the right size and nothing else.
"""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lib_controlnet.detect.seen import MAX_RESIZED, Framed, Seen
from lib_controlnet.errors import (
    ControlNetError,
    HostError,
    ImageError,
    PreprocessorUnavailableError,
    is_out_of_memory,
    quote,
    without_frames,
)
from lib_controlnet.files.pickles import check_pickles
from lib_controlnet.gate import Bounded, own_module
from lib_controlnet.pictures.decode import check_size, to_rgb
from lib_controlnet.pictures.maps import Size, join_mask, resize_short_side, resize_with_pad
from lib_controlnet.units.unit import NO_MODULE
from lib_controlnet.words import word

if TYPE_CHECKING:
    from annotator.embedding import Embedding
    from annotator.registry import Detector

log = logging.getLogger(__name__)

_SLIDER_FIELDS: Final = ("threshold_a", "threshold_b", "threshold_c")


declarations: Final = own_module("registry")
registry: Final = declarations.discover()
weights: Final = own_module("weights")
store: Final = own_module("store")
networks: Final = own_module("networks")
networks.CACHE.is_out_of_memory = is_out_of_memory
networks.CACHE.check_file = check_pickles


@dataclass(frozen=True, eq=False)
class Detection:
    """What a preprocessor made of a picture.

    Attributes:
        name: id of the preprocessor.
        image: uint8 (H, W, 3) map, or (H, W, 4) with the mask last; read-only.
        display: the picture to show for it, uint8 (H, W, 3) or (H, W, 4) with alpha; read-only.
        resolution: short side it worked at, 0 where it does not resize.
        values: its sliders' values.
        pose: the figures it found, as JSON, None where it does not look for any; not to be
            modified.
        embedding: what steers in the place of the map, which then shows what was looked at.
        notes: what the user should know of this picture.
    """

    name: str
    image: np.ndarray
    display: np.ndarray
    resolution: int
    values: tuple[float, ...]
    pose: dict[str, Any] | None = None
    embedding: Embedding | None = None
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        shown = 0 if self.display is self.image else self.display.nbytes
        tensors = 0 if self.embedding is None else self.embedding.nbytes
        return self.image.nbytes + shown + tensors + _NUMBER_BYTES * _numbers(self.pose)


_NUMBER_BYTES: Final = 32
"""A float and its place in a list."""


def _numbers(value: object) -> int:
    """Numbers in nested lists and dictionaries."""
    if isinstance(value, dict):
        return sum(map(_numbers, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_numbers, value))
    return int(isinstance(value, (int, float)))


@dataclass(frozen=True)
class Settled:
    """Slider values after range correction, hidden ones included, as infotext prints them."""

    resolution: float
    values: tuple[float, float, float]


MAX_AHEAD: Final = 128
"""Detections that wait for their turn: of eight pictures of sixteen units."""


class DetectionCache(Bounded[tuple, Detection]):
    """Recent detections by content. Keys hold a digest of the pixels, never the pixels.

    Attributes:
        ahead: detections of pictures whose turn is still to come; each is given out once.
        crowds: by preprocessor, so many pixels at once were too much for it.
        seen: what is known of the pictures themselves.
    """

    def __init__(self, max_count: int = 16, max_bytes: int = 256 << 20) -> None:
        super().__init__(max_count, max_bytes, _measure)
        self.ahead: Bounded[tuple, Detection] = Bounded(MAX_AHEAD, 128 << 20, _measure)
        self.crowds: dict[str, int] = {}
        self.seen = Seen(min(max_count, MAX_RESIZED))

    def get(self, key: tuple) -> Detection | None:
        found = super().get(key)
        if found is None and (found := self.ahead.take(key)) is not None:
            self.put(key, found)
        return found

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.ahead

    def clear(self) -> None:
        super().clear()
        self.ahead.clear()
        self.seen.clear()


def _measure(_key: tuple, detection: Detection) -> int:
    return detection.nbytes


def all_detectors() -> list[Detector]:
    """Every preprocessor in list order: "none", then by falling priority and label."""
    return registry.all()


def find(name: str | None) -> Detector | None:
    """The preprocessor of that name, label or alias in any letter case; None if there is none."""
    return registry.get(name)


def get(name: str | None) -> Detector:
    """Like `find`, for callers that need one.

    Raises:
        PreprocessorUnavailableError: unknown, or its file could not be loaded.
    """
    detector = find(name)
    if detector is not None:
        return detector
    spellings = {text for d in registry.all() for text in (d.name, d.title, *d.aliases)}
    close = difflib.get_close_matches(str(name)[:200], spellings, n=3)
    known = ", ".join(detector.name for detector in all_detectors())
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {known}"
    msg = f"Module not available: {quote(name)} is no preprocessor here; {hint}"
    if registry.broken:
        faults = "; ".join(f"{file}.py: {reason}" for file, reason in registry.broken.items())
        msg += f" (files of annotator/ that could not be loaded: {faults})"
    raise PreprocessorUnavailableError(msg)


def require(detector: Detector) -> None:
    """Refuse a preprocessor that cannot run here.

    Raises:
        PreprocessorUnavailableError: says why, and what to do.
    """
    if reason := detector.unavailable:
        raise PreprocessorUnavailableError(_cannot_run(detector, reason))


def remark(name: str | None) -> str | None:
    """What a user should know before choosing a preprocessor, None if nothing.

    That it cannot run here, what its first run will download, or that it lacks a file.
    """
    detector = find(name)
    if detector is None:
        return None
    if reason := detector.unavailable:
        return _cannot_run(detector, reason)
    missing = detector.find_missing_files()
    if not missing:
        return None
    files = ", ".join(f"{weight.name} ({weight.size_text})" for weight in missing)
    folder = store.STORE.roots[0]
    if store.STORE.options().is_offline:
        return word("lacks_files", preprocessor=detector.title, files=files, folder=folder)
    return word("first_run", preprocessor=detector.title, files=files, folder=folder)


def measure_download(name: str | None) -> str:
    """The size of what the next run of a preprocessor downloads, for people; "" for nothing."""
    detector = find(name)
    if detector is None or detector.unavailable or store.STORE.options().is_offline:
        return ""
    return weights.measure(detector.find_missing_files())


def mask_remark(name: str | None, model: str, wanted: float) -> str | None:
    """That a preprocessor marks masked pixels in another way than a model reads them; else None.

    Args:
        name: of the preprocessor.
        model: name of the control model.
        wanted: value of masked pixels in its hints.
    """
    detector = find(name)
    if detector is None or detector.masked in (None, wanted):
        return None
    return word(
        "masked_otherwise",
        preprocessor=detector.title,
        value=f"{detector.masked:g}",
        model=model,
        wanted=f"{wanted:g}",
        other=default_of(detector.tags[0]).title,
    )


def settle(
    name: str | None, resolution: float | None, values: Sequence[float | None] = ()
) -> Settled:
    """Replace slider values that are missing or out of range by the defaults, with a log line.

    Raises:
        PreprocessorUnavailableError: unknown preprocessor.
    """
    detector = get(name)
    hidden = declarations.HIDDEN
    sliders = (*detector.sliders, hidden, hidden, hidden)[:3]
    given = (*values, None, None, None)[:3]
    first, second, third = (
        slider.settle(value, f"{detector.name}.{field}")
        for slider, value, field in zip(sliders, given, _SLIDER_FIELDS, strict=True)
    )
    if detector.resolution is not None:
        side = detector.resolution.settle(resolution, f"{detector.name}.processor_res")
    elif detector.is_as_given:
        side = hidden.settle(resolution)
    else:
        side = detector.fixed_resolution
    return Settled(side, (first, second, third))


def default_of(control_type: str) -> Detector:
    """The preprocessor a control type starts with.

    The first that was made for it (its first tag), else the first that lists it, else "none".
    """
    listed = [d for d in all_detectors() if control_type in d.tags and not d.unavailable]
    made_for = [detector for detector in listed if detector.tags[0] == control_type]
    return next(iter((*made_for, *listed)), get(NO_MODULE))


def find_maker(image: np.ndarray) -> Detector | None:
    """The preprocessor that a ready-made map (H, W, 3 or 4) must come from; None if none knows."""
    return next((detector for detector in all_detectors() if detector.knows(image)), None)


def run_preprocessor(
    name: str | None,
    image: np.ndarray,
    resolution: float | None = None,
    values: Sequence[float | None] = (),
    cache: DetectionCache | None = None,
    *,
    mask: np.ndarray | None = None,
    pixel_perfect: bool = False,
    seed: int = 0,
) -> Detection:
    """Run a preprocessor on a picture.

    Args:
        name: name, label or alias; None and "" are "none".
        image: uint8 (H, W, 3), or (H, W, 4): the fourth channel is the mask for preprocessors
            that use one (an empty mask is added where it is missing), else alpha over white.
        resolution: short side to work at; out of range or None means the default.
        values: its sliders, same rule.
        cache: where results are looked up and kept; None computes anew.
        mask: uint8 (h, w), for preprocessors that use one; replaces a fourth channel.
        pixel_perfect: take `resolution` as it is, even where the user cannot set it.
        seed: for preprocessors that draw random numbers.

    Raises:
        PreprocessorUnavailableError: unknown, or it cannot run here.
        ImageError: the picture is empty or absurdly large.
    """
    detector = get(name)
    require(detector)
    picture = input_channels(detector, image, mask)
    work = plan_work(detector, resolution, values, pixel_perfect, seed)
    if cache is None or detector.identity:
        return _detect(work, picture)
    fingerprint = cache.seen.fingerprint(picture)
    asked = work.key(fingerprint)
    found = cache.get((*asked, files_of(detector)))
    if found is None:
        shared = (detector.frame, work.side, *fingerprint)
        frame = partial(cache.seen.frame, shared, work.frame)
        found = _detect(work, picture, frame)
        cache.put((*asked, files_of(detector)), found)  # files that have come meanwhile included
    return found


@dataclass(frozen=True)
class Work:
    """What is to be done with any picture.

    Attributes:
        detector: does it.
        side: short side to work at, 0 where the picture is not resized.
        values: of its sliders.
        seed: of its random numbers.
    """

    detector: Detector
    side: int
    values: tuple[float, ...]
    seed: int

    def key(self, fingerprint: tuple[object, ...]) -> tuple[object, ...]:
        """What the detection of a picture is kept under, beside the state of the weight files."""
        seed = self.seed if self.detector.seeded else 0
        return (self.detector.name, self.side, self.values, seed, *fingerprint)

    def frame(self, picture: np.ndarray) -> Framed:
        """The picture as the detector wants it, and what undoes the padding."""
        resize = _RESIZES.get(self.detector.frame)
        return resize(picture, self.side) if resize else (picture, np.ascontiguousarray)


def plan_work(
    detector: Detector,
    resolution: float | None,
    values: Sequence[float | None],
    pixel_perfect: bool = False,
    seed: int = 0,
) -> Work:
    """What `run_preprocessor` is asked for, with the defaults in place."""
    settled = settle(detector.name, None if pixel_perfect else resolution, values)
    side = 0
    if not detector.is_as_given:
        side = max(int(resolution if pixel_perfect and resolution else settled.resolution), 1)
    return Work(detector, side, settled.values[: len(detector.sliders)], seed)


def files_of(detector: Detector) -> tuple[object, ...]:
    """What tells whether a preprocessor's weight files are still the same."""
    found = []
    for weight in detector.files:
        path = store.STORE.locate(weight)
        state = path.stat() if path else None
        found.append((path, state.st_size, state.st_mtime_ns) if state else None)
    return tuple(found)


def input_channels(detector: Detector, image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    where = f"the picture for {detector.name}"
    if image.ndim not in (2, 3) or image.dtype != np.uint8:
        msg = f"{where} must be uint8 (H, W, C); got {image.dtype} {image.shape}"
        raise ImageError(msg)
    check_size(image.shape[1], image.shape[0], where)
    if not detector.uses_mask:
        return to_rgb(image)
    has_mask = image.ndim == 3 and image.shape[2] == 4
    if has_mask and mask is None:
        return np.ascontiguousarray(image)
    rgb = image[:, :, :3] if has_mask else to_rgb(image)
    wants_mask = mask is not None or detector.needs_mask
    return join_mask(rgb, mask) if wants_mask else rgb


def _detect(
    work: Work, picture: np.ndarray, frame: Callable[[np.ndarray], Framed] | None = None
) -> Detection:
    started = time.perf_counter()
    with _explain_failure(work.detector):
        made = _make_room(lambda: run_all(work, [picture], frame)[0])
    size = Size.from_array(made.image)
    spent = (time.perf_counter() - started) * 1000
    log.debug("%s: %d x %d in %.0f ms", made.name, size.width, size.height, spent)
    return made


def _make_room(run: Callable[[], Detection]) -> Detection:
    """The result of `run`, which gets a second try where memory can be freed that it lacked."""
    try:
        return run()
    except Exception as error:
        if not any(is_out_of_memory(one) for one in (error, error.__cause__) if one is not None):
            raise
        lacking = without_frames(error)  # whose frames hold what the first try had made
    if not networks.CACHE.make_room():
        raise lacking
    return run()


def run_all(
    work: Work,
    pictures: Sequence[np.ndarray],
    frame: Callable[[np.ndarray], Framed] | None = None,
) -> list[Detection]:
    """The detections of pictures of one size and kind.

    Args:
        work: what is done.
        pictures: at least one.
        frame: resizes them in the place of `work`.

    Raises:
        Exception: whatever the detector raises.
    """
    detector = work.detector
    framed = [(frame or work.frame)(picture) for picture in pictures]
    named: dict[str, Any] = {}
    if detector.seeded:
        # The legacy generator draws the numbers that existing seeds stand for.
        named["rng"] = np.random.RandomState(work.seed & 0xFFFFFFFF)
    if detector.frame is declarations.Frame.OWN:
        named["resolution"] = work.side
    if detector.sized:
        shown, restore = framed[0]
        named["kept"] = restore(shown).shape[:2]
    if len(pictures) == 1:
        made = [detector.detect(framed[0][0], *work.values, **named)]
    else:
        made = detector.detect_many([shown for shown, _ in framed], *work.values, **named)
    every = zip(made, framed, strict=True)
    return [_finish(work, found, restore) for found, (_, restore) in every]


def _finish(work: Work, made: Any, restore: Callable[[np.ndarray], np.ndarray]) -> Detection:
    """What a detector returned as a detection, its padding cut off."""
    detector = work.detector
    whole = made if isinstance(made, declarations.Detected) else declarations.Detected(made)
    image = restore(_check(detector, whole.image))
    if image.ndim == 2 or image.shape[2] not in (3, 4):
        image = to_rgb(image)
    image = _read_only(image)
    shown = detector.display(image)
    shown = image if shown is image else _read_only(_check(detector, shown))
    if not detector.gives_picture and whole.embedding is None:
        msg = f"preprocessor {detector.name} returned no embedding"
        raise PreprocessorUnavailableError(msg)
    rest = (whole.pose, whole.embedding, whole.notes)
    return Detection(detector.name, image, shown, work.side, work.values, *rest)


def is_map(value: object) -> bool:
    """Whether a value is a picture as preprocessors have to return it."""
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and value.size > 0
        and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4)))
    )


def _check(detector: Detector, value: Any) -> np.ndarray:
    """What a detector made, if it can be used.

    Raises:
        PreprocessorUnavailableError: it is no uint8 picture.
    """
    if is_map(value):
        return value
    facts = (type(value).__name__, getattr(value, "dtype", ""), getattr(value, "shape", ""))
    what = " ".join(str(fact) for fact in facts if str(fact))
    msg = f"preprocessor {detector.name} returned {what}, expected a uint8 picture (H, W, 3)"
    raise PreprocessorUnavailableError(msg)


@contextmanager
def _explain_failure(detector: Detector) -> Iterator[None]:
    """Whatever goes wrong in here becomes a sentence that names the preprocessor and its files.

    Raises:
        PreprocessorUnavailableError: a weight file or a package is missing or broken, or the
            preprocessor itself is.
        ImageError: the picture does not show what it looks for.
        HostError: there is not enough memory.
    """
    try:
        yield
    except ControlNetError:
        raise
    except (weights.WeightsError, declarations.RequirementError) as error:
        raise PreprocessorUnavailableError(_cannot_run(detector, error)) from error
    except declarations.NothingFoundError as error:
        msg = f"preprocessor {detector.name}: {error}"
        raise ImageError(msg) from error
    except Exception as error:  # a boundary: networks and packages of many origins
        if is_out_of_memory(error):
            msg = (
                f"there is not enough memory for the preprocessor {detector.name}; choose a lower "
                "resolution, or close other programs"
            )
            raise HostError(msg) from error
        log.debug("preprocessor %s failed", detector.name, exc_info=True)
        files = ", ".join(weight.name for weight in detector.files)
        said = quote(str(error))[1:-1]
        msg = (
            f"preprocessor {detector.name} failed ({type(error).__name__}: {said})"
            f"{f'; its files are {files}' if files else ''}"
        )
        raise PreprocessorUnavailableError(msg) from error


def _cannot_run(detector: Detector, reason: object) -> str:
    return word("cannot_run", preprocessor=detector.name, reason=reason)


def _resize(picture: np.ndarray, side: int) -> Framed:
    return resize_short_side(picture, side), np.ascontiguousarray


def _resize_by_area(picture: np.ndarray, side: int) -> Framed:
    return resize_short_side(picture, side, by_area=True), np.ascontiguousarray


_RESIZES: Final[dict[Any, Callable[[np.ndarray, int], Framed]]] = {
    declarations.Frame.PADDED: resize_with_pad,
    declarations.Frame.RESIZED: _resize,
    declarations.Frame.AREA: _resize_by_area,
}


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written: results are shared between units and generations."""
    view = array.view()
    view.flags.writeable = False
    return view
