"""M-LSD: line segments by a MobileNetV2 and a small decoder.

Gu, Ko, Go, Lee, Lee, Shin, "Towards Light-weight and Real-time Line Segment Detection", AAAI 2022,
arXiv:2106.00186; keys are those of `mlsd_large_512_fp32.pth`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._load import fill

INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
"""Expansion, channels, count and stride of the inverted residuals (Sandler et al., 2018)."""
TAPS = (1, 3, 6, 10, 13)
"""Layers of the encoder that the decoder reads."""
WIDTH = 64
OUTPUTS = 16
FIRST_USED = 7
"""The other outputs served the training only."""


class NormalisedConv(nn.Sequential):
    """Convolution, batch normalisation and ReLU6; a stride pads only the right and the bottom."""

    def __init__(
        self, inputs: int, outputs: int, side: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        padding = side // 2 if stride == 1 else 0
        conv = nn.Conv2d(inputs, outputs, side, stride, padding, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU6())
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.stride == 1 else F.pad(x, (0, 1, 0, 1)))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([NormalisedConv(inputs, wide, side=1)] if expansion > 1 else []),
            NormalisedConv(wide, wide, stride=stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class Encoder(nn.Module):
    """(b, 4, h, w) -> features at 1/2, 1/4, 1/8, 1/16 and 1/16."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [NormalisedConv(4, 32, stride=2)]
        before = 32
        for expansion, width, count, stride in INVERTED:
            for index in range(count):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(before, width, expansion, step))
                before = width
        self.features = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        taps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS:
                taps.append(x)
        return taps


def _conv(inputs: int, outputs: int, side: int, dilation: int = 1) -> nn.Sequential:
    padding = side // 2 * dilation
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, padding=padding, dilation=dilation),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Join(nn.Module):
    """A skip beside what comes from deeper, brought to its size."""

    def __init__(self, skip: int, deep: int) -> None:
        super().__init__()
        self.conv1 = _conv(deep, WIDTH, 1)
        self.conv2 = _conv(skip, WIDTH, 1)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        skip, deep = self.conv2(skip), self.conv1(deep)
        if deep.shape != skip.shape:
            deep = F.interpolate(deep, skip.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat([skip, deep], dim=1)


class Refine(nn.Module):
    """A residual convolution and one that narrows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(2 * WIDTH, 2 * WIDTH, 3)
        self.conv2 = _conv(2 * WIDTH, WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(x + self.conv1(x))


class Head(nn.Module):
    """Features to the output maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(WIDTH, WIDTH, 3, dilation=5)
        self.conv2 = _conv(WIDTH, WIDTH, 3)
        self.conv3 = nn.Conv2d(WIDTH, OUTPUTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x)))


class MLSD(nn.Module):
    """(b, 4, h, w), RGB and a constant, in -1 to 1 -> (b, 9, h/2, w/2).

    Channel 0 is the logit of a segment's centre, 1 to 4 lead from there to its ends (x, y, x, y),
    in pixels of the output. Sides must be multiples of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder()
        self.block15 = Join(64, 96)
        self.block16 = Refine()
        self.block17 = Join(32, WIDTH)
        self.block18 = Refine()
        self.block19 = Join(24, WIDTH)
        self.block20 = Refine()
        self.block21 = Join(16, WIDTH)
        self.block22 = Refine()
        self.block23 = Head()

    def forward(self, x: Tensor) -> Tensor:
        half, quarter, eighth, sixteenth, deep = self.backbone(x)
        h = self.block16(self.block15(sixteenth, deep))
        h = self.block18(self.block17(eighth, h))
        h = self.block20(self.block19(quarter, h))
        h = self.block22(self.block21(half, h))
        return self.block23(h)[:, FIRST_USED:]


def build(state: Mapping[str, Tensor]) -> MLSD:
    """The network of `mlsd_large_512_fp32.pth`."""
    return fill(MLSD, state)
