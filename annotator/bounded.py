"""The one cache of this extension: values by key, within a count and a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Bounded(Generic[Key, Value]):
    """The values used last; the least recently used go first. Safe to use from several threads.

    Args:
        max_count: values that are kept.
        max_bytes: bytes of all of them; None: their sizes do not count.
        measure: bytes of a value under its key, as they are at the moment.
    """

    def __init__(
        self,
        max_count: int,
        max_bytes: int | None = None,
        measure: Callable[[Key, Value], int] = lambda _key, _value: 0,
    ) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self._measure = measure
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._entries

    def __iter__(self) -> Iterator[Key]:
        with self._lock:
            return iter(list(self._entries))

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        with self._lock:
            return sum(self._measure(key, value) for key, value in self._entries.items())

    def get(self, key: Key) -> Value | None:
        """The value, which counts as used now; None without one."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def take(self, key: Key) -> Value | None:
        """The value, which is not kept any longer; None without one."""
        with self._lock:
            return self._entries.pop(key, None)

    def find(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value, made if it is not there; by each of two threads that ask at once."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        made = make()
        self.put(key, made)
        return made

    def put(self, key: Key, value: Value, least: int = 0) -> None:
        """Keep a value; one that can never fit is not kept, and throws no others out.

        Args:
            key: an earlier value under it goes.
            value: counts as used now.
            least: how many values stay in any case, the newest of all.
        """
        with self._lock:
            self._entries.pop(key, None)
            if not least and self._exceeds(self._measure(key, value)):
                return
            self._entries[key] = value
            self.shrink(least=least)

    def shrink(self, count: int | None = None, least: int = 0) -> None:
        """Drop values until at most `count` stay (None: `max_count`), and `max_bytes`.

        Args:
            count: how many may stay.
            least: how many stay however large they are.
        """
        with self._lock:
            count = self.max_count if count is None else count
            while len(self._entries) > least and (
                len(self._entries) > count or self._exceeds(self.nbytes)
            ):
                self._entries.popitem(last=False)

    def drop(self, is_unwanted: Callable[[Key], bool]) -> None:
        """Drop every value whose key is unwanted."""
        with self._lock:
            for key in [key for key in self._entries if is_unwanted(key)]:
                del self._entries[key]

    def values(self) -> list[Value]:
        """All values, the least recently used first."""
        with self._lock:
            return list(self._entries.values())

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._entries.clear()

    def _exceeds(self, size: int) -> bool:
        return self.max_bytes is not None and size > self.max_bytes
