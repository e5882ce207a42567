"""Pictures as tensors, and what a network gives back as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .networks import place_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def as_planes(image: np.ndarray, network: nn.Module) -> Tensor:
    """A picture as a network takes it.

    Args:
        image: uint8 (H, W) or (H, W, C).
        network: whose device and dtype the tensor gets.

    Returns:
        (1, C, H, W) in 0 to 255.
    """
    import torch  # noqa: PLC0415

    device, dtype = place_of(network)
    planes = image[:, :, None] if image.ndim == 2 else image
    tensor = torch.from_numpy(np.ascontiguousarray(planes)).to(device)
    return tensor.permute(2, 0, 1)[None].to(dtype)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor on any device and of any dtype as a float32 array of the same shape."""
    return tensor.detach().float().cpu().numpy()
