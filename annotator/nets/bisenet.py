"""BiSeNet: which part of a face each pixel shows.

Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
arXiv:1808.00897, as trained on CelebAMask-HQ: the fine path is the encoder's own map at an eighth
of the size. Key names of the published parsing_bisenet.pth; the encoder is a ResNet-18.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._load import fill
from .resnet import Basic, ConvUnit, ResNet, StageParams

CLASSES = 19
_STAGES = [StageParams(2, width, width, 1) for width in (64, 128, 256, 512)]


class Attention(nn.Module):
    """A convolution whose channels are weighted by the whole map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(_mean(x))).sigmoid()


class ContextPath(nn.Module):
    """Coarse maps, each with what is coarser still added, down to the mean of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet(64, _STAGES, Basic)
        self.arm16, self.arm32 = Attention(256, 128), Attention(512, 128)
        self.conv_head32, self.conv_head16 = ConvUnit(128, 128), ConvUnit(128, 128)
        self.conv_avg = ConvUnit(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 3, h, w) -> fine and coarse maps, both at 1/8."""
        fine, middle, coarse = self.resnet(x)[1:]
        summed = self.arm32(coarse) + self.conv_avg(_mean(coarse))
        raised = self.conv_head32(F.interpolate(summed, middle.shape[2:]))
        summed = self.arm16(middle) + raised
        return fine, self.conv_head16(F.interpolate(summed, fine.shape[2:]))


class Fusion(nn.Module):
    """Joins the fine and the coarse maps, channels weighted by the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = ConvUnit(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = self.convblk(torch.cat([fine, coarse], dim=1))
        weight = self.conv2(F.relu(self.conv1(_mean(x)))).sigmoid()
        return x * weight + x


class Classifier(nn.Module):
    """Scores of the classes."""

    def __init__(self, inputs: int, inside: int) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs, inside)
        self.conv_out = nn.Conv2d(inside, CLASSES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = Fusion()
        self.conv_out = Classifier(256, 256)
        # Only training looks at these two.
        self.conv_out16, self.conv_out32 = Classifier(128, 64), Classifier(128, 64)

    def forward(self, picture: Tensor) -> Tensor:
        """(b, 3, h, w), RGB as ImageNet networks take it -> scores (b, 19, h, w)."""
        scores = self.conv_out(self.ffm(*self.cp(picture)))
        return F.interpolate(scores, picture.shape[2:], mode="bilinear", align_corners=True)


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)


def build(state: Mapping[str, Tensor]) -> BiSeNet:
    """The network with the weights of parsing_bisenet.pth."""
    return fill(BiSeNet, state)
