"""Detected maps go behind the pictures once nobody counts or lays out those any more.

Scripts of the list and other extensions take what `process_images` gives for its pictures: they
lay it out as a grid, number it, cut it into tiles. So the maps wait. They are put behind the
pictures when the host closes the job, just before it reads the result, or when a script of the
list has returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL import Image

ATTRIBUTE: Final = "controlnet_shown_maps"
MOST: Final = 64
"""Maps of one job; a batch tab of thousands of files must not keep as many pictures."""
_SCRIPT_RUNS: Final = ContextVar("controlnet_script_runs", default=False)


@dataclass(eq=False)
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
def collect(p: Any) -> Iterator[ShownMaps]:
    """A script of the list runs inside; the copies of `p` that it makes share what is kept."""
    shown = ShownMaps()
    setattr(p, ATTRIBUTE, shown)
    token = _SCRIPT_RUNS.set(True)
    try:
        yield shown
    finally:
        _SCRIPT_RUNS.reset(token)
        delattr(p, ATTRIBUTE)


def deliver(p: Any) -> None:
    """The job is over: its maps go behind what the host will show."""
    shown = vars(p).pop(ATTRIBUTE, None)
    if shown is not None and shown.result is not None:
        shown.put_behind(shown.result)
