"""Where on the picture a unit acts: its region, at the size of a pass.

A region is a mask in the frame of the control image, of the host's picture, or of another unit's
inpaint mask. It is placed as that picture is placed, and its border softened there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lib_controlnet.pictures.coverage import cell_edges, cover
from lib_controlnet.pictures.maps import Size, placement

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lib_controlnet.enums import ResizeMode
    from lib_controlnet.pictures.placement import PassGeometry

WHITE: Final = 255


@dataclass(frozen=True, eq=False)
class Region:
    """A unit's region before it is placed.

    Attributes:
        mask: uint8 (H, W), white where the unit acts; soft edges stay soft.
        mode: how the mask is laid over the picture.
        feather: width of the softened border in pixels of the first pass, half on each side.
        border: value of the part that "Resize and Fill" adds, 0 to 255; None continues the
            mask's outermost pixels.
    """

    mask: np.ndarray
    mode: ResizeMode
    feather: float = 0.0
    border: int | None = None

    def invert(self) -> Region:
        """The rest of the picture, with the same border."""
        border = None if self.border is None else WHITE - self.border
        return Region(WHITE - self.mask, self.mode, self.feather, border)


def place_region(region: Region, geometry: PassGeometry, scale: float = 1.0) -> Tensor:
    """A region for one pass: float32 (1, 1, H, W) in [0, 1].

    All white gives exactly 1 everywhere and all black exactly 0, in every size. A region and its
    `inverted` add up to 1.

    Args:
        region: the region.
        geometry: the pass.
        scale: size of the pass's picture relative to the first pass; the feather grows with it.
    """
    import numpy as np
    import torch

    low, high = int(region.mask.min()), int(region.mask.max())
    if low == high and region.border in (None, low):
        shape = (1, 1, geometry.size.height, geometry.size.width)
        return torch.full(shape, low / WHITE)
    canvas = _feather(lay(region, geometry.canvas), region.feather * scale)
    bottom, right = geometry.top + geometry.size.height, geometry.left + geometry.size.width
    cut = canvas[geometry.top : bottom, geometry.left : right]
    return torch.from_numpy(np.ascontiguousarray(cut).clip(0.0, 1.0))[None, None]


def lay(
    region: Region, canvas: Size, window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """The mask over a picture, float32 (H, W) in [0, 1]; only what shows is ever made.

    Args:
        region: the region; its feather is left to the caller.
        canvas: size of the picture.
        window: the part of the picture asked for (left, top, right, bottom); None for the whole.
    """
    import numpy as np

    mask = region.mask
    new, left, top = placement(Size.from_array(mask), canvas, region.mode)
    first_x, first_y, last_x, last_y = window or (0, 0, canvas.width, canvas.height)
    rows, columns = np.arange(first_y, last_y) - top, np.arange(first_x, last_x) - left
    y, x = rows.clip(0, new.height - 1), columns.clip(0, new.width - 1)
    laid = cover(
        mask,
        cell_edges(mask.shape[0], new.height, int(y[0]), int(y[-1] - y[0]) + 1),
        cell_edges(mask.shape[1], new.width, int(x[0]), int(x[-1] - x[0]) + 1),
    )
    laid /= WHITE
    if laid.shape != (len(rows), len(columns)):  # beyond the mask its outermost cells go on
        laid = laid[np.ix_(y - y[0], x - x[0])]
    if region.border is not None:
        laid[(rows != y)[:, None] | (columns != x)[None]] = region.border / WHITE
    return laid


def _feather(mask: np.ndarray, width: float) -> np.ndarray:
    """Soften a border over `width` pixels: two box blurs, so that a straight edge becomes an S.

    Beyond `width` the mask is what it was, and the picture's own edges do not count as borders.
    """
    import cv2

    if width <= 0.0:
        return mask
    side = 2 * round(width / 4) + 1
    soft = mask
    for _ in range(2):
        soft = cv2.blur(soft, (side, side), borderType=cv2.BORDER_REPLICATE)
    return soft
