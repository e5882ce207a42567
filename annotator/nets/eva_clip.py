"""The picture half of EVA02-CLIP: a vision transformer with rotary positions and gated layers.

Sun et al. (2023), "EVA-CLIP", arXiv:2303.15389; Fang et al. (2023), "EVA-02", arXiv:2303.11331;
rotary positions of Su et al., arXiv:2104.09864, by row and by column. Key names as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from ._load import count_blocks, fill
from .vit import NORM_EPS, PatchEmbed

HEAD_WIDTH: Final = 64
TRAINED_SIDE: Final = 16
"""Patches a side in the first training; the rows and columns of later sizes lie between them."""
BASE: Final = 10_000
EVERY: Final = 4
"""Blocks between two levels whose tokens are given back."""
LEVELS: Final = 5


@dataclass(frozen=True)
class EvaParams:
    """Sizes of a network.

    Attributes:
        width: channels of a token.
        hidden: channels between the gated layers.
        depth: blocks.
        patch: pixels a side of a patch.
        tokens: patches and the token of the class.
        embedding: numbers that stand for the picture.
    """

    width: int
    hidden: int
    depth: int
    patch: int
    tokens: int
    embedding: int


class Attention(nn.Module):
    """Attention of all tokens; queries and keys of patches are turned by their place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.inner_attn_ln = nn.LayerNorm(width, NORM_EPS)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Tokens (b, n, width) with the class first, angles (n - 1, 64)."""
        q, k, v = (
            rearrange(part, "b n (heads c) -> b heads n c", c=HEAD_WIDTH)
            for part in (
                self.q_proj(x) + self.q_bias,
                self.k_proj(x),
                self.v_proj(x) + self.v_bias,
            )
        )
        mixed = F.scaled_dot_product_attention(_turn(q, angles), _turn(k, angles), v)
        return self.proj(self.inner_attn_ln(rearrange(mixed, "b heads n c -> b n (heads c)")))


class SwiGLU(nn.Module):
    """Two layers side by side, one of which gates the other (Shazeer, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, NORM_EPS)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    """Attention and gated layers, each behind a norm and added to what came in."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, NORM_EPS)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, NORM_EPS)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


class EvaClip(nn.Module):
    """A picture as a vector, and as tokens of several levels."""

    def __init__(self, params: EvaParams) -> None:
        super().__init__()
        width = params.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, params.tokens, width))
        self.patch_embed = PatchEmbed(3, width, params.patch)
        self.blocks = nn.ModuleList(Block(width, params.hidden) for _ in range(params.depth))
        self.norm = nn.LayerNorm(width, NORM_EPS)
        self.head = nn.Linear(width, params.embedding)
        self.side = params.patch * round((params.tokens - 1) ** 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See a picture.

        Args:
            x: (b, 3, side, side), centred and scaled as for CLIP.

        Returns:
            (b, embedding), and what goes into every fourth block, five times (b, tokens, width).
        """
        patches = self.patch_embed(x)
        angles = rotary_angles(round(patches.shape[1] ** 0.5), x.device)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], dim=1) + self.pos_embed
        levels: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            if number and number % EVERY == 0 and len(levels) < LEVELS:
                levels.append(x)
            x = block(x, angles)
        return self.head(self.norm(x)[:, 0]), levels


def rotary_angles(side: int, device: torch.device) -> Tensor:
    """Angles by which pairs of channels are turned, (side * side, 64): by row, then by column."""
    half = HEAD_WIDTH // 2
    rates = BASE ** -(torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)
    places = torch.arange(side, device=device, dtype=torch.float32) / side * TRAINED_SIDE
    angles = repeat(torch.outer(places, rates), "n c -> n (c pair)", pair=2)
    rows = repeat(angles, "h c -> h w c", w=side)
    columns = repeat(angles, "w c -> h w c", h=side)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """Queries or keys (b, heads, n, 64), those of the patches turned in pairs of channels."""
    first, patches = x[:, :, :1], x[:, :, 1:].float()
    one, two = rearrange(patches, "... (c pair) -> pair ... c", pair=2)
    across = rearrange([-two, one], "pair ... c -> ... (c pair)")
    turned = patches * angles.cos() + across * angles.sin()
    return torch.cat([first, turned.to(x.dtype)], dim=2)


def build(state: Mapping[str, Tensor]) -> EvaClip:
    """The network of a published file, whose other half reads text.

    Raises:
        KeyError, RuntimeError: it holds something else.
    """
    prefix = "visual."
    own = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
    own = {key: tensor for key, tensor in own.items() if ".rope." not in f".{key}"}
    hidden, width = own["blocks.0.mlp.w1.weight"].shape
    params = EvaParams(
        width,
        hidden,
        count_blocks(own, "blocks."),
        own["patch_embed.proj.weight"].shape[-1],
        own["pos_embed"].shape[1],
        own["head.weight"].shape[0],
    )
    return fill(lambda: EvaClip(params), own)
