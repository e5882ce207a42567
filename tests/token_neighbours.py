"""Neighbours that change the tokens of an attention: token merging, and hypertile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from minildm.attention import BasicTransformerBlock
from torch import Tensor, nn


def merge(x: Tensor) -> Tensor:
    """Every fourth token becomes one with the next, and the merged ones go to the end."""
    return torch.cat([x[:, 2::4], x[:, 3::4], (x[:, ::4] + x[:, 1::4]) / 2], dim=1)


def unmerge(x: Tensor) -> Tensor:
    third, fourth, merged = x.chunk(3, dim=1)
    return torch.stack([merged, merged, third, fourth], dim=2).flatten(1, 2)


class ToMeBlock(BasicTransformerBlock):
    """A transformer block as token merging makes it, by the name that it gives to the class."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = unmerge(self.attn1(merge(self.norm1(x)), context=None)) + x
        x = unmerge(self.attn2(merge(self.norm2(x)), context=context)) + x
        return self.ff(self.norm3(x)) + x


def tile(x: Tensor) -> Tensor:
    """Two rows and two columns of tiles of a picture twice as wide as high, as hypertile does."""
    h = round((x.shape[1] / 2) ** 0.5)
    sizes = {"nh": 2, "nw": 2, "h": h // 2, "w": h}
    return rearrange(x, "b (nh h nw w) c -> (b nh nw) (h w) c", **sizes)


def untile(x: Tensor) -> Tensor:
    h = round((x.shape[1] / 2) ** 0.5)
    sizes = {"nh": 2, "nw": 2, "h": h, "w": 2 * h}
    return rearrange(x, "(b nh nw) (h w) c -> b (nh h nw w) c", **sizes)


def merge_tokens(blocks: Sequence[nn.Module]) -> None:
    for block in blocks:
        block.__class__ = ToMeBlock


def tile_tokens(blocks: Sequence[nn.Module]) -> None:
    for block in blocks:
        forward = block.attn1.forward
        block.attn1.forward = lambda x, f=forward, **given: untile(f(tile(x), **given))
