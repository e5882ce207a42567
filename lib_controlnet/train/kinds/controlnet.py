"""ControlNets (Zhang et al., arXiv:2302.05543), as diffusers' class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from lib_controlnet.train import control_file

from .base import Begin, Call, Kind

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel
    from torch import Tensor

    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.train.base import Base


class ControlNetKind(Kind):
    """A copy of the base's encoder that reads a hint."""

    key = "controlnet"
    title = "ControlNet"
    network = nn.Module  # diffusers' class, which is imported late
    special = frozenset({"gaussian", "only_middle"})

    def new_tensors(self, base: Base, begin: Begin) -> Iterator[tuple[str, Tensor]]:
        """See `Kind.new_tensors`."""
        return control_file.new_tensors(base, begin.seed, begin.gaussian)

    def open(self, base: Base, ckpt: Checkpoint) -> nn.Module:
        """See `Kind.open`."""
        return control_file.network(base, ckpt.path)

    def steer(self, control: nn.Module, unet: UNet2DConditionModel, call: Call) -> dict[str, Any]:
        """See `Kind.steer`."""
        added = {"added_cond_kwargs": dict(call.added)} if call.added else {}
        place = (call.noisy, call.timesteps, call.context, call.hint)
        down, middle = control(*place, return_dict=False, **added)
        return residuals(unet, down, middle)

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Kind.tensors`."""
        return control_file.ldm_tensors(weights)


def residuals(
    unet: UNet2DConditionModel, down: list[Tensor] | tuple[Tensor, ...], middle: Tensor
) -> dict[str, Any]:
    """Residuals of skips and middle block as arguments of diffusers' U-Net."""
    dtype = next(unet.parameters()).dtype
    return {
        "down_block_additional_residuals": tuple(part.to(dtype) for part in down),
        "mid_block_additional_residual": middle.to(dtype),
    }
