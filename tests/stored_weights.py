"""Linear layers whose weights are stored as members of the Forge family store them: stand-ins.

Of each way of storing there is what a reader meets: the class of the parameter, its shape, what
gives the numbers, and a layer that is none of torch and tells no widths. All hold the same numbers,
whole ones from -15 to 15 times a power of two, which every way holds exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST: Final = 15
MIDDLE: Final = 128
BAKED: Final = 7
"""By what baking moves all bytes: who reads the host's own tensor would find it moved."""


def round_weight(weight: Tensor) -> tuple[Tensor, float]:
    """Whole numbers and the factor by which they come near a weight."""
    factor = 2.0 ** math.ceil(math.log2(float(weight.abs().max()) / LARGEST))
    return (weight / factor).round(), factor


class _Bytes(nn.Parameter):
    """Whole numbers as bytes; `real_shape` and `factor` tell what they stand for."""

    real_shape: torch.Size
    factor: float

    @classmethod
    def of(cls, levels: Tensor, factor: float) -> Any:
        data = (levels + MIDDLE).to(torch.uint8).reshape(cls.lay(levels))
        return cls.around(data, levels.shape, factor)

    @classmethod
    def around(cls, data: Tensor, shape: torch.Size, factor: float) -> Any:
        made = torch.Tensor._make_subclass(cls, data, False)
        made.real_shape, made.factor = shape, factor
        return made

    @staticmethod
    def lay(levels: Tensor) -> tuple[int, ...]:
        return (levels.numel(), 1)

    def numbers(self) -> Tensor:
        return ((self.data.float() - MIDDLE) * self.factor).reshape(tuple(self.real_shape))


class Column(_Bytes):
    """bitsandbytes: a column of bytes with a state beside it; a function of the host reads it."""

    bnb_quantized = True

    @property
    def quant_state(self) -> SimpleNamespace:
        return SimpleNamespace(shape=self.real_shape, dtype=torch.float16)


class Blocks(_Bytes):
    """GGUF: bytes that tell the real shape; reading them first changes how they lie."""

    baked = False

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.real_shape

    def copy_with_data(self, data: Tensor) -> Blocks:
        made = type(self).around(data, self.real_shape, self.factor)
        made.baked = self.baked
        return made

    def dequantize_as_pytorch_parameter(self) -> nn.Parameter:
        if not self.baked:
            self.data, self.baked = self.data + BAKED, True
        numbers = (self.data.float() - BAKED - MIDDLE) * self.factor
        return nn.Parameter(numbers.reshape(tuple(self.real_shape)), requires_grad=False)


class Halves(_Bytes):
    """4 bits of a class of the host without a method for it; a function of the host reads it."""

    @property
    def shape(self) -> torch.Size:  # type: ignore[override]
        return self.real_shape


class Wrapped(_Bytes):
    """A class of tensors with a method for it, as kitchens of newer hosts make them."""

    @staticmethod
    def lay(levels: Tensor) -> tuple[int, ...]:
        return tuple(levels.shape)

    def dequantize(self) -> Tensor:
        return self.numbers()


class StoredLinear(nn.Module):
    """A linear layer that computes with the numbers of what it stores.

    Args:
        weight: as it is stored.
        bias: or None.
        numbers: that the weight stands for.
        factor: that is kept beside the weight, or None.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, numbers: Tensor, factor: float | None
    ) -> None:
        super().__init__()
        self.register_parameter("weight", weight)  # type: ignore[arg-type]
        self.register_parameter("bias", bias)  # type: ignore[arg-type]
        self._numbers = [numbers]
        kept = None if factor is None else nn.Parameter(torch.tensor(factor), requires_grad=False)
        self.scale_weight = kept

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return F.linear(x, self._numbers[0], self.bias)


WAYS: Final[dict[str, type[_Bytes] | None]] = {
    "bitsandbytes": Column,
    "gguf": Blocks,
    "4 bits": Halves,
    "wrapped": Wrapped,
    "8 bits": None,
}

READERS: Final[dict[str, tuple[str, type[_Bytes]]]] = {
    "backend.operations_bnb": ("functional_dequantize_4bit", Column),
    "backend.operations_nf4": ("dequantize_nf4", Halves),
    "backend.operations_gguf": ("dequantize_tensor", type(None)),  # type: ignore[dict-item]
}


def modules() -> dict[str, ModuleType]:
    """The modules by which a host reads some of them; each gives what is not its own as it is."""
    made = {}
    for name, (function, own) in READERS.items():
        made[name] = ModuleType(name)
        setattr(made[name], function, _reader(own))
    return made


def _reader(own: type[_Bytes]) -> Callable[[Any], Any]:
    return lambda stored: stored.numbers() if isinstance(stored, own) else stored


def round_linear(network: nn.Module) -> None:
    """Give the linear layers of a network weights that every way of storing holds."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            levels, factor = round_weight(layer.weight)
            layer.weight.data = levels * factor


def store(network: nn.Module, way: str) -> None:
    """Store the weights of all linear layers of a network that `round_linear` has rounded."""
    found = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    ]
    for parent, name, layer in found:
        levels, factor = round_weight(layer.weight)
        kind = WAYS[way]
        if kind is None:
            weight = nn.Parameter(levels.to(torch.float8_e4m3fn), requires_grad=False)
        else:
            weight = kind.of(levels, factor)
        made = StoredLinear(weight, layer.bias, layer.weight.data, None if kind else factor)
        setattr(parent, name, made)
