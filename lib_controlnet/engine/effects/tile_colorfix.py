"""`tile_colorfix`: the low frequencies of x0 are those of the control image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lib_controlnet.detect.preprocess import declarations
from lib_controlnet.engine.effects import Effect

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import RegionMask
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.step import Row
    from lib_controlnet.engine.unit_pass import UnitPass
    from lib_controlnet.engine.window import Window


@dataclass(frozen=True, eq=False)
class HoldColours(Effect):
    """Gives every row's x0 the low frequencies of the control image.

    Attributes:
        low: blurred scaled latent of the control image, (1, 4, h, w).
        radius: of the blur, latent pixels.
        sharpness: share of blur in the unconditional rows, which guidance moves away from.
        weight: share of the corrected prediction, 0 to 1.
        window: when it acts.
        region: where it acts; None means everywhere.
        images: pictures of the batch it acts on; None means all.
    """

    names = frozenset({declarations.Effect.TILE_COLORFIX})

    low: Tensor
    radius: int
    sharpness: float
    weight: float
    window: Window
    region: RegionMask | None = None
    images: frozenset[int] | None = None

    @classmethod
    def bind(cls, part: UnitPass, host: Host) -> Effect | None:
        """Of units whose preprocessor asks for it; its sliders are radius and sharpness."""
        terms = part.terms
        radius = int(terms.values[0]) * (2 if part.info.is_hires else 1)
        return cls(
            *(box_blur(part.placed.latent(host), radius), radius),
            sharpness=0.01 * terms.values[1] if len(terms.values) > 1 else 0.0,
            weight=min(max(part.prepared.unit.weight, 0.0), 1.0),
            window=terms.window,
            region=terms.region,
            images=terms.images,
        )

    def before_guidance(self, x0: Tensor, rows: Sequence[Row]) -> Tensor:
        """Correct predicted clean latents (n, 4, h, w); the argument is not changed."""
        held = x0 - box_blur(x0, self.radius) + self.low.to(x0)
        if self.sharpness:
            uncond = [i for i, row in enumerate(rows) if not row.is_cond]
            blurred = box_blur(held[uncond], self.radius)
            held[uncond] = torch.lerp(held[uncond], blurred, self.sharpness)
        share = torch.full_like(x0[:1, :1], self.weight)
        if self.region is not None:
            share = share * self.region.at(x0.shape[-2:], x0)
        mixed = torch.lerp(x0, held, share)
        if self.images is None:
            return mixed
        picked = [mixed[i] if row.image in self.images else x0[i] for i, row in enumerate(rows)]
        return torch.stack(picked)


def box_blur(latent: Tensor, radius: int) -> Tensor:
    """Mean over (2 radius + 1) squared latent pixels (n, c, h, w), borders repeated."""
    padded = F.pad(latent, (radius, radius, radius, radius), mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, 1)
