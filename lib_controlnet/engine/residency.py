"""Loaded control networks, kept between generations within a count and a number of bytes."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib_controlnet.errors import ModelNotFoundError

if TYPE_CHECKING:
    import torch

    from lib_controlnet.engine.network import BaseUNet, ControlNetwork

log = logging.getLogger(__name__)

Loader = Callable[["Path", "BaseUNet", "torch.dtype", "torch.device | str"], "ControlNetwork"]
Key = tuple[object, ...]


@dataclass(frozen=True)
class _Entry:
    network: ControlNetwork
    base_identity: str | None


class ModelCache:
    """Least recently used networks go first; the newest one is always kept.

    A network is found again for the same file (path, time, size), precision and base structure;
    one whose weights contain the base's also needs the same base checkpoint. So a network loaded
    for another kind of base is never handed out: its loader gets to say why it does not fit.

    Args:
        max_count: networks to keep, at least 1.
        max_bytes: bytes of weights to keep.
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self.max_count = max_count
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept weights."""
        with self._lock:
            return sum(entry.network.nbytes for entry in self._entries.values())

    def get(
        self,
        path: Path,
        base: BaseUNet,
        dtype: torch.dtype,
        device: torch.device | str,
        loader: Loader,
    ) -> ControlNetwork:
        """The network of a file, loaded if need be, on the device asked for.

        Threads that ask at the same time wait for each other, so a file is loaded once.

        Raises:
            ModelNotFoundError: the file is gone.
            CheckpointError: from the loader; nothing is kept then.
        """
        with self._lock:
            key = _key(Path(path), base, dtype)
            entry = self._entries.pop(key, None)
            if entry is None or entry.base_identity not in (None, base.identity):
                # An outdated sum with another base is let go of before the new one is made.
                entry = None
                self._drop_stale(key)
                self._make_room(max(self.max_count, 1) - 1, self.max_bytes)
                network = loader(Path(path), base, dtype, device)
                entry = _Entry(network, base.identity if network.depends_on_base else None)
            self._entries[key] = entry
            self._make_room(max(self.max_count, 1), self.max_bytes)
            return entry.network.to(device, dtype)

    def _drop_stale(self, key: Key) -> None:
        """Forget networks of the same path whose file has changed since."""
        for other in [
            other for other in self._entries if other[0] == key[0] and other[1] != key[1]
        ]:
            del self._entries[other]

    def _make_room(self, count: int, size: int) -> None:
        """Forget the oldest networks until at most `count` stay, and at most `size` bytes.

        One network alone may be larger than `size`: it is needed now.
        """
        while len(self._entries) > count or (len(self._entries) > 1 and self.nbytes > size):
            _key, entry = self._entries.popitem(last=False)
            log.debug("%s leaves the model cache", entry.network.name)

    def clear(self) -> None:
        """Let go of every network."""
        with self._lock:
            self._entries.clear()


def _key(path: Path, base: BaseUNet, dtype: torch.dtype) -> Key:
    try:
        state = path.stat()
    except OSError as error:
        msg = f"control model {path.name} cannot be opened: {error.strerror or error}"
        raise ModelNotFoundError(msg) from error
    file = (state.st_mtime_ns, state.st_size)
    return (str(path.resolve()), file, str(dtype), base.shape.signature)
