"""U-Net on a MobileNetV2 encoder that labels the parts of drawn faces.

Encoder: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018,
arXiv:1801.04381, without its last block. Key names of siyeong0/Anime-Face-Segmentation (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._load import fill, without_prefix

CLASSES = 7

# Per block: channels of each layer with its stride. Every layer widens six times inside, except
# the very first. Each block halves the picture once.
_BLOCKS = (
    ((16, 1),),
    ((24, 2), (24, 1)),
    ((32, 2), (32, 1), (32, 1)),
    ((64, 2), (64, 1), (64, 1), (64, 1), (96, 1), (96, 1), (96, 1)),
    ((160, 2), (160, 1), (160, 1)),
)
_STEM = 32
_WIDENING = 6


def _conv(
    channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow again without activation."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = channels_in * widening
        self.has_residual = stride == 1 and channels_in == channels_out
        self.conv = nn.Sequential(
            *([_conv(channels_in, wide, 1)] if widening > 1 else []),
            _conv(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_residual else self.conv(x)


def _encoder_blocks() -> list[nn.Sequential]:
    """The five blocks; the first one begins with a plain convolution of the picture."""
    blocks: list[nn.Sequential] = []
    channels = _STEM
    for layers in _BLOCKS:
        parts: list[nn.Module] = [] if blocks else [_conv(3, _STEM, 3, stride=2)]
        for made, stride in layers:
            widening = 1 if channels == _STEM and not blocks else _WIDENING
            parts.append(InvertedResidual(channels, made, stride, widening))
            channels = made
        blocks.append(nn.Sequential(*parts))
    return blocks


def _decoder_block(channels_in: int, channels_out: int) -> nn.Sequential:
    """Twice the size, half blind to brightness: instance normalisation has no weights here."""
    return nn.Sequential(
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Conv2d(channels_in, channels_out, 3, padding=1),
        nn.InstanceNorm2d(channels_out),
        nn.LeakyReLU(0.1),
    )


class AnimeFaceNet(nn.Module):
    """Picture to probabilities of background, hair, eye, mouth, face, skin and clothes.

    Input (b, 3, h, w) RGB in [0, 1], output (b, 7, h, w); sides are multiples of 32, and one of
    them more than that: instance normalisation needs more than one value.
    """

    def __init__(self) -> None:
        super().__init__()
        (self.en_block0, self.en_block1, self.en_block2, self.en_block3, self.en_block4) = (
            _encoder_blocks()
        )
        self.de_block4 = _decoder_block(160, 96)
        self.de_block3 = _decoder_block(192, 32)
        self.de_block2 = _decoder_block(64, 24)
        self.de_block1 = _decoder_block(48, 16)
        self.de_block0 = nn.Sequential(
            nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(32, CLASSES, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in (self.en_block0, self.en_block1, self.en_block2, self.en_block3):
            x = block(x)
            skips.append(x)
        x = self.en_block4(x)
        for block in (self.de_block4, self.de_block3, self.de_block2, self.de_block1):
            x = torch.cat((block(x), skips.pop()), dim=1)
        return F.softmax(self.de_block0(x), dim=1)


def build(state: Mapping[str, Tensor]) -> AnimeFaceNet:
    """The network of a published file, whose keys may begin with "module."."""
    return fill(AnimeFaceNet, without_prefix(state))
