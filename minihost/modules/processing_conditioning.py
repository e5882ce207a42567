"""Conditioning latents of inpainting checkpoints, and the dummy that other checkpoints get."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from modules import devices, shared
from modules.sd_samplers_common import images_tensor_to_samples
from PIL import Image
from torch import Tensor, nn


def reads_picture(sd_model: nn.Module) -> bool:
    """Whether the U-Net has input channels for a mask and a masked picture."""
    wrapper = getattr(sd_model, "model", None)
    if wrapper is None:
        return bool(sd_model.is_inpaint)
    by_key = wrapper.conditioning_key in ("hybrid", "concat")
    return by_key or bool(sd_model.is_sdxl_inpaint)


def txt2img_image_conditioning(sd_model: nn.Module, x: Tensor, width: int, height: int) -> Tensor:
    """For a picture made from nothing: grey, masked everywhere.

    Returns:
        (b, 5, h, w) for inpainting checkpoints, else zeros (b, 5, 1, 1) that nothing reads.
    """
    if not reads_picture(sd_model):
        return x.new_zeros(x.shape[0], 5, 1, 1, dtype=x.dtype, device=x.device)
    grey = torch.ones(x.shape[0], 3, height, width, device=x.device) * 0.5
    latent = images_tensor_to_samples(grey, 0)
    masked = F.pad(latent, (0, 0, 0, 0, 1, 0), value=1.0)
    return masked.to(x.dtype)


def edit_image_conditioning(sd_model: nn.Module, source_image: Tensor) -> Tensor:
    """For checkpoints that edit by instruction (Brooks et al. 2023, arXiv:2211.09800).

    Args:
        sd_model: the checkpoint.
        source_image: (b, 3, H, W) in [-1, 1].

    Returns:
        Unscaled latent (b, 4, h, w) of the picture, the posterior's mode.
    """
    posterior = sd_model.encode_first_stage(source_image.to(sd_model.first_stage_model_dtype))
    return posterior.mode().to(devices.device).type(devices.dtype)


def inpainting_image_conditioning(
    sd_model: nn.Module,
    source_image: Tensor,
    latent_image: Tensor,
    image_mask: Image.Image | Tensor | None = None,
    round_image_mask: bool = True,
    mask_weight: float | None = None,
) -> Tensor:
    """Mask and latent of the masked picture, (b, 5, h, w).

    Args:
        sd_model: the checkpoint.
        source_image: (b, 3, H, W) in [-1, 1].
        latent_image: (b, 4, h, w); gives the size.
        image_mask: white where the picture is to be repainted; None: everywhere.
        round_image_mask: make a picture mask strictly 0 or 1.
        mask_weight: how much of the masked picture is hidden; None: the setting.
    """
    if image_mask is None:
        mask = source_image.new_ones(1, 1, *source_image.shape[-2:])
    elif isinstance(image_mask, Tensor):
        mask = image_mask
    else:
        array = np.array(image_mask.convert("L")).astype(np.float32) / 255.0
        mask = torch.from_numpy(array[None, None])
        mask = torch.round(mask) if round_image_mask else mask
    mask = mask.to(device=source_image.device, dtype=source_image.dtype)
    weight = shared.opts.inpainting_mask_weight if mask_weight is None else mask_weight
    hidden = torch.lerp(source_image, source_image * (1.0 - mask), weight)
    latent = sd_model.get_first_stage_encoding(
        sd_model.encode_first_stage(hidden.to(sd_model.first_stage_model_dtype))
    )
    mask = F.interpolate(mask, size=latent_image.shape[-2:])
    mask = mask.expand(latent.shape[0], -1, -1, -1)
    both = torch.cat([mask.to(latent), latent], dim=1)
    return both.to(devices.device).type(devices.dtype)
