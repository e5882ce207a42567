"""Residuals: what control networks add to the skips and the middle of a U-Net.

They sum. That is the whole of Multi-ControlNet (Zhang et al. 2023, section 3.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
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
        return Residuals(self.rows, tuple(_sum(a, b) for a, b in pairs))

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


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _scale(a: Tensor | None, strength: float) -> Tensor | None:
    if a is None or strength == 0.0:
        return None
    return a if strength == 1.0 else a * strength


def sum_residuals(parts: Iterable[Residuals]) -> list[Residuals]:
    """Sum all parts that belong to the same rows; one result per distinct set of rows."""
    total: dict[Rows, Residuals] = {}
    for part in parts:
        present = total.get(part.rows)
        total[part.rows] = part if present is None else present + part
    return list(total.values())


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
    if len(rows) == target.shape[0]:
        target[:, channels] += residual
    elif rows and rows[-1] - rows[0] + 1 == len(rows):
        target[rows[0] : rows[-1] + 1, channels] += residual
    else:
        index = torch.tensor(rows, device=target.device)
        target[index, channels] += residual


def fit_to(residual: Tensor, target: Tensor) -> Tensor:
    """Bring a residual to the target's dtype, device and picture size (nearest neighbour).

    Sizes differ where a latent's side is not divisible by the U-Net's deepest stride.
    """
    residual = residual.to(device=target.device, dtype=target.dtype)
    if residual.shape[-2:] in (target.shape[-2:], (1, 1)):
        return residual
    return F.interpolate(residual, target.shape[-2:], mode="nearest")
