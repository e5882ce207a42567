"""A picture's latent as the checkpoint's VAE has it, without random numbers.

The host's own entry draws from the posterior, some members with no way to ask for its mean. The
parts are the same in all of them, so they are called one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lib_controlnet.errors import HostError
from lib_controlnet.host.forge import features
from lib_controlnet.host.latents import require_finite


@torch.no_grad()
def encode(model: Any, pixels: Tensor) -> Tensor:
    """Scaled latent (b, c, h, w) of pictures (b, 3, H, W) in [-1, 1]; the same at every call.

    Args:
        model: the host's checkpoint.
        pixels: anywhere, in any precision.

    Raises:
        HostError: the VAE is not made of the usual parts (TAESD), or its answer is not finite.
    """
    vae = model.forge_objects.vae
    first, manager = vae.first_stage_model, features.find_manager()
    if not hasattr(first, "encoder"):
        msg = f"ControlNet cannot encode with this VAE ({type(first).__name__}); choose another"
        raise HostError(msg)
    if manager is not None:
        manager.load_model_gpu(vae.patcher)
    dtype = getattr(vae, "vae_dtype", None) or next(first.parameters()).dtype
    moments = first.encoder(pixels.to(getattr(vae, "device", pixels.device), dtype))
    quant = getattr(first, "quant_conv", None)
    moments = moments if quant is None else quant(moments)
    mean = moments.chunk(2, dim=1)[0].to(pixels.device, torch.float32)
    return require_finite(features.require(model, "the scale of latents")(mean))
