"""Full T2I-Adapters (Mou et al., arXiv:2302.08453)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lib_controlnet.enums import BaseModel
from lib_controlnet.nets.t2i_adapter import (
    BLOCKS_PER_LEVEL,
    SD_PATCH,
    SDXL_HALVED_LEVEL,
    SDXL_PATCH,
    AdapterBlockParams,
    AdapterParams,
    T2IAdapter,
    read_adapter_params,
)
from lib_controlnet.train.errors import TrainError

from .base import Begin, Call, Kind, add_to_output, fill, put_hooks

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel
    from torch import Tensor, nn

    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.train.base import Base


class T2IAdapterKind(Kind):
    """A small network on the hint alone, whose features join the encoder's stream."""

    key = "t2i"
    title = "T2I-Adapter"
    network = T2IAdapter

    def new_tensors(self, base: Base, begin: Begin) -> Iterator[tuple[str, Tensor]]:
        """See `Kind.new_tensors`: what features pass through last starts at zero."""
        generator = torch.Generator().manual_seed(begin.seed)
        with torch.device("meta"):
            module = T2IAdapter(_params(base))
        for name, tensor in module.state_dict().items():
            fan_in = tensor[0].numel()
            is_silent = name.startswith("conv_in.") or ".block2." in name
            spread = 0.0 if is_silent or name.endswith("bias") else (2 / fan_in) ** 0.5
            yield name, torch.randn(tensor.shape, generator=generator) * spread

    def open(self, base: Base, ckpt: Checkpoint) -> nn.Module:
        """See `Kind.open`."""
        try:
            params = read_adapter_params(ckpt.shapes)
        except KeyError as error:
            msg = f"{ckpt.name} is an incomplete {self.title}: {error.args[0]} is missing"
            raise TrainError(msg) from None
        wanted = _params(base)
        if (params.widths, params.patch) != (wanted.widths, wanted.patch):
            msg = f"{ckpt.name} is no {self.title} for {base.name} ({base.shape})"
            raise TrainError(msg)
        with torch.device("meta"):
            module = T2IAdapter(params)
        return fill(module, ckpt, base, self.title)

    def steer(self, control: nn.Module, unet: UNet2DConditionModel, call: Call) -> dict[str, Any]:
        """See `Kind.steer`: one feature behind the last block of each level."""
        assert isinstance(control, T2IAdapter)
        hint = call.hint.clamp(min=0)
        if control.params.hint_channels == 1:
            hint = hint.mean(dim=1, keepdim=True)
        places = _places(unet, control.params.patch)
        put_hooks(
            unet,
            [
                place.register_forward_hook(add_to_output(feature))
                for place, feature in zip(places, control(hint), strict=True)
            ],
        )
        return {}


def _params(base: Base) -> AdapterParams:
    """The published structure at a base's widths."""
    is_sdxl = base.shape.kind is BaseModel.SDXL
    levels = tuple(base.unet_arguments["block_out_channels"])
    blocks: list[AdapterBlockParams] = []
    before = levels[0]
    for level, width in enumerate((*levels, levels[-1]) if is_sdxl else levels):
        halves = level == SDXL_HALVED_LEVEL if is_sdxl else level > 0
        blocks.append(AdapterBlockParams(before, width, 1, "mean" if halves else ""))
        blocks += [AdapterBlockParams(width, width, 1, "")] * (BLOCKS_PER_LEVEL - 1)
        before = width
    return AdapterParams(3, SDXL_PATCH if is_sdxl else SD_PATCH, tuple(blocks))


def _places(unet: UNet2DConditionModel, patch: int) -> list[nn.Module]:
    """The modules whose output features are added to, shallowest first.

    Diffusers' own argument for adapters adds behind the strided convolution of levels without
    attention; published adapters were trained in front of it, and for SDXL behind the first one.
    """
    found: list[nn.Module] = []
    blocks: Any = unet.down_blocks
    for block in blocks:
        attentions = getattr(block, "attentions", None)
        found.append(attentions[-1] if attentions is not None else block.resnets[-1])
    if patch == SDXL_PATCH:
        found = [blocks[0].downsamplers[0], *found[1:], unet.mid_block]
    return found
