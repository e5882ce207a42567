"""UniFormer with a UPerNet head: one score per class and pixel.

Li et al., "UniFormer: Unifying Convolution and Self-attention for Visual Recognition",
arXiv:2201.09450; Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018,
arXiv:1807.10221. Key names of the published ADE20K model, whose auxiliary head is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import count_blocks, fill, without_prefix
from .resnet import ConvUnit

POOLS = (1, 2, 3, 6)
_EPS = 1e-6


@dataclass(frozen=True)
class UniFormerParams:
    """Sizes of the network; the defaults are those of the published file (UniFormer-S).

    Attributes:
        dims: channels of the four stages.
        depths: blocks of the four stages; the first two convolve, the others attend.
        head_dim: channels of one attention head.
        channels: width of the UPerNet head.
        classes: number of classes.
    """

    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 8, 3)
    head_dim: int = 64
    channels: int = 512
    classes: int = 150


class PatchEmbed(nn.Module):
    """A convolution whose stride is its size, and a norm over channels."""

    def __init__(self, channels_in: int, channels_out: int, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels_out)
        self.proj = nn.Conv2d(channels_in, channels_out, size, size)

    def forward(self, x: Tensor) -> Tensor:
        return _over_channels(self.norm, self.proj(x))


class Mlp(nn.Module):
    """Two layers with a GELU, linear or 1 x 1 convolutions."""

    def __init__(self, make: type[nn.Module], width: int, *form: int) -> None:
        super().__init__()
        self.fc1 = make(width, width * 4, *form)
        self.fc2 = make(width * 4, width, *form)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class ConvBlock(nn.Module):
    """A block of the early stages: neighbours are mixed by a 5 x 5 convolution per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.attn = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = Mlp(nn.Conv2d, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Self-attention of all tokens, (b, tokens, width)."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, width * 3)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = {"qkv": 3, "c": self.head_dim}
        q, k, v = rearrange(self.qkv(x), "b n (qkv heads c) -> qkv b heads n c", **heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(mixed, "b heads n c -> b n (heads c)"))


class AttentionBlock(nn.Module):
    """A block of the late stages: every place attends to every other."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.pos_embed = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, head_dim)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = Mlp(nn.Linear, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        tokens = rearrange(x, "b c h w -> b (h w) c")
        tokens = tokens + self.attn(self.norm1(tokens))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return rearrange(tokens, "b (h w) c -> b c h w", h=x.shape[2])


class Backbone(nn.Module):
    """Picture to features at 1/4, 1/8, 1/16 and 1/32 of its size."""

    def __init__(self, params: UniFormerParams) -> None:
        super().__init__()
        widths = (3, *params.dims)
        for i, (width, depth) in enumerate(zip(params.dims, params.depths, strict=True), 1):
            blocks = [
                ConvBlock(width) if i <= 2 else AttentionBlock(width, params.head_dim)
                for _ in range(depth)
            ]
            setattr(self, f"patch_embed{i}", PatchEmbed(widths[i - 1], width, 4 if i == 1 else 2))
            setattr(self, f"blocks{i}", nn.ModuleList(blocks))
            setattr(self, f"norm{i}", nn.LayerNorm(width, eps=_EPS))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for i in range(1, 5):
            x = self.get_submodule(f"patch_embed{i}")(x)
            for block in self.get_submodule(f"blocks{i}").children():
                x = block(x)
            features.append(_over_channels(self.get_submodule(f"norm{i}"), x))
        return features


class UPerHead(nn.Module):
    """Features of four scales to scores at the finest of them."""

    def __init__(self, dims: Sequence[int], channels: int, classes: int) -> None:
        super().__init__()
        *finer, coarsest = dims
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), ConvUnit(coarsest, channels, 1))
            for size in POOLS
        )
        self.bottleneck = ConvUnit(coarsest + len(POOLS) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvUnit(dim, channels, 1) for dim in finer)
        self.fpn_convs = nn.ModuleList(ConvUnit(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvUnit(len(dims) * channels, channels, 3)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *finer, coarsest = features
        pools = [_to_size_of(coarsest, pool(coarsest)) for pool in self.psp_modules]
        top = self.bottleneck(torch.cat((coarsest, *pools), dim=1))
        levels = [top]
        for conv, feature in zip(self.lateral_convs[::-1], finer[::-1], strict=True):
            lateral = conv(feature)
            levels.insert(0, lateral + _to_size_of(lateral, levels[0]))
        levels = [conv(level) for conv, level in zip(self.fpn_convs, levels[:-1], strict=True)]
        together = [_to_size_of(levels[0], level) for level in (*levels, top)]
        return self.conv_seg(self.fpn_bottleneck(torch.cat(together, dim=1)))


class UniFormer(nn.Module):
    """Picture to class scores.

    Input (b, 3, h, w) centred and scaled RGB, sides at least 32; output (b, classes, h/4, w/4).
    """

    def __init__(self, params: UniFormerParams) -> None:
        super().__init__()
        self.backbone = Backbone(params)
        self.decode_head = UPerHead(params.dims, params.channels, params.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode_head(self.backbone(x))


def build(state: Mapping[str, Any]) -> UniFormer:
    """The network of a published file: {"state_dict": tensors}; sizes are read from the tensors."""
    state = without_prefix(state.get("state_dict", state))
    state = {k: v for k, v in state.items() if not k.startswith("auxiliary_head.")}
    classes, channels = state["decode_head.conv_seg.weight"].shape[:2]
    stages = range(1, 5)
    params = UniFormerParams(
        dims=tuple(len(state[f"backbone.patch_embed{i}.proj.bias"]) for i in stages),
        depths=tuple(count_blocks(state, f"backbone.blocks{i}.") for i in stages),
        channels=channels,
        classes=classes,
    )
    return fill(lambda: UniFormer(params), state)


def _over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm over the channels of (b, c, h, w)."""
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def _to_size_of(wanted: Tensor, x: Tensor) -> Tensor:
    if x.shape[2:] == wanted.shape[2:]:
        return x
    return F.interpolate(x, wanted.shape[2:], mode="bilinear", align_corners=False)
