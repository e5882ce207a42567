"""Parameters of a U-Net without LoRA, as the Forge family keeps them: in one dict by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from lib_controlnet.engine.unet import Originals
from lib_controlnet.host.forge import features

if TYPE_CHECKING:
    from torch import Tensor

PREFIX: Final = "diffusion_model."


class PatcherOriginals(Originals):
    """See `Originals`.

    Args:
        model: the host's checkpoint.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def find(self, name: str) -> Tensor | None:
        """See `Originals.find`."""
        kept = features.find(self._model, "weights without LoRA") or {}
        found = kept.get(PREFIX + name)
        found = getattr(found, "weight", found)  # some keep more than the tensor
        return found if isinstance(found, torch.Tensor) else None
