"""Spatial transformer of latent diffusion U-Nets (Rombach et al., arXiv 2112.10752).

Attribute names and the way parts are called follow the WebUI's, because extensions hook them.
Token tensors are (b, n, c), feature maps (b, c, h, w).
"""

from __future__ import annotations

from torch import Tensor, nn

from .shared import cldm


class CrossAttention(cldm.Attention):
    """Multi-head attention; self attention when no context is given."""

    def __init__(self, query_dim: int, context_dim: int | None, heads: int) -> None:
        super().__init__(query_dim, query_dim if context_dim is None else context_dim, heads)

    def forward(self, x: Tensor, context: Tensor | None = None, **_: object) -> Tensor:
        """Attend from x (b, n, c) to context (b, m, d), or to x itself."""
        return super().forward(x, x if context is None else context)


class BasicTransformerBlock(nn.Module):
    """Self attention, cross attention, feed forward, each with a residual."""

    def __init__(self, dim: int, heads: int, context_dim: int | None) -> None:
        super().__init__()
        self.attn1 = CrossAttention(dim, None, heads)
        self.ff = cldm.FeedForward(dim)
        self.attn2 = CrossAttention(dim, context_dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map tokens (b, n, dim), seeing context (b, m, context_dim)."""
        x = self.attn1(self.norm1(x), context=None) + x
        x = self.attn2(self.norm2(x), context=context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(cldm.SpatialTransformer):
    """Transformer blocks over the pixels of a feature map, with an outer residual.

    SD1 projects with 1x1 convolutions, SD2 and SDXL with linear layers (`use_linear`).
    """

    def __init__(
        self, width: int, heads: int, depth: int, context_dim: int | None, use_linear: bool
    ) -> None:
        super().__init__(
            cldm.BlockParams("transformer", width, width, 0, heads, use_linear), context_dim
        )
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(width, heads, context_dim) for _ in range(depth)
        )
        for p in self.proj_out.parameters():
            nn.init.zeros_(p)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        """Map h (b, c, h, w) to the same shape, seeing context (b, m, context_dim).

        Tokens stay a view of the feature map: a copy, as the control network makes it, gives other
        last bits, and recorded pictures are to stay what they are.
        """
        b, _c, height, width = h.shape
        tokens = self.norm(h)
        if not self.linear:
            tokens = self.proj_in(tokens)
        tokens = tokens.flatten(2).transpose(1, 2)
        if self.linear:
            tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context=context)
        if self.linear:
            tokens = self.proj_out(tokens)
        out = tokens.transpose(1, 2).reshape(b, -1, height, width)
        return (out if self.linear else self.proj_out(out)) + h
