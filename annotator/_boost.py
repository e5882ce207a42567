"""Depth at a higher resolution than a network sees: whole picture first, then patch by patch.

Miangoleh, Dille, Mai, Paris, Aksoy, "Boosting Monocular Depth Estimation Models to
High-Resolution via Content-Adaptive Multi-Resolution Merging" (2021), arXiv:2105.14021. A network
that sees a picture small gets the whole right, one that sees it large gets the details right; a
second network merges both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

RECEPTIVE = 448
"""Side of what one pixel of the depth network's output depends on."""
LARGEST = 1600
"""Longest side that the whole picture is seen at."""
CELL = 32
"""Pixels of the picture for one of the maps that the sizes are searched on."""
UPSCALE = 3
UNSEEN = 0.2
"""Share of a picture that may lie farther from any edge than the network sees."""
EDGE = 0.4
"""Share of the range of gradients above which there is an edge."""
MERGED = 1024
MARGIN = 0.15
LUMA = (0.2989, 0.5870, 0.1140)

Estimate = Callable[[np.ndarray, int], np.ndarray]
"""Depth of a picture (H, W, 3) that the network sees as a square of that side: float32 (H, W)."""
Merge = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Merges two depths in 0 to 1, float32 (1024, 1024): the whole from the first, the details from
the second; the result lies in 0 to 1, too."""


@dataclass(frozen=True)
class Patch:
    """A square of the picture."""

    x: int
    y: int
    side: int

    def grow(self, step: int) -> Patch:
        return Patch(self.x - step // 2, self.y - step // 2, self.side + step)

    def cells(self, scale: float) -> tuple[slice, slice]:
        """Its rows and columns in a picture that is so much larger."""
        left, top, side = (int(np.round(n * scale)) for n in (self.x, self.y, self.side))
        return slice(top, top + side), slice(left, left + side)


def boost(image: np.ndarray, estimate: Estimate, merge: Merge) -> np.ndarray:
    """Depth with fine details.

    Args:
        image: uint8 (H, W, 3).
        estimate: a network for depth.
        merge: the network that merges two estimates.

    Returns:
        float32 (H, W), in about 0 to 1.
    """
    height, width = image.shape[:2]
    side, busy = best_side(image)
    whole = two_scales(image, side, estimate, merge)
    if max(height, width) < side:
        return _resize(whole, width, height)
    factor = max(min(1.0, 4 * busy * side / LARGEST), 0.2)
    scale = 2 * side / max(height, width)
    target = [int(round(round(n * scale) / factor)) for n in (width, height)]
    large = _resize(image, *target)
    patches = find_patches(large, int(CELL / factor))
    shrink = height / large.shape[0]
    size = [round(n * shrink) for n in target]
    picture = _resize(large, *size)
    depth = refine(picture, _resize(whole, *size), patches, shrink, (estimate, merge))
    return _resize(depth, width, height)


def best_side(image: np.ndarray) -> tuple[int, float]:
    """The largest square that a picture can be seen at without parts that lie far from any edge.

    Returns:
        The side in pixels, a multiple of 32, and the share of the picture that is near an edge.
    """
    edges = gradient(image)
    square = min(image.shape[:2])
    # Parity: bilinear, here and below.
    edges = cv2.resize(edges, (square, square))
    low, high = float(edges.min()), float(edges.max())
    edges = (edges >= low + EDGE * (high - low)).astype(np.float64)
    first, step = RECEPTIVE // CELL, RECEPTIVE // (2 * CELL)
    limit = min(LARGEST, UPSCALE * max(image.shape[:2])) // CELL
    best = first
    for cells in range(first, max(limit, first + 1), step):
        grid = _pool(edges, cells)
        near = cv2.dilate(grid, np.ones((first, first)))
        if (1 - near).mean() > UNSEEN:
            break
        best = cells
    close = cv2.dilate(grid, np.ones((first // 4, first // 4)))
    return best * CELL, float(close.mean())


def _pool(edges: np.ndarray, cells: int) -> np.ndarray:
    """A map of edges, 0 and 1, reduced to so many cells a side; a cell with an edge is 1."""
    block = max(len(edges) // cells, 1)
    rim = -len(edges) % block
    padded = np.pad(edges, ((0, rim), (0, rim)))
    blocks = padded.reshape(len(padded) // block, block, -1, block).max(axis=(1, 3))
    return (cv2.resize(blocks, (cells, cells)) >= 0.5).astype(np.float64)


def gradient(image: np.ndarray) -> np.ndarray:
    """How much the luma of a picture changes, float64 (H, W)."""
    grey = image.astype(np.float64) @ LUMA
    across, down = (cv2.Sobel(grey, cv2.CV_64F, dx, 1 - dx) for dx in (1, 0))
    return np.abs(across) + np.abs(down)


def find_patches(image: np.ndarray, step: int) -> list[Patch]:
    """Squares with more gradients than the picture has on average, largest first.

    Each of a grid of them grows, by `step` pixels at a time, while that holds.
    """
    change = gradient(image)
    if not change.any():
        return []
    change[change < change[change > 0].mean()] = 0
    average = change.sum() / change.size
    sums = cv2.integral(change)

    def is_busy(patch: Patch) -> bool:
        rows, columns = patch.cells(1)
        total = sums[rows.stop, columns.stop] - sums[rows.start, columns.stop]
        total += sums[rows.start, columns.start] - sums[rows.stop, columns.start]
        return total / patch.side**2 >= average

    patches = []
    stride = round(RECEPTIVE * 0.75)
    for x in range(0, image.shape[1] - 2 * RECEPTIVE, stride):
        for y in range(0, image.shape[0] - 2 * RECEPTIVE, stride):
            patch = Patch(x, y, 2 * RECEPTIVE)
            if is_busy(patch):
                patches.append(_grow(patch, step, is_busy, image.shape))
    return sorted(patches, key=lambda patch: -patch.side)


def _grow(
    patch: Patch, step: int, is_busy: Callable[[Patch], bool], shape: tuple[int, ...]
) -> Patch:
    while True:
        larger = patch.grow(step)
        right, bottom = larger.x + larger.side, larger.y + larger.side
        inside = larger.x >= 0 and larger.y >= 0 and right <= shape[1] and bottom <= shape[0]
        if not inside or not is_busy(larger):
            return patch
        patch = larger


def refine(
    picture: np.ndarray,
    base: np.ndarray,
    patches: list[Patch],
    scale: float,
    networks: tuple[Estimate, Merge],
) -> np.ndarray:
    """A depth with the details of every patch blended in.

    Args:
        picture: uint8 (H, W, 3).
        base: its depth, float32 (H, W).
        patches: of a picture that is 1 / scale times as large.
        scale: see above.
        networks: estimate and merge.
    """
    estimate, merge = networks
    depth = base.copy()
    for patch in patches:
        cells = patch.cells(scale)
        piece = two_scales(picture[cells], 2 * RECEPTIVE, estimate, merge)
        part = base[cells]
        rough = _resize(part, MERGED, MERGED)
        fine = merge(unit_range(rough), unit_range(piece))
        found = _resize(fit(fine, rough), *part.shape[::-1])
        share = blend_mask(*part.shape)
        depth[cells] = depth[cells] * (1 - share) + found * share
    return depth


def fit(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Values brought to the range of others by the straight line that fits best, float32.

    In double precision: the published code fitted a million single numbers, and numpy then takes
    most lines for ill-conditioned and bends them.
    """
    values, target = values.astype(np.float64), target.astype(np.float64)
    centred, middle = values - values.mean(), target.mean()
    variance = (centred**2).mean()
    slope = (centred * (target - middle)).mean() / variance if variance > 0 else 0.0
    return (middle + slope * centred).astype(np.float32)


def two_scales(image: np.ndarray, side: int, estimate: Estimate, merge: Merge) -> np.ndarray:
    """A picture seen small and large, merged: float32 (1024, 1024) in 0 to 1."""
    rough, fine = (
        unit_range(_resize(estimate(image, size), MERGED, MERGED)) for size in (RECEPTIVE, side)
    )
    return unit_range(merge(rough, fine))


def blend_mask(height: int, width: int, drawn: int = 3000) -> np.ndarray:
    """How much of a patch is taken where: 1 in the middle, softly 0 at the rim.

    Args:
        height, width: of the patch.
        drawn: side of the mask before it is fitted to the patch.
    """
    profile = blend_profile(drawn)
    rows, columns = (
        cv2.resize(profile, (1, side), interpolation=cv2.INTER_LINEAR) for side in (height, width)
    )
    low, high = float(profile.min()) ** 2, float(profile.max()) ** 2
    return (rows @ columns.T - low) / (high - low)


def blend_profile(size: int) -> np.ndarray:
    """One side of the mask, (size, 1); both its sides multiplied are the whole."""
    profile = np.zeros((size, 1))
    margin, sigma = int(MARGIN * size), size // 16
    profile[margin : size - margin] = 1
    return cv2.GaussianBlur(profile, (1, 4 * sigma + 1), sigma)


def unit_range(values: np.ndarray) -> np.ndarray:
    """Lowest 0, highest 1; all 0 where they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _resize(array: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_CUBIC)
