"""What the benches count: operations, and memory as torch's own allocator tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

MEMORY: Final = "[memory]"
"""What the profiler calls a request to the allocator."""


@dataclass(frozen=True)
class Line:
    """One row of a printed table."""

    what: str
    measured: str
    target: str
    holds: bool

    def __str__(self) -> str:
        return (
            f"| {self.what} | {self.measured} | {self.target} | {'yes' if self.holds else 'NO'} |"
        )


class Operations(TorchDispatchMode):
    """Counts floating point operations by torch's own formulas, without its record of modules.

    Attributes:
        total: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        formula = FORMULAS.get(func._overloadpacket)
        if formula is None:
            with self:  # of several operations, in inference mode
                made = func.decompose(*args, **given)
            if made is not NotImplemented:
                return made
        made = func(*args, **given)
        if formula is not None:
            self.total += formula(*args, **given, out_val=made)
        return made


def count_attention(query: Tensor, key: Tensor, value: Tensor, *_rest: Any, **_more: Any) -> int:
    """Operations of the CPU's own attention, which torch has no formula for."""
    return sdpa_flop_count(query.shape, key.shape, value.shape)


FORMULAS: Final = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: count_attention,
}


def flops(call: Callable[[], object]) -> int:
    """Floating point operations of a call."""
    with Operations() as counted:
        call()
    return counted.total


class MemoryTrace:
    """Bytes that calls take of the CPU's allocator, by its own account of every request.

    Scratch memory inside of kernels counts, what a library takes from elsewhere does not. The sums
    are the same in every run, other than the peak of what the process holds: the C library keeps
    freed memory, so that one is twice as large and moves by hundreds of kilobytes.

    Attributes:
        held: what the calls so far have taken and not given back.
    """

    def __init__(self) -> None:
        self.held = 0

    def peak(self, call: Callable[[], object]) -> int:
        """The most that is held at a time during a call, with what earlier calls hold."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as taken:
            call()
        seen = taken.profiler.kineto_results.events()
        events = [event for event in seen if event.name() == MEMORY]
        peak = self.held
        for event in sorted(events, key=lambda event: event.start_ns()):
            self.held += event.nbytes()
            peak = max(peak, self.held)
        return peak
