"""The U-Net of pix2pix: halvings down to a point and doublings back, with skips across.

Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR
2017, arXiv:1611.07004; key names of the published code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._load import fill, without_prefix


@dataclass(frozen=True)
class Params:
    """Sizes of a network.

    Attributes:
        inputs: channels of the picture it takes.
        outputs: channels of the picture it gives.
        widths: channels after each halving of the picture, from the outermost.
        normalised: whether levels normalise each channel of a picture; their convolutions have
            biases only then.
    """

    inputs: int
    outputs: int
    widths: tuple[int, ...]
    normalised: bool


class Level(nn.Module):
    """One halving, everything inside it, and the doubling back, beside the level's input."""

    def __init__(self, params: Params, depth: int) -> None:
        super().__init__()
        outer, inner = params.widths[depth - 1], params.widths[depth]
        bias = params.normalised
        norm = nn.InstanceNorm2d if params.normalised else nn.Identity
        down = [nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=bias)]
        if depth + 1 < len(params.widths):
            down += [norm(inner), Level(params, depth + 1)]
            inner *= 2
        up = nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1, bias=bias)
        self.model = nn.Sequential(*down, nn.ReLU(), up, norm(outer))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], dim=1)


class Outermost(nn.Module):
    """The level that takes the picture and gives another."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        width, bias = params.widths[0], params.normalised
        self.model = nn.Sequential(
            nn.Conv2d(params.inputs, width, 4, stride=2, padding=1, bias=bias),
            Level(params, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, params.outputs, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class UNet(nn.Module):
    """(b, inputs, h, w) -> (b, outputs, h, w) in -1 to 1.

    Sides must be multiples of 2 to the power of the number of halvings.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.model = Outermost(params)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def build(state: Mapping[str, Tensor]) -> UNet:
    """The network of a published file; sizes are read from the tensors."""
    state = without_prefix(state)
    prefix = "model.model."
    inputs, outputs = state[f"{prefix}0.weight"].shape[1], len(state[f"{prefix}3.bias"])
    widths = [len(state[f"{prefix}0.weight"])]
    normalised = f"{prefix}1.model.1.bias" in state
    prefix += "1.model."
    while f"{prefix}1.weight" in state:
        widths.append(len(state[f"{prefix}1.weight"]))
        prefix += "3.model."
    params = Params(inputs, outputs, tuple(widths), normalised)
    return fill(lambda: UNet(params), state)
