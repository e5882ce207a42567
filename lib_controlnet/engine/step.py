"""What one U-Net call is about: which rows it holds, how far the pass has come.

The host announces the rows of an evaluation in the order in which its U-Net calls consume them, in
one call or in several. A cursor that is reset once per evaluation therefore tells cond from uncond
rows, and the picture each belongs to, without touching the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.window import Schedule

SAME_LATENT: Final = 1e-4
"""Squared distance between the directions of two latents that are the same but for rounding."""


@dataclass(frozen=True)
class Row:
    """One row of a U-Net batch.

    Attributes:
        image: index of the picture within the batch.
        is_cond: whether the row carries the prompt (else the negative prompt).
    """

    image: int
    is_cond: bool


@dataclass(frozen=True, eq=False)
class Texts:
    """Text embeddings of one evaluation, and latents, which tell the rows of a foreign call.

    Attributes:
        cond: (n, tokens, width), of the prompts.
        uncond: (m, tokens, width), of the negative prompts.
        latents: what all rows show, (rows, channels, h, w).
    """

    cond: Tensor
    uncond: Tensor
    latents: Tensor | None = None

    def are_cond(self, context: Tensor | None) -> list[bool] | None:
        """Which rows of a call carry a prompt; None where the texts do not tell.

        Args:
            context: the call's embeddings, (k, tokens, width).
        """
        if context is None or not (
            self.cond.shape[1:] == self.uncond.shape[1:] == context.shape[1:]
        ):
            return None
        cond, uncond = (_any_of(context, texts) for texts in (self.cond, self.uncond))
        return cond.tolist() if bool((cond ^ uncond).all()) else None


def _distances(x: Tensor, latents: Tensor) -> Tensor:
    """(k, n): squared distances between directions of (k, c, h, w) and (n, c, h, w)."""
    one, other = (F.normalize(rows.float().flatten(1)) for rows in (x, latents))
    middle = other.mean(0)  # frames are much alike at the end of sampling
    one, other = one - middle, other - middle
    return (one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T).clamp(min=0)


def _any_of(context: Tensor, texts: Tensor) -> Tensor:
    """(k,): whether a row of `context` equals any of the texts."""
    found = torch.zeros(len(context), dtype=torch.bool, device=context.device)
    for text in texts.to(context):  # one at a time: an animation has a hundred
        found |= (context == text).flatten(1).all(1)
    return found


ReadCall = Callable[[Mapping[str, Any], int], "tuple[Row, ...] | None"]
"""Gives the rows of a U-Net call from its arguments by name and the number of its rows."""


@dataclass(frozen=True)
class RowLayout:
    """All rows of one evaluation, in the order in which U-Net calls consume them.

    Attributes:
        rows: the rows.
        texts: what they say; given where it matters that a neighbour (AnimateDiff) takes some of
            the rows in an order of its own.
        read_call: reads from the arguments of a U-Net call which rows it holds, where the host
            tells it there; the order of `rows` counts only for calls that do not tell.
    """

    rows: tuple[Row, ...]
    texts: Texts | None = field(default=None, compare=False)
    read_call: ReadCall | None = field(default=None, compare=False)

    @property
    def images(self) -> int:
        """Pictures of the batch."""
        return 1 + max((row.image for row in self.rows), default=0)

    def find_images(self, x: Tensor | None, taken: Sequence[Row]) -> list[int]:
        """The pictures that the rows of a call show; those of `taken` where latents do not tell.

        Args:
            x: the call's input, (k, channels, h, w): some of the latents, scaled, and perhaps more
                channels behind theirs.
            taken: the k rows by their order alone.
        """
        positions = [row.image for row in taken]
        ours = None if self.texts is None else self.texts.latents
        if x is None or ours is None or x.shape[2:] != ours.shape[2:]:
            return positions
        far = _distances(x[:, : ours.shape[1]], ours.to(x.device))
        if bool((far.amin(1) > SAME_LATENT).any()):
            return positions
        images = torch.tensor([row.image for row in self.rows], device=x.device)
        by_order = images[None] == torch.tensor(positions, device=x.device)[:, None]
        return images[(far - SAME_LATENT * far.mean() * by_order).argmin(1)].tolist()

    def take(self, start: int, count: int) -> tuple[Row, ...]:
        """The `count` rows from `start`; beyond the end all rows count as cond rows of image 0."""
        found = self.rows[start : start + count]
        return found + (Row(0, is_cond=True),) * (count - len(found))


@dataclass(frozen=True, eq=False)
class StepContext:
    """One U-Net call.

    Attributes:
        x: model input, (n, channels, h, w), scaled by c_in; the first 4 channels are the latent.
        timesteps: (n,), 0 (clean) to 999 (noise), possibly fractional.
        context: text embedding, (n, tokens, width).
        y: vector conditioning of SDXL, (n, 2816), or None.
        progress: fraction of this pass's steps that are done, 0 to 1.
        rows: what each of the n rows is.
        first: place of the first of them among all rows of the evaluation.
        evaluation: evaluations that this pass has made before.
        schedule: the steps of the pass, if they are known.
    """

    x: Tensor
    timesteps: Tensor
    context: Tensor | None
    y: Tensor | None
    progress: float
    rows: tuple[Row, ...]
    first: int = 0
    evaluation: int = 0
    schedule: Schedule | None = None

    @property
    def walked(self) -> float:
        """Evaluations done as a fraction of all, 0 to 1: finer than `progress` within a step."""
        schedule = self.schedule
        if schedule is None or schedule.sigmas is not None:
            return self.progress
        return min(self.evaluation / max(schedule.evaluations, 1), 1.0)

    def select(self, cond_only: bool, images: frozenset[int] | None = None) -> tuple[int, ...]:
        """Indices of the rows a unit acts on."""
        return select(self.rows, cond_only, images)


def select(
    rows: Sequence[Row], cond_only: bool, images: frozenset[int] | None = None
) -> tuple[int, ...]:
    """Indices of the rows that a unit acts on; `images` None means those of all pictures."""
    return tuple(
        i
        for i, row in enumerate(rows)
        if (row.is_cond or not cond_only) and (images is None or row.image in images)
    )


@dataclass(frozen=True, eq=False)
class NoisyLatent:
    """What a sampler that predicts noise started the evaluation from.

    Attributes:
        x: (b, 4, h, w), variance preserving.
        timesteps: (b,), 0 to 999.
    """

    x: Tensor
    timesteps: Tensor


@dataclass
class StepCursor:
    """Follows the host through the U-Net calls of one evaluation."""

    layout: RowLayout | None = None
    progress: float = 0.0
    schedule: Schedule | None = None
    position: int = field(default=0)
    first: int = field(default=0)
    evaluation: int = field(default=-1)

    def begin(self, layout: RowLayout, progress: float, schedule: Schedule | None = None) -> None:
        """A new evaluation starts: `layout` holds its rows, `progress` is 0 to 1."""
        self.layout = layout
        self.progress = min(max(progress, 0.0), 1.0)
        self.schedule = schedule
        self.position = self.first = 0
        self.evaluation += 1

    def describe(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | None,
        y: Tensor | None,
        rows: tuple[Row, ...],
    ) -> StepContext:
        """The call whose rows `next_rows` gave last; see `StepContext`."""
        place = (self.first, self.evaluation, self.schedule)
        return StepContext(x, timesteps, context, y, self.progress, rows, *place)

    def next_rows(
        self,
        count: int,
        context: Tensor | None = None,
        x: Tensor | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[Row, ...] | None:
        """The next `count` rows, or None if no evaluation was announced.

        Args:
            count: rows of the U-Net call.
            context: its text embeddings, (count, tokens, width).
            x: its input, (count, channels, h, w).
            arguments: all that it is called with, by name.

        A neighbour that calls the U-Net several times per evaluation with pieces of a picture
        runs past the end; the table then starts over. One that puts several pieces into a call
        (tiles) sends all rows for each of them. One that takes some pictures at a time (frames)
        sends their cond and their uncond rows; only texts and latents tell which is which.
        """
        if self.layout is None:
            return None
        total = len(self.layout.rows)
        told_rows = self.layout.read_call and self.layout.read_call(arguments, count)
        if told_rows:
            self.first = 0 if self.position >= total else self.position
            self.position = self.first + count
            return told_rows
        if total and count > total and count % total == 0:
            self.position = self.first = 0
            return self.layout.rows * (count // total)
        if self.position >= total:
            self.position = 0
        self.first = self.position
        rows = self.layout.take(self.position, count)
        self.position += count
        if count == total or self.layout.texts is None:
            return rows
        told = self.layout.texts.are_cond(context) or [row.is_cond for row in rows]
        images = self.layout.find_images(x, rows)
        return tuple(map(Row, images, told))
