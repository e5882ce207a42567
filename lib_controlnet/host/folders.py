"""The folders that are read for control models. Whatever the paths are, the WebUI starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from lib_controlnet.errors import quote
from lib_controlnet.files.paths import parse_folders

NAME: Final = "ControlNet"
EXTENSION_ROOT: Final = Path(__file__).resolve().parents[2]
PRESETS: Final = "controlnet-presets"
_OLD_PRESETS: Final = "presets"


def find_folders(
    models: Path, others: Iterable[Path], typed: Mapping[str, object]
) -> tuple[list[Path], list[str]]:
    """Folders with control models, and a sentence for each that is asked for and cannot be read.

    Args:
        models: the host's folder of models of all kinds; `ControlNet` is made in it.
        others: further folders that count if they exist.
        typed: what users typed, by where they typed it.
    """
    notes = _make(models / NAME)
    candidates = [models / NAME, *_find_spellings(models), *others]
    for where, text in typed.items():
        for name in parse_folders(text):
            if _is_readable(name):
                candidates.append(Path(name))
            else:
                notes.append(
                    f"{where}: {quote(name)} is no folder that can be read; it is left out"
                )
    found: list[Path] = []
    for folder in candidates:
        if _is_readable(folder) and not any(_same(folder, other) for other in found):
            found.append(folder)
    return found, notes


def _make(folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"the models folder {folder} is not there and cannot be made: {error.strerror}"]
    return []


def _find_spellings(models: Path) -> list[Path]:
    """Folders `controlnet` in other letter case."""
    try:
        folders = sorted(models.iterdir())
    except OSError:
        return []
    return [path for path in folders if path.name.lower() == NAME.lower() and path.name != NAME]


def _is_readable(folder: str | Path) -> bool:
    try:
        with os.scandir(folder):
            return True
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except (OSError, ValueError):
        return False


def find_presets(roots: Iterable[object]) -> list[Path]:
    """Folders in which older ControlNets kept presets; an update leaves them in our own, too.

    Args:
        roots: folders of extensions; what is no path is passed over.
    """
    candidates = [EXTENSION_ROOT / _OLD_PRESETS]
    for root in roots:
        try:
            extensions = sorted(Path(str(root)).iterdir()) if root else []
        except (OSError, ValueError):
            continue
        own = [path for path in extensions if NAME.lower() in path.name.lower()]
        candidates += [path / _OLD_PRESETS for path in own]
    found: list[Path] = []
    for folder in candidates:
        if _is_readable(folder) and not any(_same(folder, other) for other in found):
            found.append(folder)
    return found
