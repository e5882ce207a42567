"""Informative drawings: a generator with residual blocks that draws a photograph's lines.

Chan, Durand, Isola, "Learning to generate line drawings that convey geometry and semantics",
CVPR 2022, arXiv:2203.12691; keys are those of `sk_model.pth` and `sk_model2.pth`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ._load import fill

WIDTH = 64
RESIDUAL_BLOCKS = 3


class Residual(nn.Module):
    """Two normalised convolutions added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3)),
            *(nn.InstanceNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _normalise(conv: nn.Module, width: int) -> tuple[nn.Module, ...]:
    return conv, nn.InstanceNorm2d(width), nn.ReLU(inplace=True)


class LineArt(nn.Module):
    """(b, 3, h, w) in 0 to 1 -> drawing (b, 1, h, w), black lines on white, 0 to 1.

    Sides must be multiples of 4.
    """

    def __init__(self) -> None:
        super().__init__()
        one, two, four = WIDTH, 2 * WIDTH, 4 * WIDTH
        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), *_normalise(nn.Conv2d(3, one, 7), one))
        self.model1 = nn.Sequential(
            *_normalise(nn.Conv2d(one, two, 3, stride=2, padding=1), two),
            *_normalise(nn.Conv2d(two, four, 3, stride=2, padding=1), four),
        )
        self.model2 = nn.Sequential(*(Residual(four) for _ in range(RESIDUAL_BLOCKS)))
        self.model3 = nn.Sequential(
            *_normalise(nn.ConvTranspose2d(four, two, 3, 2, 1, output_padding=1), two),
            *_normalise(nn.ConvTranspose2d(two, one, 3, 2, 1, output_padding=1), one),
        )
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(one, 1, 7), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.model4(self.model3(self.model2(self.model1(self.model0(x)))))


def build(state: Mapping[str, Tensor]) -> LineArt:
    """The network of `sk_model.pth` (fine) or `sk_model2.pth` (coarse)."""
    return fill(LineArt, state)
