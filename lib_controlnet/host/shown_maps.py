"""Detected maps go behind the pictures once nobody counts or lays out those any more.

Scripts of the list and other extensions take what `process_images` gives for its pictures: they
lay it out as a grid, number it, cut it into tiles. So the maps wait. They are put behind the
pictures when the host closes the job, just before it reads the result, or when a script of the
list has returned.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from modules import processing, scripts

if TYPE_CHECKING:
    from PIL import Image

ATTRIBUTE: Final = "controlnet_shown_maps"
MOST: Final = 64
"""Maps of one job; a batch tab of thousands of files must not keep as many pictures."""
_WRAPPER: Final = "controlnet_wrapper"
_ORIGINAL: Final = "controlnet_original"
_SCRIPT_RUNS: Final = ContextVar("controlnet_script_runs", default=False)


@dataclass
class ShownMaps:
    """Maps of one job: all that happens until the host shows its result.

    Attributes:
        result: what the maps go behind; None while a script of the list has yet to make it.
        waiting: the maps, each with an infotext, None for requests over HTTP.
        known: digests of the maps so far.
    """

    result: Any = None
    waiting: list[tuple[Image.Image, str | None]] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)

    def add(self, maps: Sequence[Image.Image], infotext: str | None) -> None:
        """Take the maps of one generation; those that an earlier one has given are known."""
        digests = [_digest(image) for image in maps]
        new = [
            image for image, digest in zip(maps, digests, strict=True) if digest not in self.known
        ]
        self.waiting += [(image, infotext) for image in new[: MOST - len(self.waiting)]]
        self.known.update(digests)

    def put_behind(self, result: Any) -> None:
        """Append the maps to a result that has pictures."""
        count = len(result.images)
        if not count or not self.waiting:
            return
        result.images = [*result.images, *(image for image, _ in self.waiting)]
        texts = [text for _, text in self.waiting if text is not None]
        if texts and result.infotexts:
            # The gallery's Save button looks a text up by the number of the picture.
            missing = [result.infotexts[0]] * (count - len(result.infotexts))
            own = [*result.infotexts, *missing]
            result.infotexts = [*own[:count], *texts, *own[count:]]


def _digest(image: Image.Image) -> bytes:
    head = f"{image.mode} {image.size}".encode()
    return hashlib.blake2b(head + image.tobytes(), digest_size=16).digest()


def keep(p: Any, processed: Any, maps: Sequence[Image.Image]) -> None:
    """Remember the maps of one `process_images` call until its job is over.

    Args:
        p: the host's processing object.
        processed: what the call gives; for a plain generation what the host will show.
        maps: to be shown, the hires pass's first.
    """
    shown = getattr(p, ATTRIBUTE, None)
    if not maps or (shown is None and _SCRIPT_RUNS.get()):
        return  # a job inside the script's, such as a face detailer's
    if shown is None:
        shown = ShownMaps(processed)
        setattr(p, ATTRIBUTE, shown)
    wants_text = not getattr(p, "is_api", False) and processed.infotexts
    shown.add(maps, processed.infotexts[0] if wants_text else None)


@contextmanager
def _collecting(p: Any) -> Iterator[ShownMaps]:
    """Copies of `p` that are made inside share what is collected."""
    shown = ShownMaps()
    setattr(p, ATTRIBUTE, shown)
    token = _SCRIPT_RUNS.set(True)
    try:
        yield shown
    finally:
        _SCRIPT_RUNS.reset(token)
        delattr(p, ATTRIBUTE)


def _watching_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """The host's `ScriptRunner.run`: maps go behind what the selected script returns."""

    def run(runner: Any, p: Any, *args: Any) -> Any:
        if not args or not args[0]:
            return original(runner, p, *args)
        with _collecting(p) as shown:
            processed = original(runner, p, *args)
        if processed is not None:
            shown.put_behind(processed)
        return processed

    return run


def _watching_close(original: Callable[..., Any]) -> Callable[..., Any]:
    """The host's `StableDiffusionProcessing.close`, which ends every job."""

    def close(p: Any) -> Any:
        shown = vars(p).pop(ATTRIBUTE, None)
        if shown is not None and shown.result is not None:
            shown.put_behind(shown.result)
        return original(p)

    return close


_WATCHED: Final = (
    (scripts.ScriptRunner, "run", _watching_run),
    (processing.StableDiffusionProcessing, "close", _watching_close),
)


def watch() -> None:
    """Learn of the end of every job from now on; once, however often it is called."""
    for owner, name, wrap in _WATCHED:
        original = getattr(owner, name)
        if getattr(original, _WRAPPER, None) is original:
            continue
        setattr(owner, name, _wrapped(wrap, original))


@functools.lru_cache(maxsize=16)
def _wrapped(wrap: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """One and the same function for one and the same original, also after a reload."""
    wrapper = functools.wraps(original)(wrap(original))
    # Known by identity: `functools.wraps` of a neighbour copies attributes.
    setattr(wrapper, _WRAPPER, wrapper)
    setattr(wrapper, _ORIGINAL, original)
    return wrapper


def unwatch() -> None:
    """Undo `watch` where nobody else has wrapped the function since."""
    for owner, name, _ in _WATCHED:
        present = getattr(owner, name)
        if getattr(present, _WRAPPER, None) is present:
            setattr(owner, name, getattr(present, _ORIGINAL))
