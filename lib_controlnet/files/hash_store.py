"""Model hashes remembered on disk, so that listing a folder reads no file that was seen before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from lib_controlnet.files.file_store import FileStore

HASH_DIGITS: Final = 8


class HashStore(FileStore[str]):
    """Hashes by path, time and size.

    Args:
        file: see `FileStore`.
    """

    def __init__(self, file: Path | None = None) -> None:
        super().__init__(file, "model hashes", _read_hash, lambda digest: [digest])


def _read_hash(found: list[Any]) -> str | None:
    (digest,) = found
    if not isinstance(digest, str) or len(digest) != HASH_DIGITS:
        return None
    return digest if set(digest) <= set("0123456789abcdef") else None
