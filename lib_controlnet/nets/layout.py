"""How feature maps and the weights that read them lie in memory.

Channels last, a feature map is its list of tokens, and an attention block copies nothing. Whether
that is faster is the device's business.
"""

from __future__ import annotations

from typing import Final, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T", bound=nn.Module)

MAP_AXES: Final = 4

FEW_PIXELS: Final = 128
"""In a batch: up to here a product is faster than oneDNN, which sorts the weights at each call."""

PIECE: Final = 2**18
"""Numbers that are turned at once: they stay in the processor's cache."""


def prefers_channels_last(device: torch.device) -> bool:
    """Whether networks are faster channels last on a device, as measured: on CPUs with oneDNN.

    On graphics cards torch's group norms turn every map back; there it has to be measured first.
    """
    return device.type == "cpu" and torch.backends.mkldnn.is_available()


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a feature map, or a convolution's weights, lies channels last."""
    return tensor.is_contiguous(memory_format=torch.channels_last)


def lay_out(module: T) -> T:
    """Put a network's convolutions channels last, if the device that computes here is for it.

    They stay in the memory that they have; another device gets copies that are turned back.
    """
    if prefers_channels_last(_main_device()):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data = _turn(layer.weight.data)
    return module


def _main_device() -> torch.device:
    """Where control networks most likely compute; the masters of their weights lie on the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _turn(weights: Tensor) -> Tensor:
    """Weights (out, in, h, w) channels last, piece by piece: no second copy of them is ever held.

    Each piece stays in its place, the order in it changes.
    """
    if weights.is_meta or is_channels_last(weights):
        return weights
    count, channels, height, width = weights.shape
    rows = weights.contiguous().view(count, channels, height * width)
    for piece in rows.split(max(1, PIECE // rows[0].numel())):
        piece.view(-1).copy_(piece.transpose(1, 2).flatten())
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def weights_for(weights: Tensor, device: torch.device) -> Tensor:
    """Weights that were turned, as a device wants them."""
    if weights.dim() != MAP_AXES or prefers_channels_last(device):
        return weights
    return weights.contiguous()


class GroupNorm(nn.GroupNorm):
    """A group norm that keeps its digits: on the CPU, channels last, torch's own loses them.

    It takes the variance as the difference of two large numbers where a group's mean is large.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Map (b, c, h, w) to the same shape."""
        if h.device.type == "cpu" and is_channels_last(h) and not h.is_contiguous():
            means = h.mean((2, 3)).unflatten(1, (self.num_groups, -1)).mean(2, keepdim=True)
            h = h - means.expand(-1, -1, h.shape[1] // self.num_groups).flatten(1)[..., None, None]
        return super().forward(h)


class Conv3x3(nn.Conv2d):
    """A convolution of three by three pixels behind a border of zeros."""

    def __init__(self, width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__(width_in, width_out, 3, stride=stride, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        """Map (b, width_in, h, w) to (b, width_out, ceil(h / stride), ceil(w / stride))."""
        stride = self.stride[0]
        size = [-(-side // stride) for side in h.shape[2:]]
        is_small = len(h) * size[0] * size[1] <= FEW_PIXELS and h.dtype is torch.float32
        if not (is_small and h.device.type == "cpu"):
            return super().forward(h)
        weight = self.weight  # once: where it is stored in 8 bits, each asking makes it
        if not is_channels_last(weight):
            return self._conv_forward(h, weight, self.bias)
        around = F.pad(h.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        row, line, pixel, channel = around.stride()
        seen = around.as_strided(
            (len(h), *size, 3, 3, h.shape[1]),
            (row, line * stride, pixel * stride, line, pixel, channel),
        )
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(seen.flatten(3), rows, self.bias).permute(0, 3, 1, 2)
