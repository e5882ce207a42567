"""LeReS: depth up to scale and shift, by a ResNeXt and a decoder that fuses its four stages.

Yin et al. (2021), arXiv:2012.09365. Key names of the published file; the encoder's are those of
torchvision's resnext101_32x8d without its classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ._load import count_blocks, fill, without_prefix
from .dpt import enlarge
from .resnet import ResNet, StageParams

_ENCODER = "depth_model.encoder_modules.encoder."
_DECODER = "depth_model.decoder_modules."


@dataclass(frozen=True)
class Params:
    """Sizes of the network.

    Attributes:
        stem: channels of the first convolution, 64.
        stages: four, finest first.
        deep: channels of the decoder at the coarsest level, 512.
        width: channels of the decoder elsewhere, 256.
    """

    stem: int
    stages: Sequence[StageParams]
    deep: int
    width: int


class Transfer(nn.Module):
    """Changes the channels of a map, then adds a branch of two convolutions."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, padding=1)
        self.conv_branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        # Parity: the branch's first ReLU worked in place, so what is added to is rectified, too.
        x = F.relu(self.conv1(x))
        return F.relu(x + self.conv_branch(x))


class Fuse(nn.Module):
    """Adds a stage of the encoder to what comes from below and doubles the size."""

    def __init__(self, skip: int, width: int) -> None:
        super().__init__()
        self.ftb1 = Transfer(skip, width)
        self.ftb2 = Transfer(width, width)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        return double(self.ftb2(self.ftb1(skip) + deep))


class Output(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.adapt_conv = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(),
            nn.Conv2d(width // 2, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return double(self.adapt_conv(x))


class Decoder(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        first, second, third, fourth = (stage.outputs for stage in params.stages)
        self.conv = Transfer(fourth, params.deep)
        self.conv1 = nn.Conv2d(params.deep, params.width, 3, padding=1)
        self.ffm2 = Fuse(third, params.width)
        self.ffm1 = Fuse(second, params.width)
        self.ffm0 = Fuse(first, params.width)
        self.outconv = Output(params.width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = double(self.conv1(self.conv(maps[3])))
        for fuse, skip in ((self.ffm2, maps[2]), (self.ffm1, maps[1]), (self.ffm0, maps[0])):
            x = fuse(skip, x)
        return self.outconv(x)


class DepthModel(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.encoder_modules = nn.ModuleDict({"encoder": ResNet(params.stem, params.stages)})
        self.decoder_modules = Decoder(params)


class Leres(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.depth_model = DepthModel(params)

    def forward(self, x: Tensor) -> Tensor:
        """Depth up to scale and shift.

        Args:
            x: (b, 3, h, w), ImageNet-normalised RGB; sides are multiples of 32.

        Returns:
            (b, 1, h, w), any value, far is large.
        """
        maps = self.depth_model.encoder_modules["encoder"](x)
        return self.depth_model.decoder_modules(maps)


def double(x: Tensor) -> Tensor:
    """Twice the size, bilinear, corners on corners."""
    return enlarge(x, (2 * x.shape[2], 2 * x.shape[3]))


def build(state: Mapping[str, Mapping[str, Tensor]]) -> Leres:
    """The network of a published file, which holds more than the depth model."""
    tensors = without_prefix(state["depth_model"])
    params = Params(
        stem=len(tensors[f"{_ENCODER}bn1.bias"]),
        stages=[_stage(tensors, f"{_ENCODER}layer{number}.") for number in (1, 2, 3, 4)],
        deep=len(tensors[f"{_DECODER}conv.conv1.bias"]),
        width=len(tensors[f"{_DECODER}conv1.bias"]),
    )
    return fill(lambda: Leres(params), tensors)


def _stage(state: Mapping[str, Tensor], prefix: str) -> StageParams:
    outputs, inside = state[f"{prefix}0.conv3.weight"].shape[:2]
    groups = inside // state[f"{prefix}0.conv2.weight"].shape[1]
    return StageParams(count_blocks(state, prefix), inside, outputs, groups)
