"""One run of the sampler, as the units are bound to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.pictures.placement import PassGeometry


@dataclass(frozen=True, eq=False)
class PassInfo:
    """One run of the sampler.

    Attributes:
        geometry: where the pass's latent lies on the picture.
        base: the U-Net that is sampled.
        is_hires: second pass of a hires fix.
        has_hires: the generation has a hires pass at all.
        scale: size of the pass's picture relative to the requested one.
        images: pictures in the batch.
        seeds: one for each of them.
        has_words: a prompt, or a negative one, says something.
        alphas: cumulative product of alphas of the base, (1000,).
    """

    geometry: PassGeometry
    base: BaseUNet
    is_hires: bool = False
    has_hires: bool = False
    scale: float = 1.0
    images: int = 1
    seeds: tuple[int, ...] = (0,)
    has_words: bool = True
    alphas: Tensor | None = None

    @property
    def cells(self) -> int:
        """Cells of the pass's latent."""
        return self.geometry.latent.width * self.geometry.latent.height

    def equals(self, other: PassInfo) -> bool:
        """Whether units that are bound to the one are bound to the other."""
        mine, theirs = (
            (
                *(info.geometry, info.base.identity, info.base.shape, info.is_hires),
                *(info.has_hires, info.scale, info.images, info.seeds, info.has_words),
            )
            for info in (self, other)
        )
        return mine == theirs
