"""What has been found out of control model files, so that lists know it of hundreds of them.

What is true of a file whatever is loaded is kept on disk; what a checkpoint makes of it, in memory.
Headers are read in a thread, so that nobody waits for more of them than he has patience for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet import families
from lib_controlnet.enums import BaseModel, ControlNetUnionControlType
from lib_controlnet.families import Refusal, look_into
from lib_controlnet.families.base import FileFacts
from lib_controlnet.files.file_store import FileStore, Key, key_of, stamp_of
from lib_controlnet.gate import Bounded
from lib_controlnet.units.weight_types import WeightType

if TYPE_CHECKING:
    from lib_controlnet.engine.unet import BaseUNet

log = logging.getLogger(__name__)

FILES_REMEMBERED: Final = 4096
"""Files of which facts are kept."""
ANSWERS_REMEMBERED: Final = 4 * FILES_REMEMBERED
"""Files and checkpoints of which it is kept whether they go together."""
TEXT_LIMIT: Final = 1000
"""Characters of a sentence that is kept on disk."""
THREAD: Final = "ControlNet models"
REST: Final = 0.002
"""Seconds after each file in which the thread leaves the processor to others."""
PATIENCE: Final = 0.3
"""Seconds that somebody who shows a list waits for what is still to be found out."""

Fit = tuple[Key, object, str]
"""A file, the structure of a U-Net, the checkpoint's name."""


@dataclass(eq=False)
class _Task:
    """Files that the thread is to look into, for a checkpoint."""

    paths: Sequence[Path]
    base: BaseUNet | None
    is_over: threading.Event = field(default_factory=threading.Event)


class KnownFiles:
    """Facts of files, and why a checkpoint cannot use one. Safe to use from several threads.

    Args:
        file: where facts are kept; None: in memory only.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._store = FileStore(file, "facts of models", _read_facts, _write_facts, _stamp)
        self._facts: Bounded[Key, FileFacts] = Bounded(FILES_REMEMBERED)
        self._fits: Bounded[Fit, Refusal | None] = Bounded(ANSWERS_REMEMBERED)
        self._lock = threading.Lock()
        self._is_loaded = self._is_changed = False
        self._task: _Task | None = None
        self._running: _Task | None = None
        self._thread: threading.Thread | None = None

    def facts(self, path: Path) -> FileFacts:
        """What there is to know of a file before it is loaded, or why nothing is. Never raises."""
        try:
            key = key_of(path)
        except OSError as error:
            return FileFacts(unread=_tell(path, error))
        return self._find(key) or self._look(path, key, None)[0]

    def refusals(self, base: BaseUNet | None) -> Callable[[Path], Refusal | None]:
        """Tells for a file why a checkpoint cannot use it, None if it can. It never raises.

        Args:
            base: the checkpoint; None refuses nothing.
        """
        if base is None:
            return lambda _path: None
        signature = base.shape.signature

        def find(path: Path) -> Refusal | None:
            try:
                key = key_of(path)
            except OSError as error:
                _tell(path, error)
                return None
            fit = (key, signature, base.name)
            return self._fits.get(fit) if fit in self._fits else self._look(path, key, base)[1]

        return find

    def look_ahead(
        self, paths: Iterable[Path], base: BaseUNet | None, patience: float = PATIENCE
    ) -> frozenset[Path]:
        """Have files looked into, and wait for that with some patience.

        Args:
            paths: the files.
            base: the checkpoint that they are to control.
            patience: seconds.

        Returns:
            Those of which it is not known yet whether they fit; they will be, soon.
        """
        missing = self._find_missing(paths, base)
        if not missing:
            return frozenset()
        task = _Task(missing, base)
        with self._lock:
            for older in (self._task, self._running):  # of an older list, or checkpoint
                if older is not None:
                    older.is_over.set()
            self._task = task
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                self._thread.start()
        task.is_over.wait(patience)
        return frozenset(self._find_missing(missing, base))

    def forget(self) -> None:
        """Look anew into what could not be opened."""
        gone = {key for key in self._facts if not _is_lasting(self._facts.get(key))}
        self._facts.drop(gone.__contains__)
        self._fits.drop(lambda fit: fit[0] in gone)

    def close(self) -> None:
        """End the thread, and keep what was found."""
        with self._lock:
            for task in (self._task, self._running):
                if task is not None:
                    task.is_over.set()
            thread = self._thread
        if thread is not None:
            thread.join()
        self.save()

    def save(self) -> None:
        """Keep facts on disk, if there are new ones."""
        if self._is_changed:
            self._is_changed = False
            found = {key: self._facts.get(key) for key in self._facts}
            self._store.save({key: one for key, one in found.items() if one and _is_lasting(one)})

    def _run(self) -> None:
        while True:
            with self._lock:
                task = self._running = self._task
                self._task = None
                if task is None:
                    self._thread = None
                    break
            self._carry_out(task)
        self.save()

    def _carry_out(self, task: _Task) -> None:
        look = self.facts if task.base is None else self.refusals(task.base)
        for path in task.paths:
            if task.is_over.is_set():
                break
            look(path)
            time.sleep(REST)
        task.is_over.set()

    def _find(self, key: Key) -> FileFacts | None:
        with self._lock:
            if not self._is_loaded:
                self._is_loaded = True
                for known, found in self._store.load().items():
                    self._facts.put(known, found)
        return self._facts.get(key)

    def _look(
        self, path: Path, key: Key, base: BaseUNet | None
    ) -> tuple[FileFacts, Refusal | None]:
        try:
            found, refused = look_into(path, base)
        except Exception as error:  # any file of the user's: choosing it says what is wrong
            found, refused = FileFacts(unread=_tell(path, error)), None
        if self._find(key) is None:
            self._facts.put(key, found)
            self._is_changed = True
        if base is not None:
            self._fits.put((key, base.shape.signature, base.name), refused)
        return found, refused

    def _find_missing(self, paths: Iterable[Path], base: BaseUNet | None) -> list[Path]:
        signature, missing = None if base is None else base.shape.signature, []
        for path in paths:
            try:
                key = key_of(path)
            except OSError:  # it has gone; whoever asks is told
                continue
            is_known = self._find(key) is not None
            if base is not None:
                is_known = is_known and (key, signature, base.name) in self._fits
            if not is_known:
                missing.append(path)
        return missing


def _is_lasting(found: FileFacts | None) -> bool:
    """Whether it holds for as long as the file stays; not what kept it from being opened."""
    return found is not None and found.size > 0


def _tell(path: Path, error: Exception) -> str:
    log.info("%s cannot be looked into: %s: %s", path, type(error).__name__, error)
    reason = getattr(error, "strerror", None) or type(error).__name__
    return f"control model {path.name} cannot be looked into: {reason}"


def _stamp() -> str:
    """Facts depend on the sources that find them, and on the families that there are."""
    own = Path(__file__).parent
    names = sorted(f"{type(one).__module__}.{one.name}" for one in families.discover())
    return f"{stamp_of(own, own.parent / 'files')} {' '.join(names)}"


_FIELDS: Final = tuple(one.name for one in fields(FileFacts))


def _write_facts(facts: FileFacts) -> list[Any]:
    """Plain values in the order of the fields."""
    plain = {
        "picture_types": [kind.value for kind in facts.picture_types],
        "base": None if facts.base is None else facts.base.value,
        "heeds": sorted(facts.heeds),
        "weight_types": [kind.value for kind in facts.weight_types],
        "unread": facts.unread[:TEXT_LIMIT],
    }
    return [plain.get(name, getattr(facts, name)) for name in _FIELDS]


def _read_facts(found: list[Any]) -> FileFacts | None:
    """See `FileStore`; it raises where a value is of another kind."""
    given = dict(zip(_FIELDS, found, strict=True))
    if not all(
        isinstance(given[name], list) for name in ("picture_types", "heeds", "weight_types")
    ):
        return None
    given["picture_types"] = tuple(map(ControlNetUnionControlType, given["picture_types"]))
    given["base"] = None if given["base"] is None else BaseModel(given["base"])
    given["heeds"] = frozenset(given["heeds"])
    given["weight_types"] = tuple(map(WeightType, given["weight_types"]))
    facts = FileFacts(**given)
    blank = FileFacts()
    kept = (name for name in _FIELDS if name not in ("base", "masked"))
    is_sound = all(type(given[name]) is type(getattr(blank, name)) for name in kept)
    is_sound = is_sound and isinstance(facts.masked, (int, float))
    return facts if is_sound and all(isinstance(one, str) for one in facts.heeds) else None
