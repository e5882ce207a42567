"""Where weight files lie on this machine.

Files that the user put there are used as they are; what is downloaded is checked
(`annotator.download`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from .download import obtain
from .weights import Options, WeightFile

DOWNLOADS: Final = Path(__file__).resolve().parent / "downloads"


@dataclass
class Store:
    """The folders of this machine that hold weight files.

    Attributes:
        roots: weights folders, the one that downloads go to first.
        options: how missing files may be had.
    """

    roots: Sequence[Path] = field(default_factory=lambda: (DOWNLOADS,))
    options: Callable[[], Options] = Options

    def locate(self, weight: WeightFile) -> Path | None:
        """The file on disk, None if it is not there.

        Letter case does not matter, as it does not for the systems that many of these folders
        were filled on.
        """
        for root in self.roots:
            for place in weight.places:
                found = _below(root, place)
                if found is not None:
                    return found
        return None

    def fetch(self, weight: WeightFile) -> Path:
        """The file on disk, downloaded first if it is not there.

        Raises:
            WeightsError: it cannot be had; names file, size, source and folder.
        """
        found = self.locate(weight)
        if found is not None:
            return found
        return obtain(weight, Path(self.roots[0]) / weight.places[0], self.options())


def folders(
    chosen: str = "",
    data: Path | None = None,
    models: Path | None = None,
    extension: Path = DOWNLOADS.parents[1],
) -> tuple[Path, ...]:
    """Weights folders: the one that downloads go to, then those where users have files already.

    Args:
        chosen: what the user asks for, "" for this package's own folder.
        data: the WebUI's data folder, which relative paths start at.
        models: the WebUI's folder of models; Forge keeps such files in there.
        extension: this extension's folder; others beside it may have downloads of their own.
    """
    # os.path, because Path's own raises for a user that does not exist.
    typed = Path(os.path.expanduser(chosen))  # noqa: PTH111
    first = (data or Path.cwd()) / typed if chosen else DOWNLOADS
    found = [first, DOWNLOADS]
    if models is not None:
        found += _children(models, "ControlNetPreprocessor")
    if extension.parent.name == "extensions":
        found += sorted(extension.parent.glob("*/annotator/downloads"))
    unique: dict[str, Path] = {}
    for path in found:
        if path == first or os.path.isdir(path):  # noqa: PTH112 - never raises
            unique.setdefault(_real(path), path)
    return tuple(unique.values())


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return str(path)


def _below(root: Path, place: str) -> Path | None:
    """A file that is not empty, by its path in any letter case."""
    exact = root / place
    if _is_filled(exact):
        return exact
    folders = [root]
    for part in PurePosixPath(place).parts:
        folders = [child for folder in folders for child in _children(folder, part)]
    return next(filter(_is_filled, folders), None)


def _children(folder: Path, name: str) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.name.lower() == name.lower())
    except (OSError, ValueError):  # no folder, or none that may be read
        return []


def _is_filled(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except (OSError, ValueError):
        return False


STORE = Store()
