"""Anyline: soft edges by TEED with other weights, and the picture's fine dark lines on top.

TheMisto.ai, "Anyline", made for the MistoLine ControlNet (2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ._edges import SAFE_STEPS, as_bytes, in_steps, soft_edges
from .lineart_standard import dark_lines
from .registry import NetworkDetector, Slider, register
from .weights import WeightFile

WEIGHTS = WeightFile(
    name="MTEED.pth",
    folder="TEED",
    size=248_298,
    sha256="a3c2d8a8ce9422555c787160bd46362d761325a565333c0e3f6a53e0bae2abdb",
    licence="not stated",
    repo="TheMistoAI/MistoLine",
    path="Anyline/MTEED.pth",
    others=("anyline/MTEED.pth", "Anyline/MTEED.pth"),
)
FINE_SIGMA = 2.0
FINE_FAINT = 3
SMALLEST = 12
"""Pixels of a line that is kept. The reference asks for 36, counted in all three channels."""


def fine_lines(image: np.ndarray, kept: tuple[int, int]) -> np.ndarray:
    """Thin dark lines without specks.

    Args:
        image: uint8 (H, W, 3).
        kept: height and width of the part wanted, from the top left.

    Returns:
        uint8 (kept height, kept width), white on black.
    """
    height, width = kept
    lines = dark_lines(image, FINE_SIGMA, FINE_FAINT)[:height, :width]
    found = np.ascontiguousarray(lines > 0).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found, connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= SMALLEST
    return np.where(large[labels], lines, np.uint8(0))


def screen(base: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Two uint8 pictures projected onto one another, as two lights add up."""
    dark = (255.0 - base) * (255.0 - top) / 255.0
    return np.rint(255.0 - dark).astype(np.uint8)


@register
class SoftEdgeAnyline(NetworkDetector):
    """White soft edges and fine lines on black.

    The old extension lost the fine lines: it blended bytes as if they were fractions, and measured
    them at lineart_standard's coarse scale. Here they are drawn as Anyline's authors meant them.
    """

    name = "softedge_anyline"
    tags = ("SoftEdge",)
    sliders = (Slider("Safe Steps", 0, 10, SAFE_STEPS),)
    resolution = Slider("Resolution", 64, 2048, 1280, 8)
    sized = True
    weights = (WEIGHTS,)

    def see(
        self, images: Sequence[np.ndarray], _steps: float, **_named: object
    ) -> list[np.ndarray]:
        from .nets.teed import build

        return soft_edges(images, WEIGHTS, build)

    def draw(
        self, seen: np.ndarray, image: np.ndarray, steps: float, *, kept: tuple[int, int]
    ) -> np.ndarray:
        edges = as_bytes(in_steps(seen, int(steps)))
        return screen(edges[: kept[0], : kept[1]], fine_lines(image, kept))
