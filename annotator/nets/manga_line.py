"""Manga line extraction: a residual U-Net that keeps lines and drops screen tones.

Li, Liu, Wong, "Deep Extraction of Manga Structural Lines", ACM Transactions on Graphics 36(4),
2017; keys are those of `erika.pth`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ._load import fill, without_prefix

DOWN = ((24, 2), (48, 3), (96, 5), (192, 7), (384, 12))
"""Channels and units of blocks 0 to 4; every one but the first halves the picture at its end."""
UP = ((192, 7), (96, 5), (48, 3), (24, 2))
"""Blocks 5 to 8; every one doubles the picture at its start."""
LAST = (16, 2)


def _norm_conv(
    inputs: int, outputs: int, side: int = 3, stride: int = 1, enlarge: bool = False
) -> nn.Sequential:
    """Normalisation, activation, convolution, and the picture doubled where wanted."""
    layers = [
        nn.BatchNorm2d(inputs, eps=1e-3),
        nn.LeakyReLU(0.2),
        nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2),
    ]
    return nn.Sequential(*layers, *([nn.Upsample(scale_factor=2)] if enlarge else []))


class Wrapped(nn.Module):
    """Layers under the name "model"."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Unit(nn.Module):
    """Two normalised convolutions beside a shortcut, which is a convolution where sizes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, enlarge: bool = False) -> None:
        super().__init__()
        self.conv1 = Wrapped(*_norm_conv(inputs, outputs, 3, stride, enlarge))
        self.residual = Wrapped(*_norm_conv(outputs, outputs))
        self.shortcut = None
        if inputs != outputs or stride != 1 or enlarge:
            doubled = [nn.Upsample(scale_factor=2)] if enlarge else []
            self.shortcut = Wrapped(nn.Conv2d(inputs, outputs, 1, stride=stride), *doubled)

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.shortcut is None else self.shortcut(x)
        return beside + self.residual(self.conv1(x))


def _block(
    inputs: int, width: int, count: int, halve: bool = False, enlarge: bool = False
) -> Wrapped:
    """Units one after the other; the last may halve the picture, the first may double it."""
    units = [
        Unit(
            inputs if index == 0 else width,
            width,
            stride=2 if halve and index == count - 1 else 1,
            enlarge=enlarge and index == 0,
        )
        for index in range(count)
    ]
    return Wrapped(*units)


class MangaLine(nn.Module):
    """(b, 1, h, w) grey in 0 to 255 -> drawing (b, 1, h, w), black lines on white, 0 to 255.

    Sides must be multiples of 16. Values leave the range a little.
    """

    def __init__(self) -> None:
        super().__init__()
        before = 1
        for index, (width, count) in enumerate(DOWN):
            block = _block(before, width, count, halve=index > 0)
            self.add_module(f"block{index}", block)
            before = width
        for index, (width, count) in enumerate(UP, start=len(DOWN)):
            self.add_module(f"block{index}", _block(before, width, count, enlarge=True))
            before = width
        self.block9 = _block(before, *LAST)
        self.conv15 = Wrapped(*_norm_conv(LAST[0], 1, side=1))

    def forward(self, x: Tensor) -> Tensor:
        h, skips = x, []
        for index in range(len(DOWN)):
            h = self.get_submodule(f"block{index}")(h)
            skips.append(h)
        skips.pop()
        for index in range(len(DOWN), len(DOWN) + len(UP)):
            h = self.get_submodule(f"block{index}")(h) + skips.pop()
        return self.conv15(self.block9(h))


def build(state: Mapping[str, Tensor]) -> MangaLine:
    """The network of `erika.pth`."""
    return fill(MangaLine, without_prefix(state))
