"""Depth Anything: DINOv2 and the decoder of the dense prediction transformer.

Yang et al. (2024), arXiv:2401.10891 (v1) and arXiv:2406.09414 (v2). Both have the same layout and
differ in the blocks that the decoder reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import count_blocks, fill
from .dpt import Scratch, enlarge, scratch_sizes
from .vit import NORM_EPS, Block, PatchEmbed, to_grid

PATCH = 14
GRID = 37
"""The position embedding was trained on 37 x 37 patches, 518 x 518 pixels."""
HEAD_WIDTH = 64

V2_TAPS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23)}


@dataclass(frozen=True)
class Params:
    """Sizes of one of the published networks.

    Attributes:
        width: channels of a token.
        blocks: how many.
        channels: of the four levels, finest first.
        features: width of the decoder.
        taps: blocks that the levels are read from.
    """

    width: int
    blocks: int
    channels: Sequence[int]
    features: int
    taps: Sequence[int]


class DinoV2(nn.Module):
    """Oquab et al. (2023), arXiv:2304.07193, without its training parts."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.taps = params.taps
        self.cls_token = nn.Parameter(torch.zeros(1, 1, params.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, GRID**2 + 1, params.width))
        self.mask_token = nn.Parameter(torch.zeros(1, params.width))
        self.patch_embed = PatchEmbed(3, params.width, PATCH)
        self.blocks = nn.ModuleList(
            Block(params.width, params.width // HEAD_WIDTH, scaled=True)
            for _ in range(params.blocks)
        )
        self.norm = nn.LayerNorm(params.width, NORM_EPS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) -> the tokens of every tap, normalised, without the class token."""
        size = (x.shape[2] // PATCH, x.shape[3] // PATCH)
        tokens = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = tokens + self.positions(size)
        found = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in self.taps:
                found.append(self.norm(tokens)[:, 1:])
        return found

    def positions(self, size: tuple[int, int]) -> Tensor:
        """The position embedding for a grid of that height and width, (1, 1 + tokens, width)."""
        if size == (GRID, GRID):
            return self.pos_embed
        table = self.pos_embed.float()
        patches = to_grid(table[:, 1:], GRID)
        # Parity: DINOv2 hands over these factors, not the size, so positions lie a little off.
        factors = tuple((side + 0.1) / GRID for side in size)
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic")
        resized = torch.cat([table[:, :1], rearrange(patches, "b c h w -> b (h w) c")], dim=1)
        return resized.to(self.pos_embed.dtype)


class Head(nn.Module):
    """Turns the tokens of four blocks into one map."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        channels = params.channels
        self.projects = nn.ModuleList(nn.Conv2d(params.width, c, 1) for c in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, 2, padding=1),
            ]
        )
        features = params.features
        self.scratch = Scratch(channels, features)
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1), nn.ReLU()
        )

    def forward(self, tokens: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """(b, tokens, width) four times -> (b, 1, 14 * height, 14 * width) of the grid."""
        parts = zip(tokens, self.projects, self.resize_layers, strict=True)
        levels = [resize(project(to_grid(t, size[0]))) for t, project, resize in parts]
        fused = self.scratch.output_conv1(self.scratch.fuse(levels)[-1])
        return self.scratch.output_conv2(enlarge(fused, (PATCH * size[0], PATCH * size[1])))


class DepthAnything(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.pretrained = DinoV2(params)
        self.depth_head = Head(params)

    def forward(self, x: Tensor) -> Tensor:
        """Inverse depth up to scale and shift.

        Args:
            x: (b, 3, h, w), ImageNet-normalised RGB; sides are multiples of 14.

        Returns:
            (b, 1, h, w), 0 and above, near is large.
        """
        size = (x.shape[2] // PATCH, x.shape[3] // PATCH)
        return self.depth_head(self.pretrained(x), size)


def build_v1(state: Mapping[str, Tensor]) -> DepthAnything:
    """The network of a v1 file, which reads the last four blocks."""
    blocks = count_blocks(state, "pretrained.blocks.")
    return _build(state, blocks, range(blocks - 4, blocks))


def build_v2(state: Mapping[str, Tensor]) -> DepthAnything:
    """The network of a v2 file, which reads blocks spread over the depth.

    Raises:
        KeyError: neither 12 nor 24 blocks.
    """
    blocks = count_blocks(state, "pretrained.blocks.")
    return _build(state, blocks, V2_TAPS[blocks])


BUILDS = {1: build_v1, 2: build_v2}


def _build(state: Mapping[str, Tensor], blocks: int, taps: Sequence[int]) -> DepthAnything:
    channels, features = scratch_sizes(state, "depth_head.scratch.")
    width = state["pretrained.cls_token"].shape[2]
    params = Params(width, blocks, channels, features, tuple(taps))
    return fill(lambda: DepthAnything(params), state)
