"""A pix2pix U-Net that draws the lines of a painted picture.

Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR
2017, arXiv:1611.07004; trained in the anime branch of "informative drawings" (Chan et al.,
arXiv:2203.12691). Keys are those of `netG.pth`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ._load import filled, without_prefix

WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)
"""Channels after each halving of the picture, from the outermost."""


class Level(nn.Module):
    """One halving, everything inside it, and the doubling back, beside the level's input."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        outer, inner = WIDTHS[depth - 1], WIDTHS[depth]
        down = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, stride=2, padding=1)]
        if depth + 1 < len(WIDTHS):
            down += [nn.InstanceNorm2d(inner), Level(depth + 1)]
            inner *= 2
        up = nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1)
        self.model = nn.Sequential(*down, nn.ReLU(), up, nn.InstanceNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], dim=1)


class Outermost(nn.Module):
    """The level that takes the picture and gives the drawing."""

    def __init__(self) -> None:
        super().__init__()
        width = WIDTHS[0]
        self.model = nn.Sequential(
            *(nn.Conv2d(3, width, 4, stride=2, padding=1), Level(1), nn.ReLU()),
            *(nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1), nn.Tanh()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class LineArtAnime(nn.Module):
    """(b, 3, h, w) in -1 to 1 -> drawing (b, 1, h, w), black lines on white, -1 to 1.

    Sides must be multiples of 256.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = Outermost()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def build(state: Mapping[str, Tensor]) -> LineArtAnime:
    """The network of `netG.pth`."""
    return filled(LineArtAnime, without_prefix(state))
