"""Where the captions of a folder of pictures come from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .errors import TrainError

FILE_KEYS: Final = ("file", "file_name", "image", "target", "source")
TEXT_KEYS: Final = ("prompt", "text", "caption")

Captions = Callable[[Path], str]


def read_text(path: Path) -> str:
    """A text file as people write it: with or without Windows' mark, faulty bytes replaced."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def from_text_files(path: Path) -> str:
    """The text of the `.txt` file beside a picture; empty without one."""
    text = path.with_suffix(".txt")
    return " ".join(read_text(text).split()) if text.is_file() else ""


def from_name(path: Path) -> str:
    """The words of a file's name: `red_circle-2.png` is "red circle"."""
    return " ".join(re.sub(r"[_\-.]+|\d+", " ", path.stem).split())


def from_lines(file: Path) -> Captions:
    """Captions of a file of JSON lines: each an object with a file name and a text.

    Raises:
        TrainError: the file is missing, or lists the lines that cannot be used.
    """
    if not file.is_file():
        msg = f"--captions {file}: no such file; give a file of JSON lines, or text, or names"
        raise TrainError(msg)
    found, faults = {}, []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name = next(entry[key] for key in FILE_KEYS if key in entry)
            text = next(entry[key] for key in TEXT_KEYS if key in entry)
            found[Path(name).as_posix()] = " ".join(str(text).split())
        except (ValueError, TypeError, StopIteration, RecursionError):
            faults.append(f"line {number}")
    if faults:
        msg = (
            f"{file}: {', '.join(faults)} cannot be used; each line must be a JSON object with a "
            f"file name ({', '.join(FILE_KEYS)}) and a caption ({', '.join(TEXT_KEYS)})"
        )
        raise TrainError(msg)

    def caption(path: Path) -> str:
        """By the longest end of the path that the file names."""
        parts = path.as_posix().split("/")
        for first in range(len(parts)):
            text = found.get("/".join(parts[first:]))
            if text is not None:
                return text
        return ""

    return caption


def choose(source: str) -> Captions:
    """The captions that `--captions` asks for: `text`, `names`, or a file of JSON lines."""
    if source == "text":
        return from_text_files
    if source == "names":
        return from_name
    return from_lines(Path(source))
