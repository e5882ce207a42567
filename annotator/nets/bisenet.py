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

from ._load import filled
from .resnet import shortcut

CLASSES = 19


class Conv(nn.Module):
    """Convolution that keeps the size, normalised and rectified."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Block of a ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        changed = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.downsample(x) + self.bn2(self.conv2(changed)))


class ResNet18(nn.Module):
    """He et al. (2015), arXiv:1512.03385."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, outputs in enumerate((64, 128, 256, 512), 1):
            first = Block(inputs, outputs, 1 if number == 1 else 2)
            self.add_module(f"layer{number}", nn.Sequential(first, Block(outputs, outputs, 1)))
            inputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, 3, h, w) -> maps at 1/8, 1/16 and 1/32."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        fine = self.get_submodule("layer2")(self.get_submodule("layer1")(x))
        middle = self.get_submodule("layer3")(fine)
        return fine, middle, self.get_submodule("layer4")(middle)


class Attention(nn.Module):
    """A convolution whose channels are weighted by the whole map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(_mean(x))).sigmoid()


class ContextPath(nn.Module):
    """Coarse maps, each with what is coarser still added, down to the mean of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16, self.arm32 = Attention(256, 128), Attention(512, 128)
        self.conv_head32, self.conv_head16 = Conv(128, 128), Conv(128, 128)
        self.conv_avg = Conv(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, 3, h, w) -> fine and coarse maps, both at 1/8."""
        fine, middle, coarse = self.resnet(x)
        summed = self.arm32(coarse) + self.conv_avg(_mean(coarse))
        raised = self.conv_head32(F.interpolate(summed, middle.shape[2:]))
        summed = self.arm16(middle) + raised
        return fine, self.conv_head16(F.interpolate(summed, fine.shape[2:]))


class Fusion(nn.Module):
    """Joins the fine and the coarse maps, channels weighted by the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = Conv(256, 256, 1)
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
        self.conv = Conv(inputs, inside)
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
    return filled(BiSeNet, state)
