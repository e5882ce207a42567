"""Small helpers under the names that extensions import."""

from __future__ import annotations

import os
import re
from pathlib import Path

from modules.paths_internal import cwd


def natural_sort_key(text: str) -> list[int | str]:
    """Sort key that orders `a2` before `a10`."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split("([0-9]+)", text)]


def truncate_path(target_path: str, base_path: str = cwd) -> str:
    """Path relative to `base_path` if it lies below it, else the absolute path."""
    target = Path(target_path).absolute()
    base = Path(base_path).absolute()
    return os.path.relpath(target, base) if target.is_relative_to(base) else str(target)
