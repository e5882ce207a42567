"""Normals with their uncertainty, refined from 1/8 of the size to the full one.

Bae, Budvytis, Cipolla (2021), arXiv:2109.09881, on an EfficientNet-B5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import efficientnet
from ._load import fill, without_prefix
from .dpt import enlarge

CERTAINTY_FLOOR = 0.01


@dataclass(frozen=True)
class Params:
    """Sizes of the network.

    Attributes:
        encoder: of the encoder.
        widths: channels of the four levels of the decoder, 1024, 512, 256, 128.
        hidden: channels within the refinement of a pixel, 128.
    """

    encoder: efficientnet.Params
    widths: Sequence[int]
    hidden: int


class Up(nn.Module):
    """Brings a level to the size of a finer one and mixes both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self._net = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self._net(torch.cat([enlarge(x, skip.shape[2:]), skip], dim=1))


class Refine(nn.ModuleList):
    """Predicts every pixel anew from its features and the coarser prediction."""

    def __init__(self, features: int, hidden: int) -> None:
        layers = [nn.Conv1d(features + 4, hidden, 1), nn.ReLU()]
        for made in (hidden, hidden, 4):
            layers += [nn.Conv1d(hidden, made, 1), nn.ReLU()]
        super().__init__(layers[:-1])

    def forward(self, features: Tensor, coarser: Tensor) -> Tensor:
        """(b, c, h, w) and (b, 4, h, w) -> (b, 4, 2 h, 2 w).

        Enlarging and the first layer are both linear, so the layer runs on the small map.
        """
        height, width = (2 * side for side in features.shape[2:])
        x = self[0](rearrange(torch.cat([features, coarser], dim=1), "b c h w -> b c (h w)"))
        x = enlarge(rearrange(x, "b c (h w) -> b c h w", h=features.shape[2]), (height, width))
        x = rearrange(x, "b c h w -> b c (h w)")
        for layer in list(self)[1:]:
            x = layer(x)
        return as_normals(rearrange(x, "b c (h w) -> b c h w", h=height))


class Decoder(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        *skips, top = params.encoder.taps
        self.conv2 = nn.Conv2d(top, top, 1)
        inputs = (top, *params.widths)
        for number, (skip, width) in enumerate(zip(skips[::-1], params.widths, strict=True)):
            self.add_module(f"up{number + 1}", Up(inputs[number] + skip, width))
        self.out_conv_res8 = nn.Conv2d(params.widths[1], 4, 3, padding=1)
        self.out_conv_res4 = Refine(params.widths[1], params.hidden)
        self.out_conv_res2 = Refine(params.widths[2], params.hidden)
        self.out_conv_res1 = Refine(params.widths[3], params.hidden)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *skips, top = maps
        levels = [self.conv2(top)]
        for number, skip in enumerate(reversed(skips), 1):
            levels.append(self.get_submodule(f"up{number}")(levels[-1], skip))
        *_, eighth, quarter, half = levels
        found = as_normals(self.out_conv_res8(eighth))
        found = self.out_conv_res4(eighth, found)
        found = self.out_conv_res2(quarter, found)
        return self.out_conv_res1(half, found)


class NormalBae(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.encoder = efficientnet.Encoder(params.encoder)
        self.decoder = Decoder(params)

    def forward(self, x: Tensor) -> Tensor:
        """Surface directions.

        Args:
            x: (b, 3, h, w), ImageNet-normalised RGB; sides are multiples of 32.

        Returns:
            (b, 4, h, w): unit vectors, then how certain they are, above 0.
        """
        return self.decoder(self.encoder(x))


def as_normals(x: Tensor) -> Tensor:
    """Four channels of any value as a unit vector and a positive number.

    In single precision: squares of small halves would vanish.
    """
    vectors, certainty = x[:, :3], x[:, 3:]
    if x.dtype == torch.float16:
        vectors = vectors.float()
    length = vectors.square().sum(dim=1, keepdim=True).sqrt() + 1e-10
    certainty = F.elu(certainty) + 1 + CERTAINTY_FLOOR
    return torch.cat([(vectors / length).to(x.dtype), certainty], dim=1)


def build(state: Mapping[str, Mapping[str, Tensor]]) -> NormalBae:
    """The network of a published file, a training checkpoint."""
    tensors = without_prefix(state["model"])
    params = Params(
        efficientnet.read_params(tensors),
        [len(tensors[f"decoder.up{number}._net.0.bias"]) for number in (1, 2, 3, 4)],
        len(tensors["decoder.out_conv_res1.0.bias"]),
    )
    return fill(lambda: NormalBae(params), tensors)
