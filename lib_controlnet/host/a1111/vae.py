"""A picture's latent as the checkpoint's VAE has it, without random numbers.

`ldm` (SD1, SD2) answers with a posterior, whose mode is the mean. `sgm` (SDXL) answers with a
tensor that is drawn from the posterior and already scaled; the mean is then what its layer of
moments gave out on the way. Either is asked by the host's own entry: with `--medvram` and the like
that is what brings the VAE to the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from lib_controlnet.host.latents import require_finite

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn

SEED: Final = 0


@torch.no_grad()
def encode(
    model: Any, pixels: Tensor, autocast: AbstractContextManager[object] | None = None
) -> Tensor:
    """Scaled latent (b, c, h, w) of pictures (b, 3, H, W) in [-1, 1]; the same at every call.

    Args:
        model: the host's checkpoint.
        pixels: on the device and in the type that the VAE computes in.
        autocast: the host's precision context.

    Raises:
        HostError: the VAE's answer holds numbers that are not finite.
    """
    watched = _moments(model.first_stage_model)
    with _keep_generators(pixels.device), watched as moments, autocast or nullcontext():
        answer = model.encode_first_stage(pixels)
    return require_finite(_mean(model, answer, moments))


def _mean(model: Any, answer: Any, moments: list[Tensor]) -> Tensor:
    if not isinstance(answer, Tensor):
        return answer.mode() * model.scale_factor
    b, channels, h, w = answer.shape
    if [tuple(found.shape) for found in moments] == [(b, 2 * channels, h, w)]:
        return moments[0][:, :channels] * model.scale_factor
    # A VAE without such a layer, or one encoded in tiles: what was drawn by a fixed seed.
    return model.get_first_stage_encoding(answer)


@contextmanager
def _moments(vae: nn.Module) -> Iterator[list[Tensor]]:
    """What the layer in front of the posterior gives out meanwhile: mean and log variance."""
    found: list[Tensor] = []
    layer = getattr(vae, "quant_conv", None)
    if layer is None:
        yield found
        return
    handle = layer.register_forward_hook(lambda _layer, _args, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _keep_generators(device: torch.device) -> Iterator[None]:
    """Put the generators back that the VAE may draw from: the CPU's, and its own device's."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(SEED)
        yield
