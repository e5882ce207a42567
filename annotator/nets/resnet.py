"""ResNet and ResNeXt encoders with the key names of torchvision.

He et al. (2015), arXiv:1512.03385; with groups Xie et al. (2017), arXiv:1611.05431.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class StageParams:
    """One stage of the encoder: blocks, channels within and out, groups of the 3x3."""

    blocks: int
    inside: int
    outputs: int
    groups: int


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """What goes past a block: nothing changed, or a 1x1 convolution where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ConvUnit(nn.Module):
    """Convolution that keeps the size, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, stage: StageParams, stride: int) -> None:
        super().__init__()
        inside, outputs = stage.inside, stage.outputs
        self.conv1 = nn.Conv2d(inputs, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(
            inside, inside, 3, stride, padding=1, groups=stage.groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        changed = F.relu(self.bn1(self.conv1(x)))
        changed = F.relu(self.bn2(self.conv2(changed)))
        return F.relu(self.bn3(self.conv3(changed)) + self.downsample(x))


class Basic(nn.Module):
    """Block of the small ones, as wide within as without."""

    def __init__(self, inputs: int, stage: StageParams, stride: int) -> None:
        super().__init__()
        outputs = stage.outputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        changed = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.downsample(x) + self.bn2(self.conv2(changed)))


class ResNet(nn.Module):
    """Four stages, finest first, without a classifier.

    Args:
        stem: channels of the first convolution, 64.
        stages: sizes of the stages.
        block: what they are made of.
    """

    def __init__(
        self,
        stem: int,
        stages: Sequence[StageParams],
        block: type[Basic] | type[Bottleneck] = Bottleneck,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        for number, stage in enumerate(stages, 1):
            first = block(inputs, stage, 1 if number == 1 else 2)
            rest = (block(stage.outputs, stage, 1) for _ in range(stage.blocks - 1))
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            inputs = stage.outputs

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) -> maps at 1/4, 1/8, 1/16 and 1/32."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        maps = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps
