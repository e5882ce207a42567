"""What makes a face's embedding tokens that a U-Net attends to (tencent-ailab, IP-Adapter-FaceID).

Names follow the published files; networks are built on the meta device and filled from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.nets.ip_adapter import ATTENTION, IMAGE, KeysValues
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


KINDS: Final = ("to_q", "to_k", "to_v", "to_out")
"""Layers of an attention that a file may have layers of low rank beside."""


class LowRank(nn.Module):
    """A layer of low rank beside a linear one (LoRA; Hu et al., arXiv:2106.09685)."""

    def __init__(self, width: int, rank: int, output: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, output, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the output (..., output) of the layer that reads x (..., width)."""
        return self.up(self.down(x))


@dataclass(frozen=True)
class FaceAdapterParams:
    """Sizes of a file.

    Attributes:
        face: of what makes tokens.
        widths: of the keys and values, by the number that files give a cross attention.
        low_rank: of a layer beside one of the U-Net: width of what that reads, rank and width of
            what it gives, by such a number and by its name, see `KINDS`; none in some files.
    """

    face: FaceParams
    widths: Mapping[str, int]
    low_rank: Mapping[tuple[str, str], tuple[int, int, int]]


def read_face_adapter(shapes: Shapes) -> FaceAdapterParams:
    """Derive the sizes from the shapes of a file's tensors.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    inside = {key.removeprefix(IMAGE): s for key, s in shapes.items() if key.startswith(IMAGE)}
    widths, low_rank = {}, {}
    for key, shape in shapes.items():
        number, _, rest = key.removeprefix(ATTENTION).partition(".")
        if rest == "to_k_ip.weight":
            widths[number] = shape[0]
        kind = rest.removesuffix("_lora.down.weight")
        if kind in KINDS:
            up = shapes[f"{ATTENTION}{number}.{kind}_lora.up.weight"]
            low_rank[number, kind] = (shape[1], shape[0], up[0])
    return FaceAdapterParams(read_face_params(inside), widths, low_rank)


class FaceAdapter(nn.Module):
    """All weights of a file."""

    def __init__(self, params: FaceAdapterParams) -> None:
        super().__init__()
        self.image_proj = FaceProjection(params.face)
        context = params.face.output
        self.ip_adapter = nn.ModuleDict(
            {number: KeysValues(context, width) for number, width in params.widths.items()}
        )
        for (number, kind), sizes in params.low_rank.items():
            if number not in self.ip_adapter:
                self.ip_adapter[number] = nn.Module()
            self.ip_adapter[number].add_module(f"{kind}_lora", LowRank(*sizes))

    def beside(self) -> dict[tuple[str, str], LowRank]:
        """The layers of low rank, by number and name."""
        return {
            (number, name.removesuffix("_lora")): layer
            for number, part in self.ip_adapter.items()
            for name, layer in part.named_children()
            if isinstance(layer, LowRank)
        }
