"""Downloads that people ask for: one after the other, each with its progress, to be stopped.

How a file is fetched, checked and moved into place is `annotator.download`'s. What is not over when
the WebUI builds its page anew goes on then; after a restart it waits to be asked for again, because
nothing is fetched unasked.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet.errors import ControlNetError, quote
from lib_controlnet.files.containers import has_header, open_container
from lib_controlnet.files.published import PublishedFile
from lib_controlnet.gate import own_module

if TYPE_CHECKING:
    from annotator.weights import Options, WeightFile

log = logging.getLogger(__name__)

download: Final = own_module("download")
weights: Final = own_module("weights")

MODEL: Final = "model"
"""What the ids of orders of control models begin with."""

MOST_WAITING: Final = 32
"""Downloads that are under way or wait."""
MOST_OVER: Final = 32
"""Downloads that are over and still told of."""
LONGEST_SHOWN: Final = 200
"""Characters of a wrong id that a message repeats."""
LIST_LIMIT: Final = 2**16
"""Bytes of the list on disk that are read."""
SOON: Final = 2.0
"""Seconds in which a download that is told to stop does so."""
INERTIA: Final = 0.7
"""Share of the rate before in what is told of the rate, which changes with every packet."""
PROCESS: Final = secrets.token_hex(8)
"""Tells a page that is built anew in this process from one of another process."""
LEFT: Final = "The WebUI was closed before it was complete; what is there is kept."


class DownloadError(ControlNetError):
    """A download cannot be ordered or stopped."""


class State(str, Enum):
    """Where a download stands."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


OPEN: Final = (State.WAITING, State.RUNNING)


@dataclass(frozen=True, eq=False)
class Order:
    """What is to be brought, and where it shall lie.

    Attributes:
        id: tells it from others.
        weight: what is fetched.
        target: the path that it gets.
        find_fault: says what is wrong with a complete download, "" where nothing is.
    """

    id: str
    weight: WeightFile
    target: Path
    find_fault: Callable[[Path], str] = lambda _path: ""


def order_model(one: PublishedFile, folder: Path) -> Order:
    """The order of a published control model for a folder of models."""
    weight = weights.WeightFile(
        name=one.name,
        folder="",
        size=one.estimate,
        exact=one.size is not None,
        licence=one.licence,
        sha256=one.sha256,
        repo=one.repository,
        path=one.path,
    )

    def find_fault(path: Path) -> str:
        size = path.stat().st_size
        if one.has_size(size) is False:
            return f"it has {size:,} bytes instead of {one.size_text}"
        if not one.sha256 and has_header(path):
            try:
                open_container(path)
            except ControlNetError as error:
                log.warning("%s", error)
                return "it is no file of tensors"
        return ""

    return Order(f"{MODEL}/{one.name}", weight, folder / one.name, find_fault)


@dataclass(eq=False)
class _Item:
    """An order and how far it is."""

    order: Order
    state: State = State.WAITING
    done: int = 0
    whole: int = 0
    rate: float = 0.0
    said: str = ""
    is_stopped: threading.Event = field(default_factory=threading.Event)
    counted: tuple[float, int] | None = None

    def count(self, done: int, whole: int) -> None:
        """Take note of how many bytes of how many are there; the rate is that of lately."""
        now = time.monotonic()
        if self.counted is not None and now > self.counted[0]:
            rate = (done - self.counted[1]) / (now - self.counted[0])
            self.rate = INERTIA * self.rate + (1 - INERTIA) * rate if self.rate else rate
        self.counted, self.done, self.whole = (now, done), done, whole

    def describe(self) -> dict[str, Any]:
        """What a page shows of it."""
        ends = self.state is State.RUNNING and self.is_stopped.is_set()
        return {
            "id": self.order.id,
            "name": self.order.weight.name,
            "state": (State.STOPPING if ends else self.state).value,
            "done": self.done,
            "size": self.whole or self.order.weight.size,
            "rate": round(self.rate) if self.state is State.RUNNING else 0,
            "message": self.said,
        }


class Downloads:
    """The orders of one WebUI. Safe to use from several threads.

    Args:
        options: how files may be had, by the present settings.
        find: the order of an id; None where there is none any more.
        tell: is called when a file has come, before that is said of it.
        file: where orders are kept that are not over; None: in memory only.
    """

    def __init__(
        self,
        options: Callable[[], Options],
        find: Callable[[str], Order | None],
        tell: Callable[[Order], None] = lambda _order: None,
        file: Path | None = None,
    ) -> None:
        self._options, self._find, self._tell, self._file = options, find, tell, file
        self._items: dict[str, _Item] = {}
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._take_up()

    def start(self, order: Order) -> None:
        """Queue an order. One that is queued already stays where it is.

        Raises:
            DownloadError: too many wait.
        """
        with self._change():
            item = self._items.get(order.id)
            if item is not None and _is_open(item):
                return
            if self._count(OPEN) >= MOST_WAITING:
                msg = f"{MOST_WAITING} downloads wait already; try again when some are over"
                raise DownloadError(msg, 429)
            self._items.pop(order.id, None)
            self._items[order.id] = _Item(order)
            over = [one for one in self._items.values() if one.state not in OPEN]
            for one in over[:-MOST_OVER]:
                del self._items[one.order.id]
            self._work()

    def stop(self, name: str) -> None:
        """Take an order back; what has come of it is kept, and the next one continues it.

        Raises:
            DownloadError: there is no such order.
        """
        with self._change():
            if name not in self._items:
                msg = f"there is no download {quote(name[:LONGEST_SHOWN])} that could be stopped"
                raise DownloadError(msg, 404)
            item = self._items[name]
            item.is_stopped.set()
            if item.state is State.WAITING:
                item.state = State.STOPPED

    def refuse(self) -> str:
        """Why nothing can be downloaded now, "" where it can."""
        is_off = self._options().is_offline
        return (
            "downloads are switched off (in the settings, or by HF_HUB_OFFLINE)" if is_off else ""
        )

    def describe(self) -> list[dict[str, Any]]:
        """All orders in their turn, those that are over first ended first."""
        with self._lock:
            return [item.describe() for item in self._items.values()]

    def close(self) -> None:
        """End the thread; what is not over is kept for whoever comes next."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
            for item in self._items.values():
                item.is_stopped.set()
        if thread is not None:
            thread.join(SOON)

    def _count(self, states: Iterable[State]) -> int:
        return sum(item.state in states for item in self._items.values())

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the orders, and keep what became of them in here."""
        with self._lock:
            yield
            if not self._is_closed and self._file is not None:
                _write(self._file, [one.order.id for one in self._items.values() if _is_open(one)])

    def _take_up(self) -> None:
        """Go on with what another one of this process was closed with; tell of older orders."""
        process, ids = ("", []) if self._file is None else _read(self._file)
        with self._lock:
            for name in ids[:MOST_WAITING]:
                order = self._find(name)
                if order is None:
                    continue
                item = self._items[name] = _Item(order)
                if process != PROCESS:
                    item.state, item.said = State.STOPPED, LEFT
            self._work()

    def _work(self) -> None:
        if self._thread is None and self._count([State.WAITING]):
            self._thread = threading.Thread(target=self._run, name="ControlNet downloads")
            self._thread.daemon = True
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                waiting = (one for one in self._items.values() if one.state is State.WAITING)
                item = None if self._is_closed else next(waiting, None)
                if item is None:
                    self._thread = None
                    return
                item.state = State.RUNNING
            self._carry_out(item)

    def _carry_out(self, item: _Item) -> None:
        order, state, said = item.order, State.DONE, ""
        options = replace(
            self._options(),
            report=lambda line: setattr(item, "said", line or ""),
            count=item.count,
            interrupted=item.is_stopped.is_set,
        )
        try:
            download.bring(order.weight, order.target, options, order.find_fault)
        except weights.WeightsError as error:
            state = State.STOPPED if item.is_stopped.is_set() else State.FAILED
            said = str(error)
        except Exception as error:  # boundary: the thread goes on with the next
            log.exception("the download of %s failed", order.weight.name)
            state, said = State.FAILED, f"it failed: {type(error).__name__}: {error}"
        else:
            self._tell_of(order)
        with self._change():
            item.state, item.said = state, said
            if state is State.DONE:
                item.done = item.whole = item.whole or order.weight.size
            if state is State.FAILED:
                log.warning("%s", said)

    def _tell_of(self, order: Order) -> None:
        try:
            self._tell(order)
        except Exception:  # boundary: the file is there all the same
            log.exception("%s is not listed yet", order.weight.name)


def _is_open(item: _Item) -> bool:
    return item.state in OPEN and not item.is_stopped.is_set()


def _read(file: Path) -> tuple[str, list[str]]:
    """Which process kept orders, and their ids; a damaged list counts as none."""
    try:
        with file.open("rb") as stream:
            kept = json.loads(stream.read(LIST_LIMIT))
        process, ids = kept["process"], kept["orders"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "", []
    found = ids if isinstance(ids, list) else []
    return str(process), [name for name in found if isinstance(name, str)]


def _write(file: Path, ids: list[str]) -> None:
    """Keep orders; without any there is no list."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        if not ids:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"process": PROCESS, "orders": ids}), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        log.info("the downloads that wait are not kept: %s", error)
        with suppress(OSError):
            part.unlink(missing_ok=True)
