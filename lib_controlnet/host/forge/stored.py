"""Weights that a member of the Forge family stores in 4 or 8 bits, as the numbers they stand for.

Members have parameters of classes of their own for that, with a method that gives the numbers, or a
function of a module of theirs for it; layers of 8 bits may have a factor beside the weight. Which
of them there are is seen here, one after the other; a tensor that is what it seems needs none.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from lib_controlnet.engine.unet import shape_of

log = logging.getLogger(__name__)

METHODS: Final = ("dequantize_as_pytorch_parameter", "dequantize")
"""Of parameters of classes of a host; torch's own tensors have one of them for something else."""

FUNCTIONS: Final = (
    ("backend.operations_bnb", "functional_dequantize_4bit"),
    ("backend.operations_nf4", "dequantize_nf4"),
    ("backend.operations_gguf", "dequantize_tensor"),
)
"""Of modules, which a host that needs them has imported."""

FACTOR: Final = "scale_weight"
"""Of layers: a number, or one for each output, by which the weight is multiplied."""


def find_factor(layer: nn.Module, leaf: str) -> Tensor | None:
    """By what a layer multiplies one of its tensors; None: by nothing."""
    factor = getattr(layer, FACTOR, None) if leaf == "weight" else None
    return factor if isinstance(factor, Tensor) else None


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds the very numbers that it stands for."""
    kind = type(tensor) in (Tensor, nn.Parameter)
    return kind and tensor.is_floating_point() and shape_of(tensor) == tuple(tensor.shape)


@torch.no_grad()
def read(name: str, stored: Tensor, factor: Tensor | None) -> Tensor | None:
    """The numbers that a tensor stands for, in a floating type; None where nothing gives them.

    Args:
        name: of the tensor, for the log.
        stored: as it lies in the host.
        factor: see `find_factor`.
    """
    plain = stored if is_plain(stored) else _dequantise(name, stored)
    if plain is None or factor is None:
        return plain
    factor = factor.to(plain.device, torch.float32)
    return plain.float() * factor.reshape(-1, *[1] * (plain.dim() - 1))


def _dequantise(name: str, stored: Tensor) -> Tensor | None:
    for give in _ways(stored):
        try:
            found = give()
        except Exception:  # the host's: it lacks a device, a package, a format
            log.warning("%s cannot be read by the WebUI's own means", name, exc_info=True)
            continue
        if isinstance(found, Tensor) and is_plain(found) and found.shape == shape_of(stored):
            return found
    return None


def _ways(stored: Tensor) -> Iterator[Callable[[], Any]]:
    """What may give the numbers: what lies there itself, else the host.

    Who reads may write to its argument, so that is another object.
    """
    copy = getattr(stored, "copy_with_data", None)
    given = stored if copy is None else copy(stored.data)
    yield lambda: given.data
    for name in METHODS:
        if getattr(type(given), name, None) is not getattr(Tensor, name, None):
            yield getattr(given, name)
    for module, name in FUNCTIONS:
        function = getattr(sys.modules.get(module), name, None)
        if function is not None:
            yield partial(function, given)
