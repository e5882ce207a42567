"""Networks filled with the tensors of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def fill(make: Callable[[], Network], state: Mapping[str, Tensor]) -> Network:
    """A network that holds a file's tensors themselves: no copy, no random numbers drawn.

    Args:
        make: builds the module. It runs on the meta device, so a buffer that is not in the file
            must be computed in `forward`.
        state: one tensor for every key.

    Raises:
        RuntimeError: a key is missing, unexpected, or has another shape.
    """
    with torch.device("meta"):
        network = make()
    network.load_state_dict(dict(state), strict=True, assign=True)
    return network


def without_prefix(state: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """A state dict whose keys lose a leading prefix, which wrappers for several GPUs add."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules a file has below a prefix that ends with a dot.

    Raises:
        KeyError: none.
    """
    numbers = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    if not numbers:
        msg = f"no key starts with {prefix}"
        raise KeyError(msg)
    return len(numbers)
