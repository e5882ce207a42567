"""Rows of the table of published models for files that a local server has."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lib_controlnet.files import published

REPOSITORY = "someone/models"
CONTENT = np.random.default_rng(0).bytes(300_000)


def row(name: str, content: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """A row of the table; with a content its size and sum are known."""
    known = {} if content is None else {"size": len(content), "sha256": sum_of(content)}
    made = {"name": name, "kind": "controlnet", "base": "SD1", "types": ["Canny"], **known}
    return made | {"source": "test"} | changes


def sum_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def group(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"repository": REPOSITORY, "licence": "MIT", "files": list(rows)}


@contextmanager
def published_rows(folder: Path, *rows: dict[str, Any]) -> Iterator[None]:
    """Have the table hold these rows alone."""
    table, before = folder / "rows.json", published.TABLE
    table.write_text(json.dumps({"repositories": [group(*rows)]}), encoding="utf-8")
    published.TABLE = table
    published.list_published.cache_clear()
    try:
        yield
    finally:
        published.TABLE = before
        published.list_published.cache_clear()


def wait_for(holds: Callable[[], bool], tell: Callable[[], Any] = str) -> None:
    """Wait for what another thread does; after half a minute fail with what `tell` says."""
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, tell()
        time.sleep(0.01)
