"""What is asked of every latent that a VAE gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lib_controlnet.errors import HostError

if TYPE_CHECKING:
    from torch import Tensor


def require_finite(latent: Tensor) -> Tensor:
    """The latent.

    Raises:
        HostError: it holds numbers that are not finite.
    """
    if not bool(torch.isfinite(latent).all()):
        msg = (
            f"the VAE gave no usable latent for the control picture ({latent.dtype}): start the "
            "WebUI with --no-half-vae, or choose a VAE that computes in half precision"
        )
        raise HostError(msg)
    return latent
