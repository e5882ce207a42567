"""What makes a face's embedding tokens that a U-Net attends to (tencent-ailab, IP-Adapter-FaceID).

Names follow the published files; networks are built on the meta device and filled from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.nets.resampler import Resampler, ResamplerParams, read_resampler_params

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class FaceParams:
    """Sizes of a projection.

    Attributes:
        embedding: numbers of a face's embedding.
        hidden: channels between the two layers.
        tokens: how many it makes.
        output: channels of a token.
        resampler: of the one that looks at the face's picture; None where there is none.
    """

    embedding: int
    hidden: int
    tokens: int
    output: int
    resampler: ResamplerParams | None = None


def read_face_params(shapes: Shapes) -> FaceParams:
    """Derive the sizes from the shapes of a projection's tensors.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    hidden, embedding = shapes["proj.0.weight"]
    output = shapes["norm.weight"][0]
    prefix = "perceiver_resampler."
    has_picture = any(key.startswith(prefix) for key in shapes)
    return FaceParams(
        embedding,
        hidden,
        shapes["proj.2.weight"][0] // output,
        output,
        read_resampler_params(shapes, prefix) if has_picture else None,
    )


class FaceProjection(nn.Module):
    """Tokens of an embedding, and for some files of the face's picture as CLIP sees it."""

    def __init__(self, params: FaceParams) -> None:
        super().__init__()
        self.params = params
        self.proj = nn.Sequential(
            nn.Linear(params.embedding, params.hidden),
            nn.GELU(),
            nn.Linear(params.hidden, params.tokens * params.output),
        )
        self.norm = nn.LayerNorm(params.output)
        if params.resampler is not None:
            self.perceiver_resampler = Resampler(params.resampler)

    def forward(self, faces: Tensor, pictures: Tensor | None = None, keep: bool = False) -> Tensor:
        """Make tokens.

        Args:
            faces: (b, embedding).
            pictures: (b, n, features), where the network has a resampler.
            keep: add what the picture gives to the tokens of the embedding ("plus v2"), instead of
                putting it in their place.

        Returns:
            (b, tokens, output).
        """
        tokens = self.norm(rearrange(self.proj(faces), "b (t c) -> b t c", t=self.params.tokens))
        if pictures is None:
            return tokens
        seen = self.perceiver_resampler(pictures, tokens)
        return tokens + seen if keep else seen


class LowRank(nn.Module):
    """A layer of low rank beside a linear one (LoRA; Hu et al., arXiv:2106.09685)."""

    def __init__(self, width: int, rank: int, output: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, output, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the output (..., output) of the layer that reads x (..., width)."""
        return self.up(self.down(x))
