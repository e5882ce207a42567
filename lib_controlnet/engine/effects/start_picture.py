"""A preprocessor that paints the masked part itself: sampling starts from its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from lib_controlnet.engine.effects import Effect

if TYPE_CHECKING:
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.unit_pass import UnitPass


@dataclass(frozen=True, eq=False)
class StartPicture(Effect):
    """What the first step finds under the noise.

    The noise of the last training timestep still holds a trace of the picture (0.07 of it in SD),
    and the sampler multiplies both, so the picture shows in the composition.

    Attributes:
        latent: scaled latent of the picture, (1, 4, h, w).
        images: pictures of the batch it acts on; None means all.
    """

    latent: Tensor
    images: frozenset[int] | None = None

    @classmethod
    def bind(cls, part: UnitPass, host: Host) -> Effect | None:
        """Of units whose preprocessor fills the masked part; a hires pass has its own start."""
        if not part.prepared.fills or part.info.is_hires:
            return None
        return cls(part.placed.latent(host), part.terms.images)

    def under_noise(self, noise: Tensor, alpha_bar: float) -> None:
        """Mix the picture into unit noise (b, 4, h, w), in place; another size is left alone.

        Args:
            noise: what the host drew, before it is scaled for the sampler.
            alpha_bar: cumulative product of alphas at the last timestep.
        """
        if noise.shape[1:] != self.latent.shape[1:]:
            return
        rows = range(len(noise)) if self.images is None else sorted(self.images)
        trace = self.latent[0].to(noise) * alpha_bar**0.5
        for row in rows:
            noise[row].mul_((1.0 - alpha_bar) ** 0.5).add_(trace)
