"""From a detected map to the tensor a control network is given, for one pass size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lib_controlnet.enums import LATENT_SCALE, ResizeMode
from lib_controlnet.pictures.maps import Size, fit_map

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MASKED: Final = -1.0
"""Value of masked pixels in the hint of an inpaint ControlNet (control_v11p_sd15_inpaint)."""
BLACK: Final = 0.0
"""The same for a Union that repaints, and for NoobAI's inpaint ControlNet."""


@dataclass(frozen=True)
class PassGeometry:
    """Where the latent of a pass lies on the picture it stands for, in pixels.

    In a hires pass the host enlarges the first pass's picture or latent and crops the latent;
    without hires fix the canvas is the requested size and the crop only drops what the encoder
    floors away.

    Attributes:
        canvas: size of the whole picture before the crop.
        left, top: first pixel of the crop.
        size: size of the crop, 8 times the latent's.
    """

    canvas: Size
    left: int
    top: int
    size: Size

    @property
    def latent(self) -> Size:
        """Size of the latent."""
        return Size(self.size.width // LATENT_SCALE, self.size.height // LATENT_SCALE)

    @staticmethod
    def of_latent(
        latent: Size, canvas: Size | None = None, cells: Size | None = None
    ) -> PassGeometry:
        """Geometry of a pass whose latent has size `latent` (cells).

        Args:
            latent: width and height of the latent tensor.
            canvas: size of the picture before the host cropped the latent; None if the latent
                was not cropped. A latent of t cells less lost t // 2 of them at the start.
            cells: size of the latent before that; None counts the canvas's whole cells.
        """
        size = Size(latent.width * LATENT_SCALE, latent.height * LATENT_SCALE)
        if canvas is None:
            return PassGeometry(size, 0, 0, size)
        if cells is None:
            cells = Size(canvas.width // LATENT_SCALE, canvas.height // LATENT_SCALE)
        lost_x = max(cells.width - latent.width, 0)
        lost_y = max(cells.height - latent.height, 0)
        whole = Size(max(canvas.width, size.width), max(canvas.height, size.height))
        return PassGeometry(whole, lost_x // 2 * LATENT_SCALE, lost_y // 2 * LATENT_SCALE, size)


def place_map(detected: np.ndarray, geometry: PassGeometry, mode: ResizeMode) -> np.ndarray:
    """Bring a map to a pass: fit it to the canvas, then crop as the host crops the latent.

    Args:
        detected: uint8 (H, W, 3), or (H, W, 4) with a mask in the fourth channel.
        geometry: the pass.
        mode: the unit's resize mode.

    Returns:
        uint8 (geometry.size.height, geometry.size.width, 3 or 4).
    """
    fitted = fit_map(detected, geometry.canvas, mode)
    bottom = geometry.top + geometry.size.height
    right = geometry.left + geometry.size.width
    return fitted[geometry.top : bottom, geometry.left : right]


def to_pixels(placed: np.ndarray) -> Tensor:
    """float32 (1, 3 or 4, H, W) in [0, 1] of a placed map, uint8 (H, W, 3 or 4)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(placed, order="C")).permute(2, 0, 1)[None].float() / 255.0


def to_hint(placed: np.ndarray, masked: float = MASKED) -> Tensor:
    """Hint of a placed map: float32 (1, 3, H, W) in [0, 1], masked pixels alike in all channels.

    Args:
        placed: uint8 (H, W, 3), or (H, W, 4) whose fourth channel marks masked pixels (> 127).
        masked: value of these.
    """
    pixels = to_pixels(placed)
    hint = pixels[:, :3].clone()
    if pixels.shape[1] == 4:  # RGB plus mask
        hint.masked_fill_(pixels[:, 3:] > 0.5, masked)  # half of full scale
    return hint
