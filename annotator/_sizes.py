"""Pictures in the sizes that networks were trained on."""

from __future__ import annotations

import cv2
import numpy as np


def within_box(
    image: np.ndarray, short: int, long: int, step: int = 1, *, linear: bool = False
) -> np.ndarray:
    """Scale a picture to the largest size within a box that may stand or lie.

    Args:
        image: uint8 (H, W, C).
        short, long: limits of the short and of the long side, pixels.
        step: sides become multiples of it, and no less than it.
        linear: interpolate between the nearest pixels, whatever the factor, as segmentation
            networks were trained; else cubic when enlarging, and areas when reducing.
    """
    height, width = image.shape[:2]
    factor = min(short / min(height, width), long / max(height, width))
    size = [max(round(side * factor / step), 1) * step for side in (width, height)]
    if size == [width, height]:
        return image
    method = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR if linear else method)
