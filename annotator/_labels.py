"""From scores of classes to the class of every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_TOGETHER = 16  # classes that are enlarged at once: all of them would fill the memory


def most_likely(scores: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The class with the highest score, after enlarging the scores bilinearly.

    Args:
        scores: (1, classes, h, w).
        size: height and width wanted.

    Returns:
        int64 (height, width).
    """
    import torch  # noqa: PLC0415
    from torch.nn.functional import interpolate  # noqa: PLC0415

    best = labels = None
    for start in range(0, scores.shape[1], _TOGETHER):
        some = scores[:, start : start + _TOGETHER].float()
        highest, which = interpolate(some, size, mode="bilinear")[0].max(dim=0)
        if best is None:
            best, labels = highest, which
            continue
        labels = torch.where(highest > best, which + start, labels)
        best = torch.maximum(highest, best)
    return labels.cpu().numpy()
