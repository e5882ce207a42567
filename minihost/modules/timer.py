"""Named durations of the start-up, printed as one line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timer:
    """Collects seconds per named phase."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.records: dict[str, float] = {}
        self.total = 0.0
        self.base_category = ""

    def elapsed(self) -> float:
        """Return the seconds since the last call."""
        end = time.perf_counter()
        seconds = end - self.start
        self.start = end
        return seconds

    def record(self, category: str, extra_time: float = 0.0) -> None:
        """Book the seconds since the last call under `category`."""
        seconds = self.elapsed()
        key = self.base_category + category
        self.records[key] = self.records.get(key, 0.0) + seconds + extra_time
        self.total += seconds + extra_time

    @contextmanager
    def subcategory(self, name: str) -> Iterator[None]:
        """Prefix the records made inside with `name/`."""
        previous = self.base_category
        self.base_category = f"{previous}{name}/"
        try:
            yield
        finally:
            self.base_category = previous

    def summary(self) -> str:
        """Return `1.2s (import: 0.9s, ...)`; phases below 0.1 s are left out."""
        parts = [f"{name}: {sec:.1f}s" for name, sec in self.records.items() if sec >= 0.1]
        return f"{self.total:.1f}s" + (f" ({', '.join(parts)})" if parts else "")

    def dump(self) -> dict[str, object]:
        """Return the collected figures as plain data."""
        return {"total": self.total, "records": dict(self.records)}

    def reset(self) -> None:
        """Forget everything and start again."""
        self.__init__()


startup_timer = Timer()
startup_record: dict[str, object] | None = None
