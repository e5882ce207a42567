"""Spatial transformer of latent diffusion U-Nets (Rombach et al., arXiv 2112.10752).

Attribute names follow the published checkpoints, because extensions hook them by name.
Token tensors are (b, n, c), feature maps (b, c, h, w).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention; self attention when no context is given."""

    def __init__(
        self, query_dim: int, context_dim: int | None = None, heads: int = 8, dim_head: int = 64
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        context_dim = query_dim if context_dim is None else context_dim
        self.heads = heads
        self.scale = dim_head**-0.5
        self.to_q = nn.Linear(query_dim, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, query_dim), nn.Dropout(0.0))

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, **_: object
    ) -> Tensor:
        """Attend from x (b, n, c) to context (b, m, d), or to x itself.

        Args:
            x: query tokens (b, n, c).
            context: key and value tokens (b, m, d).
            mask: (b, m) boolean, True where a context token may be seen.
        """
        context = x if context is None else context
        b, n, _c = x.shape
        q, k, v = (
            t.view(b, t.shape[1], self.heads, -1).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        seen = None if mask is None else mask.view(b, 1, 1, -1).bool()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale)
        return self.to_out(out.transpose(1, 2).reshape(b, n, -1))


class GEGLU(nn.Module):
    """Gated linear unit with an exact GELU gate; the value is the first half."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, dim_out * 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, n, dim_in) to (b, n, dim_out)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU, dropout, linear; four times wider inside."""

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        inner = dim * mult
        self.net = nn.Sequential(GEGLU(dim, inner), nn.Dropout(0.0), nn.Linear(inner, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, n, dim) to (b, n, dim)."""
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    """Self attention, cross attention, feed forward, each with a residual."""

    def __init__(self, dim: int, heads: int, dim_head: int, context_dim: int | None) -> None:
        super().__init__()
        self.attn1 = CrossAttention(dim, None, heads, dim_head)
        self.ff = FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, heads, dim_head)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.disable_self_attn = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map tokens (b, n, dim), seeing context (b, m, context_dim)."""
        x = self.attn1(self.norm1(x), context=None) + x
        x = self.attn2(self.norm2(x), context=context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, with an outer residual.

    SD1 projects with 1x1 convolutions, SD2 and SDXL with linear layers (`use_linear`).
    """

    def __init__(
        self,
        in_channels: int,
        heads: int,
        dim_head: int,
        depth: int = 1,
        context_dim: int | None = None,
        use_linear: bool = False,
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.in_channels = in_channels
        self.use_linear = use_linear
        self.norm = nn.GroupNorm(32, in_channels, eps=1e-6)
        self.proj_in: nn.Module
        self.proj_out: nn.Module
        if use_linear:
            self.proj_in = nn.Linear(in_channels, inner)
            self.proj_out = nn.Linear(inner, in_channels)
        else:
            self.proj_in = nn.Conv2d(in_channels, inner, 1)
            self.proj_out = nn.Conv2d(inner, in_channels, 1)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(inner, heads, dim_head, context_dim) for _ in range(depth)
        )
        for p in self.proj_out.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map (b, c, h, w) to the same shape, seeing context (b, m, context_dim)."""
        b, _c, h, w = x.shape
        tokens = self.norm(x)
        if not self.use_linear:
            tokens = self.proj_in(tokens)
        tokens = tokens.flatten(2).transpose(1, 2)
        if self.use_linear:
            tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context=context)
        if self.use_linear:
            tokens = self.proj_out(tokens)
        out = tokens.transpose(1, 2).reshape(b, -1, h, w)
        if not self.use_linear:
            out = self.proj_out(out)
        return out + x
