"""A lock that serves its waiters in the order in which they came; not re-entrant."""

from __future__ import annotations

import threading
from collections import deque


class FIFOLock:
    """Mutual exclusion, first come, first served."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; without `blocking`, return False if it is taken."""
        with self._guard:
            if not self._held:
                self._held = True
                return True
            if not blocking:
                return False
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()
        return True

    def release(self) -> None:
        """Hand the lock to the first waiter, or free it."""
        with self._guard:
            if not self._held:
                msg = "release of a lock that is not held"
                raise RuntimeError(msg)
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False

    def locked(self) -> bool:
        """Whether somebody holds the lock."""
        return self._held

    def __enter__(self) -> FIFOLock:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
