"""The base U-Net's own weights, for families whose files hold only a difference to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lib_controlnet.errors import HostError

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.unet import BaseUNet


class BaseWeights:
    """Reads parameters of a base U-Net by LDM name, as they are without any LoRA.

    The host's LoRA code changes weights in place and keeps the originals on the module
    (`network_weights_backup`, `network_bias_backup`); with 8-bit storage it may keep half
    precision copies (`fp16_weight`).
    """

    def __init__(self, base: BaseUNet) -> None:
        self.base = base
        self._modules = dict(base.module.named_modules())

    def get(self, name: str, device: torch.device | str) -> Tensor | None:
        """A parameter in float32 on a device, always a copy; None where the base has none.

        Raises:
            HostError: the weights are not in memory at the moment.
        """
        path, _, leaf = name.rpartition(".")
        module = self._modules.get(path)
        parameter = None if module is None else getattr(module, leaf, None)
        if parameter is None:
            return None
        backup_name = "network_bias_backup" if leaf == "bias" else "network_weights_backup"
        for other in (getattr(module, backup_name, None), getattr(module, f"fp16_{leaf}", None)):
            if isinstance(other, torch.Tensor) and other.shape == parameter.shape:
                parameter = other
                break
        if parameter.is_meta:
            msg = (
                f"the weights of {self.base.name} are not in memory; generate once without control"
            )
            raise HostError(msg)
        return parameter.detach().to(device=device, dtype=torch.float32, copy=True)
