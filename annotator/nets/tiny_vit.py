"""TinyViT as MobileSAM's picture encoder: 1/16 of the picture's size, 256 channels.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022,
arXiv:2207.10666; the last stage keeps the size of the one before it, and a neck follows (Zhang et
al., "Faster Segment Anything", arXiv:2306.14289). Key names of the published file.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

DIMS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
WIDENING = 4
OUT = 256


class ConvNorm(nn.Module):
    """Convolution and batch normalisation."""

    def __init__(
        self, channels_in: int, channels_out: int, size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            channels_in, channels_out, size, stride, size // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.c(x))


class LayerNorm2d(nn.Module):
    """Normalisation over the channels of (b, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, 1e-6).movedim(-1, 1)


class PatchEmbed(nn.Module):
    """Two convolutions that each halve the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, DIMS[0] // 2, 3, 2), nn.GELU(), ConvNorm(DIMS[0] // 2, DIMS[0], 3, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class ConvBlock(nn.Module):
    """Widen, filter each channel by itself, narrow; a block of the first stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = width * WIDENING
        self.conv1 = ConvNorm(width, wide)
        self.conv2 = ConvNorm(wide, wide, 3, groups=wide)
        self.conv3 = ConvNorm(wide, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.gelu(self.conv1(x)))
        return F.gelu(x + self.conv3(F.gelu(y)))


class Downsample(nn.Module):
    """From one stage to the next: other channels, and half the size except before the last."""

    def __init__(self, width: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, made)
        self.conv2 = ConvNorm(made, made, 3, stride, groups=made)
        self.conv3 = ConvNorm(made, made)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Self-attention in a window; a learnt bias for each distance, equal in all directions."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, width * 3)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """(windows, window², width) to the same."""
        qkv = self.qkv(self.norm(x))
        q, k, v = rearrange(qkv, "b n (heads qkv c) -> qkv b heads n c", heads=self.heads, qkv=3)
        bias = self.attention_biases[:, distances(self.window).to(x.device)]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(rearrange(mixed, "b heads n c -> b n (heads c)"))


@functools.cache
def distances(window: int) -> Tensor:
    """Number of the distance between each two places of a window, (window², window²).

    Distances are counted row by row: sideways first.
    """
    place = torch.arange(window)
    apart = (place[:, None] - place).abs()
    down = apart[:, None, :, None]
    across = apart[None, :, None, :]
    return rearrange(down * window + across, "y x v u -> (y x) (v u)")


class Mlp(nn.Module):
    """Norm, two layers with a GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width * 4)
        self.fc2 = nn.Linear(width * 4, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class AttentionBlock(nn.Module):
    """Attention in windows, a convolution per channel that crosses their borders, and an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.mlp = Mlp(width)
        self.local_conv = ConvNorm(width, width, 3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_conv(x + self._in_windows(x))
        return x + self.mlp(x.movedim(1, -1)).movedim(-1, 1)

    def _in_windows(self, x: Tensor) -> Tensor:
        """Attention in windows of (b, c, h, w), which is padded with zeros to whole windows."""
        side, (height, width) = self.attn.window, x.shape[2:]
        padded = F.pad(x, (0, -width % side, 0, -height % side))
        cells = {"i": side, "j": side, "h": padded.shape[2] // side, "b": len(x)}
        windows = rearrange(padded, "b c (h i) (w j) -> (b h w) (i j) c", i=side, j=side)
        mixed = self.attn(windows)
        whole = rearrange(mixed, "(b h w) (i j) c -> b c (h i) (w j)", **cells)
        return whole[:, :, :height, :width]


class Stage(nn.Module):
    """Blocks of one size, and the way to the next one."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width, heads, window = DIMS[index], HEADS[index], WINDOWS[index]
        self.blocks = nn.ModuleList(
            AttentionBlock(width, heads, window) if index else ConvBlock(width)
            for _ in range(DEPTHS[index])
        )
        is_last = index + 1 == len(DIMS)
        stride = 1 if index + 2 == len(DIMS) else 2
        self.downsample = None if is_last else Downsample(width, DIMS[index + 1], stride)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyViT(nn.Module):
    """Picture (b, 3, h, w), centred and scaled, to features (b, 256, h/16, w/16)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.layers = nn.ModuleList(Stage(index) for index in range(len(DIMS)))
        self.neck = nn.Sequential(
            nn.Conv2d(DIMS[-1], OUT, 1, bias=False),
            LayerNorm2d(OUT),
            nn.Conv2d(OUT, OUT, 3, padding=1, bias=False),
            LayerNorm2d(OUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)
