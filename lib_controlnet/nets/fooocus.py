"""Fooocus' inpaint model for SDXL: changes to a U-Net's layers in 8 bits, and a head.

A change w of a weight is kept as whole numbers q from 0 to 255 and two bounds:
w = q / 255 * (high - low) + low. It is added to the weight; or a layer with the weights w reads the
same input, and what it makes of that is added to the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_CHANNELS: Final = 5
"""The mask, and a latent of four channels."""

PARTS: Final = ("weight", "bias")
LEVELS: Final = 255

LINEAR: Final = 2
"""Dimensions of such a layer's weight."""


class Quantised(nn.Module):
    """A change of one tensor.

    Args:
        levels: uint8, of the tensor's shape.
        low: the change where `levels` is 0.
        high: the change where it is 255.
    """

    def __init__(self, levels: Tensor, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels)
        self.register_buffer("bounds", torch.stack([low.float(), high.float()]))

    def read(self, dtype: torch.dtype) -> Tensor:
        """The change in a precision, computed in float32."""
        low, high = self.get_buffer("bounds")
        return (self.get_buffer("levels").float() / LEVELS * (high - low) + low).to(dtype)


class ChangedLayer(nn.Module):
    """What the changes of a layer's tensors add to its output.

    Args:
        layer: of the U-Net: linear, convolution, group or layer norm; only its kind is kept.
        shape: of its weight.
        changes: of `weight`, `bias` or both.

    Raises:
        TypeError: the layer is of another kind.
    """

    def __init__(
        self, layer: nn.Module, shape: Sequence[int], changes: Mapping[str, Quantised]
    ) -> None:
        super().__init__()
        self.changes = nn.ModuleDict(dict(changes))
        self.shape = tuple(shape)
        self.groups = 0
        self.eps = 0.0
        self.stride: tuple[int, ...] = ()
        self.padding: tuple[int, ...] = ()
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            self.stride, self.padding = layer.stride, layer.padding
        elif isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):
            self.groups, self.eps = getattr(layer, "num_groups", 0), layer.eps
        elif len(self.shape) != LINEAR:  # linear layers may be of a class of the host
            msg = f"a change of {type(layer).__name__} is not known"
            raise TypeError(msg)

    def readers(self) -> dict[str, Callable[[torch.dtype], Tensor]]:
        """What reads the changes in a precision, by the names of the layer's tensors."""
        return {part: cast("Quantised", change).read for part, change in self.changes.items()}

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output, of its input x."""
        found = {part: read(x.dtype) for part, read in self.readers().items()}
        bias = found.get("bias")
        weight = found.get("weight", torch.zeros(()))
        if "weight" not in found:
            weight = torch.zeros(self.shape, dtype=x.dtype, device=x.device)
        if self.groups:
            return F.group_norm(x, self.groups, weight, bias, self.eps)
        if self.eps:
            return F.layer_norm(x, weight.shape, weight, bias, self.eps)
        if self.stride:
            return F.conv2d(x, weight, bias, self.stride, self.padding)
        return F.linear(x, weight, bias)


class FooocusInpaint(nn.Module):
    """Head and patch.

    Args:
        head: (width, 5, 3, 3).
        layers: by the path of the U-Net's layer.
    """

    def __init__(self, head: Tensor, layers: Mapping[str, ChangedLayer]) -> None:
        super().__init__()
        self.head = nn.Parameter(head, requires_grad=False)
        self.paths = tuple(layers)
        self.layers = nn.ModuleList(layers.values())

    def by_path(self) -> dict[str, ChangedLayer]:
        """The changes by the path of the U-Net's layer."""
        return {
            path: cast("ChangedLayer", layer)
            for path, layer in zip(self.paths, self.layers, strict=True)
        }

    def encode(self, mask: Tensor, latent: Tensor) -> Tensor:
        """What is added behind the first input block: (n, width, h, w).

        Args:
            mask: (n, 1, h, w), 1 where the picture is repainted.
            latent: (n, 4, h, w) of the picture without what is there.
        """
        given = torch.cat([mask, latent], dim=1)
        return F.conv2d(F.pad(given, (1, 1, 1, 1), mode="replicate"), self.head)
