"""Convolutions over a picture that is cut into strips: the same numbers, less memory at a time."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

POINTWISE: Final = (nn.SiLU, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Identity)
"""Layers that look at one pixel, or rather at one number, at a time."""


def find_reach(layers: nn.Sequential) -> tuple[int, int] | None:
    """How far a pixel of the output sees, and how many of the input's one of its steps spans.

    Returns:
        Both in rows of the input; None where something looks further than a convolution does.
    """
    reach, span = 0, 1
    for layer in layers:
        if isinstance(layer, POINTWISE):
            continue
        if not isinstance(layer, nn.Conv2d) or not _is_plain(layer):
            return None
        reach += layer.kernel_size[0] // 2 * span
        span *= layer.stride[0]
    return reach, span


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether a convolution keeps the size, but for its stride, behind a border of zeros."""
    same = tuple(side // 2 for side in layer.kernel_size)
    is_odd = all(side % 2 for side in layer.kernel_size)
    is_whole = layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    return is_odd and is_whole and layer.padding == same


def run_in_strips(layers: nn.Sequential, pictures: Tensor, strips: int) -> Tensor:
    """What the layers make of pictures (b, c, H, W), strip by strip and picture by picture.

    A strip takes as many rows of its neighbours along as the layers see, and those of its result
    are cut off. Where the layers see everything there is one strip.
    """
    found = find_reach(layers)
    if strips <= 1 or found is None:
        return layers(pictures)
    reach, span = found
    margin = -(-reach // span)
    rows = -(-pictures.shape[2] // span)
    step = -(-rows // strips)

    def compute(picture: Tensor, start: int) -> Tensor:
        first = max(start - margin, 0)
        end = min(start + step, rows)
        made = layers(picture[:, :, first * span : (end + margin) * span])
        return made[:, :, start - first : end - first]

    return torch.cat(
        [
            torch.cat([compute(picture, start) for start in range(0, rows, step)], dim=2)
            for picture in pictures.split(1)
        ]
    )
