"""Parameters of a U-Net without LoRA, as A1111 keeps them: on the modules.

Its LoRA changes weights in place and keeps the originals (`network_weights_backup`,
`network_bias_backup`); with 8-bit storage there may be half precision copies (`fp16_weight`), which
no LoRA changes and the originals are rounded from.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from lib_controlnet.engine.unet import Originals, own_modules

if TYPE_CHECKING:
    from torch import Tensor, nn


class ModuleOriginals(Originals):
    """See `Originals`.

    Args:
        unet: the U-Net.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._unet = unet

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return own_modules(self._unet)

    def find(self, name: str) -> Tensor | None:
        """See `Originals.find`."""
        path, _, leaf = name.rpartition(".")
        module = self._modules[path]
        backup = "network_bias_backup" if leaf == "bias" else "network_weights_backup"
        shape = getattr(module, leaf).shape
        for other in (getattr(module, f"fp16_{leaf}", None), getattr(module, backup, None)):
            if isinstance(other, torch.Tensor) and other.shape == shape:
                return other
        return None

    def is_added(self, name: str) -> bool:
        """Whether LoRA gave the layer a bias, which it has none of by itself.

        Weight and bias are backed up together, as far as there are any.
        """
        path, _, leaf = name.rpartition(".")
        if leaf != "bias":
            return False
        module = self._modules[path]
        saved = getattr(module, "network_weights_backup", None)
        return saved is not None and getattr(module, "network_bias_backup", None) is None
