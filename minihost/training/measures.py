"""Measures of whether a picture obeys its control picture and its caption."""

from __future__ import annotations

from functools import cache
from typing import Final

import cv2
import numpy as np

from .hints import canny_edges
from .scenes import INK, PALETTE, TINT
from .shapes import fill, outline
from .vocabulary import SHAPES

SIDE: Final = 64
MIN_AREA: Final = 0.01


def edge_f1(picture: np.ndarray, edges: np.ndarray, tolerance: float = 2.0) -> float:
    """F1 of a picture's Canny edges against wanted ones, within a distance in pixels.

    Args:
        picture: uint8 (s, s, 3).
        edges: (s, s), non-zero where an edge is wanted.
    """
    found, wanted = canny_edges(picture) > 0, edges > 0
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = (_distance(wanted)[found] <= tolerance).mean()
    recall = (_distance(found)[wanted] <= tolerance).mean()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def edge_recall(picture: np.ndarray, edges: np.ndarray, tolerance: float = 2.0) -> float:
    """Share of wanted edges that a picture has, within a distance in pixels."""
    found, wanted = canny_edges(picture) > 0, edges > 0
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    return float((_distance(found)[wanted] <= tolerance).mean())


def _distance(mask: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)


def kept_error(picture: np.ndarray, hint: np.ndarray) -> float:
    """Mean absolute difference (0 to 255) from an inpaint hint where it is not masked."""
    kept = hint[..., 0] >= 0
    return float(np.abs(picture[kept].astype(np.float32) - hint[kept] * 255).mean())


def seam_error(picture: np.ndarray, original: np.ndarray, hint: np.ndarray) -> float:
    """Mean absolute difference (0 to 255) from the original just inside the mask's border."""
    masked = hint[..., 0] < 0
    inside = masked & (cv2.distanceTransform(masked.astype(np.uint8), cv2.DIST_L2, 5) <= 4)
    if not inside.any():
        return 0.0
    return float(np.abs(picture[inside].astype(np.float32) - original[inside]).mean())


def nearest_colour(rgb: np.ndarray, tint: float = 0.0) -> str:
    """Name of the palette colour nearest to an RGB value, the palette mixed with white."""
    names = list(PALETTE)
    values = np.array([PALETTE[n] for n in names], np.float32) * (1 - tint) + 255 * tint
    lab = cv2.cvtColor(np.float32([[*values, rgb]]) / 255, cv2.COLOR_RGB2LAB)[0]
    return names[int(np.linalg.norm(lab[:-1] - lab[-1], axis=1).argmin())]


def background_colour(picture: np.ndarray) -> str:
    """Name of the colour of a picture's outermost pixels."""
    rim = np.concatenate([picture[:3], picture[-3:]], axis=1).reshape(-1, 3)
    sides = np.concatenate([picture[:, :3], picture[:, -3:]], axis=0).reshape(-1, 3)
    return nearest_colour(np.median(np.concatenate([rim, sides]), axis=0), TINT)


def main_thing(picture: np.ndarray) -> tuple[str, str]:
    """Shape and colour of the largest thing on a plain background; ("", "") if there is none."""
    smooth = cv2.medianBlur(np.ascontiguousarray(picture), 5)
    rim = np.concatenate([smooth[:3].reshape(-1, 3), smooth[-3:].reshape(-1, 3)])
    ground = np.median(rim, axis=0)
    different = np.abs(smooth.astype(np.float32) - ground).sum(-1) > 60
    count, labels, stats, _centres = cv2.connectedComponentsWithStats(different.astype(np.uint8))
    if count < 2:
        return "", ""
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    mask = labels == largest
    if mask.mean() < MIN_AREA:
        return "", ""
    inked = np.abs(smooth.astype(np.float32) - INK).sum(-1) < 130
    body = smooth[mask & ~cv2.dilate(inked.astype(np.uint8), np.ones((3, 3))).astype(bool)]
    colour = nearest_colour(np.median(body, axis=0)) if len(body) else ""
    return _shape_of(mask), colour


def _shape_of(mask: np.ndarray) -> str:
    moved = _normalised(mask)
    scores = {}
    for shape in SHAPES:
        overlaps = [(moved & t).sum() / (moved | t).sum() for t in _templates(shape)]
        scores[shape] = max(overlaps)
    return max(scores, key=scores.__getitem__)


@cache
def _templates(shape: str) -> tuple[np.ndarray, ...]:
    centre = np.array([128.0, 128.0])
    turns = np.linspace(-0.6, 0.6, 13)
    return tuple(_normalised(fill(256, outline(shape, centre, 70, a))) for a in turns)


def _normalised(mask: np.ndarray) -> np.ndarray:
    """The mask moved and scaled to a standard centre and extent, boolean (SIDE, SIDE)."""
    y, x = np.nonzero(mask)
    centre = np.array([(x.min() + x.max()) / 2, (y.min() + y.max()) / 2])
    scale = (SIDE - 8) / max(np.ptp(x) + 1, np.ptp(y) + 1)
    matrix = np.float32([[scale, 0, SIDE / 2], [0, scale, SIDE / 2]])
    matrix[:, 2] -= scale * centre
    moved = cv2.warpAffine(mask.astype(np.float32), matrix, (SIDE, SIDE), flags=cv2.INTER_AREA)
    return moved > 0.5
