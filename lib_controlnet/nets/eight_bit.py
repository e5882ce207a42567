"""Weights that are stored in 8 bits, and multiplied out layer by layer where they are used.

Whole numbers with a scale for each output channel: on the demo models' weights about a quarter of
the error of float8_e4m3fn with such scales, and no torch is too old for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn

MOST: Final = 127
"""Largest whole number that is stored; the smallest is its negative."""

LEAST_ROW: Final = 64
"""Numbers of an output channel from which a weight is stored so: below, its scale would weigh."""

KINDS: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class EightBit(nn.Module):
    """Makes the `weight` of a layer a product that lives as long as whoever asked for it.

    Attributes:
        codes: int8, of the weight's shape and layout.
        scales: float32 (out, 1, ...).
        computes: dtype of the weight.
    """

    codes: Tensor
    scales: Tensor
    computes: torch.dtype

    @property
    def weight(self) -> Tensor:
        """The weight, in the precision that the layer computes in."""
        # Two passes: a product of mixed types takes a CPU three times as long.
        made = torch.empty_like(self.codes, dtype=self.computes)
        return made.copy_(self.codes).mul_(self.scales)


@cache
def _class_for(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a kind of layer whose weight is stored in 8 bits."""
    return type(f"EightBit{kind.__name__}", (EightBit, kind), {})


@torch.no_grad()
def store_in_8_bits(module: nn.Module) -> bool:
    """Store what is large of a module's linear layers and convolutions in 8 bits, one by one.

    Biases, norms and everything else stay as they are. The numbers of an output channel are off
    by at most half of 1/127 of its largest one.

    Returns:
        Whether there was anything to store so.
    """
    found = False
    for layer in list(_find_large(module)):
        weight = layer.weight.detach()
        largest = weight.abs().flatten(1).amax(1).float()
        scales = (largest / MOST).view(-1, *[1] * (weight.dim() - 1))
        codes = (weight / scales.clamp_min(torch.finfo(torch.float32).tiny)).round_()
        del layer.weight
        layer.register_buffer("codes", codes.to(torch.int8))
        layer.register_buffer("scales", scales)
        layer.computes = weight.dtype
        kind: type[nn.Module] = type(layer)
        layer.__class__ = _class_for(kind)  # type: ignore[arg-type]  # a type is hashable
        found = True
    return found


def _find_large(module: nn.Module) -> Iterator[Any]:
    """The layers whose weight is worth it and not stored so yet."""
    for layer in module.modules():
        if not isinstance(layer, KINDS) or isinstance(layer, EightBit):
            continue
        weight = layer.weight
        if weight.is_floating_point() and weight.numel() >= LEAST_ROW * max(1, len(weight)):
            yield layer


def measure_saving(module: nn.Module) -> tuple[int, int]:
    """Bytes that `store_in_8_bits` would save, and those of the largest weight it would store."""
    large = [layer.weight for layer in _find_large(module)]
    saved = sum(one.numel() * (one.element_size() - 1) - 4 * len(one) for one in large)
    return saved, max((one.numel() * one.element_size() for one in large), default=0)


def dtype_of(module: nn.Module) -> torch.dtype:
    """Precision in which a module computes.

    Raises:
        StopIteration: it holds no weights.
    """
    parameter = next(module.parameters(), None)
    if parameter is not None:
        return parameter.dtype
    return next(layer.computes for layer in module.modules() if isinstance(layer, EightBit))
