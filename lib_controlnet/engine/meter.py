"""How long the work of units takes, measured without waiting for a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

Made = TypeVar("Made")
Given = ParamSpec("Given")


class Meter:
    """Time that the work of one unit took in a pass; what units do together is shared equally.

    On CUDA the evaluation of a network is timed by the device's own clock, which is read when the
    pass is over. All else is the time of the calls: the device may still be at work behind them.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event, int]] = []

    def add(self, seconds: float) -> None:
        """Note a time."""
        self._seconds += seconds

    def add_marks(self, begin: torch.cuda.Event, end: torch.cuda.Event, share: int) -> None:
        """Note the time between two marks in the device's work.

        Args:
            begin, end: the marks.
            share: units that have a share of it.
        """
        self._marks.append((begin, end, share))

    @property
    def is_of_device(self) -> bool:
        """Whether the device's own clock is in it."""
        return bool(self._marks)

    def read(self) -> float:
        """All of it in seconds; waits until the device has done what is marked."""
        for begin, end, share in self._marks:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000 / share
        self._marks = []
        return self._seconds


@contextmanager
def measure(meters: Sequence[Meter], device: torch.device) -> Iterator[None]:
    """What is done inside is the work of these units on a device."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        for meter in meters:
            meter.add_marks(begin, end, len(meters))
        return
    begun = time.perf_counter()
    yield
    share = (time.perf_counter() - begun) / max(len(meters), 1)
    for meter in meters:
        meter.add(share)


def time_calls(meters: Sequence[Meter], call: Callable[Given, Made]) -> Callable[Given, Made]:
    """A function that does the same, and whose time counts for some units."""
    if not meters:
        return call

    def run(*args: Given.args, **options: Given.kwargs) -> Made:
        begun = time.perf_counter()
        made = call(*args, **options)
        share = (time.perf_counter() - begun) / len(meters)
        for meter in meters:
            meter.add(share)
        return made

    return run
