"""The folder with the files of presets: a document each, and pictures that documents name.

A preset is there once its document is, and the document is put in place in one step, after its
pictures; so whatever ends a program in between, no preset is half of one. Files that people put
into the folder by hand are presets like others.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from lib_controlnet.errors import PresetError, printable
from lib_controlnet.files.paths import open_file
from lib_controlnet.limits import MAX_FILE_BYTES, MEGABYTE
from lib_controlnet.presets.names import find_fault, fold

DOCUMENT: Final = ".json"
OLD_DOCUMENT: Final = ".txt"
"""Of older ControlNets."""
KINDS: Final = (DOCUMENT, OLD_DOCUMENT)
PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
MAX_DOCUMENT: Final = 4 * MEGABYTE
"""Bytes of a document; what the panel writes has some thousands."""
MAX_PRESETS: Final = 1000
MAX_LOOKED_AT: Final = 20_000
"""Files of the folder that are looked at: somebody may have named a folder of pictures."""


@dataclass(frozen=True)
class Entry:
    """A document in the folder.

    Attributes:
        name: of the preset.
        path: where it lies.
        size: its bytes.
        changed: seconds since 1970.
        fault: why its name cannot be that of a preset, None if it can.
    """

    name: str
    path: Path
    size: int
    changed: float
    fault: str | None = None

    @property
    def is_old(self) -> bool:
        """Written by an older ControlNet."""
        return self.path.suffix.lower() == OLD_DOCUMENT


def list_folder(folder: Path, kinds: Iterable[str] = KINDS) -> list[Entry]:
    """The documents of a folder by name, of two with one name the first kind; none without it."""
    found: dict[str, Entry] = {}
    kinds = tuple(kinds)
    try:
        with os.scandir(folder) as files:
            listed = sorted(islice(files, MAX_LOOKED_AT), key=lambda file: file.name)
    except (OSError, ValueError):
        return []
    for file in listed:
        stem, kind = os.path.splitext(file.name)  # noqa: PTH122 - Path's takes ".json" for a stem
        if kind.lower() not in kinds or stem.startswith("."):
            continue
        with contextlib.suppress(OSError):
            state = file.stat()
            name = unicodedata.normalize("NFC", printable(stem))
            facts = (Path(file.path), state.st_size, state.st_mtime)
            entry = Entry(name, *facts, find_fault(name, stem))
            present = found.get(fold(name))
            if stat.S_ISREG(state.st_mode) and (present is None or present.is_old):
                found[fold(name)] = entry
    return sorted(islice(found.values(), MAX_PRESETS), key=lambda entry: fold(entry.name))


def read_document(path: Path) -> bytes:
    """The bytes of what lies in a folder.

    Raises:
        PresetError: it cannot be read, or is too large.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            msg = f"{printable(path.name)} is no plain file"
            raise PresetError(msg)
        if state.st_size > MAX_DOCUMENT:
            msg = (
                f"{printable(path.name)} has more than {MAX_DOCUMENT // MEGABYTE} MB; a preset's "
                "pictures belong into files of their own beside it: import it in the panel"
            )
            raise PresetError(msg)
        return path.read_bytes()
    except OSError as error:
        msg = f"{printable(path.name)} cannot be read: {error.strerror}"
        raise PresetError(msg) from error


def is_picture_file(text: object) -> bool:
    """Whether a text names a picture in the folder; base64 holds no point."""
    return isinstance(text, str) and len(text) < 256 and text.lower().endswith(PICTURES)


class PresetFolder:
    """Reads and writes one folder, which need not be there. Whoever writes holds a lock.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """All documents."""
        return list_folder(self.path)

    def find(self, name: str) -> Entry | None:
        """The document of a name, in whatever letter case."""
        wanted = fold(name)
        return next((one for one in self.entries() if fold(one.name) == wanted), None)

    def open_picture(self, name: str) -> Path:
        """A picture of the folder that a document names.

        Raises:
            PresetError: it is not there, leads out of the folder, or is too large.
        """
        path = None
        if os.path.basename(name) == name and "\\" not in name and "\0" not in name:  # noqa: PTH119
            path = open_file(self.path / name, [self.path])
        if path is None:
            msg = f"its picture {printable(name)} is not in the folder of the presets"
            raise PresetError(msg)
        if path.stat().st_size > MAX_FILE_BYTES:
            msg = f"its picture {printable(name)} has more than {MAX_FILE_BYTES // MEGABYTE} MB"
            raise PresetError(msg)
        return path

    def size_of(self, pictures: Iterable[str]) -> int:
        """Bytes of those pictures that are there."""
        size = 0
        for name in pictures:
            with contextlib.suppress(PresetError, OSError):
                size += self.open_picture(name).stat().st_size
        return size

    def write(self, name: str, document: bytes, pictures: Mapping[str, bytes]) -> None:
        """Put a preset in place: its pictures, then what names them.

        Args:
            name: of the preset, checked.
            document: JSON that names the pictures.
            pictures: files' contents by name; those that are there already are left as they are.

        Raises:
            PresetError: the folder cannot be written to.
        """
        made: list[Path] = []
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for file, data in pictures.items():
                path = self.path / file
                if not (path.is_file() and path.stat().st_size == len(data)):
                    made.append(path)
                    _replace(path, data)
            _replace(self.path / f"{name}{DOCUMENT}", document)
        except OSError as error:
            self.remove_files(made)
            msg = f"the preset {name} cannot be written: {error.strerror}"
            raise PresetError(msg, status_code=500) from error

    def remove_files(self, paths: Iterable[Path]) -> None:
        """Delete files; those that cannot be deleted stay, they harm nothing."""
        for path in paths:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def rename(self, entry: Entry, name: str) -> None:
        """Give a document the same name in other letter case; what it names stays.

        Raises:
            PresetError: it cannot be renamed.
        """
        try:
            entry.path.replace(entry.path.with_name(f"{name}{entry.path.suffix}"))
        except OSError as error:
            msg = f"the preset {entry.name} cannot be renamed: {error.strerror}"
            raise PresetError(msg, status_code=500) from error

    def remove(self, entry: Entry) -> None:
        """Delete a document, not what it names.

        Raises:
            PresetError: it cannot be deleted.
        """
        try:
            entry.path.unlink(missing_ok=True)
        except OSError as error:
            msg = f"the preset {entry.name} cannot be deleted: {error.strerror}"
            raise PresetError(msg, status_code=500) from error


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{os.getpid()}.{threading.get_ident()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
