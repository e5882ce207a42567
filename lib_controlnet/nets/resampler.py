"""Perceiver resampler: any number of features become a fixed number of tokens.

Jaegle et al. (2021), arXiv:2103.03206; Alayrac et al. (2022), "Flamingo", arXiv:2204.14198; as the
networks of the IP-Adapter family use it. Names follow the published files; tokens are (b, n, c).
Nothing here draws random numbers: networks are built on the meta device and filled from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Shapes = Mapping[str, Sequence[int]]

HEAD_WIDTH: Final = 64
"""Channels of an attention head in all published networks."""


@dataclass(frozen=True)
class ResamplerParams:
    """Sizes of a resampler.

    Attributes:
        features: channels of what it reads.
        width: channels between its layers.
        inner: channels of its attention, a multiple of `HEAD_WIDTH`.
        hidden: channels inside its feed-forward layers.
        depth: layers.
        queries: tokens that it begins with, learned; 0 where it is given them.
        output: channels of its tokens.
    """

    features: int
    width: int
    inner: int
    hidden: int
    depth: int
    queries: int
    output: int


def read_resampler_params(shapes: Shapes, prefix: str = "") -> ResamplerParams:
    """Derive the sizes from the shapes of a file's tensors below a prefix.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    width, features = shapes[f"{prefix}proj_in.weight"]
    depth = 0
    while f"{prefix}layers.{depth}.0.to_q.weight" in shapes:
        depth += 1
    return ResamplerParams(
        features=features,
        width=width,
        inner=shapes[f"{prefix}layers.0.0.to_q.weight"][0],
        hidden=shapes[f"{prefix}layers.0.1.1.weight"][0],
        depth=depth,
        queries=shapes.get(f"{prefix}latents", (0, 0))[1],
        output=shapes[f"{prefix}proj_out.weight"][0],
    )


class PerceiverAttention(nn.Module):
    """Attention of some tokens to features, and to themselves."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.heads = max(inner // HEAD_WIDTH, 1)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """What is added to tokens (b, t, width) that look at features (b, n, width)."""
        tokens = self.norm2(tokens)
        seen = torch.cat([self.norm1(features), tokens], dim=1)
        q, k, v = (
            rearrange(part, "b n (heads c) -> b heads n c", heads=self.heads)
            for part in (self.to_q(tokens), *self.to_kv(seen).chunk(2, dim=-1))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(mixed, "b heads n c -> b n (heads c)"))


class FeedForward(nn.Sequential):
    """A norm and two layers; what is added to tokens."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, hidden, bias=False),
            nn.GELU(),
            nn.Linear(hidden, width, bias=False),
        )


class ResamplerLayer(nn.ModuleList):
    """Attention, then feed-forward."""

    def __init__(self, width: int, inner: int, hidden: int) -> None:
        super().__init__([PerceiverAttention(width, inner), FeedForward(width, hidden)])

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Tokens (b, t, width) after one look at features (b, n, width)."""
        tokens = tokens + self[0](features, tokens)
        return tokens + self[1](tokens)


class Resampler(nn.Module):
    """Features as tokens, by learned queries or given ones."""

    def __init__(self, params: ResamplerParams) -> None:
        """Build the layers; use inside `torch.device("meta")` to allocate nothing."""
        super().__init__()
        self.params = params
        if params.queries:
            self.latents = nn.Parameter(torch.zeros(1, params.queries, params.width))
        self.proj_in = nn.Linear(params.features, params.width)
        self.layers = nn.ModuleList(
            ResamplerLayer(params.width, params.inner, params.hidden) for _ in range(params.depth)
        )
        self.proj_out = nn.Linear(params.width, params.output)
        self.norm_out = nn.LayerNorm(params.output)

    def forward(self, features: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Resample.

        Args:
            features: (b, n, features).
            tokens: (b, t, width) to begin with; None for the learned ones.

        Returns:
            (b, t, output).
        """
        features = self.proj_in(features)
        if tokens is None:
            tokens = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            tokens = layer(features, tokens)
        return self.norm_out(self.proj_out(tokens))
