"""How far a picture follows its control: the control's preprocessor is asked, and compared.

For lines the measure is F1 within two pixels, for everything else the correlation of the maps.
Inpaint controls are the picture itself: what is not masked is compared with it.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

REACH: Final = 2
DARK, BRIGHT = 25, 230
LINE_SHARE: Final = 0.95
"""A map is a line drawing if at least this share of its pixels is black or white."""


def is_lines(control: np.ndarray) -> bool:
    """Whether a uint8 (H, W, 3) control picture is thin white lines on black."""
    plane = control.max(axis=2)
    settled = ((plane <= DARK) | (plane >= BRIGHT)).mean()
    return bool(settled >= LINE_SHARE and (plane >= BRIGHT).mean() < 0.5)


def edge_f1(found: np.ndarray, wanted: np.ndarray, reach: int = REACH) -> float:
    """F1 of two line drawings, uint8 (H, W, 3), that may be some pixels apart; 0 to 1."""
    a, b = (picture.max(axis=2) > 127 for picture in (found, wanted))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near_a, near_b = (cv2.dilate(mask.astype(np.uint8), disk) > 0 for mask in (a, b))
    precision = float((a & near_b).sum() / a.sum()) if a.any() else 0.0
    recall = float((b & near_a).sum() / b.sum()) if b.any() else 0.0
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def correlation(found: np.ndarray, wanted: np.ndarray) -> float:
    """Correlation of two maps, uint8 of one shape; 0 where it is negative or a map is flat."""
    a, b = (picture.astype(np.float64).ravel() for picture in (found, wanted))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return max(0.0, float((a * b).sum()) / norm) if norm else 0.0


def adherence(found: np.ndarray, wanted: np.ndarray) -> float:
    """How far what is found in a picture is what the control asked for; 0 to 1."""
    return edge_f1(found, wanted) if is_lines(wanted) else correlation(found, wanted)
