"""Weight files of the preprocessors: where each one is published, and where it lies on disk.

A preprocessor declares its files next to its code; the table of all of them is what the registry
holds (`all_files`). Existing folders of the old extension and of Forge are found and reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DOWNLOADS = Path(__file__).resolve().parent / "downloads"


class WeightsError(RuntimeError):
    """A weight file is missing or damaged; the text says what to put where."""


@dataclass(frozen=True)
class WeightFile:
    """One published file.

    Attributes:
        name: file name on disk; what the command line calls it, too.
        folder: folder below the weights folder that it is kept in, "/" separated.
        size: bytes; `exact` says whether that number was published or is an estimate.
        sha256: hex digest, "" where none was published.
        licence: of the weights, as their page states it.
        repo: repository on the Hugging Face hub, "" where the file is elsewhere.
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


@dataclass
class Store:
    """The folders of this machine that hold weight files.

    Attributes:
        roots: weights folders, the one that downloads go to first.
    """

    roots: Sequence[Path] = field(default_factory=lambda: (DOWNLOADS,))

    def locate(self, weight: WeightFile) -> Path | None:
        """The file on disk, None if it is not there."""
        for root in self.roots:
            for place in weight.places:
                if (root / place).is_file():
                    return root / place
        return None

    def fetch(self, weight: WeightFile) -> Path:
        """The file on disk, downloaded first if it is not there.

        Raises:
            WeightsError: it cannot be had; names file, size, source and folder.
        """
        found = self.locate(weight)
        if found is not None:
            return found
        source = weight.url or f"https://huggingface.co/{weight.repo}"
        msg = (
            f"the file {weight.name} ({weight.size / 1e6:.0f} MB) is missing; download it from "
            f"{source} and put it into {self.roots[0] / weight.folder}"
        )
        raise WeightsError(msg)


STORE = Store()


def all_files(detectors: Iterable[object]) -> list[WeightFile]:
    """Every weight file that some preprocessors declare, each once, by name."""
    files = {weight for detector in detectors for weight in getattr(detector, "weights", ())}
    return sorted(files, key=lambda weight: weight.name)
