"""Paths as people type or paste them, and the one rule that says which of them may be used.

Whatever names a file or folder, to be read or written, passes `open_path` before it is touched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

Folders = bool | Sequence[str | Path]
"""Folders that are open, with all that is below; True opens every folder, False none."""

PATH_FAULTS: Final = (OSError, ValueError, RuntimeError)
"""What cannot be resolved raises one of these: a NUL, links in a circle, an unknown home."""

QUOTES: Final = {'"': '"', "'": "'", "“": "”", "„": "“", "‘": "’", "«": "»", "`": "`"}
SEPARATORS: Final = frozenset("\r\n;," if os.name == "nt" else "\r\n;,:")
LONGEST: Final = 32_768
"""Characters of a field that are looked at."""
LONGEST_PATH: Final = 4096
"""Characters of a path; longer texts are pictures or films."""


def open_path(named: str | Path, folders: Folders) -> Path | None:
    """The path itself, links followed, if it is one of the opened folders or lies below one.

    Only what is returned may be used, not the text: links and `..` lead elsewhere.

    Args:
        named: text as people type it, or a path, which is taken as it is.
        folders: the opened ones, in the same way.

    Raises:
        OSError, ValueError, RuntimeError: it cannot be resolved, see `PATH_FAULTS`.
    """
    path = _resolve(named)
    if isinstance(folders, bool):
        return path if folders else None
    opened = [_resolve(folder) for folder in folders if str(folder)]
    return path if any(path.is_relative_to(folder) for folder in opened) else None


def list_folders(folders: Folders) -> str:
    """The open folders, for a message about a path that lies in none of them."""
    return "" if isinstance(folders, bool) else ", ".join(map(str, folders))


def open_file(named: str | Path, folders: Folders) -> Path | None:
    """The same for a file that is there; None for all else, and it never raises."""
    if not folders or len(str(named)) >= LONGEST_PATH:
        return None
    try:
        path = open_path(named, folders)
        return path if path is not None and path.is_file() else None
    except PATH_FAULTS:
        return None


def _resolve(named: str | Path) -> Path:
    return (named if isinstance(named, Path) else Path(parse_path(named))).resolve()


def parse_path(text: object) -> str:
    """One path: quotes and blanks off, `~` filled in; never raises.

    What is neither text nor a path, as some hosts' flags are, gives "".
    """
    if not isinstance(text, (str, PurePath)):
        return ""
    path = str(text)[:LONGEST].strip()
    while len(path) > 1 and QUOTES.get(path[0]) == path[-1]:
        path = path[1:-1].strip()
    return os.path.expanduser(path)  # noqa: PTH111 - Path's raises


def parse_folders(text: object) -> list[str]:
    """The folders that a field names, whether or not they exist.

    The whole text is one folder if there is such a folder; else `;`, a comma, a new line and what
    separates paths on this system part it, outside quotes.
    """
    whole = parse_path(text)
    if not whole or os.path.isdir(whole):  # noqa: PTH112 - never raises
        return [whole] if whole else []
    found = [path for path in map(parse_path, _pieces(str(text)[:LONGEST])) if path]
    return list(dict.fromkeys(found))


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    piece, end = "", ""
    for char in text:
        if end:
            piece, end = piece + char, "" if char == end else end
            if not end:
                pieces, piece = [*pieces, piece], ""
        elif char in SEPARATORS:
            pieces, piece = [*pieces, piece], ""
        else:
            end = QUOTES.get(char, "") if not piece.strip() else ""
            piece += char
    return [*pieces, piece]
