"""Small helpers under the names that extensions import."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from modules.paths_internal import cwd, script_path


def natural_sort_key(text: str) -> list[int | str]:
    """Sort key that orders `a2` before `a10`."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split("([0-9]+)", text)]


def listfiles(dirname: str) -> list[str]:
    """Paths of the visible files in a folder, in natural order."""
    names = sorted(os.listdir(dirname), key=natural_sort_key)  # noqa: PTH208
    paths = [Path(dirname) / name for name in names if not name.startswith(".")]
    return [str(path) for path in paths if path.is_file()]


def html_path(filename: str) -> str:
    """Path of a file in the host's html folder."""
    return str(Path(script_path) / "html" / filename)


def html(filename: str) -> str:
    """Text of a file in the host's html folder, or an empty string."""
    path = Path(html_path(filename))
    return path.read_text(encoding="utf8") if path.is_file() else ""


def walk_files(path: str, allowed_extensions: list[str] | None = None) -> Iterator[str]:
    """Yield files below a folder, links followed, in natural order, hidden folders left out."""
    if not Path(path).is_dir():
        return
    wanted = {ext.lower() for ext in allowed_extensions} if allowed_extensions else None
    for root, _, files in sorted(
        os.walk(path, followlinks=True), key=lambda x: natural_sort_key(x[0])
    ):
        if any(part.startswith(".") for part in Path(root).relative_to(path).parts):
            continue
        for name in sorted(files, key=natural_sort_key):
            if wanted is None or Path(name).suffix.lower() in wanted:
                yield str(Path(root) / name)


def ldm_print(*args: object, **kwargs: object) -> None:
    """Swallow progress messages of model loading."""


def truncate_path(target_path: str, base_path: str = cwd) -> str:
    """Path relative to `base_path` if it lies below it, else the absolute path."""
    target = Path(target_path).absolute()
    base = Path(base_path).absolute()
    return os.path.relpath(target, base) if target.is_relative_to(base) else str(target)


class TotalTqdm:
    """Counts steps over a whole job; this host shows no second progress bar."""

    def __init__(self) -> None:
        self.count = 0

    def reset(self) -> None:
        """Start counting again."""
        self.count = 0

    def update(self) -> None:
        """Count one step."""
        self.count += 1

    def updateTotal(self, new_total: int) -> None:  # noqa: N802
        """Accept the total of the job."""

    def clear(self) -> None:
        """End the job."""
        self.count = 0
