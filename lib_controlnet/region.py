"""Where on the picture a unit acts: its region, at the size of a pass.

A region is a mask in the frame of the control image, of the host's picture, or of another unit's
inpaint mask. It is placed as that picture is placed, and its border softened there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lib_controlnet.coverage import cell_edges, cover
from lib_controlnet.image import Size, placement

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lib_controlnet.enums import ResizeMode
    from lib_controlnet.hint import PassGeometry

WHITE: Final = 255


@dataclass(frozen=True)
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

    def inverted(self) -> Region:
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
    canvas = _feathered(_laid(region, geometry), region.feather * scale)
    bottom, right = geometry.top + geometry.size.height, geometry.left + geometry.size.width
    cut = canvas[geometry.top : bottom, geometry.left : right]
    return torch.from_numpy(np.ascontiguousarray(cut).clip(0.0, 1.0))[None, None]


def _laid(region: Region, geometry: PassGeometry) -> np.ndarray:
    """The mask over the pass's canvas, float32 (H, W); only what shows is ever made."""
    import cv2

    mask, canvas = region.mask, geometry.canvas
    new, left, top = placement(Size.from_array(mask), canvas, region.mode)
    height = min(top + new.height, canvas.height) - max(top, 0)
    width = min(left + new.width, canvas.width) - max(left, 0)
    laid = cover(
        mask,
        cell_edges(mask.shape[0], new.height, max(-top, 0), height),
        cell_edges(mask.shape[1], new.width, max(-left, 0), width),
    )
    laid /= WHITE
    top, left = max(top, 0), max(left, 0)
    edges = (top, canvas.height - height - top, left, canvas.width - width - left)
    if not any(edges):
        return laid
    if region.border is None:
        return cv2.copyMakeBorder(laid, *edges, cv2.BORDER_REPLICATE)
    value = region.border / WHITE
    return cv2.copyMakeBorder(laid, *edges, cv2.BORDER_CONSTANT, value=value)


def _feathered(mask: np.ndarray, width: float) -> np.ndarray:
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
