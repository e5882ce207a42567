"""How well a picture follows the edges that it was told to follow."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

REACH = 2  # pixels between a line of the control and a line of the picture that still agree


@dataclass(frozen=True)
class Agreement:
    """Precision, recall and their harmonic mean, each 0 to 1."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def edges(picture: np.ndarray, low: int = 100, high: int = 200) -> np.ndarray:
    """Canny edges of a picture.

    Args:
        picture: uint8 (H, W, 3), RGB.
        low: lower threshold.
        high: upper threshold.

    Returns:
        bool (H, W).
    """
    return cv2.Canny(picture, low, high) > 0


def agreement(found: np.ndarray, wanted: np.ndarray, reach: int = REACH) -> Agreement:
    """Compare two edge maps of one size, forgiving a shift of up to `reach` pixels.

    Args:
        found: bool (H, W), edges of the generated picture.
        wanted: bool (H, W), edges of the control picture.
        reach: radius of the tolerance in pixels.
    """
    size = 2 * reach + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))

    def near(mask: np.ndarray) -> np.ndarray:
        return cv2.dilate(mask.astype(np.uint8), disk) > 0

    def share(part: np.ndarray, of: np.ndarray) -> float:
        return float((part & of).sum() / of.sum()) if of.any() else 0.0

    return Agreement(precision=share(near(wanted), found), recall=share(near(found), wanted))


def edge_f1(picture: np.ndarray, control: np.ndarray, reach: int = REACH) -> float:
    """F1 between the edges of a picture and a white-on-black edge map.

    Args:
        picture: uint8 (H, W, 3), RGB.
        control: uint8 (H, W) or (H, W, 3); everything above 127 is an edge.
        reach: radius of the tolerance in pixels.
    """
    wanted = control.max(axis=2) if control.ndim == 3 else control
    return agreement(edges(picture), wanted > 127, reach).f1
