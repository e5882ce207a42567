"""ControlNet-LLLite: small modules on layers of the U-Net (kohya-ss, 2023).

Each module adds something to the input of one linear layer or convolution, computed of that input
and of an embedding of the hint. The embedding sees neither noise, nor time, nor text, so it is
computed once for a picture. Module names follow the published files. Tokens are (b, n, c); a
convolution's are the cells of its input. Nothing here draws random numbers: networks are built on
the meta device and filled from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_controlnet.nets.padding import pad_to_cells

Shapes = Mapping[str, Sequence[int]]

STRIDES: Final[Mapping[int, tuple[int, ...]]] = {1: (4, 2), 2: (4, 4), 3: (4, 4, 2)}
"""Side and stride of the convolutions on the hint, by depth: to 1/8, 1/16 and 1/32 of its size."""


@dataclass(frozen=True)
class LLLiteParams:
    """One module.

    Attributes:
        width: of the tokens it reads and adds to.
        cond_width: of the hint's embedding.
        mlp_width: between its layers.
        depth: how small the embedding is, a key of `STRIDES`.
        is_conv: whether its layers are kept as convolutions of 1 x 1, as those on convolutions are.
    """

    width: int
    cond_width: int
    mlp_width: int
    depth: int
    is_conv: bool = False


def read_lllite_params(shapes: Shapes) -> dict[str, LLLiteParams]:
    """Derive every module's hyper-parameters, by its name, from the shapes of a file's tensors.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    params = {}
    for name in dict.fromkeys(key.partition(".")[0] for key in shapes):
        down = shapes[f"{name}.down.0.weight"]
        mlp_width, width = down[:2]
        second = shapes[f"{name}.conditioning1.2.weight"]
        depth = 3 if f"{name}.conditioning1.4.weight" in shapes else 2
        if second[-1] == STRIDES[1][1]:
            depth = 1
        cond_width = 2 * shapes[f"{name}.conditioning1.0.weight"][0]
        params[name] = LLLiteParams(width, cond_width, mlp_width, depth, len(down) == 4)
    return params


class Pointwise(nn.Conv2d):
    """A convolution of 1 x 1, on tokens (b, n, c)."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (b, n, out_width)."""
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class LLLiteModule(nn.Module):
    """What is added to the input of one layer."""

    def __init__(self, params: LLLiteParams) -> None:
        super().__init__()
        strides = STRIDES[params.depth]
        half = params.cond_width // 2
        widths = (3, *(half,) * (len(strides) - 1), params.cond_width)
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers += [nn.Conv2d(widths[i], widths[i + 1], stride, stride=stride), nn.ReLU()]
        self.conditioning1 = nn.Sequential(*layers[:-1])
        self.cell = 4 * 2**params.depth
        self.cond_width = params.cond_width
        mlp, layer = params.mlp_width, Pointwise if params.is_conv else nn.Linear
        self.down = nn.Sequential(layer(params.width, mlp))
        self.mid = nn.Sequential(layer(mlp + params.cond_width, mlp))
        self.up = nn.Sequential(layer(mlp, params.width))

    def embed(self, hint: Tensor) -> Tensor:
        """Embed the hint, once for a picture.

        Args:
            hint: (b, 3, H, W) in [0, 1]; sides that are no multiple of the module's cell (8, 16
                or 32 pixels) are continued with their last pixels.

        Returns:
            (b, cond_width, h, w), one vector a cell.
        """
        return self.conditioning1(pad_to_cells(hint, self.cell) * 2.0 - 1.0)

    def forward(self, tokens: Tensor, cond: Tensor) -> Tensor:
        """What is added to tokens (b, n, width), given the hint's embedding (b, n, cond_width)."""
        inner = torch.cat([cond, F.relu(self.down(tokens))], dim=2)
        return self.up(F.relu(self.mid(inner)))


class LLLite(nn.ModuleDict):
    """All modules of a file, by the names they have there."""

    def __init__(self, params: Mapping[str, LLLiteParams]) -> None:
        """Build the layers; use inside `torch.device("meta")` to allocate nothing."""
        super().__init__({name: LLLiteModule(one) for name, one in params.items()})

    def at(self, name: str) -> LLLiteModule:
        """The module of a name."""
        module = self[name]
        assert isinstance(module, LLLiteModule)
        return module
