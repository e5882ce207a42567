"""Trying damaged files: each is refused in a sentence or works (docs/fuzz.md)."""

from __future__ import annotations

import collections
import logging
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fuzz.damage import FOREIGN, by_ending
from fuzz.files import KINDS, SOUND

from annotator.weights import WeightsError
from lib_controlnet.errors import ControlNetError

SHARES: Final = {
    **{"control": 25, "zip": 15, "pickle": 15, "diffusers": 15},
    **{"hashes": 8, "weights": 12, "training": 10},
}
"""Per cent of the files by kind."""
MODELS: Final = 0.6
RARE: Final = 0.06
"""Shares: of models among the files that are damaged, and of what happens now and then."""
SECONDS: Final = 30
"""What reading one file may take at most."""
BYTES: Final = 2 << 30
"""Address space that reading one file may ask for, beside what the process has."""
LONGEST: Final = 700
"""Characters of an explanation; names and values in it are cut."""
OWN: Final = ("lib_controlnet", "annotator")


class TooLongError(BaseException):
    """Reading took more than its time."""


@dataclass
class Tally:
    """What came of damaged files.

    Attributes:
        outcomes: "used" and kinds of refusals, by kind of file.
        failures: what must not be, with the traceback's end.
        slowest: seconds and description of the slowest.
    """

    outcomes: dict[str, collections.Counter] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def files(self) -> int:
        return sum(counter.total() for counter in self.outcomes.values())


@contextmanager
def bounded() -> Iterator[None]:
    """Memory and time of what runs inside, on Linux in the main thread; elsewhere without."""
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource  # not there on Windows

    def stop(*_arguments: object) -> None:
        raise TooLongError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def damaged_files(kind: str, rng: random.Random) -> tuple[str, dict[str, bytes]]:
    """The files of a kind, one of them damaged, and its name."""
    files = dict(KINDS[kind].files())
    names = [name for name in files if name != SOUND]
    models = [name for name in names if name.endswith((".safetensors", ".pth"))]
    name = rng.choice(models if models and rng.random() < MODELS else names)
    good = files.pop(name)
    damaged = rng.choice(FOREIGN) if rng.random() < RARE else by_ending(name)(good, rng)
    if name.startswith("mine.") and name in models and rng.random() < RARE:
        name = "mine.ckpt"  # contents tell, not endings
    return name, {**files, name: damaged}


def try_one(kind: str, number: int, seed: int, tally: Tally, kept: Path | None = None) -> None:
    """Damage one file of a kind and read it.

    Args:
        number: which file of this seed.
        kept: where to leave files that failed.
    """
    name, files = damaged_files(kind, random.Random(f"{seed} {kind} {number}"))
    what = f"{kind} {number}: {name}, {len(files[name])} bytes"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for file, data in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        started = time.perf_counter()
        outcome, fault = _read(kind, folder)
        tally.slowest = max(tally.slowest, (time.perf_counter() - started, what))
    tally.outcomes.setdefault(kind, collections.Counter())[outcome] += 1
    if fault:
        tally.failures.append(f"{what}: {fault}")
        if kept is not None:
            place = kept / f"{kind}-{number}-{Path(name).name}"
            place.write_bytes(files[name])


def _read(kind: str, folder: Path) -> tuple[str, str]:
    """What came of it, and what is wrong with that."""
    try:
        with bounded(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            KINDS[kind].use(folder)
    except (ControlNetError, WeightsError) as error:
        text = str(error)
        lines = text.splitlines()
        if not text.strip() or len(text) > LONGEST or (len(lines) > 1 and kind != "training"):
            return "no sentence", f"{type(error).__name__} says {text[:300]!r}"
        names = [path.name for path in folder.rglob("*")]
        if not any(name in text or Path(name).stem in text for name in names):
            return "no name", f"{type(error).__name__} names no file: {text[:300]!r}"
        return type(error).__name__, ""
    except (Exception, TooLongError) as error:
        return "failed", f"{place_of(error)}: {type(error).__name__}: {str(error)[:200]!r}"
    return "used", ""


def place_of(error: BaseException) -> str:
    """The last line of ours that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if any(part in Path(f.filename).parts for part in OWN)]
    last = ours[-1] if ours else frames[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"


def damaged(count: int, seed: int, kept: Path | None = None, watch: Any = None) -> Tally:
    """Try files of all kinds in their shares; the same seed tries the same files."""
    tally = Tally()
    with silence():
        for kind, share in SHARES.items():
            for number in range(max(count * share // 100, 1)):
                if watch is not None:
                    watch(kind, number)
                try_one(kind, number, seed, tally, kept)
    return tally


@contextmanager
def silence() -> Iterator[None]:
    """No log: thousands of refusals are what is wanted here."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def report(tally: Tally, seconds: float, seed: int) -> str:
    """The table of docs/fuzz.md."""
    columns = sorted({outcome for counter in tally.outcomes.values() for outcome in counter})
    lines = [f"| files | {' | '.join(columns)} |"]
    for kind, counter in tally.outcomes.items():
        lines.append(f"| {kind} | {' | '.join(str(counter[column]) for column in columns)} |")
    lines.append(f"damaged files: {tally.files} in {seconds:.0f} s, seed {seed}")
    lines.append(f"slowest: {tally.slowest[0]:.1f} s, {tally.slowest[1]}")
    lines.append(f"failures: {len(tally.failures)}")
    return "\n".join([*lines, *tally.failures[:100]])


def main(count: int, seed: int, kept: Path | None = None) -> int:
    """Try files, print the table, give back the number of failures."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    tally = damaged(count, seed, kept)
    sys.stdout.write(report(tally, time.perf_counter() - started, seed) + "\n")
    return len(tally.failures)
