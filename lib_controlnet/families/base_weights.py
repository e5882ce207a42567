"""The base U-Net's own weights, for families whose files hold only a change to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.engine.unet import own_modules, own_parameters, refuse_stored, shape_of
from lib_controlnet.enums import LATENT_CHANNELS
from lib_controlnet.errors import HostError
from lib_controlnet.families.filling import without_1x1

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.unet import BaseUNet

SHARED_WITH_BASE: Final = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")
"""Parts of a ControlNet that begin as a copy of the base U-Net."""

LEAVES: Final = (".weight", ".bias")
"""What is copied; hosts may keep factors of stored weights beside them."""

FIRST_BLOCK: Final = "input_blocks.0.0.weight"
"""Inpainting checkpoints read more channels here than a ControlNet does."""


def encoder_shapes(base: BaseUNet) -> dict[str, tuple[int, ...]]:
    """Shapes of a full ControlNet's tensors that begin as a copy of the base's."""
    shapes = {
        name: shape_of(parameter)
        for name, parameter in own_parameters(base.module)
        if name.startswith(SHARED_WITH_BASE)
        and name.endswith(LEAVES)
        and not base.originals.is_added(name)
    }
    if FIRST_BLOCK in shapes:
        width, _channels, *kernel = shapes[FIRST_BLOCK]
        shapes[FIRST_BLOCK] = (width, LATENT_CHANNELS, *kernel)
    return shapes


def find_foreign(
    base: BaseUNet, names: Collection[str], shapes: Mapping[str, Sequence[int]]
) -> list[str]:
    """Those of some tensors that the base has none of, or of another shape."""
    theirs = encoder_shapes(base)
    return [
        name
        for name in names
        if name not in theirs or without_1x1(shapes[name]) != without_1x1(theirs[name])
    ]


class BaseWeights:
    """Reads parameters of a base U-Net by LDM name, as they are without any LoRA."""

    def __init__(self, base: BaseUNet) -> None:
        self.base = base
        self._modules = own_modules(base.module)

    def get(self, name: str, shape: Sequence[int], device: torch.device | str) -> Tensor:
        """A parameter in float32 on a device, in a ControlNet's shape of it; always a copy.

        Raises:
            HostError: the weights are not in memory at the moment, or stored in an unknown way.
        """
        path, _, leaf = name.rpartition(".")
        parameter = getattr(self._modules[path], leaf)
        original = self.base.originals.find(name)
        if original is not None and tuple(original.shape) == shape_of(parameter):
            parameter = original
        if parameter.is_meta:
            msg = (
                f"the weights of {self.base.name} are not in memory; generate once without control"
            )
            raise HostError(msg)
        if not parameter.is_floating_point() or tuple(parameter.shape) != shape_of(parameter):
            raise refuse_stored(name, parameter)
        if name == FIRST_BLOCK:
            parameter = parameter[:, : shape[1]]
        copied = parameter.detach().to(device=device, dtype=torch.float32, copy=True)
        return copied.reshape(tuple(shape))
