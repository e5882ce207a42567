"""The networks of a training: the locked base, the control that learns, the averaged control."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from .kinds import Call, kind_of, put_hooks

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel

    from .config import Settings

DECODER: Final = ("up_blocks.", "conv_norm_out.", "conv_out.")
SIDE_OUTPUTS: Final = "controlnet_down_blocks."


class Controlled(nn.Module):
    """A U-Net with a control, from noisy latent to prediction.

    The U-Net is a submodule only where its decoder learns too; a locked one is kept aside, so
    that it is neither saved nor sent between processes.
    """

    def __init__(self, unet: UNet2DConditionModel, control: nn.Module, settings: Settings) -> None:
        super().__init__()
        self.control = control
        control.requires_grad_(True)
        if settings.only_middle:
            for name, parameter in control.named_parameters():
                if name.startswith(SIDE_OUTPUTS):
                    torch.nn.init.zeros_(parameter.requires_grad_(False))
        unet.requires_grad_(False)
        if settings.unlock_decoder:
            self.decoder = nn.ModuleDict(
                {
                    name.rstrip("."): getattr(unet, name.rstrip("."))
                    for name in DECODER
                    if getattr(unet, name.rstrip("."), None) is not None
                }
            )
            self.decoder.requires_grad_(True)
        self._aside = [unet]
        if settings.checkpointing:
            own: Any = getattr(control, "enable_gradient_checkpointing", None)
            if own:  # diffusers' class; the other kinds keep their activations
                own()
            unet.enable_gradient_checkpointing()
            unet.train()  # diffusers looks at this flag; nothing in these networks drops out

    @property
    def unet(self) -> UNet2DConditionModel:
        return self._aside[0]

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        context: Tensor,
        pooled: Tensor | None,
        hint: Tensor,
        types: Tensor | None = None,
    ) -> Tensor:
        """Predict; arguments as in `steps.Batch`."""
        return predict(self.unet, self.control, noisy, timesteps, context, pooled, hint, types)


def predict(
    unet: UNet2DConditionModel,
    control: nn.Module | None,
    noisy: Tensor,
    timesteps: Tensor,
    context: Tensor,
    pooled: Tensor | None,
    hint: Tensor | None,
    types: Tensor | None = None,
) -> Tensor:
    """The U-Net's prediction (b, 4, h, w), steered by the control where there is one."""
    dtype = next(unet.parameters()).dtype
    added = {}
    if pooled is not None:
        added = {"text_embeds": pooled.to(dtype), "time_ids": time_ids(noisy).to(dtype)}
    more = {"added_cond_kwargs": added} if added else {}
    put_hooks(unet)
    if control is not None:
        assert hint is not None
        call = Call(noisy, timesteps, context, added, hint, types)
        more |= kind_of(control).steer(control, unet, call)
    answer = unet(noisy.to(dtype), timesteps, context.to(dtype), return_dict=False, **more)
    return answer[0]


def time_ids(latent: Tensor) -> Tensor:
    """SDXL's sizes (b, 6): original, crop and target of pictures that are used as they are."""
    height, width = 8 * latent.shape[2], 8 * latent.shape[3]
    row = torch.tensor([height, width, 0, 0, height, width], device=latent.device)
    return row.to(latent.dtype).expand(len(latent), -1)


class Average:
    """Moving average of a network's weights; quick at first, so that the start is forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights after a step, counted from 0."""
        decay = min(self.decay, (step + 1) / (step + 10))
        own: list[Tensor] = list(self.module.parameters())
        new = [p.detach().to(o.device) for p, o in zip(module.parameters(), own, strict=True)]
        torch._foreach_lerp_(own, new, 1 - decay)
