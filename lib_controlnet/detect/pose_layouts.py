"""Bodies in the orders in which pose estimators list their points, as OpenPose's 18.

The orders: COCO, BODY_25 and BODY_25B of OpenPose (its output documentation), Halpe-26 (Fang et
al., arXiv:2211.03375).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

Layout = tuple[int, ...]

_FIRST_18: Final[Layout] = tuple(range(18))
_BODY_25: Final[Layout] = (*range(8), *range(9, 15), *range(15, 19))  # 8 is the middle of the hips
_BODY_25B: Final[Layout] = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
_HALPE_26: Final[Layout] = (0, 18, *_BODY_25B[2:])

LAYOUTS: Final[dict[int, tuple[Layout, ...]]] = {
    18: (_FIRST_18,),
    19: (_BODY_25,),
    24: (_FIRST_18,),  # three points of each foot are appended
    25: (_BODY_25, _BODY_25B),
    26: (_HALPE_26,),
}
"""Number of points -> for each of our 18 the place of its own, the usual order first."""

_LIMBS: Final = np.array(
    [
        *((1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13)),
        *((0, 1), (0, 14), (14, 16), (0, 15), (15, 17), (2, 8), (5, 11)),
    ]
)
_CLEARLY: Final = 0.75
"""An unusual order has to make limbs so much shorter, and to find so many."""
_ENOUGH: Final = 4


def find_layout(bodies: Sequence[np.ndarray]) -> Layout:
    """The order in which some bodies list their points.

    Where two orders have so many points, it is the usual one unless the other makes the limbs of
    all people clearly shorter.

    Args:
        bodies: float (n, 3) each, x, y and confidence; n is one of `LAYOUTS`, the same for all.
    """
    usual, *others = LAYOUTS[len(bodies[0])]
    _, wanted = _limbs(bodies, usual)
    for other in others:
        count, length = _limbs(bodies, other)
        if count >= _ENOUGH and length < _CLEARLY * wanted:
            return other
    return usual


def reorder(points: np.ndarray, layout: Layout) -> np.ndarray:
    """The 18 points of OpenPose's COCO model, float (18, 3), of points in another order."""
    return points[list(layout)]


def _limbs(bodies: Sequence[np.ndarray], layout: Layout) -> tuple[int, float]:
    """How many limbs have both ends, and their mean length; infinite where there is none."""
    ends = np.concatenate([reorder(points, layout)[_LIMBS] for points in bodies])
    there = (ends[:, :, 2] > 0).all(axis=1)
    lengths = np.linalg.norm(ends[there, 0, :2] - ends[there, 1, :2], axis=1)
    return len(lengths), float(lengths.mean()) if len(lengths) else math.inf
