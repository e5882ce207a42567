"""SHA-256 of model files, remembered between starts by size and modification time."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from modules.paths_internal import data_path

log = logging.getLogger(__name__)

_CACHE_FILE = Path(data_path) / "cache" / "hashes.json"
_CHUNK = 1 << 20


def calculate_sha256(filename: str | Path) -> str:
    """Hex digest of a whole file."""
    digest = hashlib.sha256()
    with Path(filename).open("rb") as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _read_cache() -> dict[str, list]:
    try:
        return json.loads(_CACHE_FILE.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}


def _stamp(filename: str | Path) -> list:
    info = Path(filename).stat()
    return [info.st_mtime_ns, info.st_size]


def sha256_from_cache(filename: str | Path, title: str) -> str | None:
    """The remembered digest, or None when there is none for the file as it is now."""
    entry = _read_cache().get(title)
    if entry is None or not Path(filename).exists() or entry[:2] != _stamp(filename):
        return None
    return entry[2]


def sha256(filename: str | Path, title: str) -> str:
    """The digest of a file, computed when not remembered."""
    known = sha256_from_cache(filename, title)
    if known is not None:
        return known
    value = calculate_sha256(filename)
    entries = _read_cache()
    entries[title] = [*_stamp(filename), value]
    try:
        _CACHE_FILE.parent.mkdir(parents=True, exist_ok=True)
        partial = _CACHE_FILE.with_suffix(".part")
        partial.write_text(json.dumps(entries, indent=1), encoding="utf8")
        partial.replace(_CACHE_FILE)
    except OSError as error:
        log.warning("could not remember the hash of %s: %s", filename, error)
    return value
