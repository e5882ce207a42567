"""ControlNet Union: one ControlNet for many types of hints (xinsir6, ControlNetPlus).

To a ControlNet it adds an embedding of the hint's type, and a shift of every channel of the
encoded hint, which a small transformer makes from the hint's mean and a learned token of its
type. Names are those of the published files, "transformer_layes" among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.nets.cldm import ControlNet, ControlNetParams, timestep_embedding

QUICK_GELU: Final = 1.702


@dataclass(frozen=True)
class UnionParams:
    """What a Union adds, read from tensor shapes.

    Attributes:
        types: of hints that it tells apart: 6 (Union), 8 (ProMax) or more.
        layers: of the transformer (published: 1).
        sinusoids: width of each type's part of the type embedding (published: 256).
    """

    types: int
    layers: int
    sinusoids: int


def read_union(shapes: Mapping[str, Sequence[int]]) -> UnionParams:
    """Derive what a Union adds from the shapes of a file's tensors.

    Raises:
        KeyError: a tensor that decides is missing; its name is the argument.
    """
    types = shapes["task_embedding"][0]
    start = "transformer_layes."
    layers = {name[len(start) :].split(".")[0] for name in shapes if name.startswith(start)}
    columns = shapes["control_add_embedding.linear_1.weight"][1]
    return UnionParams(types, len(layers), columns // max(types, 1))


class TokenAttention(nn.Module):
    """Attention between the tokens of a picture, which is none.

    The published code calls torch's attention with the batch in the sequence's place, so a token
    sees the same token of the batch's other rows. Those are its equals: whatever weights sum to
    one, the result is its own value, and neither queries nor keys matter.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, width) to the same shape."""
        width = tokens.shape[-1]
        value = F.linear(tokens, self.in_proj_weight[2 * width :], self.in_proj_bias[2 * width :])
        return self.out_proj(value)


class TokenFeedForward(nn.Module):
    """Two linear layers around the quick GELU; names of the published files."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, width * 4)
        self.c_proj = nn.Linear(width * 4, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, width) to the same shape."""
        inner = self.c_fc(tokens)
        return self.c_proj(inner * torch.sigmoid(QUICK_GELU * inner))


class TokenBlock(nn.Module):
    """Attention and feed forward on one token for each picture, each with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = TokenAttention(width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = TokenFeedForward(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, width) to the same shape."""
        tokens = tokens + self.attn(self.ln_1(tokens))
        return tokens + self.mlp(self.ln_2(tokens))


class TypeEmbedding(nn.Module):
    """Two linear layers on the sinusoids of which types are given."""

    def __init__(self, types: int, sinusoids: int, emb_width: int) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.linear_1 = nn.Linear(types * sinusoids, emb_width)
        self.linear_2 = nn.Linear(emb_width, emb_width)

    def forward(self, given: Tensor) -> Tensor:
        """Map flags (types,), 1 for a type that is given, to (1, emb_width)."""
        waves = timestep_embedding(given, self.sinusoids).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(rearrange(waves, "n c -> 1 (n c)"))))


class ControlNetUnion(ControlNet):
    """A ControlNet that is told the type of its hint, by a number from 0 to `types` - 1."""

    def __init__(self, params: ControlNetParams, union: UnionParams) -> None:
        """Build the layers; use inside `torch.device("meta")` to allocate nothing."""
        super().__init__(params)
        width = params.model_channels
        self.types = union.types
        self.task_embedding = nn.Parameter(torch.empty(union.types, width))
        self.transformer_layes = nn.ModuleList(TokenBlock(width) for _ in range(union.layers))
        self.spatial_ch_projs = nn.Linear(width, width)
        self.control_add_embedding = TypeEmbedding(union.types, union.sinusoids, self.emb_width)

    def shift(self, guided: Tensor, kind: int | Tensor, share: float = 1.0) -> Tensor:
        """An encoded hint (b, model_channels, h, w) with every channel shifted for its type.

        Args:
            guided: the encoded hint.
            kind: number of its type; a number for all rows, or numbers (b,).
            share: of the hint among several: times its token, and times the result.
        """
        token = (guided.mean(dim=(2, 3)) + self.task_embedding[kind]) * share
        for block in self.transformer_layes:
            token = block(token)
        return (guided + rearrange(self.spatial_ch_projs(token), "b c -> b c 1 1")) * share

    def embed_types(self, kinds: Sequence[int]) -> Tensor:
        """What is added to the embedding of the timesteps for some types: (1, emb_width)."""
        given = torch.zeros(self.types, device=self.task_embedding.device)
        given[list(kinds)] = 1.0
        return self.control_add_embedding(given)
