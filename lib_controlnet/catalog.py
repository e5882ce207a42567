"""Control model files in the user's folders, and the names under which users ask for them."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from lib_controlnet.containers import read_metadata
from lib_controlnet.errors import BrokenCheckpointError, ModelNotFoundError, shown
from lib_controlnet.hash_store import HashStore

log = logging.getLogger(__name__)

EXTENSIONS: Final = (".pt", ".pth", ".ckpt", ".safetensors", ".bin")

HASH_OFFSET: Final = 0x100000
HASH_BYTES: Final = 0x10000

GENERIC_STEMS: Final = ("diffusion_pytorch_model", "pytorch_model", "model")
"""File stems of model repositories, where only the folder says which model it is."""

TYPE_WORDS: Final = {
    "instructp2p": ("ip2p",),
    "segmentation": ("seg",),
    "normalmap": ("normal",),
    "t2i-adapter": ("t2i_adapter", "t2iadapter", "t2ia"),
    "ip-adapter": ("ip_adapter", "ipadapter"),
    "openpose": ("densepose",),
    "instant-id": ("instant_id", "instantid"),
    "scribble": ("sketch",),
    "tile": ("blur",),
}
"""Words by which model names are listed under a control type, beside the type itself."""

UNION_TYPES: Final = frozenset(
    {
        *("openpose", "depth", "softedge", "scribble", "canny", "lineart", "mlsd", "normalmap"),
        *("segmentation", "inpaint", "tile"),
    }
)
"""Control types for which union models are offered."""


@dataclass(frozen=True)
class ModelFile:
    """A control model file.

    Attributes:
        path: where it is.
        hash: 8 hexadecimal digits, the host's short model hash.
        by_folder: another file has the same name and hash; the folder tells them apart.
    """

    path: Path
    hash: str
    by_folder: bool = False

    @property
    def stem(self) -> str:
        """File name without its extension, behind its folder's where that is needed."""
        return f"{self.path.parent.name}/{self.path.stem}" if self.by_folder else self.path.stem

    @property
    def name(self) -> str:
        """What the user sees: `stem [hash]`."""
        return f"{self.stem} [{self.hash}]"

    @cached_property
    def control_type(self) -> str | None:
        """Lower-case control type that the file's own metadata names; None where it names none."""
        if self.path.suffix.lower() != ".safetensors":
            return None
        try:
            given = str(read_metadata(self.path).get("control_type", ""))
            return given.strip().lower() or None
        except (BrokenCheckpointError, OSError) as error:
            log.debug("%s has no readable metadata: %s", self.path, error)
            return None

    @property
    def search_text(self) -> str:
        """Lower-case text for partial matches; a repository's folder stands for a generic stem."""
        stem = self.path.stem.lower()
        if not self.by_folder and not _is_generic(stem):
            return stem
        return f"{self.path.parent.name.lower()}/{stem}"


def _is_generic(stem: str) -> bool:
    return stem.split(".", maxsplit=1)[0] in GENERIC_STEMS


def short_hash(path: Path) -> str:
    """The host's short hash: SHA-256 of 64 KiB found 1 MiB into the file, 8 digits.

    Smaller files hash nothing, so all of them share `e3b0c442`.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(HASH_OFFSET)
            return hashlib.sha256(stream.read(HASH_BYTES)).hexdigest()[:8]
    except OSError:
        return "NOFILE"


def listed_under(entry: ModelFile, control_type: str) -> bool:
    """Whether a model's own metadata or, where that says nothing, its name is of a control type."""
    kind = control_type.strip().lower()
    words = (kind, *TYPE_WORDS.get(kind, ()), *(("union",) if kind in UNION_TYPES else ()))
    if entry.control_type is not None:
        return entry.control_type in words
    return any(word in f"{entry.search_text} [{entry.hash}]" for word in words)


class Catalog:
    """All control models below some folders.

    Args:
        folders: scanned recursively, links followed; of two files with the same name and hash the
            one in the earlier folder counts if they are of one size, else both do. Missing
            folders are skipped.
        sort_by: `name`, `date` (newest first) or `path name`.
        name_filter: only stems that contain this text, in any letter case.
        hashes: hashes of earlier scans.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        sort_by: str = "name",
        name_filter: str = "",
        hashes: HashStore | None = None,
    ) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.sort_by = sort_by
        self.name_filter = name_filter.strip().lower()
        self._hashes = hashes or HashStore()
        self._files: dict[str, ModelFile] | None = None

    def refresh(self) -> None:
        """Scan the folders again; files that did not change are not read again."""
        files: dict[str, ModelFile] = {}
        known, hashes, sizes = self._hashes.load(), {}, {}
        for folder in self.folders:
            for path in self._sorted(_model_paths(folder)):
                if self.name_filter and self.name_filter not in path.stem.lower():
                    continue
                try:
                    state = path.stat()
                except OSError as error:  # a link to nowhere
                    log.debug("%s is skipped: %s", path, error)
                    continue
                key = (str(path), state.st_mtime_ns, state.st_size)
                hashes[key] = known.get(key) or short_hash(path)
                entry = ModelFile(path, hashes[key])
                if sizes.setdefault(entry.name, state.st_size) != state.st_size:
                    # Files below 1 MiB all have one hash, so the size has to tell.
                    entry = replace(entry, by_folder=True)
                files.setdefault(entry.name, entry)
        self._files = files
        self._hashes.save(hashes)
        log.debug("%d control models in %d folders", len(files), len(self.folders))

    def _sorted(self, paths: Iterable[Path]) -> list[Path]:
        if self.sort_by == "date":
            return sorted(paths, key=lambda path: -path.stat().st_mtime if path.exists() else 0.0)
        if self.sort_by == "path name":
            return sorted(paths, key=lambda path: str(path).lower())
        return sorted(paths, key=lambda path: (path.name.lower(), str(path)))

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
        return [name for name, entry in self.files.items() if listed_under(entry, kind)]

    def find(self, text: str) -> Path:
        """The file a user means.

        Tried in this order: the displayed name; the stem in any letter case, with or without a
        matching hash; the stem alone when the hash is of another copy of the model; the shortest
        stem that contains the text.

        Raises:
            ModelNotFoundError: nothing fits; names what comes close and where was searched.
        """
        wanted = text.strip()
        if wanted in self.files:
            return self.files[wanted].path
        stem, digest = _split_name(wanted)
        if not stem:
            raise ModelNotFoundError(self._not_found(text))
        same = [entry for entry in self.files.values() if entry.stem.lower() == stem]
        for entry in same:
            if entry.hash == digest:
                return entry.path
        if same:
            if digest:
                log.info("%r: taking %s, a copy with another hash", text, same[0].name)
            return same[0].path
        containing = [entry for entry in self.files.values() if stem in entry.search_text]
        if containing:
            return min(containing, key=lambda entry: len(entry.stem)).path
        raise ModelNotFoundError(self._not_found(text))

    def _not_found(self, text: str) -> str:
        folders = ", ".join(str(folder) for folder in self.folders) or "none"
        if not self.files:
            return (
                f"control model {shown(text)} is not found: no model files in the folders {folders}"
            )
        by_stem = {entry.stem.lower(): name for name, entry in self.files.items()}
        close = difflib.get_close_matches(_split_name(text[:200])[0], by_stem, n=3, cutoff=0.3)
        nearest = ", ".join(by_stem[stem] for stem in close) or next(iter(self.files))
        return (
            f"control model {shown(text)} is not found; the closest names are {nearest}; "
            f"searched {len(self.files)} models in the folders {folders}"
        )


def _split_name(text: str) -> tuple[str, str]:
    """Lower-case stem and hash of `stem [hash]`; the hash is empty without brackets."""
    wanted = text.strip().lower()
    stem, bracket, digest = wanted.removesuffix("]").rpartition("[")
    is_hash = wanted.endswith("]") and digest.isascii() and digest.isalnum()
    return (stem.rstrip(), digest) if bracket and is_hash else (wanted, "")


def _model_paths(folder: Path) -> Iterator[Path]:
    """Model files below a folder; each real directory once, whatever links lead in circles."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            path = Path(root, name)
            if path.suffix.lower() in EXTENSIONS and path.stem != "None":
                yield path
