"""MiDaS 3.0 hybrid: a residual network, a vision transformer on top, and the DPT decoder.

Ranftl et al. (2021), arXiv:2103.13413. The residual network is that of Kolesnikov et al. (2020),
arXiv:1912.11370, with its activations behind the norms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import count_blocks, fill
from .dpt import Readout, Scratch, depth_head, scratch_sizes
from .same_padding import SameConv2d, pad_same
from .vit import NORM_EPS, Block, to_grid

HEAD_WIDTH = 64
TAPS = (8, 11)
"""Blocks of the transformer that the decoder reads; the finer levels come from the convolutions."""
GROUPS = 32
STANDARD_EPS = 1e-8
_BACKBONE = "pretrained.model.patch_embed.backbone."


@dataclass(frozen=True)
class Params:
    """Sizes of the network; the published file has those of its comments.

    Attributes:
        stem: channels of the first convolution, 64.
        stages: blocks of the three stages, 3, 4, 9.
        channels: of what the stages give, 256, 512, 1024.
        width: channels of a token, 768.
        blocks: of the transformer, 12.
        grid: side of the grid of positions it was trained on, 24.
        classes: of the classifier that lies unused in the file, 1000.
        levels: channels of the decoder's four levels, 256, 512, 768, 768.
        features: width of the decoder, 256.
    """

    stem: int
    stages: Sequence[int]
    channels: Sequence[int]
    width: int
    blocks: int
    grid: int
    classes: int
    levels: Sequence[int]
    features: int


class ConvNorm(nn.Module):
    """A convolution and group normalisation, named as in `downsample`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = SameConv2d(inputs, outputs, kernel, stride, bias=False)
        self.norm = nn.GroupNorm(GROUPS, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, first: bool) -> None:
        super().__init__()
        middle = outputs // 4
        if first:
            self.downsample = ConvNorm(inputs, outputs, 1, stride)
        self.conv1 = SameConv2d(inputs, middle, 1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, middle)
        self.conv2 = SameConv2d(middle, middle, 3, stride, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, middle)
        self.conv3 = SameConv2d(middle, outputs, 1, bias=False)
        self.norm3 = nn.GroupNorm(GROUPS, outputs)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        skip = self.downsample(x) if self.first else x
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(self.norm3(self.conv3(x)) + skip)


class Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int) -> None:
        super().__init__()
        rest = (Bottleneck(outputs, outputs, 1, first=False) for _ in range(blocks - 1))
        self.blocks = nn.Sequential(Bottleneck(inputs, outputs, stride, first=True), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Backbone(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.stem = ConvNorm(3, params.stem, 7, 2)
        inputs = (params.stem, *params.channels)
        self.stages = nn.ModuleList(
            Stage(inputs[i], inputs[i + 1], params.stages[i], 1 if i == 0 else 2) for i in range(3)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) -> maps at 1/4, 1/8 and 1/16."""
        x = pad_same(F.relu(self.stem(x)), 3, 2, value=-math.inf)
        maps = [F.max_pool2d(x, 3, 2)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def standardise(self) -> None:
        """Give every kernel mean 0 and variance 1, once; the network was trained that way."""
        for module in self.modules():
            if isinstance(module, SameConv2d):
                kernel = module.weight.detach().double()
                var, mean = torch.var_mean(kernel, dim=(1, 2, 3), correction=0, keepdim=True)
                kernel = (kernel - mean) / (var + STANDARD_EPS).sqrt()
                module.weight = nn.Parameter(kernel.to(module.weight.dtype))


class PatchEmbed(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.backbone = Backbone(params)
        self.proj = nn.Conv2d(params.channels[-1], params.width, 1)


class Transformer(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.grid = params.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, params.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, params.grid**2 + 1, params.width))
        self.patch_embed = PatchEmbed(params)
        self.blocks = nn.ModuleList(
            Block(params.width, params.width // HEAD_WIDTH) for _ in range(params.blocks)
        )
        self.norm = nn.LayerNorm(params.width, NORM_EPS)  # unused, as is the head
        self.head = nn.Linear(params.width, params.classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) -> two maps of the convolutions, then the tokens behind two blocks."""
        *fine, coarse = self.patch_embed.backbone(x)
        tokens = self.patch_embed.proj(coarse)
        positions = self.positions(tokens.shape[2:])
        tokens = rearrange(tokens, "b c h w -> b (h w) c")
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1) + positions
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in TAPS:
                fine.append(tokens)
        return fine

    def positions(self, size: Sequence[int]) -> Tensor:
        """The position embedding for a grid of that height and width, (1, 1 + tokens, width)."""
        patches = to_grid(self.pos_embed[:, 1:], self.grid)
        patches = F.interpolate(patches, tuple(size), mode="bilinear")
        patches = rearrange(patches, "b c h w -> b (h w) c")
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)


class Pretrained(nn.Module):
    """The transformer, and what makes maps of its tokens."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        width = params.width
        self.model = Transformer(params)
        self.act_postprocess3 = nn.ModuleDict(
            {"0": Readout(width), "3": nn.Conv2d(width, params.levels[2], 1)}
        )
        level = params.levels[3]
        self.act_postprocess4 = nn.ModuleDict(
            {
                "0": Readout(width),
                "3": nn.Conv2d(width, level, 1),
                "4": nn.Conv2d(level, level, 3, 2, padding=1),
            }
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        first, second, *tokens = self.model(x)
        rows = x.shape[2] // 16
        third, fourth = (
            post["3"](to_grid(post["0"](t), rows))
            for post, t in zip((self.act_postprocess3, self.act_postprocess4), tokens, strict=True)
        )
        return [first, second, third, self.act_postprocess4["4"](fourth)]


class Midas(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.pretrained = Pretrained(params)
        self.scratch = Scratch(params.levels, params.features)
        self.scratch.output_conv = depth_head(params.features)

    def forward(self, x: Tensor) -> Tensor:
        """Inverse depth up to scale and shift.

        Args:
            x: (b, 3, h, w), RGB in -1 to 1; sides are multiples of 32.

        Returns:
            (b, 1, h, w), 0 and above, near is large.
        """
        return self.scratch.output_conv(self.scratch.fuse(self.pretrained(x))[-1])


def build(state: Mapping[str, Any]) -> Midas:
    """The network of a published file, a training checkpoint included."""
    if "optimizer" in state:
        state = state["model"]
    levels, features = scratch_sizes(state, "scratch.")
    positions, width = state["pretrained.model.pos_embed"].shape[1:]
    params = Params(
        stem=len(state[f"{_BACKBONE}stem.conv.weight"]),
        stages=[count_blocks(state, f"{_BACKBONE}stages.{i}.blocks.") for i in range(3)],
        channels=[len(state[f"{_BACKBONE}stages.{i}.blocks.0.norm3.weight"]) for i in range(3)],
        width=width,
        blocks=count_blocks(state, "pretrained.model.blocks."),
        grid=math.isqrt(positions - 1),
        classes=len(state["pretrained.model.head.bias"]),
        levels=levels,
        features=features,
    )
    network = fill(lambda: Midas(params), state)
    network.pretrained.model.patch_embed.backbone.standardise()
    return network
