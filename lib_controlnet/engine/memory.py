"""What is asked of whoever owns the device's memory, in what pieces, and how much of it is free."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import torch

STRIPS: Final = 8
"""In so many a hint is encoded at most; more would read more of their neighbours than their own."""


class Between(Enum):
    """When control networks leave the device, the rarest first."""

    NEVER = "never"  # but for what else needs the memory
    PASS = "pass"
    WINDOW = "window"
    EVALUATION = "evaluation"
    LAYER = "layer"

    @property
    def is_scarce(self) -> bool:
        """Whether they are there while they are evaluated, and not longer."""
        return self in (Between.EVALUATION, Between.LAYER)

    @property
    def words(self) -> str:
        """What is said of it where it was not asked for."""
        return _WORDS[self]


_WORDS: Final = {
    Between.NEVER: "control networks stay there",
    Between.PASS: "control networks leave it after each pass",
    Between.WINDOW: "control networks are there between their start and end alone",
    Between.EVALUATION: "control networks take turns there, in each evaluation",
    Between.LAYER: "control networks come there layer by layer, in each evaluation",
}


@dataclass(frozen=True)
class Pieces:
    """What is computed one after the other, with the same result.

    Attributes:
        batch: rows in one evaluation of a network, of all its units together; 0: all there are.
        strips: in which the picture is cut where a hint is encoded.
    """

    batch: int = 0
    strips: int = 1

    @property
    def words(self) -> str:
        """What is said of it where it was not asked for."""
        told = [f"{self.batch} at a time"] if self.batch else []
        told += [f"hints in {self.strips} strips"] if self.strips > 1 else []
        return " and ".join(told)

    def halve(self, rows: int) -> Pieces | None:
        """The next smaller ones, after `rows` of a batch were too many; None: there are none."""
        now = min(self.batch or rows, rows)
        if now <= 1 and self.strips >= STRIPS:
            return None
        return Pieces(max(now // 2, 1), STRIPS)


class Derived(Protocol):
    """What was made of a network's weights for a pass, and takes memory beside them."""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes now."""
        ...

    def drop(self) -> bool:
        """Let go of it, it can be made again; whether there was anything."""
        ...


class Memory(Protocol):
    """Where the networks of a pass lie, `Residency` or a stand-in."""

    @property
    def is_scarce(self) -> bool:
        """Whether networks of the present pass leave the device between its evaluations."""
        ...

    @property
    def pieces(self) -> Pieces:
        """In what pieces the present pass is computed."""
        ...

    def step_down(self, network: Any, rows: int) -> None:
        """An evaluation has run out of memory: make room, and choose what takes less for the rest.

        Args:
            network: what is being evaluated; it stays on the device.
            rows: that were to be evaluated, of all units.

        Raises:
            HostError: there is nothing that takes less.
        """
        ...

    def on_device(self, network: Any) -> AbstractContextManager[None]:
        """The network's weights are on the device inside."""
        ...

    def relieve(self, keep: Collection[Any] = ()) -> None:
        """Memory has run out: all networks but `keep` leave the device."""
        ...

    def find_room(self, device: torch.device) -> int | None:
        """Bytes that are free on a device; None where that is not known."""
        ...

    def count(self, network: Any, derived: Derived) -> None:
        """What was made of a network counts as its own, and goes when it leaves the device."""
        ...

    def spare(self, derived: Derived) -> None:
        """What goes where memory runs out, whatever it was made of."""
        ...


def measure_allowed(device: torch.device) -> int | None:
    """Bytes of a device that this process may take in all; None where it does not tell.

    A process may be allowed a share of a device
    (`torch.cuda.set_per_process_memory_fraction`), which newer versions of torch tell.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    _free, total = torch.cuda.mem_get_info(device)
    tell = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return total if tell is None else int(tell(device) * total)


def measure_room(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where it does not tell.

    What torch keeps for tensors to come is free.
    """
    allowed = measure_allowed(device)
    if allowed is not None:
        free, _total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        most = max(min(free, allowed - reserved), 0)
        return most + reserved - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        return int(importlib.import_module("psutil").virtual_memory().available)
    except (ImportError, OSError):  # the host brings the package
        return None
