"""Residuals: what control networks add to the skips and the middle of a U-Net.

They sum. That is the whole of Multi-ControlNet (Zhang et al. 2023, section 3.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lib_controlnet.pictures.coverage import cell_edges, cover

Rows = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Residuals:
    """Additions for some rows of one U-Net call.

    Attributes:
        rows: indices of the call's rows that `layers` belong to, ascending.
        layers: one tensor (len(rows), c, h, w) per skip, shallowest first, then the middle
            block's; None where nothing is added.
    """

    rows: Rows
    layers: tuple[Tensor | None, ...]

    def __add__(self, other: Residuals) -> Residuals:
        """Layer by layer sum of two residuals for the same rows."""
        if self.rows != other.rows:
            msg = f"residuals of different rows cannot be summed: {self.rows} and {other.rows}"
            raise ValueError(msg)
        pairs = zip(self.layers, other.layers, strict=True)
        return Residuals(self.rows, tuple(map(_sum, pairs)))

    def scale(self, strengths: Sequence[float]) -> Residuals:
        """Each layer times its strength; a strength of 0 removes the layer."""
        pairs = zip(self.layers, strengths, strict=True)
        return Residuals(self.rows, tuple(_scale(a, s) for a, s in pairs))

    def mask(self, region: RegionMask, sizes: Sequence[Sequence[int] | None]) -> Residuals:
        """Each layer times the region at that layer's size.

        Args:
            region: where the unit acts.
            sizes: (h, w) of each layer of the U-Net, which pooled layers do not show.
        """
        pairs = zip(self.layers, sizes, strict=True)
        layers = tuple(
            None if a is None or size is None else a * region.at(size, a) for a, size in pairs
        )
        return Residuals(self.rows, layers)

    def pool(self) -> Residuals:
        """Each layer replaced by its mean over the picture, (n, c, 1, 1) (shuffle models)."""
        layers = tuple(None if a is None else a.mean((2, 3), keepdim=True) for a in self.layers)
        return Residuals(self.rows, layers)


def _sum(layers: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of those that are there, first to last; only what is made here is written to."""
    given = [layer for layer in layers if layer is not None]
    if not given[1:]:
        return next(iter(given), None)
    total = given[0] + given[1]
    for layer in given[2:]:
        fits = (layer.dtype, layer.shape) == (total.dtype, total.shape)
        total = total.add_(layer) if fits else total + layer
    return total


def _scale(a: Tensor | None, strength: float) -> Tensor | None:
    if a is None or strength == 0.0:
        return None
    return a if strength == 1.0 else a * strength


def sum_residuals(parts: Iterable[Residuals]) -> list[Residuals]:
    """Sum all parts that belong to the same rows; one result per distinct set of rows."""
    alike: dict[Rows, list[Residuals]] = {}
    for part in parts:
        alike.setdefault(part.rows, []).append(part)
    return [
        Residuals(rows, tuple(map(_sum, zip(*(part.layers for part in found), strict=True))))
        for rows, found in alike.items()
    ]


class RegionMask:
    """Where a unit acts, at any resolution.

    Holds (1, 1, H, W) floats in [0, 1] in pixels of the pass; `at` gives it at a layer's size: the
    share of each cell that is inside, kept for the pass.
    """

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask
        self._sizes: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}

    @cached_property
    def is_full(self) -> bool:
        """Whether the unit acts everywhere with full strength."""
        return bool((self.mask >= 1.0).all())

    @cached_property
    def is_empty(self) -> bool:
        """Whether the unit acts nowhere."""
        return not bool(self.mask.any())

    @cached_property
    def digest(self) -> str:
        """Equal for equal masks."""
        return hashlib.sha1(self.mask.contiguous().numpy().data).hexdigest()

    def at(self, size: Sequence[int], like: Tensor) -> Tensor:
        """The mask at a layer's size (h, w), with the dtype and device of `like`: (1, 1, h, w)."""
        h, w = size
        key = (h, w, like.dtype, like.device)
        if key not in self._sizes:
            plane = self.mask[0, 0].float().cpu().numpy()
            rows, columns = (cell_edges(plane.shape[i], size[i], 0, size[i]) for i in (0, 1))
            self._sizes[key] = torch.from_numpy(cover(plane, rows, columns))[None, None].to(like)
        return self._sizes[key]


def add_rows(target: Tensor, residual: Tensor, rows: Rows) -> None:
    """Add `residual` to the named rows of `target`, in place, on its last channels.

    Args:
        target: (n, C, h, w); changed.
        residual: (len(rows), c, h, w) or (len(rows), c, 1, 1), c <= C.
        rows: row indices, ascending.
    """
    residual = fit_to(residual, target)
    channels = slice(target.shape[1] - residual.shape[1], None)
    for begin, end in _find_runs(rows):
        part = residual if residual.shape[0] == 1 else residual[begin:end]
        target[rows[begin] : rows[end - 1] + 1, channels].add_(part)


def with_rows(target: Tensor, residual: Tensor, rows: Rows) -> Tensor:
    """A new tensor with `residual` in the named rows, see `add_rows`."""
    if len(rows) == target.shape[0] and residual.shape[1] == target.shape[1]:
        return target + fit_to(residual, target)
    added = target.clone()
    add_rows(added, residual, rows)
    return added


def _find_runs(rows: Rows) -> Iterator[tuple[int, int]]:
    """Where runs of rows that follow each other begin and end in `rows`."""
    begin = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end] != rows[end - 1] + 1:
            yield begin, end
            begin = end


def fit_to(residual: Tensor, target: Tensor) -> Tensor:
    """Bring a residual to the target's dtype, device and picture size (nearest neighbour).

    Sizes differ where a latent's side is not divisible by the U-Net's deepest stride.
    """
    residual = residual.to(device=target.device, dtype=target.dtype)
    if residual.shape[-2:] in (target.shape[-2:], (1, 1)):
        return residual
    return F.interpolate(residual, target.shape[-2:], mode="nearest")
