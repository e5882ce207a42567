"""TEED: a tiny edge detector of 58,910 weights.

Soria, Li, Rouhani, Sappa, "Tiny and Efficient Model for the Edge Detection Generalization", ICCV
Workshops 2023, arXiv:2308.06468; keys are those of `7_model.pth` and of Anyline's `MTEED.pth`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._load import fill


def smish(x: Tensor) -> Tensor:
    """The activation of Wang, Ren, Wang, "Smish", Electronics 11(4), 2022."""
    return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


class Smish(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return smish(x)


class TwoConvs(nn.Module):
    """Two 3 x 3 convolutions, the first with a stride; the last activation may be left out."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, last: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(smish(self.conv1(x)))
        return smish(x) if self.last else x


class Side(nn.Module):
    """A 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DenseLayer(nn.Module):
    """Two convolutions, averaged with a shortcut that is given."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=2)
        self.conv2 = nn.Conv2d(outputs, outputs, 3)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return (self.conv2(smish(self.conv1(smish(x)))) + shortcut) / 2


class DenseBlock(nn.Module):
    """One dense layer, under the name the file has for it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.denselayer1 = DenseLayer(inputs, outputs)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.denselayer1(x, shortcut)


class Enlarge(nn.Module):
    """Features to one map of logits, twice as large with every step.

    Args:
        steps: (channels in, channels out, side of the transposed kernel).
    """

    def __init__(self, *steps: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, width, side in steps:
            twice = nn.ConvTranspose2d(width, width, side, stride=2, padding=side // 2 - 1)
            layers += [nn.Conv2d(inputs, width, 1), Smish(), twice]
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class Fusion(nn.Module):
    """Three maps of logits to one, each convolved on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.DWconv1 = nn.Conv2d(3, 24, 3, padding=1, groups=3)
        self.DWconv2 = nn.Conv2d(24, 24, 3, padding=1, groups=24)

    def forward(self, x: Tensor) -> Tensor:
        first = self.DWconv1(smish(x))
        second = self.DWconv2(smish(first))
        return smish((first + second).sum(dim=1, keepdim=True))


class TEED(nn.Module):
    """(b, 3, h, w) in 0 to 255 -> four maps of logits (b, 1, h, w), the fused one last.

    Sides must be multiples of 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block_1 = TwoConvs(3, 16, stride=2)
        self.block_2 = TwoConvs(16, 32, last=False)
        self.side_1 = Side(16, 32, stride=2)
        self.pre_dense_3 = Side(32, 48)
        self.dblock_3 = DenseBlock(32, 48)
        self.up_block_1 = Enlarge((16, 1, 2))
        self.up_block_2 = Enlarge((32, 1, 2))
        self.up_block_3 = Enlarge((48, 16, 4), (16, 1, 4))
        self.block_cat = Fusion()

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.block_1(x)
        second = self.block_2(first)
        pooled = F.max_pool2d(second, 3, stride=2, padding=1)
        third = self.dblock_3(pooled + self.side_1(first), self.pre_dense_3(pooled))
        maps = [self.up_block_1(first), self.up_block_2(second), self.up_block_3(third)]
        return [*maps, self.block_cat(torch.cat(maps, dim=1))]


def build(state: Mapping[str, Tensor]) -> TEED:
    """The network of `7_model.pth` or `MTEED.pth`."""
    return fill(TEED, state)
