"""Stopping a preprocessor while it waits for its turn, and while its network computes.

A network is many layers, one after the other; between two of them it can end. What is no network of
torch's modules (ONNX, TorchScript, plain arithmetic) ends with the picture that it works on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from lib_controlnet.errors import StoppedError
from lib_controlnet.words import word

_REMEMBERED: Final = 64
_LOOK: Final = 0.1
"""Seconds between two looks whether somebody who waits is stopped."""

IsStopped = Callable[[], bool]


class StoppedRuns:
    """Numbers of runs that are to be stopped, the latest ones.

    The page makes a number for each run, so one may be stopped before it has begun.
    """

    def __init__(self) -> None:
        self._numbers: deque[int] = deque(maxlen=_REMEMBERED)

    def stop(self, number: int) -> None:
        """Have the run of this number end."""
        self._numbers.append(number)

    def __contains__(self, number: object) -> bool:
        return number in self._numbers


def check_stopped(is_stopped: IsStopped) -> None:
    """Nothing, as long as it goes on.

    Raises:
        StoppedError: it is stopped.
    """
    if is_stopped():
        raise StoppedError(word("preview_stopped"))


class Turns(Protocol):
    """A lock or a semaphore; another thread than the one that took it may give it back."""

    def acquire(self, blocking: bool = True) -> bool: ...

    def release(self) -> None: ...


def wait_for_turn(turns: Turns, is_stopped: IsStopped) -> None:
    """Take a lock, in the order of those who wait for it, unless it is stopped before.

    A lock cannot be told that somebody waits no longer. So a thread waits; one that is left alone
    gives the lock back when it comes.

    Raises:
        StoppedError: it is stopped.
    """
    taken, guard, is_left = threading.Event(), threading.Lock(), threading.Event()

    def wait() -> None:
        turns.acquire()
        with guard:
            if is_left.is_set():
                turns.release()
            else:
                taken.set()

    threading.Thread(target=wait, name="ControlNet turn", daemon=True).start()
    while not taken.wait(_LOOK):
        with guard:
            if not taken.is_set() and is_stopped():
                is_left.set()
                raise StoppedError(word("preview_stopped"))


@contextmanager
def stoppable(is_stopped: IsStopped) -> Iterator[None]:
    """Have networks that compute in this thread end before their next layer once they are stopped.

    Raises:
        StoppedError: it is stopped.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    thread = threading.get_ident()

    def check(_module: Any, _inputs: Any) -> None:
        if threading.get_ident() == thread:
            check_stopped(is_stopped)

    hook = register_module_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()
