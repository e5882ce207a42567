"""What is asked of whoever owns the device's memory, and how much of it is free."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch


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


def measure_room(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where it does not tell.

    What torch keeps for tensors to come is free.
    """
    if device.type == "cuda" and torch.cuda.is_available():
        free, _total = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    try:
        return int(importlib.import_module("psutil").virtual_memory().available)
    except (ImportError, OSError):  # the host brings the package
        return None
