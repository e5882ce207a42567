"""Pictures as tensors, and what a network gives back as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .networks import place_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def as_planes(image: np.ndarray | Sequence[np.ndarray], network: nn.Module) -> Tensor:
    """A picture, or several of one size, as a network takes it.

    Args:
        image: uint8 (H, W) or (H, W, C).
        network: whose device and dtype the tensor gets.

    Returns:
        (b, C, H, W) in 0 to 255.
    """
    import torch

    if not isinstance(image, np.ndarray):
        return _stack([as_planes(one, network) for one in image])
    device, dtype = place_of(network)
    planes = image[:, :, None] if image.ndim == 2 else image
    tensor = torch.from_numpy(np.ascontiguousarray(planes)).to(device)
    return tensor.permute(2, 0, 1)[None].to(dtype)


def _stack(rows: list[Tensor]) -> Tensor:
    """Tensors (1, ...) as one; a single one stays as it is, in its layout too."""
    import torch

    return rows[0] if len(rows) == 1 else torch.cat(rows)


def as_array(tensor: Tensor) -> np.ndarray:
    """A tensor on any device and of any dtype as a float32 array of the same shape."""
    return tensor.detach().float().cpu().numpy()


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def as_input(
    picture: np.ndarray | Sequence[np.ndarray],
    network: nn.Module,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """A picture, or several of one size, as networks take it that expect each channel centred.

    Args:
        picture: (H, W, 3), uint8, or float32 in 0 to 1.
        network: whose device and dtype the tensor gets.
        mean, std: per channel, of values in 0 to 1.

    Returns:
        (b, 3, H, W).
    """
    import torch

    if not isinstance(picture, np.ndarray):
        return _stack([as_input(one, network, mean, std) for one in picture])
    device, dtype = place_of(network)
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)
    if picture.dtype == np.uint8:
        planes /= 255
    centred = (planes - np.asarray(mean, np.float32)[:, None, None]) / np.asarray(std, np.float32)[
        :, None, None
    ]
    return torch.from_numpy(centred)[None].to(device, dtype)


def spread(values: np.ndarray) -> np.ndarray:
    """Numbers of any range as uint8, lowest 0 and highest 255; all zero where they are equal."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return ((values - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def as_normal_map(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors (3, H, W) as colours, uint8 (H, W, 3): -1 is 0 and 1 is 255."""
    colours = (vectors.transpose(1, 2, 0) + 1) / 2 * 255
    return colours.clip(0, 255).astype(np.uint8)
