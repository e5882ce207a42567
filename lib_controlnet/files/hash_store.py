"""Model hashes remembered on disk, so that listing a folder reads no file that was seen before."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

Key = tuple[str, int, int]
"""Path, time of the last change in nanoseconds, size in bytes."""

HASH_DIGITS: Final = 8
FILE_LIMIT: Final = 64 * 2**20
NUMBER_DIGITS: Final = 20
"""Digits of a whole number; Python takes quadratic time to read more of them."""


def _number(text: str) -> int | None:
    return int(text) if len(text) <= NUMBER_DIGITS else None


class HashStore:
    """Hashes by path, time and size. What cannot be read or written is done without.

    Args:
        file: a JSON file, made when needed; None keeps hashes in memory only.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._hashes: dict[Key, str] | None = None

    def load(self) -> dict[Key, str]:
        """What is remembered; a damaged file counts as empty."""
        if self._hashes is None:
            self._hashes = {}
            try:
                self._hashes = self._read()
            except (OSError, ValueError, RecursionError) as error:
                log.info("the list of model hashes %s is made anew: %s", self.file, error)
        return self._hashes

    def _read(self) -> dict[Key, str]:
        if self.file is None or not os.path.isfile(self.file):  # noqa: PTH113 - never raises
            return {}
        with self.file.open("rb") as stream:
            listing = json.loads(stream.read(FILE_LIMIT), parse_int=_number)
        if not isinstance(listing, dict):
            return {}
        return {
            (path, entry[0], entry[1]): entry[2]
            for path, entry in listing.items()
            if isinstance(entry, list)
            and [type(value) for value in entry] == [int, int, str]
            and len(entry[2]) == HASH_DIGITS
            and set(entry[2]) <= set("0123456789abcdef")
        }

    def save(self, hashes: dict[Key, str]) -> None:
        """Remember these hashes and forget others; the file is replaced in one step."""
        changed, self._hashes = hashes != self._hashes, dict(hashes)
        if self.file is None or not changed:
            return
        listing = {path: [time, size, digest] for (path, time, size), digest in hashes.items()}
        part = self.file.with_name(f"{self.file.name}.{os.getpid()}.part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(listing, indent=0))
            part.replace(self.file)
        except (OSError, ValueError) as error:
            log.info("the list of model hashes is not kept: %s", error)
            with contextlib.suppress(OSError, ValueError):
                part.unlink(missing_ok=True)
