"""Linear layers of a class of the host, which is none of torch's linear layers.

Members of the family make them so, since what is stored in 4 or 8 bits is computed otherwise.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """Computes as torch's does, of whatever stands for its weight."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return F.linear(x, self.weight, self.bias)


def own_linear_layers(network: nn.Module) -> None:
    """Make all linear layers of a network such ones."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
