"""Parameters of a U-Net as the checkpoint has them, where the Forge family keeps something else.

LoRA is merged into the weights, and the originals are in one dict by name; weights may be stored in
4 or 8 bits.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch

from lib_controlnet.engine.unet import Originals, own_modules, refuse_stored
from lib_controlnet.host.forge import features, stored

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX: Final = "diffusion_model."


class PatcherOriginals(Originals):
    """See `Originals`.

    Args:
        model: the host's checkpoint.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return own_modules(features.require(self._model, "the U-Net"))

    def locate(self, name: str) -> Tensor | None:
        """See `Originals.locate`."""
        kept = features.find(self._model, "weights without LoRA") or {}
        found = kept.get(PREFIX + name)
        return getattr(found, "weight", found)  # some keep more than the tensor

    def find(self, name: str) -> Tensor | None:
        """See `Originals.find`.

        Raises:
            HostError: it is stored in a way that nothing here reads.
        """
        path, _, leaf = name.rpartition(".")
        layer, found = self._modules[path], self.locate(name)
        factor = stored.find_factor(layer, leaf)
        if not isinstance(found, torch.Tensor):
            found = getattr(layer, leaf)
            if found.is_meta or (factor is None and stored.is_plain(found)):
                return None
        read = stored.read(name, found, factor)
        if read is None:
            raise refuse_stored(name, found)
        return read
