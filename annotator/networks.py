"""Networks of the preprocessors in memory: loaded once, bounded by count and by bytes."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .weights import STORE, WeightFile, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

log = logging.getLogger(__name__)

Build = Callable[["dict[str, Tensor]"], "nn.Module"]
"""Makes a network of a file's tensors, strictly; raises KeyError or RuntimeError where they
do not fit."""


@dataclass(frozen=True)
class Place:
    """Where networks run and in which precision."""

    device: str = "cpu"
    half: bool = False


class NetworkCache:
    """Networks in use and used lately. Safe to use from several threads."""

    def __init__(self, max_count: int = 4, max_bytes: int = 4 << 30) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self.place = Place()
        self._entries: OrderedDict[tuple, nn.Module] = OrderedDict()
        self._lock = threading.RLock()

    @contextmanager
    def lend(self, weight: WeightFile, build: Build) -> Iterator[nn.Module]:
        """A network in eval mode on the device it shall run on, without gradients.

        Args:
            weight: its file, downloaded if it is not there.
            build: makes the module of the file's tensors.

        Raises:
            WeightsError: the file is missing, damaged, or holds something else.
        """
        import torch  # noqa: PLC0415

        path = STORE.fetch(weight)
        state = path.stat()
        key = (path, state.st_size, state.st_mtime_ns, build.__qualname__, self.place)
        with self._lock:
            network = self._entries.get(key)
            if network is None:
                network = self._build(path, weight, build)
                self._entries[key] = network
            self._entries.move_to_end(key)
            self._shrink()
            with torch.no_grad():
                yield network

    def clear(self) -> None:
        """Give back all memory."""
        with self._lock:
            self._entries.clear()

    def _build(self, path: Path, weight: WeightFile, build: Build) -> nn.Module:
        import torch  # noqa: PLC0415

        try:
            network = build(read_tensors(path))
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            msg = f"{path} is damaged or no {weight.name}: {str(error)[:500]}"
            raise WeightsError(msg) from error
        dtype = torch.float16 if self.place.half else torch.float32
        return network.eval().requires_grad_(False).to(self.place.device, dtype)

    def _shrink(self) -> None:
        while len(self._entries) > 1 and (
            len(self._entries) > self.max_count or self._nbytes() > self.max_bytes
        ):
            self._entries.popitem(last=False)

    def _nbytes(self) -> int:
        return sum(_nbytes(network) for network in self._entries.values())


def read_tensors(path: Path) -> dict[str, Any]:
    """What a `.safetensors` file or a pickle holds, read without running any code of it."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # noqa: PLC0415

        return load_file(path)
    import torch  # noqa: PLC0415

    return torch.load(path, map_location="cpu", weights_only=True)


def place_of(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that a network's input must have."""
    parameter = next(network.parameters())
    return parameter.device, parameter.dtype


def _nbytes(network: nn.Module) -> int:
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


CACHE = NetworkCache()
lend = CACHE.lend
