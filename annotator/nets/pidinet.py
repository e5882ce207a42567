"""PiDiNet: edges by convolutions of pixel differences.

Su, Liu, Yu, Hu, Liao, Tian, Pietikainen, Liu, "Pixel Difference Networks for Efficient Edge
Detection", ICCV 2021, arXiv:2108.07009; keys are those of `table5_pidinet.pth`.

A convolution of differences of pixels is an ordinary one with differences of weights, so the four
operators differ only in the kernel they make of the stored one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import fill, without_prefix

WIDTH = 60
STAGES = ((3, 1), (4, 2), (4, 4), (4, 4))
"""Blocks of each stage, and its channels as a multiple of WIDTH."""
READ_OUT = 24
DILATIONS = (5, 7, 9, 11)
ROTATED = (3, 0, 1, 6, 4, 2, 7, 8, 5)
"""Each place of a 3 x 3 kernel's one-step rotation: which place it comes from."""
OUTER = (0, 2, 4, 10, 14, 20, 22, 24)
INNER = (6, 7, 8, 11, 13, 16, 17, 18)
"""Places in a 5 x 5 kernel: the ends of eight rays, and the points halfway to them."""

Kernel = Callable[[Tensor], Tensor]


def plain(weight: Tensor) -> Tensor:
    """(out, in, 3, 3), as stored."""
    return weight


def central(weight: Tensor) -> Tensor:
    """Differences to the centre pixel."""
    kernel = weight.clone()
    kernel[:, :, 1, 1] -= weight.sum(dim=(2, 3))
    return kernel


def angular(weight: Tensor) -> Tensor:
    """Differences of neighbours around the centre."""
    flat = rearrange(weight, "o i h w -> o i (h w)")
    return rearrange(flat - flat[:, :, list(ROTATED)], "o i (h w) -> o i h w", h=3)


def radial(weight: Tensor) -> Tensor:
    """Differences along eight rays, (out, in, 5, 5); the first stored weight is not used."""
    rays = rearrange(weight, "o i h w -> o i (h w)")[:, :, 1:]
    kernel = weight.new_zeros(*weight.shape[:2], 25)
    kernel[:, :, list(OUTER)] = rays
    kernel[:, :, list(INNER)] = -rays
    return rearrange(kernel, "o i (h w) -> o i h w", h=5)


OPERATORS: tuple[Kernel, ...] = (central, angular, radial, plain)
"""In this order, again and again from the first layer on ("carv4")."""


class DifferenceConv(nn.Module):
    """A convolution without bias whose kernel follows from the stored weights."""

    def __init__(self, inputs: int, outputs: int, groups: int, kernel: Kernel) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, 3, 3))
        self.groups = groups
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel(self.weight)
        return F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=self.groups)


class Block(nn.Module):
    """Depthwise differences, a mixture of channels, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, halve: bool) -> None:
        super().__init__()
        self.conv1 = DifferenceConv(inputs, inputs, inputs, kernel)
        self.conv2 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if halve else None

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return self.conv2(F.relu(self.conv1(x))) + x
        x = F.max_pool2d(x, 2)
        return self.conv2(F.relu(self.conv1(x))) + self.shortcut(x)


class Dilations(nn.Module):
    """One map of features seen at four distances."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, READ_OUT, 1)
        for index, step in enumerate(DILATIONS, start=1):
            conv = nn.Conv2d(READ_OUT, READ_OUT, 3, padding=step, dilation=step, bias=False)
            self.add_module(f"conv2_{index}", conv)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(x))
        first, *others = (self.get_submodule(f"conv2_{i}")(x) for i in range(1, len(DILATIONS) + 1))
        for other in others:
            first = first + other
        return first


class Attention(nn.Module):
    """Weights in 0 to 1 for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(READ_OUT, 4, 1)
        self.conv2 = nn.Conv2d(4, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv2(self.conv1(F.relu(x))))


class Reduction(nn.Module):
    """Features to one map of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(READ_OUT, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PiDiNet(nn.Module):
    """(b, 3, h, w) BGR in 0 to 1 -> edges (b, 1, h, w) in 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.init_block = DifferenceConv(3, WIDTH, 1, OPERATORS[0])
        self.names: list[list[str]] = []
        before, layer = WIDTH, 1
        for stage, (count, multiple) in enumerate(STAGES, start=1):
            self.names.append([])
            for index in range(1, count + 1):
                kernel = OPERATORS[layer % len(OPERATORS)]
                halve = stage > 1 and index == 1
                name = f"block{stage}_{index}"
                self.add_module(name, Block(before, multiple * WIDTH, kernel, halve))
                self.names[-1].append(name)
                before, layer = multiple * WIDTH, layer + 1
        widths = [multiple * WIDTH for _, multiple in STAGES]
        self.dilations = nn.ModuleList(Dilations(width) for width in widths)
        self.attentions = nn.ModuleList(Attention() for _ in STAGES)
        self.conv_reduces = nn.ModuleList(Reduction() for _ in STAGES)
        self.classifier = nn.Conv2d(len(STAGES), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        h = self.init_block(x)
        maps = []
        heads = zip(self.names, self.dilations, self.attentions, self.conv_reduces, strict=True)
        for names, dilations, attention, reduction in heads:
            for name in names:
                h = self.get_submodule(name)(h)
            logits = reduction(attention(dilations(h)))
            maps.append(F.interpolate(logits, size, mode="bilinear", align_corners=False))
        return torch.sigmoid(self.classifier(torch.cat(maps, dim=1)))


def build(state: Mapping[str, Any]) -> PiDiNet:
    """The network of `table5_pidinet.pth`, which keeps its weights under "state_dict"."""
    return fill(PiDiNet, without_prefix(state["state_dict"]))
