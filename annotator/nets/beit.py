"""BEiT: a vision transformer that knows positions only by their distance.

Bao et al. (2022), arXiv:2106.08254; key names as in timm 0.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import count_blocks
from .vit import NORM_EPS, Mlp, PatchEmbed, attend, to_grid

PATCH = 16
TO_CLASS, FROM_CLASS, CLASS_ITSELF = -2, -3, -1
"""Rows at the end of a table of biases, for pairs that have no distance."""


@dataclass(frozen=True)
class Params:
    """Sizes of the network.

    Attributes:
        width: channels of a token.
        blocks: how many.
        heads: attention heads.
        grid: side of the grid of tokens that the tables of biases are for.
        classes: of the classifier that lies unused in the file.
        taps: blocks whose tokens are handed out.
    """

    width: int
    blocks: int
    heads: int
    grid: int
    classes: int
    taps: Sequence[int]


class Attention(nn.Module):
    """Attention without a bias for keys, with one per distance."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        width = params.width
        self.grid, self.heads = params.grid, params.heads
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        distances = (2 * params.grid - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(distances + 3, params.heads))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, size: Sequence[int], pairs: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias)
        return self.proj(
            attend(qkv, self.heads, rearrange(self.biases(size)[pairs], "q k heads -> 1 heads q k"))
        )

    def biases(self, size: Sequence[int]) -> Tensor:
        """The table for a grid of that height and width, (rows, heads)."""
        table = self.relative_position_bias_table
        distances = to_grid(table[None, :-3], 2 * self.grid - 1)
        wanted = tuple(2 * side - 1 for side in size)
        resized = F.interpolate(distances, wanted, mode="bilinear")
        return torch.cat([rearrange(resized, "1 heads h w -> (h w) heads"), table[-3:]])


class Block(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        width = params.width
        self.gamma_1 = nn.Parameter(torch.ones(width))
        self.gamma_2 = nn.Parameter(torch.ones(width))
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.attn = Attention(params)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, size: Sequence[int], pairs: Tensor) -> Tensor:
        x = x + self.gamma_1 * self.attn(self.norm1(x), size, pairs)
        return x + self.gamma_2 * self.mlp(self.norm2(x))


class Beit(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.taps = params.taps
        self.cls_token = nn.Parameter(torch.zeros(1, 1, params.width))
        self.patch_embed = PatchEmbed(3, params.width, PATCH)
        self.blocks = nn.ModuleList(Block(params) for _ in range(params.blocks))
        self.fc_norm = nn.LayerNorm(params.width, NORM_EPS)  # unused, as is the head
        self.head = nn.Linear(params.width, params.classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(b, 3, h, w) -> the tokens of every tap, the class token first; no final norm."""
        size = (x.shape[2] // PATCH, x.shape[3] // PATCH)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        pairs = distance_rows(size).to(x.device)
        found = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, size, pairs)
            if number in self.taps:
                found.append(tokens)
        return found


def distance_rows(size: Sequence[int]) -> Tensor:
    """The row of the table of biases that every pair of tokens reads.

    Args:
        size: height and width of the grid.

    Returns:
        int64 (1 + tokens, 1 + tokens), asking token first; the class token is number 0.
    """
    height, width = size
    rows, columns = (
        axis.flatten()
        for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    down = rows[:, None] - rows[None] + height - 1
    right = columns[:, None] - columns[None] + width - 1
    count = (2 * height - 1) * (2 * width - 1) + 3
    pairs = F.pad(down * (2 * width - 1) + right, (1, 0, 1, 0))
    pairs[0, :] = count + FROM_CLASS
    pairs[:, 0] = count + TO_CLASS
    pairs[0, 0] = count + CLASS_ITSELF
    return pairs


def read_params(state: Mapping[str, Tensor], prefix: str, taps: Sequence[int]) -> Params:
    """Sizes of the transformer that a file holds.

    Raises:
        KeyError: it holds none.
    """
    rows, heads = state[f"{prefix}blocks.0.attn.relative_position_bias_table"].shape
    return Params(
        width=state[f"{prefix}cls_token"].shape[2],
        blocks=count_blocks(state, f"{prefix}blocks."),
        heads=heads,
        grid=(round((rows - 3) ** 0.5) + 1) // 2,
        classes=len(state[f"{prefix}head.bias"]),
        taps=taps,
    )
