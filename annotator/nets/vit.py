"""Parts of vision transformers that several networks share.

Dosovitskiy et al. (2021), arXiv:2010.11929; key names as in timm and DINOv2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

NORM_EPS = 1e-6


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(self.qkv(x), self.heads))


class LayerScale(nn.Module):
    """A factor per channel (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and MLP, each behind a norm and added to what came in.

    Args:
        width: channels of a token.
        heads: attention heads.
        scaled: whether the branches have a `LayerScale`.
    """

    def __init__(self, width: int, heads: int, *, scaled: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp = Mlp(width, 4 * width)
        self.ls2 = LayerScale(width) if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Splits a picture into square patches, one token each."""

    def __init__(self, channels: int, width: int, size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, size, size)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.proj(x), "b c h w -> b (h w) c")


def attend(qkv: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Attention of every token to all.

    Args:
        qkv: (b, tokens, 3 * width).
        heads: how many the width is divided into.
        bias: added to the attention before its softmax, broadcastable to
            (b, heads, tokens, tokens).

    Returns:
        (b, tokens, width).
    """
    q, k, v = rearrange(qkv, "b n (qkv heads c) -> qkv b heads n c", qkv=3, heads=heads)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return rearrange(mixed, "b heads n c -> b n (heads c)")


def to_grid(tokens: Tensor, height: int) -> Tensor:
    """(b, height * width, channels) -> (b, channels, height, width)."""
    return rearrange(tokens, "b (h w) c -> b c h w", h=height)
