"""The presets of a WebUI: list, get, save, rename, delete, import, and the last generation's."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lib_controlnet.errors import ControlNetError, PresetError
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.presets import form
from lib_controlnet.presets.folder import (
    MAX_PRESETS,
    OLD_DOCUMENT,
    Entry,
    PresetFolder,
    is_picture_file,
    list_folder,
    read_document,
)
from lib_controlnet.presets.foreign import read_any
from lib_controlnet.presets.form import Preset, parse_units, pictures_of, write_units
from lib_controlnet.presets.names import LAST_USED, check_name, fold
from lib_controlnet.units.unit import NO_MODEL, NO_MODULE, ControlUnit, present_names

log = logging.getLogger(__name__)

MISSING: Final = 404
TAKEN: Final = 409
LONGEST_SHOWN: Final = 200
_DIGITS: Final = 8
"""Of the digest in the name of a picture's file, so that another picture is another file."""


class Presets:
    """Safe to use from several threads.

    Args:
        find_folder: gives the folder of the presets as it is set now.
        find_old: gives folders in which older ControlNets kept theirs.
    """

    def __init__(
        self, find_folder: Callable[[], Path], find_old: Callable[[], Iterable[Path]] = tuple
    ) -> None:
        self._find_folder, self._find_old = find_folder, find_old
        self._lock = threading.RLock()
        self._remembered = ""
        self._writer: threading.Thread | None = None

    @property
    def folder(self) -> PresetFolder:
        """The folder as it is set now."""
        return PresetFolder(self._find_folder())

    def summaries(self, search: str = "") -> list[dict[str, Any]]:
        """What there is, by name; a damaged preset has `fault`, a sentence.

        Args:
            search: words that must all be in the name, a preprocessor or a model.
        """
        folder, words = self.folder, fold(search).split()
        found = [_summarize(entry, folder) for entry in folder.entries()]
        return [one for one in found if all(word in _join_words(one) for word in words)]

    def load(self, name: str) -> tuple[Preset, list[ControlUnit]]:
        """A preset and its units, whose pictures are uint8 arrays, (H, W, 3 or 4).

        Raises:
            PresetError: there is none of that name, or it is damaged.
            ControlNetError: a value or a picture of it cannot be used.
        """
        folder = self.folder
        with self._lock:
            entry = _require(folder, name)
            preset = _read(entry)
            with _name_it(entry.name):
                return preset, parse_units(preset, lambda text: _fetch(folder, text))

    def describe(self, name: str) -> dict[str, Any]:
        """A preset as a request's units, with base64 in place of pictures; see `load`."""
        preset, units = self.load(name)
        notes = [f"unit {unit.index}: {note}" for unit in units for note in unit.notes]
        written, _ = write_units(
            units, preset.has_pictures, lambda _part, data: base64.b64encode(data).decode()
        )
        return {
            "name": _require(self.folder, name).name,
            "scope": form.SCOPES[preset.is_whole],
            "pictures": preset.has_pictures,
            "units": written,
            "notes": [*preset.notes, *notes],
        }

    def save(
        self,
        name: object,
        units: Sequence[Any],
        *,
        is_whole: bool,
        with_pictures: bool,
        replaces: bool = False,
    ) -> list[str]:
        """Write a preset.

        Args:
            name: as it was typed.
            units: `ControlUnit`s, or objects with their attributes.
            is_whole: they are all units of a panel.
            with_pictures: whether their pictures are kept.
            replaces: whether a preset of that name may be written over.

        Returns:
            A sentence for each value that cannot be kept.

        Raises:
            PresetError: the name cannot be used or is taken, or the folder cannot be written to.
            ControlNetError: a picture cannot be decoded.
        """
        return self._write(check_name(name), units, is_whole, with_pictures, replaces)

    def _write(
        self, name: str, units: Sequence[Any], is_whole: bool, with_pictures: bool, replaces: bool
    ) -> list[str]:
        folder, pictures = self.folder, dict[str, bytes]()

        def keep(part: str, data: bytes) -> str:
            digest = hashlib.sha256(data).hexdigest()[:_DIGITS]
            file = f"{name}.{part}.{digest}.png"
            pictures[file] = data
            return file

        with self._lock:
            present = folder.find(name)
            if present is not None:
                if not replaces:
                    msg = f"there is a preset {present.name} already"
                    raise PresetError(msg, status_code=TAKEN)
                name = present.name
            elif len(folder.entries()) >= MAX_PRESETS:
                msg = f"there are {MAX_PRESETS} presets already; delete some first"
                raise PresetError(msg)
            written, notes = write_units(units, with_pictures, keep)
            text = form.write_document(written, is_whole=is_whole, has_pictures=with_pictures)
            before = _own_files(present)
            folder.write(name, text, pictures)
            self._tidy(folder, [] if present is None else [present.path], before)
            return notes

    def _tidy(self, folder: PresetFolder, documents: Iterable[Path], files: set[str]) -> None:
        """Delete an older document, and files of pictures that no document names any more."""
        kept = {entry.path for entry in folder.entries()}
        folder.remove_files(path for path in documents if path not in kept)
        used = {name for entry in folder.entries() for name in _files_of(entry)} if files else set()
        folder.remove_files(folder.path / name for name in files - used)

    def rename(self, name: str, to: object) -> None:
        """Give a preset another name; its pictures' files follow.

        Raises:
            PresetError: there is none of that name, the new one cannot be used or is taken, or the
                folder cannot be written to.
        """
        new, folder = check_name(to), self.folder
        with self._lock:
            entry = _require(folder, name)
            taken = folder.find(new)
            if taken is not None and taken.path != entry.path:
                msg = f"there is a preset {taken.name} already"
                raise PresetError(msg, status_code=TAKEN)
            if taken is not None:  # other letter case, or the same
                folder.rename(entry, new)
                return
            preset, units = self.load(name)
            self._write(new, units, preset.is_whole, preset.has_pictures, replaces=False)
            self.remove(entry.name)

    def remove(self, name: str) -> None:
        """Delete a preset, a damaged one too, and the files of its pictures.

        Raises:
            PresetError: there is none of that name, or it cannot be deleted.
        """
        folder = self.folder
        with self._lock:
            entry = _require(folder, name)
            files = _own_files(entry)
            folder.remove(entry)
            self._tidy(folder, (), files)

    def add(
        self, name: object, data: bytes, beside: Mapping[str, bytes], replaces: bool = False
    ) -> list[str]:
        """Write a preset out of somebody's file, see `foreign.read_any`.

        Args:
            name: as it was typed, or of the file.
            data: the file.
            beside: pictures that it may name, by the names of their files.
            replaces: whether a preset of that name may be written over.

        Returns:
            A sentence for each thing that was passed over.

        Raises:
            PresetError: the file holds no preset; else see `save`.
            ControlNetError: a value or a picture cannot be used.
        """
        checked = check_name(name)
        with _name_it(checked):
            preset = read_any(data)
        return self.put(checked, preset, beside, replaces)

    def put(
        self, name: object, preset: Preset, beside: Mapping[str, bytes], replaces: bool = False
    ) -> list[str]:
        """Write a preset that was read from elsewhere; see `add`."""
        checked = check_name(name)
        with _name_it(checked):
            units = parse_units(preset, lambda text: _decode(text, beside))
        told = [f"unit {unit.index}: {note}" for unit in units for note in unit.notes]
        written = self._write(checked, units, preset.is_whole, preset.has_pictures, replaces)
        return [*preset.notes, *told, *written]

    def find_old(self) -> list[Entry]:
        """Files of older ControlNets whose names are not taken here."""
        taken = {fold(entry.name) for entry in self.folder.entries()}
        found: dict[str, Entry] = {}
        for folder in self._find_old():
            for entry in list_folder(folder, (OLD_DOCUMENT,)):
                if fold(entry.name) not in taken and entry.fault is None:
                    found.setdefault(fold(entry.name), entry)
        return list(found.values())

    def add_old(self) -> tuple[list[str], list[str]]:
        """Import what `find_old` finds: the names, and a sentence for each that cannot be read."""
        added, faults = [], []
        for entry in self.find_old():
            try:
                self.add(entry.name, read_document(entry.path), {})
                added.append(entry.name)
            except ControlNetError as error:
                faults.append(str(error))
        return added, faults

    def remember(self, units: Sequence[Any], with_pictures: bool) -> None:
        """Keep the units of a generation as the preset "last used", in a thread.

        What cannot be written is logged: no generation waits for it, or fails by it.

        Args:
            units: `ControlUnit`s, or objects with their attributes; they must not change.
            with_pictures: whether their pictures are kept.
        """
        before = self._writer

        def write() -> None:
            if before is not None:
                before.join()
            try:
                digest = _digest(units, with_pictures)
                is_there = self.folder.find(LAST_USED) is not None
                if digest != self._remembered or not is_there:
                    self._write(LAST_USED, units, True, with_pictures, True)
                    self._remembered = digest
            except Exception as error:  # the boundary of a thread
                log.warning("the units are not kept as %r: %s", LAST_USED, error)

        self._writer = threading.Thread(target=write, name="controlnet-last-used", daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Wait until what `remember` was told is written."""
        if (writer := self._writer) is not None:
            writer.join()


@contextlib.contextmanager
def _name_it(name: str) -> Any:
    """Say of which preset an error tells."""
    try:
        yield
    except ControlNetError as error:
        msg = f"the preset {name} cannot be used: {error}"
        raise PresetError(msg, error.status_code) from error


def _require(folder: PresetFolder, name: object) -> Entry:
    entry = folder.find(name) if isinstance(name, str) and len(name) <= LONGEST_SHOWN else None
    if entry is None:
        msg = f"there is no preset {str(name)[:LONGEST_SHOWN]}"
        raise PresetError(msg, status_code=MISSING)
    return entry


def _read(entry: Entry) -> Preset:
    with _name_it(entry.name):
        if entry.fault is not None:
            msg = f"the name of its file {entry.fault}; give the file another name"
            raise PresetError(msg)
        return read_any(read_document(entry.path))


def _summarize(entry: Entry, folder: PresetFolder) -> dict[str, Any]:
    summary = {"name": entry.name, "size": entry.size, "changed": int(entry.changed)}
    if entry.is_old:
        summary["old"] = True
    try:
        preset = _read(entry)
    except ControlNetError as error:
        return {**summary, "units": [], "fault": str(error)}
    files = _names_of(preset)
    return {
        **summary,
        "size": entry.size + folder.size_of(files),
        "scope": form.SCOPES[preset.is_whole],
        "pictures": sum(len(pictures_of(unit)) for unit in preset.units),
        "units": [_summarize_unit(unit) for unit in preset.units],
    }


def _summarize_unit(unit: Mapping[str, Any]) -> dict[str, Any]:
    given = present_names(unit, is_strict=False)[0]
    return {
        "enabled": given.get("enabled", True) is not False,
        "module": str(given.get("module") or NO_MODULE)[:LONGEST_SHOWN],
        "model": str(given.get("model") or NO_MODEL)[:LONGEST_SHOWN],
    }


def _join_words(summary: Mapping[str, Any]) -> str:
    units = (f"{unit['module']} {unit['model']}" for unit in summary["units"])
    return fold(f"{summary['name']} {' '.join(units)}")


def _names_of(preset: Preset) -> set[str]:
    texts = (text for unit in preset.units for text in pictures_of(unit))
    return {text for text in texts if is_picture_file(text)}


def _files_of(entry: Entry) -> set[str]:
    """Files that a document names; none of a damaged one."""
    try:
        return _names_of(_read(entry))
    except ControlNetError:
        return set()


def _own_files(entry: Entry | None) -> set[str]:
    """Files that a document names and that were written for it; others people have put there."""
    if entry is None:
        return set()
    start = f"{fold(entry.name)}.unit"
    return {name for name in _files_of(entry) if fold(name).startswith(start)}


def _fetch(folder: PresetFolder, text: str) -> Any:
    """The picture that a document's text stands for, uint8 (H, W, 3 or 4)."""
    if is_picture_file(text):
        path = folder.open_picture(text)
        return decode_image(path, f"its picture {text}", [folder.path], keep_alpha=True)
    return decode_image(text, "a picture of it", keep_alpha=True)


def _decode(text: str, beside: Mapping[str, bytes]) -> Any:
    if is_picture_file(text):
        if text not in beside:
            msg = f"its picture {text} is not there; choose it together with the preset's file"
            raise PresetError(msg)
        return decode_image(beside[text], f"its picture {text}", keep_alpha=True)
    return decode_image(text, "a picture of it", keep_alpha=True)


def _digest(units: Sequence[Any], with_pictures: bool) -> str:
    """Another text where units or their pictures are others."""
    digest = hashlib.sha256(repr(with_pictures).encode())

    def add_value(value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                digest.update(str(key).encode())
                add_value(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add_value(item)
        elif hasattr(value, "tobytes"):
            digest.update(repr(getattr(value, "shape", "")).encode() + value.tobytes())
        else:
            digest.update(value if isinstance(value, bytes) else repr(value).encode())

    for unit in units:
        add_value(vars(unit))
    return digest.hexdigest()
