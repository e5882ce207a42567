"""How what was added to a U-Net relates to what control networks gave out, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

NOTHING = -1
"""Index of the hint behind a row that got nothing."""
SMALL = 1e-12


@dataclass
class Output:
    """What one call of a control network gave out.

    Attributes:
        hints: per row, index of the hint behind it.
        layers: (rows, c, h, w) per layer, None where the network was not asked.
    """

    hints: list[int]
    layers: list[Tensor | None]


@dataclass
class Row:
    """One row of a U-Net call.

    Attributes:
        hint: index of the hint behind what was added, `NOTHING` if nothing was.
        factors: per layer, the number by which the network's output was multiplied (least squares).
        maps: per layer, that number at every cell, (h, w).
        error: largest difference between what was added and the output times `maps`, over the
            largest amount added.
    """

    hint: int = NOTHING
    factors: list[float] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)
    error: float = 0.0


def explain(added: Sequence[Tensor], outputs: Sequence[Output]) -> list[Row]:
    """Find, for every row of a U-Net call, the network output that was added to it.

    Args:
        added: (rows, c, h, w) per layer, shallowest skip first, middle last.
        outputs: of the network calls made for this U-Net call.
    """
    rows = []
    for index in range(added[0].shape[0]):
        own = [layer[index] for layer in added]
        if not any(bool(layer.any()) for layer in own):
            rows.append(Row())
            continue
        found = [
            _fit(own, [None if a is None else a[i] for a in output.layers], output.hints[i])
            for output in outputs
            for i in range(len(output.hints))
        ]
        rows.append(min(found, key=lambda row: row.error, default=Row(error=float("inf"))))
    return rows


def _fit(added: Sequence[Tensor], raw: Sequence[Tensor | None], hint: int) -> Row:
    row = Row(hint)
    scale = max(float(layer.abs().max()) for layer in added)
    for target, source in zip(added, raw, strict=True):
        if source is None:
            row.factors.append(0.0)
            row.maps.append(torch.zeros(target.shape[-2:]))
            row.error = max(row.error, float(target.abs().max()) / scale)
            continue
        if source.shape[-2:] != target.shape[-2:]:
            source = F.interpolate(source[None], target.shape[-2:], mode="nearest")[0]
        product, square = (target * source).sum(0), (source * source).sum(0)
        local = product / square.clamp(min=SMALL)
        row.factors.append(float(product.sum() / square.sum().clamp(min=SMALL)))
        row.maps.append(local)
        row.error = max(row.error, float((target - local * source).abs().max()) / scale)
    return row
