"""ControlNet-LLLite (kohya-ss, 2023): small modules on the attention's linear layers.

Published files are for SDXL; the names are those of any original U-Net, and so is what is made
here: the layers that published files have modules for, where the base has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import torch
from einops import rearrange
from torch import nn

from lib_controlnet.nets.lllite import STRIDES, LLLite, LLLiteParams, read_lllite_params
from lib_controlnet.train.errors import TrainError
from lib_controlnet.train.names import unet_renamer

from .base import Begin, Call, Kind, fill, put_hooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers.models import UNet2DConditionModel
    from torch import Tensor

    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.nets.lllite import LLLiteModule
    from lib_controlnet.train.base import Base

PREFIX: Final = "lllite_unet_"
ATTENTION: Final = r"1\.transformer_blocks\.\d+\.(?:attn1\.to_[qkv]|attn2\.to_q)"
CONVOLUTIONS: Final = r"\d\.(?:in_layers\.2|out_layers\.3)"
PUBLISHED: Final = re.compile(rf"(input_blocks|middle_block)(?:\.(\d+))??\.{ATTENTION}")
EVERYWHERE: Final = re.compile(
    rf"(input_blocks|middle_block|output_blocks)(?:\.(\d+))??\.(?:{ATTENTION}|{CONVOLUTIONS})"
)
"""Layers with modules; the author's scripts can be told to go beyond the published ones."""
UPSAMPLER: Final = re.compile(r"output_blocks\.(\d+)\.[12]\.conv\.weight")
COND_WIDTH, MLP_WIDTH = 32, 64
"""Sizes of the first published files."""


class LLLiteKind(Kind):
    """Modules that add to the input of linear layers."""

    key = "lllite"
    title = "ControlNet-LLLite"
    network = LLLite
    special = frozenset({"everywhere"})

    def new_tensors(self, base: Base, begin: Begin) -> Iterator[tuple[str, Tensor]]:
        """See `Kind.new_tensors`: each module's last layer starts at zero."""
        generator = torch.Generator().manual_seed(begin.seed)
        with torch.device("meta"):
            module = LLLite(_params(base, EVERYWHERE if begin.everywhere else PUBLISHED))
        for name, tensor in module.state_dict().items():
            is_silent = ".up.0." in name or name.endswith("bias")
            spread = 0.0 if is_silent else (2 / tensor[0].numel()) ** 0.5
            yield name, torch.randn(tensor.shape, generator=generator) * spread

    def open(self, base: Base, ckpt: Checkpoint) -> nn.Module:
        """See `Kind.open`."""
        try:
            params = read_lllite_params(ckpt.shapes)
        except KeyError as error:
            msg = f"{ckpt.name} is an incomplete {self.title}: {error.args[0]} is missing"
            raise TrainError(msg) from None
        known = _params(base, EVERYWHERE)
        other = [n for n, one in params.items() if n not in known or known[n].width != one.width]
        if other:
            msg = f"{ckpt.name} is no {self.title} for {base.name} ({base.shape}): {other[0]}"
            raise TrainError(msg)
        with torch.device("meta"):
            module = LLLite(params)
        return fill(module, ckpt, base, self.title)

    def steer(self, control: nn.Module, unet: UNet2DConditionModel, call: Call) -> dict[str, Any]:
        """See `Kind.steer`."""
        assert isinstance(control, LLLite)
        rename = unet_renamer(unet.state_dict())
        layers = {
            PREFIX + rename(f"{path}.weight").removesuffix(".weight").replace(".", "_"): layer
            for path, layer in unet.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        }
        hint = call.hint.clamp(min=0)
        put_hooks(
            unet,
            [
                layers[name].register_forward_pre_hook(_make_hook(control.at(name), hint))
                for name in control
            ],
        )
        return {}


def _make_hook(module: LLLiteModule, hint: Tensor) -> Callable[..., Any]:
    """A hook in front of a linear layer or a convolution."""
    embedding = module.embed(hint)

    def hook(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        given = inputs[0]
        cond = rearrange(embedding, "b c h w -> b (h w) c")
        if given.ndim == 3:
            return (given + module(given, cond).to(given.dtype),)
        added = module(rearrange(given, "b c h w -> b (h w) c"), cond)
        return (given + rearrange(added, "b (h w) c -> b c h w", h=given.shape[2]).to(given.dtype),)

    return hook


def _params(base: Base, layers: re.Pattern[str]) -> dict[str, LLLiteParams]:
    """Modules for those of a base's layers whose depth the hint's embedding can have."""
    strided = [int(name.split(".")[1]) for name in base.shapes if name.endswith(".op.weight")]
    widened = [int(name.split(".")[1]) for name in base.shapes if UPSAMPLER.fullmatch(name)]
    params = {}
    for name, shape in base.shapes.items():
        found = layers.fullmatch(name.removesuffix(".weight"))
        if not found or not name.endswith(".weight"):
            continue
        part, block = found[1], int(found[2] or 0)
        depth = 1 + len(strided)
        if part == "input_blocks":
            depth = 1 + sum(one < block for one in strided)
        elif part == "output_blocks":
            depth -= sum(one < block for one in widened)
        if depth in STRIDES:
            module = PREFIX + name.removesuffix(".weight").replace(".", "_")
            sizes = (shape[1], COND_WIDTH, MLP_WIDTH, depth)
            params[module] = LLLiteParams(*sizes, is_conv=len(shape) == 4)
    return params
