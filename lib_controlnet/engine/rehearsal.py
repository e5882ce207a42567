"""How much memory a computation takes, counted without any: on torch's meta device.

The very network runs on tensors that have shapes alone, so there is no formula that a change of the
network could make wrong. What kernels take for themselves is not seen; attention is counted as what
never holds a matrix of all tokens by all tokens, but on devices whose kernel does.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from lib_controlnet.pictures.maps import Size


class Layered(Protocol):
    """A network around a module of torch."""

    module: Any


N = TypeVar("N", bound=Layered)

META: Final = torch.device("meta")

BLOCKWISE: Final = ("cuda", "cpu", "xpu", "meta")
"""Devices on which torch's attention goes through the keys block by block."""


@dataclass(frozen=True)
class Asked:
    """What a network will compute.

    Attributes:
        size: of the latent.
        device: where.
        strips: in which hints are encoded.
    """

    size: Size
    device: torch.device
    strips: int = 1


@dataclass(frozen=True)
class Footprint:
    """Bytes that a network holds beside its weights.

    Attributes:
        hint: the most while a picture's hint is encoded.
        guided: what stays of that for a pass.
        evaluation: the most while it is evaluated on one row.
        residuals: what that gives.
    """

    hint: int = 0
    guided: int = 0
    evaluation: int = 0
    residuals: int = 0


class _Attention(TorchFunctionMode):
    """Attention gives its output, after the matrix of weights where the device makes one."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._makes_matrix = device.type not in BLOCKWISE

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        given = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **given)
        query, key, value = args[:3]
        if self._makes_matrix:
            query @ key.transpose(-2, -1)  # let go of at once, so that only its peak counts
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class Rehearsal(TorchDispatchMode):
    """Counts the bytes of all tensors on meta that are made inside and still held.

    Attributes:
        held: now.
        peak: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._alive: dict[int, weakref.ref[Tensor]] = {}
        self._sharing: dict[int, int] = {}  # tensors of a storage
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let it run, and count what is new; what is read was there before."""
        del types
        for one in _tensors((*args, *(kwargs or {}).values())):
            self._meet(one, is_new=False)
        made = func(*args, **(kwargs or {}))
        for one in _tensors((made,)):
            self._meet(one, is_new=True)
        return made

    def _meet(self, tensor: Tensor, is_new: bool) -> None:
        """Know a tensor until it is gone, and its memory until all are that share it.

        Not the storage itself: weak references to one crash in torch 2.1.
        """
        name = id(tensor)
        if tensor.device != META or name in self._alive:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sharing:
            self._sharing[key], self._sizes[key] = 0, size if is_new else 0
            self.held += self._sizes[key]
            self.peak = max(self.peak, self.held)
        self._sharing[key] += 1

        def let_go(_ref: Any) -> None:
            del self._alive[name]
            self._sharing[key] -= 1
            if not self._sharing[key]:
                del self._sharing[key]
                self.held -= self._sizes.pop(key)

        self._alive[name] = weakref.ref(tensor, let_go)


def _tensors(values: Collection[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def rehearse(call: Callable[[], object], device: torch.device = META) -> tuple[int, int]:
    """The most bytes that a call on meta tensors holds at a time, and those of what it returns.

    Args:
        call: computes on meta tensors that exist before it.
        device: where it will be done in earnest.
    """
    rehearsal = Rehearsal()
    with torch.no_grad(), _Attention(device), rehearsal:
        result = call()
    held = rehearsal.held
    del result
    return rehearsal.peak, held


def shadow(network: N) -> N:
    """A network without weights: the same layers, with shapes alone."""
    module = network.module
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        bare = torch.empty_strided(
            tensor.shape, tensor.contiguous().stride() if tensor.is_meta else tensor.stride(),
            dtype=tensor.dtype, device=META,
        )  # fmt: skip
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        memo[id(tensor)] = torch.nn.Parameter(bare, False) if is_parameter else bare
    made = copy.copy(network)
    made.module = copy.deepcopy(module, memo)
    return made
