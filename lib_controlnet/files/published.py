"""Control models that people use: where each is published, and what is known of its file.

The table is `published.json`, grouped by repository of the Hugging Face hub. Sizes and sums are
those that other programs check their downloads by; what none of them states is not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from lib_controlnet.enums import BaseModel

TABLE: Final = Path(__file__).with_suffix(".json")
HUB: Final = "https://huggingface.co"
PIECE: Final = 2**20
"""Bytes that are read at once."""
UNITS: Final = {"GB": 10**9, "MB": 10**6}


@dataclass(frozen=True)
class PublishedFile:
    """One published control model.

    Attributes:
        name: of the file in a models folder; that in the repository where it tells what it is.
        kind: key of its signature, see `signatures`.
        base: the base model that it is for.
        control_types: lists of the panel that it belongs to.
        repository: on the Hugging Face hub.
        path: inside the repository.
        licence: of the weights as far as it was found, else "".
        size: bytes; None where they are not known exactly.
        about: the size as a listing rounds it, such as "2.50 GB"; "" beside `size`, or unknown.
        sha256: hex digest, "" where it is not known.
        note: what else there is to know.
        source: what states size and sum.
    """

    name: str
    kind: str
    base: BaseModel
    control_types: tuple[str, ...]
    repository: str
    path: str
    licence: str = ""
    size: int | None = None
    about: str = ""
    sha256: str = ""
    note: str = ""
    source: str = ""

    @property
    def url(self) -> str:
        """Where it can be had."""
        return f"{HUB}/{self.repository}/resolve/main/{quote(self.path)}"

    @property
    def size_text(self) -> str:
        """The size for people, "" where it is not known."""
        return self.about if self.size is None else f"{self.size:,} bytes"

    @property
    def estimate(self) -> int:
        """Bytes as far as they are known; 0 where nothing tells."""
        if self.size is not None or not self.about:
            return self.size or 0
        number, unit = self.about.split()
        return round(float(number) * UNITS[unit])

    def has_size(self, size: int) -> bool | None:
        """Whether a file may be this one by its size; None where nothing tells."""
        if self.size is not None:
            return size == self.size
        if not self.about:
            return None
        number, unit = self.about.split()
        digits = len(number.partition(".")[2])
        return abs(size - self.estimate) <= UNITS[unit] / 10**digits


@cache
def list_published() -> tuple[PublishedFile, ...]:
    """The whole table."""
    found = json.loads(TABLE.read_text(encoding="utf-8"))["repositories"]
    return tuple(
        PublishedFile(
            name=row["name"],
            kind=row["kind"],
            base=BaseModel[row["base"]],
            control_types=tuple(row["types"]),
            repository=group["repository"],
            path=row.get("path", row["name"]),
            licence=group["licence"],
            **{
                key: row[key] for key in ("size", "about", "sha256", "note", "source") if key in row
            },
        )
        for group in found
        for row in group["files"]
    )


def find_published(name: str, size: int) -> PublishedFile | None:
    """The published file that a file is by its name, else by a size that only one has."""
    sized = [one for one in list_published() if one.size == size]
    return find_named(name) or (sized[0] if len(sized) == 1 else None)


def find_present(paths: Iterable[Path]) -> set[str]:
    """Names of the published files that some files are, by their names.

    Sizes do not tell: files of one kind that nobody here knows have the same.
    """
    there = {path.name.lower() for path in paths}
    return {one.name for one in list_published() if one.name.lower() in there}


def find_named(name: str) -> PublishedFile | None:
    """The published file of that very name, in any letter case."""
    return next((one for one in list_published() if one.name.lower() == name.lower()), None)


def find_kind(kind: str) -> PublishedFile:
    """The first published file of a kind, for messages that say where to get one."""
    return next(one for one in list_published() if one.kind == kind)


def find_source(family: str) -> str:
    """Name and address of a family's first published file, " (...)"; "" where none is known.

    Kinds are spelled like families, but for case and signs.
    """
    kinds = ((one.kind.replace("_", ""), one) for one in list_published())
    found = next((one for kind, one in kinds if kind == family.lower()), None)
    return "" if found is None else f" ({found.name}, from {found.url})"


def describe_sum(path: Path) -> tuple[bool, str]:
    """Whether a file's SHA-256 is another than the published one, and what it says.

    The whole file is read.
    """
    known = find_published(path.name, path.stat().st_size)
    if known is None or not known.sha256:
        return False, "no SHA-256 is known for a file of this name or size"
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while piece := stream.read(PIECE):
            digest.update(piece)
    what = f"{known.path} of {known.repository}"
    if digest.hexdigest() == known.sha256:
        return False, f"the SHA-256 is that of {what}"
    return True, (
        f"SHA-256 {digest.hexdigest()} instead of {known.sha256}, which {what} has: a damaged "
        "download, or another file"
    )


def describe_size(name: str, size: int) -> str:
    """What a file's size says about a published name; "" where it fits, or nothing is known."""
    known = find_published(name, size)
    if known is None or known.has_size(size) is not False:
        return ""
    return (
        f"{size:,} bytes instead of {known.size_text}, which {known.name} of {known.repository} "
        "has: an incomplete download, or another file"
    )
