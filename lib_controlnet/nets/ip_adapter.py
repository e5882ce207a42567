"""IP-Adapter (Ye et al. 2023, arXiv:2308.06721): tokens of a picture, and their keys and values.

Names of modules are those of the files. What a picture's embedding becomes depends on the file:
one linear layer makes a few tokens of the pooled embedding, a perceptron makes one of each hidden
token, a resampler makes a few of all hidden tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.nets.resampler import Resampler, ResamplerParams

IMAGE: Final = "image_proj."
ATTENTION: Final = "ip_adapter."


class Projection(Enum):
    """How an embedding becomes tokens."""

    LINEAR = "linear"  # of the pooled embedding
    PERCEPTRON = "perceptron"  # of each hidden token
    RESAMPLER = "resampler"  # of all hidden tokens


@dataclass(frozen=True)
class AdapterParams:
    """Sizes of an IP-Adapter.

    Attributes:
        projection: how an embedding becomes tokens.
        read: width of the embedding.
        context: width of the tokens, that of the text.
        tokens: how many of them a picture becomes; 0: as many as the embedding has.
        widths: of the keys and values, by the number that files give a cross attention.
        inner: width of a resampler.
        attended: width of a resampler's attention, all heads together.
        depth: blocks of a resampler.
        hidden: width of a resampler's feed-forward layers.
    """

    projection: Projection
    read: int
    context: int
    tokens: int
    widths: Mapping[str, int]
    inner: int = 0
    attended: int = 0
    depth: int = 0
    hidden: int = 0


def read_params(shapes: Mapping[str, Sequence[int]]) -> AdapterParams:
    """Read the sizes of an IP-Adapter off its tensors.

    Args:
        shapes: by name.

    Raises:
        KeyError: a tensor is missing.
    """
    end = ".to_k_ip.weight"
    names = sorted(
        (name.removeprefix(ATTENTION).removesuffix(end) for name in shapes if name.endswith(end)),
        key=lambda number: (len(number), number),
    )
    if not names:
        missing = f"{ATTENTION}1{end}"
        raise KeyError(missing)
    widths = {number: shapes[f"{ATTENTION}{number}{end}"][0] for number in names}
    context = shapes[f"{ATTENTION}{names[0]}{end}"][1]
    if f"{IMAGE}latents" in shapes:
        latents, read = shapes[f"{IMAGE}latents"], shapes[f"{IMAGE}proj_in.weight"][1]
        blocks = {name.split(".")[2] for name in shapes if name.startswith(f"{IMAGE}layers.")}
        return AdapterParams(
            *(Projection.RESAMPLER, read, context, latents[1], widths),
            inner=latents[2],
            attended=shapes[f"{IMAGE}layers.0.0.to_q.weight"][0],
            depth=len(blocks),
            hidden=shapes[f"{IMAGE}layers.0.1.1.weight"][0],
        )
    if f"{IMAGE}proj.3.weight" in shapes:
        read = shapes[f"{IMAGE}proj.0.weight"][1]
        return AdapterParams(Projection.PERCEPTRON, read, context, 0, widths)
    rows, read = shapes[f"{IMAGE}proj.weight"]
    return AdapterParams(Projection.LINEAR, read, context, rows // context, widths)


class LinearProjection(nn.Module):
    """A few tokens of a pooled embedding."""

    def __init__(self, read: int, context: int, tokens: int) -> None:
        super().__init__()
        self.proj = nn.Linear(read, tokens * context)
        self.norm = nn.LayerNorm(context)

    def forward(self, pooled: Tensor) -> Tensor:
        """Turn (n, read) into (n, tokens, context)."""
        width = self.norm.weight.shape[0]
        return self.norm(rearrange(self.proj(pooled), "n (t c) -> n t c", c=width))


class PerceptronProjection(nn.Module):
    """One token of each hidden token ("full face")."""

    def __init__(self, read: int, context: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(read, read), nn.GELU(), nn.Linear(read, context), nn.LayerNorm(context)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Turn (n, t, read) into (n, t, context)."""
        return self.proj(hidden)


class KeysValues(nn.Module):
    """What one cross attention makes of a picture's tokens."""

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(context, width, bias=False)
        self.to_v_ip = nn.Linear(context, width, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (n, t, context) into keys and values (n, t, width)."""
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


class IPAdapter(nn.Module):
    """All weights of a file.

    Args:
        params: its sizes.
        image_proj: makes tokens; None for the one that `params` tell.
    """

    def __init__(self, params: AdapterParams, image_proj: nn.Module | None = None) -> None:
        super().__init__()
        self.image_proj = project(params) if image_proj is None else image_proj
        self.ip_adapter = nn.ModuleDict(
            {number: KeysValues(params.context, width) for number, width in params.widths.items()}
        )


def project(params: AdapterParams) -> nn.Module:
    """The module that makes tokens of an embedding."""
    if params.projection is Projection.RESAMPLER:
        return make_resampler(params)
    if params.projection is Projection.PERCEPTRON:
        return PerceptronProjection(params.read, params.context)
    return LinearProjection(params.read, params.context, params.tokens)


def make_resampler(params: AdapterParams) -> Resampler:
    """What makes a few tokens of all hidden tokens ("plus")."""
    sizes = (params.inner, params.attended, params.hidden, params.depth, params.tokens)
    return Resampler(ResamplerParams(params.read, *sizes, params.context))
