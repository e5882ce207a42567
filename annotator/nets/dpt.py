"""Decoder of the dense prediction transformer: four feature maps fused from coarse to fine.

Ranftl et al. (2021), arXiv:2103.13413; key names as in MiDaS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions, each behind a ReLU, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer level to a coarser one and enlarges the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(width, width, 1)
        self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)

    def forward(self, deep: Tensor, level: Tensor | None, size: Sequence[int]) -> Tensor:
        """Fuse.

        Args:
            deep: the coarser level, or the coarsest itself.
            level: same shape, None with the coarsest (whose `resConfUnit1` is then unused).
            size: height and width of the result.
        """
        if level is not None:
            deep = deep + self.resConfUnit1(level)
        return self.out_conv(enlarge(self.resConfUnit2(deep), size))


class Scratch(nn.Module):
    """Reduces four levels to one width and fuses them.

    Args:
        channels: of the levels, finest first.
        width: of everything here.
    """

    # What makes the result of the fused maps; networks that have it set it.
    output_conv: nn.Sequential
    output_conv1: nn.Module
    output_conv2: nn.Module

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        for number, level in enumerate(channels, 1):
            self.add_module(f"layer{number}_rn", nn.Conv2d(level, width, 3, padding=1, bias=False))
            self.add_module(f"refinenet{number}", Fusion(width))

    def fuse(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Five maps, coarse to fine: the reduced coarsest level, then what each fusion gave.

        A fusion has the size of the next finer level, the last twice the finest level's.

        Args:
            levels: four maps (b, channels, h, w), finest first.
        """
        reduced = [
            getattr(self, f"layer{number}_rn")(level) for number, level in enumerate(levels, 1)
        ]
        finest = reduced[0].shape[2:]
        sizes = [(2 * finest[0], 2 * finest[1]), *(level.shape[2:] for level in reduced)]
        maps = [reduced[3]]
        for number in (4, 3, 2, 1):
            level = None if number == 4 else reduced[number - 1]
            fusion = getattr(self, f"refinenet{number}")
            maps.append(fusion(maps[-1], level, sizes[number - 1]))
        return maps


class Readout(nn.Module):
    """Mixes the class token into every other token and drops it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        rest = tokens[:, 1:]
        return self.project(torch.cat([rest, tokens[:, :1].expand_as(rest)], dim=2))


def depth_head(width: int) -> nn.Sequential:
    """What MiDaS makes depth of the finest map with: (b, width, h, w) -> (b, 1, 2 h, 2 w)."""
    return nn.Sequential(
        nn.Conv2d(width, width // 2, 3, padding=1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Conv2d(width // 2, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 1, 1),
        nn.ReLU(),
    )


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize that maps corners to corners."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def scratch_sizes(state: Mapping[str, Tensor], prefix: str) -> tuple[list[int], int]:
    """Channels of the four levels and the width of a `Scratch`, as a file has them."""
    shapes = [state[f"{prefix}layer{number}_rn.weight"].shape for number in (1, 2, 3, 4)]
    return [shape[1] for shape in shapes], shapes[0][0]
