"""Weight files of the preprocessors: where each one is published, and how it may be had.

A preprocessor declares its files next to its code; the table of all of them is what the registry
holds (`all_files`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

HUB: Final = "https://huggingface.co"
PINS: Final = {
    "depth-anything/Depth-Anything-V2-Base": "a4e71a6c2ce52fe50df0f212066b0d4a87be9b5e",
    "depth-anything/Depth-Anything-V2-Large": "cbbb86a30ce19b5684b7a05155dc7e6cbc7685b9",
    "depth-anything/Depth-Anything-V2-Small": "03876f8651c73a60fe4c2c48294e09fcb6838fcf",
    "h94/IP-Adapter": "018e402774aeeddd60609b4ecdb7e298259dc729",
    "lllyasviel/Annotators": "982e7edaec38759d914a963c48c4726685de7d96",
    "yzd-v/DWPose": "1a7144101628d69ee7a3768d1ee3a094070dc388",
}
"""Commits that stand for "main", so that a later upload changes nothing here."""

_UNITS: Final = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"), (1, "bytes"))


class WeightsError(RuntimeError):
    """A weight file is missing or damaged; the text says what to put where."""


def describe_size(size: int) -> str:
    """So many bytes for people, in a unit that fits."""
    unit, name = next((unit, name) for unit, name in _UNITS if size >= unit or unit == 1)
    return f"{size / unit:.3g} {name}"


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        name: file name on disk; what the command line calls it, too.
        folder: folder below the weights folder that it is kept in, "/" separated.
        size: bytes, 0 where nothing tells; `exact` says whether that number was published or is
            an estimate.
        sha256: hex digest, "" where none was published.
        licence: of the weights, as their page states it.
        repo: repository on the Hugging Face hub ("spaces/..." for a space), "" where the file is
            elsewhere.
        path: path inside the repository; "" means `name`.
        revision: branch or commit of the repository.
        url: address of a file that is not on the hub.
        variable: environment variable that replaces the address.
        others: further places below the weights folder where users have it already.
    """

    name: str
    folder: str
    size: int
    licence: str
    sha256: str = ""
    exact: bool = True
    repo: str = ""
    path: str = ""
    revision: str = "main"
    url: str = ""
    variable: str = ""
    others: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """Paths below a weights folder, the one that a download goes to first."""
        return (f"{self.folder}/{self.name}", *self.others, self.name)

    @property
    def replaced(self) -> str:
        """The address that the user's environment gives instead of the published one, or ""."""
        return os.environ.get(self.variable, "") if self.variable else ""

    @property
    def commit(self) -> str:
        """The pinned commit where there is one, else the branch."""
        return PINS.get(self.repo, self.revision) if self.revision == "main" else self.revision

    @property
    def size_text(self) -> str:
        """The size for people, in a unit that fits; a size of 0 is none that is known."""
        if not self.size:
            return "size unknown"
        return f"{'' if self.exact else 'about '}{describe_size(self.size)}"

    def address(self, hub: str = HUB) -> str:
        """Where it can be had.

        Args:
            hub: the Hugging Face hub or a mirror of it.
        """
        if self.replaced or self.url:
            return self.replaced or self.url
        path = quote(self.path or self.name)
        return f"{hub.rstrip('/')}/{self.repo}/resolve/{self.commit}/{path}"


@dataclass(frozen=True)
class Options:
    """How files may be had. The host gives them; each download asks anew.

    Attributes:
        hub: address of a mirror of the Hugging Face hub, "" for HF_ENDPOINT or the hub itself.
        offline: nothing may be downloaded, which HF_HUB_OFFLINE says as well.
        report: shows one line beside the host's progress bar; None takes it away.
        count: is told how many bytes of a file are there and how many it has, 0 where nothing
            tells, before each line about that.
        interrupted: whether the user wants to stop.
        attempts: how often a broken connection is taken up again within one download.
        pause: seconds before the first of these attempts; each later one waits twice as long.
    """

    hub: str = ""
    offline: bool = False
    report: Callable[[str | None], None] = lambda _line: None
    count: Callable[[int, int], None] = lambda _done, _whole: None
    interrupted: Callable[[], bool] = bool
    attempts: int = 4
    pause: float = 1.0

    @property
    def endpoint(self) -> str:
        return self.hub or os.environ.get("HF_ENDPOINT", "") or HUB

    @property
    def is_offline(self) -> bool:
        return self.offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


_TRUE: Final = ("1", "ON", "YES", "TRUE")


def all_files(detectors: Iterable[object]) -> list[WeightFile]:
    """Every weight file that some preprocessors declare, each once, by name."""
    files = {weight for detector in detectors for weight in getattr(detector, "files", ())}
    return sorted(files, key=lambda weight: (weight.name.lower(), weight.folder))


def measure(files: Sequence[WeightFile]) -> str:
    """The size of some files together, for people; "" for none."""
    if not files:
        return ""
    size, exact = sum(file.size for file in files), all(file.exact for file in files)
    return replace(files[0], size=size, exact=exact).size_text
