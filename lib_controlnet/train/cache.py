"""Latents and text embeddings of a data set, computed once and read from disk row by row.

Files of `SHARD` rows each (safetensors): a data set larger than memory streams from them, and an
interrupted computation goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import logging
import random
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import safe_open
from tqdm import tqdm

from lib_controlnet.gate import Bounded

from .control_file import save_tensors
from .dataset import Item, read_picture
from .text import encode_prompts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from .base import Base

log = logging.getLogger(__name__)

SHARD: Final = 256
OPEN_FILES: Final = 64
BATCH: Final = 8


def cache_key(base: Base, folder: Path, items: Sequence[Item]) -> str:
    """Changes with the base and with every picture and prompt."""
    digest = hashlib.sha256(base.identity.encode())
    for item in items:
        state = (folder / item.target).stat()
        digest.update(f"{item.target}|{state.st_size}|{state.st_mtime_ns}|{item.prompt}\n".encode())
    return digest.hexdigest()[:16]


class Shards:
    """Rows of named tensors in numbered files; few files are open at a time."""

    def __init__(self, folder: Path, name: str, count: int) -> None:
        self.folder, self.name, self.count = folder, name, count
        self._open: Bounded[int, Any] = Bounded(OPEN_FILES)
        self._lock = threading.Lock()  # batches are read ahead by a thread

    def path(self, number: int) -> Path:
        return self.folder / f"{self.name}-{number:05d}.safetensors"

    def find_missing(self) -> list[int]:
        """Numbers of files that are not there yet."""
        return [n for n in range(-(-self.count // SHARD)) if not self.path(n).is_file()]

    def fill(
        self, make: Callable[[range], dict[str, Tensor]], label: str, quiet: bool = False
    ) -> None:
        """Compute the missing files; `make` gives the tensors of some rows.

        Runs that share a folder share the work: each takes the files in an order of its own, and
        leaves out what another has written meanwhile.
        """
        missing = self.find_missing()
        if not missing:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        own = secrets.token_hex(4)  # containers may have processes of one number
        random.Random(own).shuffle(missing)
        for number in tqdm(missing, desc=label, mininterval=1, disable=quiet):
            if self.path(number).is_file():
                continue
            rows = range(number * SHARD, min(self.count, (number + 1) * SHARD))
            tensors = {key: value.contiguous().half() for key, value in make(rows).items()}
            partial = self.folder / f"{self.path(number).name}.{own}.part"
            save_tensors(tensors, partial)
            partial.replace(self.path(number))

    def row(self, index: int) -> dict[str, Tensor]:
        """One row of every tensor, in float32; nothing else of the file is read."""
        number, inside = divmod(index, SHARD)
        with self._lock:
            file = self._open.find(number, lambda: safe_open(self.path(number), "pt"))
            return {key: file.get_slice(key)[inside].float() for key in file.keys()}  # noqa: SIM118


class Cache:
    """What a training reads of its base and data, besides the control pictures.

    Args:
        folder: where the files are; one folder inside for each combination of base and data.
    """

    def __init__(self, folder: Path, base: Base, data: Path, items: Sequence[Item]) -> None:
        self.data, self.items = data, items
        self.prompts = list(dict.fromkeys(["", *(item.prompt for item in items)]))
        self.folder = folder / cache_key(base, data, items)
        self._rows = {prompt: row for row, prompt in enumerate(self.prompts)}
        self._latents = Shards(self.folder, "latents", len(items))
        self._texts = Shards(self.folder, "texts", len(self.prompts))

    def compute(self, base: Base, device: torch.device, quiet: bool = False) -> None:
        """Encode what is not cached yet; `quiet` draws no bar."""
        if self._texts.find_missing():
            self._compute_texts(base, device, quiet)
        if self._latents.find_missing():
            vae: nn.Module = base.vae()
            vae.to(device)
            pictures = (self.data, self.items, device)
            self._latents.fill(
                lambda rows: _encode_pictures(vae, *pictures, rows), "latents", quiet
            )

    def _compute_texts(self, base: Base, device: torch.device, quiet: bool) -> None:
        # The encoders are gone from the device when this returns.
        encoders = base.texts()
        for encoder in encoders:
            encoder.module.to(device)
        self._texts.fill(
            lambda rows: _stack(_encode_texts(encoders, self.prompts, rows)), "prompts", quiet
        )

    def text(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Tokens (77, c) of a prompt of the data set or the empty one, and its pooled text."""
        row = self._texts.row(self._rows[prompt])
        return row["context"], row.get("pooled")

    def moments(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a picture's latent, (4, h, w) each, not scaled."""
        row = self._latents.row(index)
        return row["mean"], row["spread"]


def _batches(rows: range) -> Iterable[range]:
    return (rows[first : first + BATCH] for first in range(0, len(rows), BATCH))


def _encode_texts(
    encoders: list[Any], prompts: Sequence[str], rows: range
) -> Iterable[dict[str, Tensor]]:
    for part in _batches(rows):
        context, pooled = encode_prompts(encoders, [prompts[row] for row in part])
        found = {"context": context.cpu()}
        yield found if pooled is None else {**found, "pooled": pooled.cpu()}


def _stack(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    parts = list(parts)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


@torch.no_grad()
def _encode_pictures(
    vae: Any, folder: Path, items: Sequence[Item], device: torch.device, rows: range
) -> dict[str, Tensor]:
    parts = []
    for row in rows:  # one by one: a picture of 1024 pixels takes gigabytes
        picture = to_tensor(read_picture(folder / items[row].target))
        distribution = vae.encode(picture[None].to(device) * 2 - 1).latent_dist
        parts.append({"mean": distribution.mean.cpu(), "spread": distribution.std.cpu()})
    return _stack(parts)


def to_tensor(picture: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) as float (3, H, W) in [0, 1]."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255
