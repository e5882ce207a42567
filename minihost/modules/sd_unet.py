"""Replacing the whole U-Net by another engine: the list of them and the dispatcher."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from modules import devices, script_callbacks, shared
from torch import Tensor

log = logging.getLogger(__name__)

unet_options: list[SdUnetOption] = []
current_unet_option: SdUnetOption | None = None
current_unet: SdUnet | None = None


class SdUnetOption:
    """One entry of the "SD Unet" setting; an extension lists it in `on_list_unets`."""

    model_name: str | None = None
    label: str | None = None

    def create_unet(self) -> SdUnet:
        """The engine; made when the option is first used."""
        raise NotImplementedError


class SdUnet(torch.nn.Module):
    """An engine that takes the place of the checkpoint's U-Net."""

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, *args: object, **kwargs: object
    ) -> Tensor:
        """Predict; arguments as those of the U-Net."""
        raise NotImplementedError

    def activate(self) -> None:
        """Called before the first use."""

    def deactivate(self) -> None:
        """Called when another engine takes over."""


def list_unets() -> None:
    """Collect the engines of all extensions."""
    unet_options.clear()
    unet_options.extend(script_callbacks.list_unets_callback() or [])


def get_unet_option(option: str | None = None) -> SdUnetOption | None:
    """The engine that a setting value stands for; None is the checkpoint's own U-Net."""
    option = option or shared.opts.sd_unet
    if option == "None":
        return None
    if option == "Automatic":
        name = shared.sd_model.sd_checkpoint_info.model_name
        fitting = [item for item in unet_options if item.model_name == name]
        option = fitting[0].label if fitting else "None"
    return next((item for item in unet_options if item.label == option), None)


def apply_unet(option: str | None = None) -> None:
    """Make the engine of the settings the current one."""
    global current_unet_option, current_unet  # noqa: PLW0603 - names other code reads
    chosen = get_unet_option(option)
    if chosen is current_unet_option:
        return
    if current_unet is not None:
        log.info("deactivating U-Net %s", current_unet_option.label)
        current_unet.deactivate()
    current_unet_option = chosen
    if chosen is None:
        current_unet = None
        shared.sd_model.model.diffusion_model.to(devices.device)
        return
    current_unet = chosen.create_unet()
    current_unet.option = chosen
    current_unet.activate()


def create_unet_forward(original_forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A `forward` that asks the current engine, or `original_forward` when there is none."""

    def unet_forward(
        self: torch.nn.Module,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        *args: object,
        **kwargs: object,
    ) -> Tensor:
        if current_unet is not None:
            return current_unet.forward(x, timesteps, context, *args, **kwargs)
        return original_forward(self, x, timesteps, context, *args, **kwargs)

    return unet_forward
