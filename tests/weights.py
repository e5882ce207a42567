"""A folder of weight files for one test, in the place of the user's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annotator.networks import CACHE
from annotator.store import STORE


@contextmanager
def weights_folder(folder: Path) -> Iterator[Path]:
    """Have preprocessors look for their files in `folder` alone, with no network in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    before = STORE.roots
    CACHE.clear()
    STORE.roots = (folder,)
    try:
        yield folder
    finally:
        STORE.roots = before
        CACHE.clear()
