"""Pictures of several turns through a network at once, before their turns come.

The host asks for one picture at a time. Where those of the next turns are known already (a batch,
the frames of a movie or of an animation), a network that takes several sees them together. What it
finds waits in the cache, under the same key as anything else: a picture that has changed by its
turn, or comes in another size after all, is not found there, and detected as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from lib_controlnet.detect.preprocess import (
    Work,
    files_of,
    get,
    input_channels,
    networks,
    plan_work,
    run_all,
)
from lib_controlnet.errors import ImageError

if TYPE_CHECKING:
    import numpy as np

    from lib_controlnet.detect.preprocess import DetectionCache

log = logging.getLogger(__name__)

MOST: Final = 8
"""Pictures that a network sees at once."""
PIXELS: Final = 1 << 21
"""Pixels of them together, as the network sees them: eight pictures of 512 x 512."""
WAITING: Final = 2 * MOST
"""Detections of a preprocessor that may wait when more are made. What nobody fetches was a wrong
guess: the picture came in another crop or resolution."""
GIVEN: Final = 1 << 25
"""Pixels of them together as they were given, which have to be in memory at once."""


def gains() -> bool:
    """Whether several pictures at once are less work here than one after the other.

    On a CPU they are more: what one layer hands to the next no longer fits its caches.
    """
    return not networks.CACHE.present_place.device.startswith("cpu")


def run_ahead(
    name: str,
    pictures: Iterator[np.ndarray],
    resolution: float | None,
    values: Sequence[float | None],
    cache: DetectionCache,
    *,
    pixel_perfect: bool = False,
) -> None:
    """Detect a picture together with those behind it, if it is not known yet.

    Whatever goes wrong is left for the turn that it belongs to. After a failure a preprocessor gets
    half as many pixels at once.

    Args:
        name: of the preprocessor.
        pictures: the one whose turn it is, then those to come, which are asked for only as far as
            they are used; each as for `run_preprocessor`. Those of another size than the first one
            are passed over.
        resolution, values, pixel_perfect: see `run_preprocessor`.
        cache: what is there already; gets the rest.
    """
    detector = get(name)
    if not detector.takes_many or detector.seeded or detector.unavailable or not gains():
        return
    work = plan_work(detector, resolution, values, pixel_perfect)
    try:
        group = _gather(work, pictures, cache)
    except ImageError:
        return
    if len(group) < 2:
        return
    try:
        made = run_all(work, list(group.values()))
    except Exception as error:  # a boundary: networks of many origins
        log.info("%s: %d pictures at once failed (%s)", name, len(group), error)
        cache.crowds[detector.name] = len(group) * _area(work, next(iter(group.values())))
        return
    for key, detection in zip(group, made, strict=True):
        cache.ahead.put((*key[:-1], files_of(detector)), detection)


def _gather(
    work: Work, pictures: Iterator[np.ndarray], cache: DetectionCache
) -> dict[tuple[object, ...], np.ndarray]:
    """Pictures by the key of their detection, the first one's first; {} if that is known."""
    detector = work.detector
    state = files_of(detector)
    first = input_channels(detector, next(pictures), None)
    group = {(*work.key(cache.seen.fingerprint(first)), state): first}
    waiting = sum(key[0] == detector.name for key in cache.ahead)
    if next(iter(group)) in cache or waiting > WAITING:
        return {}
    room = min(PIXELS, cache.crowds.get(detector.name, PIXELS * 2) // 2)
    given = first.shape[0] * first.shape[1]
    rows = min(MOST, room // _area(work, first), GIVEN // given)
    for later in islice(pictures, MOST - 1 if rows > 1 else 0):
        picture = input_channels(detector, later, None)
        key = (*work.key(cache.seen.fingerprint(picture)), state)
        if picture.shape == first.shape and key not in cache:
            group[key] = picture
        if len(group) == rows:
            break
    return group


def _area(work: Work, picture: np.ndarray) -> int:
    """About how many pixels of a picture the detector sees."""
    height, width = picture.shape[:2]
    factor = work.side / min(height, width) if work.side else 1.0
    return max(round(height * width * factor * factor), 1)
