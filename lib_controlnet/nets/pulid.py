"""What makes a face tokens for PuLID. Guo et al. (2024), arXiv:2404.16022.

Version 1 maps each level of a picture's tokens to one token, version 1.1 resamples them. Names
follow the published files; networks are built on the meta device and filled from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.nets.resampler import ResamplerLayer

Shapes = Mapping[str, Sequence[int]]

LEVELS: Final = 5
"""Levels of the picture's tokens."""


@dataclass(frozen=True)
class IdParams:
    """Sizes of an encoder.

    Attributes:
        embedding: numbers of the face and of the picture together.
        level: channels of a level's tokens.
        width: channels between the layers of its mappings.
        own: tokens of the embedding.
        output: channels of a token.
        inner: channels of a token between the layers of version 1.1.
        attention: channels of its attention.
        hidden: channels inside its feed-forward layers.
        depth: its layers; 0 for version 1.
        queries: tokens that it gives; version 1 gives `own`, and one a level.
    """

    embedding: int
    level: int
    width: int
    own: int
    output: int
    inner: int = 0
    attention: int = 0
    hidden: int = 0
    depth: int = 0
    queries: int = 0


def read_id_params(shapes: Shapes) -> IdParams:
    """Derive the sizes from the shapes of an encoder's tensors.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    width, level = shapes["mapping_0.0.weight"]
    last = shapes["mapping_0.6.weight"][0]
    if "id_embedding_mapping.0.weight" not in shapes:
        embedding = shapes["body.0.weight"][1]
        return IdParams(embedding, level, width, shapes["body.6.weight"][0] // last, last)
    depth = 0
    while f"layers.{depth}.0.to_q.weight" in shapes:
        depth += 1
    return IdParams(
        embedding=shapes["id_embedding_mapping.0.weight"][1],
        level=level,
        width=width,
        own=shapes["id_embedding_mapping.6.weight"][0] // last,
        output=shapes["proj_out"][1],
        inner=last,
        attention=shapes["layers.0.0.to_q.weight"][0],
        hidden=shapes["layers.0.1.1.weight"][0],
        depth=depth,
        queries=shapes["latents"][1],
    )


def _make_mapping(given: int, width: int, output: int) -> nn.Sequential:
    layers = [nn.Linear(given, width), nn.LayerNorm(width), nn.LeakyReLU()]
    layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(width, output))


class IdEncoder(nn.Module):
    """Version 1: tokens of the embedding, and one of each level."""

    def __init__(self, params: IdParams) -> None:
        super().__init__()
        self.params = params
        width, output = params.width, params.output
        self.body = _make_mapping(params.embedding, width, params.own * output)
        for number in range(LEVELS):
            self.add_module(f"mapping_{number}", _make_mapping(params.level, width, output))
            self.add_module(f"mapping_patch_{number}", _make_mapping(params.level, width, output))

    def forward(self, faces: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Make tokens.

        Args:
            faces: (b, embedding).
            levels: five times (b, n, level), the class first.

        Returns:
            (b, own + 5, output).
        """
        tokens = [rearrange(self.body(faces), "b (t c) -> b t c", t=self.params.own)]
        for number, level in enumerate(levels):
            of_class = self.get_submodule(f"mapping_{number}")(level[:, :1])
            of_patches = self.get_submodule(f"mapping_patch_{number}")(level[:, 1:])
            tokens.append(of_class + of_patches.mean(dim=1, keepdim=True))
        return torch.cat(tokens, dim=1)


class IdFormer(nn.Module):
    """Version 1.1: tokens that look at the embedding and at one level after the other."""

    def __init__(self, params: IdParams) -> None:
        super().__init__()
        self.params = params
        inner = params.inner
        self.latents = nn.Parameter(torch.zeros(1, params.queries, inner))
        self.proj_out = nn.Parameter(torch.zeros(inner, params.output))
        self.layers = nn.ModuleList(
            ResamplerLayer(inner, params.attention, params.hidden) for _ in range(params.depth)
        )
        for number in range(LEVELS):
            self.add_module(f"mapping_{number}", _make_mapping(params.level, params.width, inner))
        self.id_embedding_mapping = _make_mapping(
            params.embedding, params.width, params.own * inner
        )

    def forward(self, faces: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Make tokens, see `IdEncoder.forward`: (b, queries, output).

        Of several faces (b, k, embedding) it makes as many; the levels hold the tokens of all.
        """
        own = self.id_embedding_mapping(faces)
        own = rearrange(own, "b ... (t c) -> b (... t) c", t=self.params.own)
        tokens = torch.cat([self.latents.expand(len(own), -1, -1), own], dim=1)
        each = self.params.depth // LEVELS
        for number, level in enumerate(levels):
            seen = torch.cat([own, self.get_submodule(f"mapping_{number}")(level)], dim=1)
            for layer in self.layers[each * number : each * (number + 1)]:
                tokens = layer(seen, tokens)
        return tokens[:, : self.params.queries] @ self.proj_out


def attend_share(q: Tensor, k: Tensor, own: int) -> Tensor:
    """How much of its attention each token of the picture gives the first tokens of the face.

    Parity: the products are not scaled by the heads' width.

    Args:
        q: queries of the picture (b, heads, n, c).
        k: keys of the face (b, heads, m, c).
        own: how many tokens count.

    Returns:
        (b, n, 1), the mean over the heads.
    """
    scores = (q.float() @ k.float().transpose(-2, -1)).softmax(dim=-1)
    return scores.mean(dim=1)[:, :, :own].sum(dim=-1, keepdim=True)


def turn_from_text(face: Tensor, text: Tensor, share: Tensor | None = None) -> Tensor:
    """What is added to the attention to the text: of that to the face what the text does not say.

    Args:
        face: attention to the face (b, n, c).
        text: attention to the text (b, n, c).
        share: (b, n, 1), of what lies along the text's that stays; None for none of it.

    Returns:
        float32 (b, n, c).
    """
    face, text = face.float(), text.float()
    along = (face * text).sum(dim=1, keepdim=True)
    length = (text * text).sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    projection = along / length * text
    return face - projection if share is None else face + (share - 1) * projection
