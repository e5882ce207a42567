"""What was found out of pictures lately: digests of their pixels, and their resized forms."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Final

import numpy as np

from lib_controlnet.gate import Bounded

MAX_RESIZED: Final = 4
MAX_BYTES: Final = 64 << 20

Framed = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]
"""A picture as a detector wants it, and what undoes the padding."""


class Seen:
    """For units that share a picture, each with a preprocessor of its own."""

    def __init__(self, max_resized: int = MAX_RESIZED) -> None:
        self._digests: dict[int, tuple[weakref.ref[np.ndarray], bytes]] = {}
        self._resized: Bounded[tuple, Framed] = Bounded(
            max_resized, MAX_BYTES, lambda _key, framed: framed[0].nbytes
        )

    def fingerprint(self, picture: np.ndarray) -> tuple[object, ...]:
        """Shape and digest of the pixels; of a picture that cannot change it is computed once."""
        known = self._digests.get(id(picture))
        if known is not None and known[0]() is picture:
            return picture.shape, known[1]
        digest = hashlib.sha1(np.ascontiguousarray(picture).data, usedforsecurity=False).digest()
        if is_constant(picture):
            name = id(picture)
            gone = weakref.ref(picture, lambda _gone: self._digests.pop(name, None))
            self._digests[name] = gone, digest
        return picture.shape, digest

    def frame(
        self, key: tuple, make: Callable[[np.ndarray], Framed], picture: np.ndarray
    ) -> Framed:
        """A picture resized, as the caller's own.

        Args:
            key: which picture, and how it is resized.
            make: resizes it, if it does not have that size already.
            picture: itself, which is not kept.
        """
        found = self._resized.get(key)
        if found is None:
            found = make(picture)
            if np.may_share_memory(found[0], picture):
                return found
            self._resized.put(key, found)
        return found[0].copy(), found[1]

    def clear(self) -> None:
        """Forget everything."""
        self._digests.clear()
        self._resized.clear()


def is_constant(picture: np.ndarray) -> bool:
    """Whether nobody can write to these pixels, through another array either."""
    owner: object = picture
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes)
