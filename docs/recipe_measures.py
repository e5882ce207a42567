"""How visible the border of a repainted part is, and how well its inside follows given lines."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from adherence import agreement, edges

BAND: Final = 4  # pixels on each side of the border that count as the border
FLANK: Final = 6  # pixels beyond them, on each side, that it is compared with


def border_profiles(picture: np.ndarray, mask: np.ndarray, reach: int) -> np.ndarray:
    """Colours along the normals of the mask's border.

    Args:
        picture: uint8 (H, W, 3); it is smoothed by a pixel first.
        mask: uint8 (H, W), white inside.
        reach: length of a normal on each side of the border, in pixels.

    Returns:
        float32 (n, 2 * reach + 1, 3), from outside to inside, a row for each point of the border
        whose normals stay in the picture.
    """
    inside = (mask > 127).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance -= cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    smooth = cv2.GaussianBlur(distance, (0, 0), 2)
    normal = np.stack([cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-6
    y, x = np.nonzero((distance > 0) & (distance <= 1))
    along = np.arange(-reach, reach + 1, dtype=np.float32)
    at_x = (x[:, None] + along * normal[y, x, 0][:, None]).astype(np.float32)
    at_y = (y[:, None] + along * normal[y, x, 1][:, None]).astype(np.float32)
    height, width = mask.shape
    stays = (at_x >= 0) & (at_x <= width - 1) & (at_y >= 0) & (at_y <= height - 1)
    kept = stays.all(axis=1)
    if not kept.any():
        return np.zeros((0, len(along), 3), np.float32)
    # Between pixels interpolation smooths a texture, on them it does not: the same everywhere.
    even = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1)
    return cv2.remap(even, at_x[kept], at_y[kept], cv2.INTER_LINEAR)


def seam(picture: np.ndarray, mask: np.ndarray) -> float:
    """Gradient across the mask's border in excess of that beside it, in grey levels per pixel.

    The mean change from pixel to pixel along the normals, over the three channels: within `BAND`
    pixels of the border, less the mean of the `FLANK` pixels beyond on either side. About 0 where
    the border cannot be seen, negative where it is smoother than its surroundings. A picture has
    a value of its own at any mask: compare with that of the untouched one.

    Args:
        picture: uint8 (H, W, 3).
        mask: uint8 (H, W), white inside.

    Raises:
        ValueError: no normal of the border stays within the picture.
    """
    reach = BAND + FLANK
    profiles = border_profiles(picture, mask, reach)
    if not len(profiles):
        msg = f"the mask has no border that lies {reach} pixels or more inside of the picture"
        raise ValueError(msg)
    steps = np.abs(np.diff(profiles, axis=1)).mean(axis=(0, 2))
    border = steps[FLANK:-FLANK].mean()
    return float(border - (steps[:FLANK].mean() + steps[-FLANK:].mean()) / 2)


def adherence_inside(
    picture: np.ndarray, control: np.ndarray, mask: np.ndarray, margin: int
) -> float:
    """F1 within 2 pixels between a picture's edges and the control's, inside the mask only.

    Args:
        picture: uint8 (H, W, 3).
        control: uint8 (H, W) or (H, W, 3), white lines on black.
        mask: uint8 (H, W), white inside.
        margin: pixels along the border that do not count, for it is an edge itself.
    """
    wanted = (control.max(axis=2) if control.ndim == 3 else control) > 127
    side = 2 * margin + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    # Beyond the picture nothing is masked off: its own edges are no border.
    core = cv2.erode(mask, disk, borderType=cv2.BORDER_CONSTANT, borderValue=255) > 127
    return agreement(edges(picture) & core, wanted & core).f1


def change_outside(picture: np.ndarray, original: np.ndarray, mask: np.ndarray, margin: int) -> int:
    """Largest change of a pixel outside of the mask grown by `margin` on all sides, 0 to 255."""
    side = 2 * margin + 1
    kept = cv2.dilate(mask, np.ones((side, side), np.uint8)) == 0
    difference = cv2.absdiff(picture, original).max(axis=2)
    return int(difference[kept].max()) if kept.any() else 0
