"""Units with a mask tell an inpainting checkpoint of it where the host has no mask itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from lib_controlnet.engine.effects import Effect

if TYPE_CHECKING:
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.step import Row
    from lib_controlnet.engine.unit_pass import UnitPass
    from lib_controlnet.engine.window import Window

INPAINTING_CHANNELS: Final = 9
"""Input channels of an inpainting checkpoint: latent, mask and latent of the masked picture."""


@dataclass(frozen=True, eq=False)
class MaskChannels(Effect):
    """What an inpainting checkpoint is told of the picture in its further input channels.

    Attributes:
        channels: (1, 5, h, w): the mask, 1 where it is to be repainted, and the scaled latent of
            the picture without its masked part.
        window: when it is told.
        images: pictures of the batch it is about; None means all.
    """

    channels: Tensor
    window: Window
    images: frozenset[int] | None = None

    @classmethod
    def bind_all(cls, part: UnitPass, host: Host) -> list[Effect]:
        """What the unit, or each of its frames, tells an inpainting checkpoint."""
        if not part.prepared.masks or part.info.base.shape.in_channels != INPAINTING_CHANNELS:
            return []
        hidden = float(str(host.option("inpainting_mask_weight")))
        effects: list[Effect] = []
        for number in range(len(part.placed.maps)):

            def encode(picture: Tensor, number: int = number) -> Tensor:
                return part.placed.encode((number, "hidden", hidden), lambda: picture, host)

            told = mask_channels(*(part.placed.pixels(number), encode, hidden, part.terms.window))
            images = frozenset({number}) if part.prepared.frames else part.terms.images
            effects += [] if told is None else [replace(told, images=images)]
        return effects

    def condition(self, given: Tensor, rows: Sequence[Row]) -> Tensor:
        """Replace what the host tells, (n, 5, h, w); the argument is not changed.

        Its size may be another one where all rows are told: with a latent upscaler the host sizes
        it by the first pass, and could not go on.
        """
        told = [self.images is None or row.image in self.images for row in rows]
        if all(told):
            return self.channels.to(given).expand(len(given), -1, -1, -1)
        if given.shape[1:] != self.channels.shape[1:] or len(given) != len(rows):
            return given
        chosen = torch.tensor(told, device=given.device)[:, None, None, None]
        return torch.where(chosen, self.channels.to(given), given)


def mask_channels(
    placed: Tensor, encode: Callable[[Tensor], Tensor], hidden: float, window: Window
) -> MaskChannels | None:
    """Build the channels for one pass, as the host builds it of a mask of its own.

    Args:
        placed: (1, 4, H, W) in [0, 1]: RGB and mask at the pass's size.
        encode: VAE encoder for (1, 3, H, W) pixels.
        hidden: how much of the masked part is hidden, 0 to 1 (setting `inpainting_mask_weight`).
        window: when the unit acts.

    Returns:
        None if nothing is masked: the unit does not say what is to be repainted.
    """
    pixels, mask = placed[:, :3], (placed[:, 3:] > 0.5).float()  # half scale
    if not bool(mask.any()):
        return None
    latent = encode(torch.lerp(pixels, torch.lerp(pixels, mask.new_tensor(0.5), mask), hidden))
    cells = F.interpolate(mask.to(latent), latent.shape[-2:])
    return MaskChannels(torch.cat([cells, latent], dim=1), window)
