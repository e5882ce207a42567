"""T2I-Adapters, full and light (Mou et al., arXiv:2302.08453)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from lib_controlnet.enums import BaseModel
from lib_controlnet.nets.t2i_adapter import (
    BLOCKS_PER_LEVEL,
    SD_PATCH,
    SDXL_HALVED_LEVEL,
    SDXL_PATCH,
    AdapterBlockParams,
    AdapterParams,
    LightAdapter,
    LightLevelParams,
    LightParams,
    Shapes,
    T2IAdapter,
    read_adapter_params,
    read_light_params,
)
from lib_controlnet.train.errors import TrainError

from .base import Begin, Call, Kind, add_to_output, fill, put_hooks

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel
    from torch import Tensor

    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.train.base import Base

LIGHT_DEPTH: Final = 4
"""Blocks in each level of published light adapters."""


class T2IAdapterKind(Kind):
    """A small network on the hint alone, whose features join the encoder's stream.

    Attributes:
        silent: parts of the names of tensors that start at zero.
        read: from a file's shapes to its structure.
    """

    key = "t2i"
    title = "T2I-Adapter"
    network: type[nn.Module] = T2IAdapter
    silent: tuple[str, ...] = ("conv_in.", ".block2.")
    read: Callable[[Shapes], Any] = staticmethod(read_adapter_params)

    def plan(self, base: Base) -> AdapterParams | LightParams:
        """The published structure at a base's widths."""
        return _full_params(base)

    def new_tensors(self, base: Base, begin: Begin) -> Iterator[tuple[str, Tensor]]:
        """See `Kind.new_tensors`: what features pass through last starts at zero."""
        generator = torch.Generator().manual_seed(begin.seed)
        with torch.device("meta"):
            module = self.network(self.plan(base))
        for name, tensor in module.state_dict().items():
            fan_in = tensor[0].numel()
            is_silent = any(part in name for part in self.silent)
            spread = 0.0 if is_silent or name.endswith("bias") else (2 / fan_in) ** 0.5
            yield name, torch.randn(tensor.shape, generator=generator) * spread

    def open(self, base: Base, ckpt: Checkpoint) -> nn.Module:
        """See `Kind.open`."""
        try:
            params = self.read(ckpt.shapes)
        except KeyError as error:
            msg = f"{ckpt.name} is an incomplete {self.title}: {error.args[0]} is missing"
            raise TrainError(msg) from None
        wanted = self.plan(base)
        if (params.widths, params.patch) != (wanted.widths, wanted.patch):
            msg = f"{ckpt.name} is no {self.title} for {base.name} ({base.shape})"
            raise TrainError(msg)
        with torch.device("meta"):
            module = self.network(params)
        return fill(module, ckpt, base, self.title)

    def steer(self, control: nn.Module, unet: UNet2DConditionModel, call: Call) -> dict[str, Any]:
        """See `Kind.steer`: one feature behind the last block of each level."""
        assert isinstance(control, T2IAdapter | LightAdapter)
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


class LightT2IAdapterKind(T2IAdapterKind):
    """An adapter of few channels between convolutions of 1x1; published for SD1 (colour)."""

    key = "t2i_light"
    title = "light T2I-Adapter"
    network = LightAdapter
    silent = (".out_conv.",)
    read = staticmethod(read_light_params)

    def plan(self, base: Base) -> LightParams:
        """See `T2IAdapterKind.plan`.

        Raises:
            TrainError: SDXL has no light adapters.
        """
        if base.shape.kind is BaseModel.SDXL:
            msg = f"there are no light T2I-Adapters for SDXL, and {base.name} is of it"
            raise TrainError(msg)
        levels: list[LightLevelParams] = []
        before = 3 * SD_PATCH**2
        for width in base.unet_arguments["block_out_channels"]:
            levels.append(LightLevelParams(before, max(1, width // 4), width, LIGHT_DEPTH))
            before = width
        return LightParams(tuple(levels))


def _full_params(base: Base) -> AdapterParams:
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
