"""Model hashes remembered on disk, so that listing a folder reads no file that was seen before."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

Key = tuple[str, int, int]
"""Path, time of the last change in nanoseconds, size in bytes."""

HASH_DIGITS: Final = 8


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
                if self.file is not None:
                    for path, (time, size, digest) in json.loads(self.file.read_text()).items():
                        if isinstance(digest, str) and len(digest) == HASH_DIGITS:
                            self._hashes[path, int(time), int(size)] = digest
            except FileNotFoundError:
                pass
            except (OSError, ValueError, TypeError, AttributeError) as error:
                log.info("the list of model hashes %s is made anew: %s", self.file, error)
                self._hashes = {}
        return self._hashes

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
        except OSError as error:
            log.info("the list of model hashes is not kept: %s", error)
