"""Paths as people type or paste them: quoted, with blanks round them, several in one field."""

from __future__ import annotations

import os
from typing import Final

QUOTES: Final = {'"': '"', "'": "'", "“": "”", "„": "“", "‘": "’", "«": "»", "`": "`"}
SEPARATORS: Final = frozenset("\r\n;," if os.name == "nt" else "\r\n;,:")
LONGEST: Final = 32_768
"""Characters of a field that are looked at."""


def typed_path(text: object) -> str:
    """One path: quotes and blanks off, `~` filled in; never raises.

    What is no text gives "".
    """
    if not isinstance(text, str):
        return ""
    path = text[:LONGEST].strip()
    while len(path) > 1 and QUOTES.get(path[0]) == path[-1]:
        path = path[1:-1].strip()
    return os.path.expanduser(path)  # noqa: PTH111 - Path's raises


def typed_folders(text: object) -> list[str]:
    """The folders that a field names, whether or not they exist.

    The whole text is one folder if there is such a folder; else `;`, a comma, a new line and what
    separates paths on this system part it, outside quotes.
    """
    whole = typed_path(text)
    if not whole or os.path.isdir(whole):  # noqa: PTH112 - never raises
        return [whole] if whole else []
    found = [path for path in map(typed_path, _pieces(str(text)[:LONGEST])) if path]
    return list(dict.fromkeys(found))


def _pieces(text: str) -> list[str]:
    pieces, piece, end = [], "", ""
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
