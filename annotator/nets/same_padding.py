"""Padding as TensorFlow does it: as much as the last window needs, the odd pixel at the end.

Several published networks were trained there and converted. Torch pads both sides alike, which
shifts what a strided layer sees by a pixel.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """(b, c, h, w) padded so that a window of that size and stride gives ceil(side / stride)."""
    height, width = x.shape[2:]
    high, wide = (
        max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (height, width)
    )
    edges = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    return F.pad(x, edges, value=value) if any(edges) else x


class SameConv2d(nn.Conv2d):
    """A convolution with a square kernel and that padding."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, self.kernel_size[0], self.stride[0]))
