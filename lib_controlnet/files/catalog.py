"""Control model files in the user's folders, and the names under which users ask for them."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from lib_controlnet.enums import UNION_TYPES
from lib_controlnet.errors import ModelNotFoundError, printable, quote
from lib_controlnet.files.checkpoint import GENERIC_STEMS
from lib_controlnet.files.hash_store import HashStore
from lib_controlnet.files.header_store import Header, HeaderStore, read_header
from lib_controlnet.files.published import find_named
from lib_controlnet.files.signatures import BY_KEY, NO_CONTROL

log = logging.getLogger(__name__)

EXTENSIONS: Final = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".patch")

SIDE_FOLDERS: Final = frozenset({"__macosx", "__pycache__", "$recycle.bin"})
SIDE_STEMS: Final = re.compile(
    r"(none|optimizer|scheduler|scaler|training_args|rng_state|random_states)(_\d+)*", re.IGNORECASE
)
"""Files with a model's ending that are none: what trainers keep, and the name of nothing."""

FOLDERS_LIMIT: Final = 20_000
"""Folders that are looked into; a disk as a whole has more."""

NAME_LIMIT: Final = 1000
"""Characters of a name that is looked for."""

NO_HASH: Final = "NOFILE"
_HASH_LENGTHS: Final = range(6, 65)
"""Hexadecimal digits of the hashes that WebUIs and download pages show."""

HASH_OFFSET: Final = 0x100000
HASH_BYTES: Final = 0x10000

TYPE_WORDS: Final = {
    "instructp2p": ("ip2p",),
    "segmentation": ("seg",),
    "normalmap": ("normal",),
    "t2i-adapter": ("t2i_adapter", "t2iadapter", "t2ia"),
    "ip-adapter": ("ip_adapter", "ipadapter"),
    "openpose": ("densepose",),
    "instant-id": ("instant_id", "instantid"),
    "softedge": ("soft_edge", "soft-edge"),
    "lineart": ("line_art", "line-art"),
    "scribble": ("sketch",),
    "tile": ("blur",),
}
"""Words by which model names are listed under a control type, beside the type itself."""


@dataclass(frozen=True)
class ModelFile:
    """A control model file.

    Attributes:
        path: where it is.
        hash: 8 hexadecimal digits, the host's short model hash.
        label: what the user sees before the hash, where the file's stem is not enough: another
            file has the same stem and hash, so folder or ending tell them apart.
        known: what its header says, where that has been read.
    """

    path: Path
    hash: str
    label: str = ""
    known: Header | None = None

    @property
    def stem(self) -> str:
        """What the user sees before the hash: the file's name without its ending, if possible."""
        return self.label or display(self.path.stem)

    @property
    def name(self) -> str:
        """What the user sees: `stem [hash]`."""
        return f"{self.stem} [{self.hash}]"

    @cached_property
    def header(self) -> Header:
        """What the file says about itself; nothing where it cannot be read."""
        return self.known or read_header(self.path) or Header()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Lower-case control types that files of its kind are for, whatever they are called."""
        found = BY_KEY.get(self.header.kind)
        return () if found is None else found.control_types

    @cached_property
    def published_for(self) -> tuple[str, ...]:
        """Lower-case control types of the published file that bears its name."""
        found = find_named(self.path.name)
        return () if found is None else tuple(kind.lower() for kind in found.control_types)

    @property
    def control_type(self) -> str | None:
        """Lower-case control type that the file's own metadata names; None where it names none."""
        return self.header.control_type.strip().lower() or None

    @property
    def preprocessor(self) -> str | None:
        """The preprocessor that the file's own metadata names; "none" is one, too."""
        return self.header.preprocessor.strip() or None

    @property
    def search_text(self) -> str:
        """Folded text for partial matches; a repository's folder stands for a generic stem."""
        stem = display(self.path.stem)
        if not self.label and not _is_generic(stem):
            return fold(stem)
        return fold(f"{display(self.path.parent.name)}/{stem}")

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The whole path, folded, without the file's ending, part by part."""
        return tuple(fold(display(part)) for part in self.path.with_suffix("").parts)


def display(name: str) -> str:
    """A file's name as it can be shown, sent and typed: one line, in any encoding."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda c: f"\\x{ord(c[0]):02x}", printable(name))


def fold(text: str) -> str:
    """For comparison: letter case and the ways to write an accent do not count."""
    return unicodedata.normalize("NFC", text).casefold()


def _is_generic(stem: str) -> bool:
    return stem.split(".", maxsplit=1)[0].lower() in GENERIC_STEMS


def short_hash(path: Path) -> str:
    """The host's short hash: SHA-256 of 64 KiB found 1 MiB into the file, 8 digits.

    Smaller files hash nothing, so all of them share `e3b0c442`.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - never raises; a pipe would be read for ever
        return NO_HASH
    try:
        with path.open("rb") as stream:
            stream.seek(HASH_OFFSET)
            return hashlib.sha256(stream.read(HASH_BYTES)).hexdigest()[:8]
    except OSError:
        return NO_HASH


def is_listed_under(entry: ModelFile, control_type: str) -> bool:
    """Whether a model's own metadata or, where that says nothing, its kind or name is of a type.

    The name of a published file is of the types that it was published for.
    """
    kind = control_type.strip().lower()
    words = (kind, *TYPE_WORDS.get(kind, ()), *(("union",) if kind in UNION_TYPES else ()))
    if entry.control_type is not None:
        return _join(entry.control_type) in map(_join, words)
    if kind in entry.kinds or kind in entry.published_for:
        return True
    return any(word in f"{entry.search_text} [{entry.hash}]" for word in words)


def _join(kind: str) -> str:
    """A control type without what people put between its words."""
    return re.sub(r"[-_ ]", "", kind)


class Catalog:
    """All control models below some folders.

    Args:
        folders: scanned recursively, links followed; what is hidden is left out, and so is what is
            no file. Of files with the same name and hash the first has the plain name, others are
            named by their folder too. Missing folders are skipped.
        sort_by: `name`, `date` (newest first) or `path name`.
        name_filter: only stems that contain this text, in any letter case.
        hashes: hashes of earlier scans.
        headers: what the files' headers said in earlier scans.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        sort_by: str = "name",
        name_filter: str = "",
        hashes: HashStore | None = None,
        headers: HeaderStore | None = None,
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.sort_by = sort_by
        self.name_filter = name_filter.strip().lower()
        self._hashes = hashes or HashStore()
        self._headers = headers or HeaderStore()
        self._files: dict[str, ModelFile] | None = None

    def refresh(self) -> None:
        """Scan the folders again; files that did not change are not read again."""
        files: dict[str, ModelFile] = {}
        known, hashes = self._hashes.load(), {}
        read, headers = self._headers.load(), {}
        seen: set[tuple] = set()
        for folder in self.folders:
            for path, state in self._sort(_model_files(folder)):
                if self.name_filter and self.name_filter not in path.stem.lower():
                    continue
                # A link to a file under the file's own name is no other model.
                same = (path.stem, *(_identity(state) or (str(path),)))
                if same in seen:
                    continue
                seen.add(same)
                key = (str(path), state.st_mtime_ns, state.st_size)
                # What cannot be read is offered: who chooses it is told what is wrong with it.
                header = read.get(key) or read_header(path)
                if header is not None:
                    headers[key] = header
                    if header.kind in NO_CONTROL:
                        continue
                hashes[key] = known.get(key) or short_hash(path)
                entry = replace(_name(path, hashes[key], files), known=header)
                files[entry.name] = entry
        self._files = files
        self._hashes.save(hashes)
        self._headers.save(headers)
        log.debug("%d control models in %d folders", len(files), len(self.folders))

    def _sort(
        self, found: Iterable[tuple[Path, os.stat_result]]
    ) -> list[tuple[Path, os.stat_result]]:
        if self.sort_by == "date":
            return sorted(found, key=lambda item: -item[1].st_mtime)
        if self.sort_by == "path name":
            return sorted(found, key=lambda item: str(item[0]).lower())
        return sorted(found, key=lambda item: (item[0].name.lower(), str(item[0])))

    @property
    def files(self) -> dict[str, ModelFile]:
        """Files by displayed name, in display order; scanned at first use."""
        if self._files is None:
            self.refresh()
        return self._files or {}

    def names(self) -> list[str]:
        """Displayed names, `stem [hash]`, in display order."""
        return list(self.files)

    def for_type(self, control_type: str) -> list[str]:
        """Displayed names of the models for a control type, by metadata or name; all for `All`."""
        kind = control_type.strip().lower()
        if kind in ("", "all"):
            return self.names()
        return [name for name, entry in self.files.items() if is_listed_under(entry, kind)]

    def find(self, text: str) -> Path:
        """The file a user means, see `find_entry`."""
        return self.find_entry(text).path

    def find_entry(self, text: str) -> ModelFile:
        """The file a user means.

        Tried in this order: the displayed name; the stem, perhaps with its ending and folders, in
        any letter case, with or without a hash; the same when the hash is of another copy of the
        model; the shortest stem that contains the text. `remark` tells when that was a guess.

        Raises:
            ModelNotFoundError: nothing fits; names what comes close and where was searched.
        """
        if text in self.files:
            return self.files[text]
        wanted = fold(text[: NAME_LIMIT + 1].strip())
        if not wanted or len(wanted) > NAME_LIMIT:
            raise ModelNotFoundError(self._not_found(text))
        stem, digest = split_name(wanted)
        # "[fp16]" may belong to the name; a model may have been got with another ending.
        for name, hashed in ((wanted, ""), (stem, digest), (_without_ending(stem), digest)):
            same = [entry for entry in self.files.values() if _is_called(entry, name)]
            if same:
                return max(same, key=lambda entry: _closeness(entry, text, hashed))
        containing = [entry for entry in self.files.values() if stem and stem in entry.search_text]
        if containing:
            return min(containing, key=lambda entry: len(entry.stem))
        raise ModelNotFoundError(self._not_found(text))

    def remark(self, text: str) -> str | None:
        """What a user should know about the file that `find_entry` takes: that it is a guess.

        Raises:
            ModelNotFoundError: see `find_entry`.
        """
        entry = self.find_entry(text)
        wanted = fold(text.strip())
        stem, digest = split_name(wanted)
        if _is_called(entry, wanted) or entry.name == text:
            return None
        if not _is_called(entry, stem) and _is_called(entry, _without_ending(stem)):
            return f"there is no control model {quote(text)} with this ending; {entry.name} is used"
        if not _is_called(entry, stem):
            others = sum(stem in other.search_text for other in self.files.values()) - 1
            guess = f"the shortest of {others + 1} names that contain it" if others else "by a part"
            return f"the control model {quote(text)} is taken to be {entry.name}, {guess}"
        if digest and not _has_hash(entry, digest):
            return f"there is no control model {quote(text)} with this hash; {entry.name} is used"
        return None

    def _not_found(self, text: str) -> str:
        folders = ", ".join(str(folder) for folder in self.folders) or "none"
        if not self.files:
            return (
                f"control model {quote(text)} is not found: no model files in the folders {folders}"
            )
        by_stem = {fold(entry.stem): name for name, entry in self.files.items()}
        wanted = split_name(fold(text[:200].strip()))[0]
        close = difflib.get_close_matches(wanted, by_stem, n=3, cutoff=0.3)
        nearest = ", ".join(by_stem[stem] for stem in close) or next(iter(self.files))
        return (
            f"control model {quote(text)} is not found; the closest names are {nearest}; "
            f"searched {len(self.files)} models in the folders {folders}"
        )


def _name(path: Path, digest: str, taken: dict[str, ModelFile]) -> ModelFile:
    """The file under a name that no other one has: with as much of its path as that takes."""
    entry = ModelFile(path, digest)
    parts, above = display(path.name), ""
    for folder in (*path.parents, None):
        if entry.name not in taken:
            return entry
        if folder is None:
            break
        above = f"{display(folder.name)}/{above}"
        for label in (f"{above}{display(path.stem)}", f"{above}{parts}"):
            entry = ModelFile(path, digest, label)
            if entry.name not in taken:
                return entry
    return ModelFile(path, digest, f"{above}{parts} ({len(taken)})")


def split_name(text: str) -> tuple[str, str]:
    """Stem and hash of `stem [hash]`, folded; the hash is empty where the brackets hold none."""
    text = text.rstrip()
    if text.endswith("]"):
        stem, _, digest = text[:-1].rpartition("[")
        if is_hash(digest):
            return stem.rstrip(), digest
    return text, ""


def is_hash(text: str) -> bool:
    """Whether a text in brackets behind a name is a hash, and no part of the name."""
    digits = set(text) <= set("0123456789abcdefABCDEF")
    return (digits and len(text) in _HASH_LENGTHS) or text.upper() == NO_HASH


def _is_called(entry: ModelFile, name: str) -> bool:
    """Whether a folded name is the file's: its label, or its stem with any ending and folders."""
    if name == fold(entry.stem):
        return True
    stem = _without_ending(name)
    if stem != name and not name.endswith(entry.path.suffix.lower()):
        return False
    parts = PurePosixPath(stem.replace("\\", "/")).parts
    return bool(parts) and entry.places[-len(parts) :] == parts


def _without_ending(name: str) -> str:
    return next((name.removesuffix(e) for e in EXTENSIONS if name.endswith(e)), name)


def _has_hash(entry: ModelFile, digest: str) -> bool:
    return fold(entry.hash) == digest


def _closeness(entry: ModelFile, text: str, digest: str) -> tuple[bool, bool]:
    return (bool(digest) and _has_hash(entry, digest), text.strip().startswith(entry.stem))


def _model_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Model files below a folder; each real folder once, whatever links lead in circles.

    Nothing but plain files: to open a pipe or a device could take for ever.
    """
    seen, waiting = set(), [str(folder)]
    while waiting:
        root = waiting.pop()
        try:
            same = _identity(os.stat(root)) or os.path.realpath(root)  # noqa: PTH116 - speed
        except (OSError, ValueError) as error:
            log.debug("the folder %s is skipped: %s", root, error)
            continue
        if same in seen:
            continue
        seen.add(same)
        if len(seen) > FOLDERS_LIMIT:
            log.warning("%s holds more than %d folders; the rest is left out", folder, len(seen))
            return
        inner = []
        for entry in _children(root):
            if _is_hidden(entry):
                continue
            try:
                if entry.is_dir():
                    inner.append(entry.path)
                elif entry.name.lower().endswith(EXTENSIONS):
                    path, state = Path(entry.path), entry.stat()
                    is_model = stat.S_ISREG(state.st_mode) and state.st_size > 0
                    if is_model and not SIDE_STEMS.fullmatch(path.stem):
                        yield path, state
            except OSError as error:  # a link to nowhere, or to itself
                log.debug("%s is skipped: %s", entry.path, error)
        waiting += sorted(inner, reverse=True)


def _identity(state: os.stat_result) -> tuple[int, int] | None:
    """Tells files apart whatever links lead to them; None where the system does not say."""
    return (state.st_dev, state.st_ino) if state.st_ino else None


def _children(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        log.debug("the folder %s is skipped: %s", folder, error)
        return []


def _is_hidden(entry: os.DirEntry) -> bool:
    """Hidden here or on the system it came from; and what systems put beside files."""
    if entry.name.startswith(".") or entry.name.lower() in SIDE_FOLDERS:
        return True
    if os.name != "nt":
        return False
    try:
        attributes = getattr(entry.stat(follow_symlinks=False), "st_file_attributes", 0)
    except OSError:
        return False
    return bool(attributes & stat.FILE_ATTRIBUTE_HIDDEN)
