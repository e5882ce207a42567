"""Pictures in the sizes that networks were trained on."""

from __future__ import annotations

import cv2
import numpy as np


def within_box(
    image: np.ndarray,
    short: int,
    long: int,
    step: int = 1,
    enlarge: int = cv2.INTER_CUBIC,
    reduce: int = cv2.INTER_AREA,
) -> np.ndarray:
    """Scale a picture to the largest size within a box that may stand or lie.

    Args:
        image: uint8 (H, W, C).
        short, long: limits of the short and of the long side, pixels.
        step: sides become multiples of it, and no less than it.
        enlarge, reduce: OpenCV's interpolation for either way.
    """
    height, width = image.shape[:2]
    factor = min(short / min(height, width), long / max(height, width))
    size = [max(round(side * factor / step), 1) * step for side in (width, height)]
    if size == [width, height]:
        return image
    return cv2.resize(image, size, interpolation=enlarge if factor > 1 else reduce)
