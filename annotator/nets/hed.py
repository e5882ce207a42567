"""HED: edges at five scales of a VGG-like network.

Xie, Tu, "Holistically-Nested Edge Detection", ICCV 2015, arXiv:1504.06375; keys are those of
`ControlNetHED.pth`, the retrained network that ControlNet was published with.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn, zeros

from ._load import fill

WIDTHS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions of each block."""


class Block(nn.Module):
    """Convolutions of one scale, and the edge map read off the last."""

    def __init__(self, before: int, width: int, count: int) -> None:
        super().__init__()
        inputs = (before, *[width] * (count - 1))
        self.convs = nn.ModuleList(nn.Conv2d(n, width, 3, padding=1) for n in inputs)
        self.projection = nn.Conv2d(width, 1, 1)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            h = F.relu(conv(h))
        return h, self.projection(h)


class HED(nn.Module):
    """(b, 3, h, w) in 0 to 255 -> five maps of logits, each half as large as the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(zeros(1, 3, 1, 1))
        before = 3
        for index, (width, count) in enumerate(WIDTHS, start=1):
            self.add_module(f"block{index}", Block(before, width, count))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        h = x - self.norm
        maps: list[Tensor] = []
        for index in range(1, len(WIDTHS) + 1):
            h = F.max_pool2d(h, 2) if maps else h
            h, edges = self.get_submodule(f"block{index}")(h)
            maps.append(edges)
        return maps


def build(state: Mapping[str, Tensor]) -> HED:
    """The network of `ControlNetHED.pth`."""
    return fill(HED, state)
