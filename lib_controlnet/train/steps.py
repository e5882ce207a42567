"""What a training step is made of: which examples, which noise, what is to be predicted.

Everything is a function of the seed and the position of an example in the training, so a run that
was stopped goes on exactly, and processes that share a batch draw what one process would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from lib_controlnet.enums import union_type
from lib_controlnet.families.union import TYPES

from .cache import Cache, to_tensor
from .dataset import Item, about, read_control

if TYPE_CHECKING:
    from torch import Tensor

    from .config import Settings


WEIGHT_CAP: Final = 20.0
"""Most that an error counts: without it the noisiest levels, where nothing is left, would rule."""


def seed_of(*parts: object) -> int:
    """A seed that follows from some numbers and words."""
    text = "|".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed_of("order", seed, epoch))
    return torch.randperm(count, generator=generator).tolist()


def example_at(position: int, seed: int, count: int) -> int:
    """Which example stands at a position; each epoch has an order of its own."""
    epoch, inside = divmod(position, count)
    return _order(seed, epoch, count)[inside]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples at drawn noise levels.

    Attributes:
        noisy: (b, 4, h, w), what the networks see.
        timesteps: (b,), int64.
        context: (b, 77, c).
        pooled: (b, p), None for SD1 and SD2.
        hint: (b, 3, 8h, 8w) in [0, 1], -1 where it is masked.
        wanted: (b, 4, h, w), what the U-Net should answer.
        weight: (b,), how much each example's error counts.
        types: (b,), numbers of the types that a Union knows, -1 where nothing tells.
    """

    noisy: Tensor
    timesteps: Tensor
    context: Tensor
    pooled: Tensor | None
    hint: Tensor
    wanted: Tensor
    weight: Tensor
    types: Tensor

    def to(self, device: torch.device) -> Batch:
        moved: list[Any] = [t if t is None else t.to(device) for t in vars(self).values()]
        return Batch(*moved)


class Source:
    """Makes the batches of a training.

    Args:
        count: examples to train on, from the first.
        alphas: share of the clean signal's variance at each timestep.
        scale: factor between the autoencoder's latents and the U-Net's.
        objective: `eps` or `v`.
    """

    def __init__(
        self,
        cache: Cache,
        settings: Settings,
        count: int,
        alphas: Tensor,
        scale: float,
        objective: str,
    ) -> None:
        self.cache, self.settings, self.count = cache, settings, count
        self.alphas, self.scale, self.objective = alphas, scale, objective
        self.numbers = type_numbers(cache.data, cache.items)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The examples at some positions of the training."""
        rows = [self._row(position) for position in positions]
        stacked: list[Any] = [
            None if part[0] is None else torch.stack(part) for part in zip(*rows, strict=True)
        ]
        return Batch(*stacked)

    def _row(self, position: int) -> tuple[Tensor | None, ...]:
        settings = self.settings
        index = example_at(position, settings.seed, self.count)
        item: Item = self.cache.items[index]
        generator = torch.Generator().manual_seed(seed_of("noise", settings.seed, position))
        mean, spread = self.cache.moments(index)
        latent = (mean + spread * torch.randn(mean.shape, generator=generator)) * self.scale
        emptied, level = torch.rand(2, generator=generator).tolist()
        noise = torch.randn(latent.shape, generator=generator)
        if settings.timesteps == "noisy":
            level = 1 - level**2
        timestep = min(int(level * len(self.alphas)), len(self.alphas) - 1)
        alpha = self.alphas[timestep]
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        wanted = noise
        if self.objective == "v":
            wanted = alpha.sqrt() * noise - (1 - alpha).sqrt() * latent
        prompt = "" if emptied < settings.empty_prompts else item.prompt
        context, pooled = self.cache.text(prompt)
        hint = read_hint(self.cache.data, item)
        weight = torch.ones(())
        if settings.weighting == "velocity" and self.objective == "eps":
            weight = (1 / alpha).clamp(max=WEIGHT_CAP)
        number = torch.tensor(self.numbers[index])
        return noisy, torch.tensor(timestep), context, pooled, hint, wanted, weight, number


def read_hint(folder: Path, item: Item) -> Tensor:
    """An example's control picture (3, H, W) in [0, 1], -1 where it is masked."""
    picture, masked = read_control(folder / item.source)
    hint = to_tensor(picture)
    return hint if masked is None else hint.masked_fill(torch.from_numpy(masked), -1.0)


def type_numbers(folder: Path, items: Sequence[Item]) -> list[int]:
    """The number of each example's type, by which Unions know it; -1 where nothing tells."""
    own = str(about(folder).get("control_type") or "")
    known = [union_type(item.control_type or own) for item in items]
    return [TYPES.index(kind) if kind in TYPES else -1 for kind in known]


def positions_of(step: int, part: int, rank: int, world: int, settings: Settings) -> range:
    """Positions that one process computes in one part of a step; together they are the batch."""
    micro = settings.batch // (world * settings.accumulation)
    first = step * settings.batch + (part * world + rank) * micro
    return range(first, first + micro)


def prefetch(source: Source, plan: Iterator[range]) -> Iterator[Batch]:
    """The batches of a plan; the next one is read while the last one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming: Future | None = None
        for positions in plan:
            following = pool.submit(source.batch, positions)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
