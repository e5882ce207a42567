"""Steps that several edge detectors share: soft edges, levels, scribbles, dark strokes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ._tensors import as_array, as_planes
from .networks import Build, lend
from .weights import WeightFile

SAFE_STEPS = 2
SCRIBBLE_BLUR = 3.0
CERTAIN = 127
"""Blurred edges fainter than this give no scribble."""
FAINTEST = 4
# A pixel, and its neighbours along one line through it; dilation takes the largest of the three.
_LINES = tuple(
    np.ascontiguousarray(line, np.uint8)
    for line in (np.ones((1, 3)), np.ones((3, 1)), np.eye(3), np.eye(3)[::-1])
)


def soft_edges(
    images: Sequence[np.ndarray], weight: WeightFile, build: Build[Any]
) -> list[np.ndarray]:
    """Edges by a network that gives several maps of logits: the sigmoid of their mean.

    Args:
        images: uint8 (H, W, 3) of one size, sides multiples of 64.
        weight, build: the network; it takes RGB in 0 to 255.

    Returns:
        float64 (H, W), 0 to 1, of each.
    """
    height, width = images[0].shape[:2]
    # Sums of unscaled pixels may pass the largest number of half precision.
    with lend(weight, build, half=False) as network:
        maps = [as_array(logits)[:, 0] for logits in network(as_planes(images, network))]
    edges = []
    for every in zip(*maps, strict=True):
        sized = [cv2.resize(logits, (width, height)) for logits in every]
        mean = np.mean(sized, axis=0).astype(np.float64)
        edges.append(1 / (1 + np.exp(-mean.clip(-500, 500))))
    return edges


def in_steps(edges: np.ndarray, steps: int) -> np.ndarray:
    """Cut edges in 0 to 1 to a few levels, which leaves less of the picture in them ("safe").

    Args:
        steps: the levels are multiples of 1 / steps; an edge of exactly 1 lands one level above
            1. With 0 the edges come back as they are.
    """
    return np.trunc(edges * (steps + 1)) / steps if steps else edges


def as_bytes(edges: np.ndarray) -> np.ndarray:
    """Edges in 0 to 1 as uint8, fractions cut off."""
    return (edges * 255).clip(0, 255).astype(np.uint8)


def scribble(edges: np.ndarray) -> np.ndarray:
    """Soft edges as a person would draw them: the ridges of the blurred map as broad lines.

    Args:
        edges: uint8 (H, W), white on black.

    Returns:
        uint8 (H, W), 0 or 255.
    """
    blurred = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), SCRIBBLE_BLUR)
    # On a ridge a pixel is the largest of its neighbours along at least one line.
    largest = np.min([cv2.dilate(blurred, line) for line in _LINES], axis=0)
    ridges = np.where((largest == blurred) & (blurred > CERTAIN), np.uint8(255), np.uint8(0))
    broad = cv2.GaussianBlur(ridges, (0, 0), SCRIBBLE_BLUR)
    return np.where(broad > FAINTEST, np.uint8(255), np.uint8(0))


def darkness(image: np.ndarray, sigma: float, detail: float = 0.0) -> np.ndarray:
    """How much darker than its surroundings a picture is, at least, in every channel.

    Args:
        image: uint8 (H, W, 3).
        sigma: of the blur that stands for the surroundings, pixels.
        detail: of the blur that the picture itself gets; 0 for none.

    Returns:
        float32 (H, W), -255 to 255.
    """
    least = np.full(image.shape[:2], np.inf, np.float32)
    for channel in cv2.split(image):  # one by one: floats take four times the memory
        plane: np.ndarray = channel.astype(np.float32)
        darker: np.ndarray = cv2.GaussianBlur(plane, (0, 0), sigma)
        darker -= cv2.GaussianBlur(plane, (0, 0), detail) if detail else plane
        np.minimum(least, darker, out=least)
    return least
