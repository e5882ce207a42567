"""From scores of classes to the class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_TOGETHER = 16  # classes that are enlarged at once: all of them would fill the memory


def most_likely(scores: Tensor, size: Sequence[int]) -> np.ndarray:
    """The class with the highest score, after enlarging the scores bilinearly.

    Args:
        scores: (1, classes, h, w).
        size: height and width wanted.

    Returns:
        int64 (height, width).
    """
    import torch
    from torch.nn.functional import interpolate

    def highest(start: int) -> tuple[Tensor, Tensor]:
        some = scores[:, start : start + _TOGETHER].float()
        found, which = interpolate(some, tuple(size), mode="bilinear")[0].max(dim=0)
        return found, which + start

    best, labels = highest(0)
    for start in range(_TOGETHER, scores.shape[1], _TOGETHER):
        found, which = highest(start)
        labels = torch.where(found > best, which, labels)
        best = torch.maximum(found, best)
    return labels.cpu().numpy()
