"""Recolouring: the finished picture gets the brightness of the control image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

from lib_controlnet.detect.preprocess import declarations
from lib_controlnet.engine.effects import Effect

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import RegionMask
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.unit_pass import UnitPass


@dataclass(frozen=True, eq=False)
class Recolor(Effect):
    """Puts the brightness of the control image back.

    Attributes:
        by_value: see `with_brightness`.
        region: where it acts; None means everywhere.
        images: pictures of the batch it acts on; None means all.
    """

    names = frozenset(
        {declarations.Effect.RECOLOR_LUMINANCE, declarations.Effect.RECOLOR_INTENSITY}
    )

    by_value: bool
    region: RegionMask | None = None
    images: frozenset[int] | None = None

    @classmethod
    def bind(cls, part: UnitPass, host: Host) -> Effect | None:
        """Of units whose preprocessor asks for it."""
        by_value = part.prepared.effect == declarations.Effect.RECOLOR_INTENSITY
        return cls(by_value, part.terms.region, part.terms.images)

    def finish(self, image: Tensor, placed: np.ndarray) -> Tensor:
        """Exchange the brightness, see `Effect.finish`."""
        merged = with_brightness(image, placed[:, :, 0], by_value=self.by_value)
        if self.region is None:
            return merged
        return image.lerp(merged, self.region.at(image.shape[-2:], image)[0])


def with_brightness(image: Tensor, brightness: np.ndarray, *, by_value: bool) -> Tensor:
    """A picture with another brightness and its own colours.

    Args:
        image: (3, H, W) in [0, 1].
        brightness: uint8 (H, W), full scale for white.
        by_value: it is the V of HSV, else the L of CIELAB.
    """
    height, width = image.shape[-2:]
    if brightness.shape != (height, width):
        brightness = cv2.resize(brightness, (width, height), interpolation=cv2.INTER_AREA)
    scaled = brightness.astype(np.float32) / 255.0
    pixels = image.permute(1, 2, 0).float().cpu().numpy()
    if by_value:
        planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        planes[:, :, 2] = scaled
        merged = cv2.cvtColor(planes, cv2.COLOR_HSV2RGB)
    else:
        planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        planes[:, :, 0] = scaled * 100.0
        merged = cv2.cvtColor(planes, cv2.COLOR_LAB2RGB)
    return torch.from_numpy(merged).permute(2, 0, 1).clamp(0, 1).to(image)
