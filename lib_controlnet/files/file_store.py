"""What was found out of files, kept on disk: what has not changed need not be read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

log = logging.getLogger(__name__)

Value = TypeVar("Value")

Key = tuple[str, int, int]
"""Path, time of the last change in nanoseconds, size in bytes."""

FILE_LIMIT: Final = 64 * 2**20
FILES_LIMIT: Final = 20_000
"""Files of which something is kept."""
NUMBER_DIGITS: Final = 20
"""Digits of a whole number; Python takes quadratic time to read more of them."""

STAMP: Final = ""
"""The key, which is no path, of what the values depend on beside the files."""


def key_of(path: Path) -> Key:
    """The key of a file as it is now.

    Raises:
        OSError: it cannot be looked at.
    """
    state = path.stat()
    return str(path), state.st_mtime_ns, state.st_size


def stamp_of(*folders: Path) -> str:
    """A text that is another one when the sources in some folders are, for `FileStore`."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _number(text: str) -> int | None:
    return int(text) if len(text) <= NUMBER_DIGITS else None


class FileStore(Generic[Value]):
    """Values by path, time and size. What cannot be read or written is done without.

    Safe to use from several threads.

    Args:
        file: a JSON file, made when needed; None keeps values in memory only.
        what: what messages call the values.
        read: a value of the list that JSON gave; None for one that makes no sense. It may raise
            what a wrong list makes it raise.
        write: the list of a value.
        stamp: gives what values depend on beside the files; those of another one count for nothing.
    """

    def __init__(
        self,
        file: Path | None,
        what: str,
        read: Callable[[list[Any]], Value | None],
        write: Callable[[Value], list[Any]],
        stamp: Callable[[], str] = str,
    ) -> None:
        self.file = file
        self._what = what
        self._read_value, self._write_value = read, write
        self._stamp = stamp
        self._values: dict[Key, Value] | None = None
        self._lock = threading.RLock()

    def load(self) -> dict[Key, Value]:
        """What is kept; a damaged file counts as empty."""
        with self._lock:
            if self._values is None:
                self._values = {}
                try:
                    self._values = self._read()
                except (OSError, ValueError, RecursionError) as error:
                    log.info("the %s in %s are made anew: %s", self._what, self.file, error)
            return self._values

    def _read(self) -> dict[Key, Value]:
        if self.file is None or not os.path.isfile(self.file):  # noqa: PTH113 - never raises
            return {}
        with self.file.open("rb") as stream:
            listing = json.loads(stream.read(FILE_LIMIT), parse_int=_number)
        if not isinstance(listing, dict) or listing.pop(STAMP, "") != self._stamp():
            return {}
        found = {}
        for path, entry in islice(listing.items(), FILES_LIMIT):
            if isinstance(entry, list) and [type(one) for one in entry[:2]] == [int, int]:
                with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError):
                    value = self._read_value(entry[2:])
                    if value is not None:
                        found[path, entry[0], entry[1]] = value
        return found

    def save(self, values: Mapping[Key, Value]) -> None:
        """Keep these values and forget others; the file is replaced in one step."""
        with self._lock:
            changed, self._values = values != self._values, dict(values)
            if self.file is None or not changed:
                return
            self._write(self.file)

    def _write(self, file: Path) -> None:
        stamp = self._stamp()
        listing: dict[str, Any] = {STAMP: stamp} if stamp else {}
        for (path, time, size), value in islice((self._values or {}).items(), FILES_LIMIT):
            listing[path] = [time, size, *self._write_value(value)]
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(listing, indent=0))
            part.replace(file)
        except (OSError, ValueError) as error:
            log.info("the %s are not kept: %s", self._what, error)
            with contextlib.suppress(OSError, ValueError):
                part.unlink(missing_ok=True)
