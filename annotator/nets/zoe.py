"""ZoeDepth: metres from a network for relative depth, by bins whose centres move.

Bhat et al. (2023), arXiv:2302.12288, the version with one head (N); the network below is MiDaS
3.1 with BEiT-L (Birkl et al. 2023, arXiv:2307.14460).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import beit
from ._load import fill
from .dpt import Readout, Scratch, depth_head, enlarge, scratch_sizes
from .vit import to_grid

TAPS = (5, 11, 17, 23)
SEEN = (384, 512)
"""Height and width of the pictures in training."""
ATTRACTION = 300
"""Parity: the configuration says 1000, which never reached the code the weights were trained in."""
COOLEST, HOTTEST = 0.0212, 50.0
FLOOR = 1e-4
_CORE = "core.core."
_TRANSFORMER = f"{_CORE}pretrained.model."


@dataclass(frozen=True)
class Params:
    """Sizes of the network; the published file has those of the comments.

    Attributes:
        transformer: of BEiT.
        levels: channels of the decoder's four levels, 256, 512, 1024, 1024.
        features: width of the decoder, 256.
        hidden: channels within the regressor of the first bins, 256.
        bins: how many depths a pixel chooses among, 64.
        embedding: channels that describe the bins of a pixel, 128.
        attractors: how many pull at the bins on each level, 16, 8, 4, 1.
        bottleneck: channels within the last step, 80.
    """

    transformer: beit.Params
    levels: Sequence[int]
    features: int
    hidden: int
    bins: int
    embedding: int
    attractors: Sequence[int]
    bottleneck: int


class Pretrained(nn.Module):
    """The transformer, and what makes maps of 1/4 to 1/32 of the size of its tokens."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        width = params.transformer.width
        self.model = beit.Beit(params.transformer)
        first, second, third, fourth = params.levels
        resizes = (
            nn.ConvTranspose2d(first, first, 4, 4),
            nn.ConvTranspose2d(second, second, 2, 2),
            nn.Identity(),
            nn.Conv2d(fourth, fourth, 3, 2, padding=1),
        )
        for number, (level, resize) in enumerate(zip(params.levels, resizes, strict=True), 1):
            parts = {"0": Readout(width), "3": nn.Conv2d(width, level, 1), "4": resize}
            self.add_module(f"act_postprocess{number}", nn.ModuleDict(parts))

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for number, tokens in enumerate(self.model(x), 1):
            post: Any = self.get_submodule(f"act_postprocess{number}")
            grid = to_grid(post["0"](tokens), x.shape[2] // beit.PATCH)
            levels.append(post["4"](post["3"](grid)))
        return levels


class RelativeDepth(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.pretrained = Pretrained(params)
        self.scratch = Scratch(params.levels, params.features)
        self.scratch.output_conv = depth_head(params.features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Relative depth (b, 1, h, w), the features it was made of, and the decoder's maps."""
        maps = self.scratch.fuse(self.pretrained(x))
        features = self.scratch.output_conv[:4](maps[-1])
        return self.scratch.output_conv[4:](features), features, maps


class PerPixel(nn.Module):
    """Two layers on every pixel."""

    def __init__(self, inputs: int, hidden: int, outputs: int, last: nn.Module) -> None:
        super().__init__()
        self._net = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, outputs, 1), last
        )

    def forward(self, x: Tensor) -> Tensor:
        return self._net(x)


class LogBinomial(nn.Module):
    """A distribution over the bins with one peak: binomial, sharpened or flattened."""

    k_idx: Tensor
    K_minus_1: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("k_idx", torch.arange(bins).view(1, -1, 1, 1))
        self.register_buffer("K_minus_1", torch.full((1, 1, 1, 1), bins - 1.0))

    def forward(self, share: Tensor, temperature: Tensor) -> Tensor:
        """Probabilities.

        Args:
            share: (b, 1, h, w), where the peak is, 0 to 1.
            temperature: (b, 1, h, w), above 0.

        Returns:
            (b, bins, h, w), the sum over bins is 1.
        """
        last = self.K_minus_1.to(share.dtype)
        number = self.k_idx.to(share.dtype)
        ways = _log_binomial_coefficient(last, number)
        hits = number * share.clamp(FLOOR, 1).log()
        misses = (last - number) * (1 - share).clamp(FLOOR, 1).log()
        return ((ways + hits + misses) / temperature).softmax(dim=1)


def _log_binomial_coefficient(n: Tensor, k: Tensor, tiny: float = 1e-7) -> Tensor:
    """Stirling's approximation; the small number keeps the ends finite."""
    n, k = n + tiny, k + tiny
    return n * n.log() - k * k.log() - (n - k) * (n - k + tiny).log()


class ConditionalLogBinomial(nn.Module):
    """The distribution of every pixel, from its features and its bins."""

    def __init__(self, inputs: int, hidden: int, bins: int) -> None:
        super().__init__()
        self.log_binomial_transform = LogBinomial(bins)
        self.mlp = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1), nn.GELU(), nn.Conv2d(hidden, 4, 1), nn.Softplus()
        )

    def forward(self, x: Tensor) -> Tensor:
        share, other, hot, cold = (self.mlp(x) + FLOOR).split(1, dim=1)
        temperature = COOLEST + (HOTTEST - COOLEST) * hot / (hot + cold)
        return self.log_binomial_transform(share / (share + other), temperature)


class Zoe(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.core = nn.ModuleDict({"core": RelativeDepth(params)})
        width, embedding = params.features, params.embedding
        self.conv2 = nn.Conv2d(width, width, 1)
        self.seed_bin_regressor = PerPixel(width, params.hidden, params.bins, nn.Softplus())
        self.seed_projector = PerPixel(width, embedding, embedding, nn.Identity())
        self.projectors = nn.ModuleList(
            PerPixel(width, embedding, embedding, nn.Identity()) for _ in params.attractors
        )
        self.attractors = nn.ModuleList(
            PerPixel(embedding, embedding, count, nn.Softplus()) for count in params.attractors
        )
        self.conditional_log_binomial = ConditionalLogBinomial(
            32 + 1 + embedding, params.bottleneck, params.bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """Depth in metres.

        Args:
            x: (b, 3, h, w), RGB in -1 to 1; sides are multiples of 32.

        Returns:
            (b, 1, h, w), above 0, far is large.
        """
        relative, features, (coarsest, *maps) = self.core["core"](x)
        coarsest = self.conv2(coarsest)
        centres = self.seed_bin_regressor(coarsest)
        embedding = self.seed_projector(coarsest)
        for project, attract, level in zip(self.projectors, self.attractors, maps, strict=True):
            size = level.shape[2:]
            before, embedding = embedding, project(level)
            points = attract(embedding + enlarge(before, size))
            centres = pull(enlarge(centres, size), points)
        size = features.shape[2:]
        seen = torch.cat([features, relative, enlarge(embedding, size)], dim=1)
        shares = self.conditional_log_binomial(seen)
        return (shares * enlarge(centres, size)).sum(dim=1, keepdim=True)


def pull(centres: Tensor, points: Tensor) -> Tensor:
    """Bins drawn towards attractors, the nearer the stronger.

    Args:
        centres: (b, bins, h, w).
        points: (b, attractors, h, w).
    """
    moves = torch.zeros_like(centres)
    for point in points.split(1, dim=1):
        distance = point - centres
        moves += distance / (1 + ATTRACTION * distance.square())
    return centres + moves / points.shape[1]


def build(state: Mapping[str, Mapping[str, Tensor]]) -> Zoe:
    """The network of a published file, a training checkpoint."""
    tensors = {
        key: tensor
        for key, tensor in state["model"].items()
        if not key.endswith("relative_position_index")  # follows from the size of the picture
    }
    levels, features = scratch_sizes(tensors, f"{_CORE}scratch.")
    params = Params(
        transformer=beit.read_params(tensors, _TRANSFORMER, TAPS),
        levels=levels,
        features=features,
        hidden=len(tensors["seed_bin_regressor._net.0.bias"]),
        bins=len(tensors["seed_bin_regressor._net.2.bias"]),
        embedding=len(tensors["seed_projector._net.2.bias"]),
        attractors=[len(tensors[f"attractors.{i}._net.2.bias"]) for i in range(4)],
        bottleneck=len(tensors["conditional_log_binomial.mlp.0.bias"]),
    )
    return fill(lambda: Zoe(params), tensors)


def input_size(height: int, width: int) -> tuple[int, int]:
    """The size that a picture is resized to, both sides multiples of 32.

    The side that changes less gets about its side of `SEEN`, the other keeps the aspect.
    """
    high, wide = SEEN[0] / height, SEEN[1] / width
    scale = wide if math.fabs(1 - wide) < math.fabs(1 - high) else high
    rows, columns = (max(round(scale * side / 32), 1) * 32 for side in (height, width))
    return rows, columns


def measure(network: nn.Module, x: Tensor) -> Tensor:
    """Depth of a picture of any size: with a mirrored frame, averaged with its mirror image.

    Args:
        network: a `Zoe`.
        x: (b, 3, h, w), RGB in -1 to 1, sides of at least 5.

    Returns:
        (b, 1, h, w), metres.
    """
    high, wide = (int(math.sqrt(side / 2) * 3) for side in x.shape[2:])
    framed = F.pad(x, (wide, wide, high, high), mode="reflect")
    both = torch.cat([framed, framed.flip(3)])
    depth = network(enlarge(both, input_size(*framed.shape[2:])))
    depth = F.interpolate(depth, framed.shape[2:], mode="bicubic")
    straight, mirrored = depth[:, :, high:-high, wide:-wide].chunk(2)
    return (straight + mirrored.flip(3)) / 2
