"""T2I-Adapter, style: what CLIP sees of a picture as tokens (Mou et al., arXiv:2302.08453).

A few learned tokens look, in a small transformer, at the last states of CLIP ViT-L's vision
network. Module names follow the original checkpoints (`transformer_layes`, sic). Nothing here draws
random numbers: networks are built on the meta device and filled from a file.
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

HEADS: Final = 8
"""Of the published model; no shape tells."""

LAYERS: Final = "transformer_layes"


@dataclass(frozen=True)
class StyleParams:
    """Hyper-parameters of a style adapter, all of them read from tensor shapes.

    Attributes:
        width: of the vision network's states.
        context: width of the text's tokens.
        tokens: how many it makes.
        depth: number of blocks.
    """

    width: int
    context: int
    tokens: int
    depth: int


def read_style_params(shapes: Shapes) -> StyleParams:
    """Derive every hyper-parameter from the shapes of a file's tensors.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
        IndexError: one has too few axes.
    """
    depth = 0
    while f"{LAYERS}.{depth}.attn.in_proj_weight" in shapes:
        depth += 1
    width, context = shapes["proj"][0], shapes["proj"][1]
    return StyleParams(width, context, shapes["style_embedding"][1], depth)


class Attention(nn.Module):
    """Self-attention, with query, key and value in one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (b, n, width) to the same shape."""
        every = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = rearrange(every, "b n (three h d) -> three b h n d", three=3, h=HEADS)
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(rearrange(seen, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """Two layers with CLIP's fast approximation of GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (b, n, width) to the same shape."""
        h = self.c_fc(x)
        return self.c_proj(h * torch.sigmoid(1.702 * h))


class Block(nn.Module):
    """A block of the transformer, normalised before each part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = Attention(width)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (b, n, width) to the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class StyleAdapter(nn.Module):
    """A style adapter for SD1."""

    def __init__(self, params: StyleParams) -> None:
        """Build the layers; use inside `torch.device("meta")` to allocate nothing."""
        super().__init__()
        self.params = params
        width = params.width
        self.style_embedding = nn.Parameter(torch.empty(1, params.tokens, width))
        self.proj = nn.Parameter(torch.empty(width, params.context))
        self.ln_pre = nn.LayerNorm(width)
        self.add_module(LAYERS, nn.Sequential(*(Block(width) for _ in range(params.depth))))
        self.ln_post = nn.LayerNorm(width)

    def forward(self, states: Tensor) -> Tensor:
        """Tokens (b, tokens, context) for the vision network's last states (b, n, width)."""
        learned = self.style_embedding.expand(len(states), -1, -1)
        x = self.ln_pre(torch.cat([states, learned], dim=1))
        x = self.get_submodule(LAYERS)(x)
        return self.ln_post(x[:, -self.params.tokens :]) @ self.proj
