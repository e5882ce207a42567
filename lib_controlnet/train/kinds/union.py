"""ControlNet Unions (xinsir6): ControlNets that are told the type of their hint.

The network is this extension's own: diffusers' lets the rows of a batch see each other (its
transformer runs over the batch), which a mixed batch of training must not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from lib_controlnet.families.union import TYPES
from lib_controlnet.nets.cldm import read_params, timestep_embedding
from lib_controlnet.nets.union import ControlNetUnion, UnionParams, read_union
from lib_controlnet.train import control_file
from lib_controlnet.train.dataset import LINES, about
from lib_controlnet.train.errors import TrainError
from lib_controlnet.train.steps import type_numbers

from .base import PUBLISHED_TYPES, Begin, Call, Kind, fill
from .controlnet import residuals

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel
    from torch import Tensor, nn

    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.train.base import Base
    from lib_controlnet.train.dataset import Item

SINUSOIDS: Final = 256
"""Width of a type's part of the type embedding in published files; less in narrow models."""
SILENT: Final = ("spatial_ch_projs.", "control_add_embedding.linear_2.", ".out_proj.", ".c_proj.")
"""Layers that start at zero, so that a ControlNet it starts from is what it was."""


class UnionKind(Kind):
    """A ControlNet with an embedding of types and a shift of the hint's channels."""

    key = "union"
    title = "ControlNet Union"
    network = ControlNetUnion
    special = frozenset({"start", "types"})
    has_one_type = False

    def refuse_data(self, control: nn.Module, folder: Path, items: Sequence[Item]) -> None:
        """See `Kind.refuse_data`: every hint must be of a type that the network has."""
        assert isinstance(control, ControlNetUnion)
        known = TYPES[: control.types]
        for item, number in zip(items, type_numbers(folder, items), strict=True):
            if not 0 <= number < len(known):
                kind = item.control_type or about(folder).get("control_type") or "not said"
                msg = (
                    f"the type of {folder / item.source} is {kind}, this {self.title} has "
                    f"{', '.join(known)}; give lines of {LINES} a control_type, such as Canny"
                )
                raise TrainError(msg)

    def new_tensors(self, base: Base, begin: Begin) -> Iterator[tuple[str, Tensor]]:
        """See `Kind.new_tensors`."""
        tensors = dict(control_file.new_tensors(base, begin.seed))
        if begin.start:
            tensors = control_file.start_from(tensors, begin.start)
        yield from tensors.items()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        width = base.shape.model_channels
        params = UnionParams(begin.types or PUBLISHED_TYPES, 1, min(SINUSOIDS, width))
        generator = torch.Generator().manual_seed(begin.seed + 1)
        with torch.device("meta"):
            module = ControlNetUnion(read_params(shapes, heads_of(base)), params)
        for name, tensor in module.state_dict().items():
            if name not in tensors:
                yield name, _first(name, tuple(tensor.shape), generator)

    def open(self, base: Base, ckpt: Checkpoint) -> nn.Module:
        """See `Kind.open`."""
        try:
            params = read_params(ckpt.shapes, heads_of(base))
            with torch.device("meta"):
                module = ControlNetUnion(params, read_union(ckpt.shapes))
        except (KeyError, IndexError) as error:
            msg = f"{ckpt.name} is an incomplete {self.title}: {error.args[0]} is missing"
            raise TrainError(msg) from None
        skips = tuple(block.width_out for block in params.blocks)
        if (skips, params.context_dim) != (base.shape.skips, base.shape.context_dim):
            msg = f"{ckpt.name} is no {self.title} for {base.name} ({base.shape})"
            raise TrainError(msg)
        return fill(module, ckpt, base, self.title)

    def steer(self, control: nn.Module, unet: UNet2DConditionModel, call: Call) -> dict[str, Any]:
        """See `Kind.steer`."""
        assert isinstance(control, ControlNetUnion)
        assert call.types is not None  # asked for before training begins
        guided = control.shift(control.encode_hint(call.hint), call.types)
        told = torch.cat([control.embed_types([number]) for number in call.types.tolist()])
        wanted = (True,) * (len(control.params.blocks) + 1)
        *down, middle = control(
            call.noisy, call.timesteps, call.context, _vector(control, call), guided, wanted, told
        )
        return residuals(unet, down, middle)


def heads_of(base: Base) -> Callable[[str, int], int]:
    """Attention heads by block name and width, as the base has them."""
    arguments = base.unet_arguments
    heads = arguments.get("num_attention_heads") or arguments["attention_head_dim"]
    widths = arguments["block_out_channels"]
    by_width = dict(zip(widths, heads, strict=True)) if not isinstance(heads, int) else {}
    return lambda _block, width: by_width.get(width, heads if isinstance(heads, int) else 1)


def _first(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The first numbers of what a Union adds to a ControlNet."""
    if any(part in name for part in SILENT) or name.endswith("bias"):
        return torch.zeros(shape)
    if ".ln_" in name:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) * shape[-1] ** -0.5


def _vector(control: ControlNetUnion, call: Call) -> Tensor | None:
    """SDXL's vector condition (b, c): the pooled text, then sinusoids of the sizes."""
    if not call.added:
        return None
    text, sizes = call.added["text_embeds"], call.added["time_ids"]
    assert control.params.adm_channels is not None
    width = (control.params.adm_channels - text.shape[1]) // sizes.shape[1]
    waves = timestep_embedding(sizes.flatten(), width).reshape(len(sizes), -1)
    return torch.cat([text, waves.to(text.dtype)], dim=1)
