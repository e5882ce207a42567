"""EfficientNet as an encoder: feature maps at 1/2 to 1/32 of the picture.

Tan, Le (2019), arXiv:1905.11946, in the TensorFlow variant (its padding and its norms). Key names
as in timm's tf_efficientnet_b5 without a classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ._load import count_blocks
from .same_padding import SameConv2d

STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the first block of each stage; the one size that no shape in a file tells."""
TAPS = (0, 1, 2, 4)
"""Stages whose output is handed out."""
NORM_EPS = 1e-3


@dataclass(frozen=True)
class BlockParams:
    """Channels of one block: in, between, out, and of its squeezed vector."""

    inputs: int
    hidden: int
    outputs: int
    squeezed: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class Params:
    """Channels of the first and last convolution, and the blocks of every stage."""

    stem: int
    stages: Sequence[Sequence[BlockParams]]
    head: int

    @property
    def taps(self) -> tuple[int, ...]:
        """Channels of what the encoder gives, finest first."""
        return (*(self.stages[i][-1].outputs for i in TAPS), self.head)


class SqueezeExcite(nn.Module):
    """A factor per channel, made from the mean of every channel."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, squeezed, 1)
        self.conv_expand = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * self.conv_expand(F.silu(self.conv_reduce(mean))).sigmoid()


class Separable(nn.Module):
    """The block of the first stage: per channel, then across channels."""

    def __init__(self, params: BlockParams) -> None:
        super().__init__()
        self.conv_dw = _per_channel(params)
        self.bn1 = nn.BatchNorm2d(params.inputs, NORM_EPS)
        self.se = SqueezeExcite(params.inputs, params.squeezed)
        self.conv_pw = nn.Conv2d(params.inputs, params.outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(params.outputs, NORM_EPS)
        self.keeps_shape = params.stride == 1 and params.inputs == params.outputs

    def forward(self, x: Tensor) -> Tensor:
        changed = self.se(F.silu(self.bn1(self.conv_dw(x))))
        changed = self.bn2(self.conv_pw(changed))
        return x + changed if self.keeps_shape else changed


class InvertedResidual(nn.Module):
    """The block of the other stages: wide between two narrow ends."""

    def __init__(self, params: BlockParams) -> None:
        super().__init__()
        self.conv_pw = nn.Conv2d(params.inputs, params.hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(params.hidden, NORM_EPS)
        self.conv_dw = _per_channel(params)
        self.bn2 = nn.BatchNorm2d(params.hidden, NORM_EPS)
        self.se = SqueezeExcite(params.hidden, params.squeezed)
        self.conv_pwl = nn.Conv2d(params.hidden, params.outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(params.outputs, NORM_EPS)
        self.keeps_shape = params.stride == 1 and params.inputs == params.outputs

    def forward(self, x: Tensor) -> Tensor:
        changed = F.silu(self.bn1(self.conv_pw(x)))
        changed = self.se(F.silu(self.bn2(self.conv_dw(changed))))
        changed = self.bn3(self.conv_pwl(changed))
        return x + changed if self.keeps_shape else changed


def _per_channel(params: BlockParams) -> nn.Conv2d:
    width = params.hidden
    return SameConv2d(width, width, params.kernel, params.stride, groups=width, bias=False)


class EfficientNet(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, params.stem, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(params.stem, NORM_EPS)
        kinds = (Separable, *[InvertedResidual] * (len(params.stages) - 1))
        self.blocks = nn.ModuleList(
            nn.Sequential(*map(kind, stage))
            for kind, stage in zip(kinds, params.stages, strict=True)
        )
        self.conv_head = nn.Conv2d(params.stages[-1][-1].outputs, params.head, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(params.head, NORM_EPS)  # in the file, unused

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) -> maps at 1/2, 1/4, 1/8, 1/16 and 1/32."""
        x = F.silu(self.bn1(self.conv_stem(x)))
        maps = []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in TAPS:
                maps.append(x)
        return [*maps, self.conv_head(x)]


class Encoder(nn.Module):
    """The wrapper that both normal estimators put around it."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.original_model = EfficientNet(params)

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.original_model(x)


def read_params(state: Mapping[str, Tensor], prefix: str = "encoder.original_model.") -> Params:
    """Sizes of the encoder that a file holds.

    Raises:
        KeyError: it holds none.
    """
    stages = []
    for number, stride in enumerate(STRIDES):
        stage = f"{prefix}blocks.{number}."
        count = count_blocks(state, stage)
        stages.append(
            [_block(state, f"{stage}{i}.", stride if i == 0 else 1) for i in range(count)]
        )
    stem, head = (len(state[f"{prefix}{key}.weight"]) for key in ("conv_stem", "conv_head"))
    return Params(stem, stages, head)


def _block(state: Mapping[str, Tensor], prefix: str, stride: int) -> BlockParams:
    last = "conv_pwl" if f"{prefix}conv_pwl.weight" in state else "conv_pw"
    hidden, _, kernel, _ = state[f"{prefix}conv_dw.weight"].shape
    return BlockParams(
        inputs=state[f"{prefix}conv_pw.weight"].shape[1],
        hidden=hidden,
        outputs=len(state[f"{prefix}{last}.weight"]),
        squeezed=len(state[f"{prefix}se.conv_reduce.weight"]),
        kernel=kernel,
        stride=stride,
    )
