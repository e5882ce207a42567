"""Where members of the Forge family keep what is needed of a checkpoint: one table.

Forge, its descendants and reForge have grown apart, so each thing has several places, and the first
that holds something counts. A place is a path of attributes from the checkpoint; `()` behind a name
calls it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from lib_controlnet.errors import HostError

_UNET: Final = "forge_objects.unet.model"
_VAE: Final = "forge_objects.vae"

PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "the U-Net": (f"{_UNET}.diffusion_model",),
    "the dtype that the U-Net computes in": (
        f"{_UNET}.computation_dtype",  # parameters may be stored in 8 or 4 bits
        f"{_UNET}.manual_cast_dtype",
        f"{_UNET}.get_dtype()",
    ),
    "the table of noise levels": (
        f"{_UNET}.predictor.sigmas",
        f"{_UNET}.model_sampling.sigmas",
    ),
    "weights without LoRA": (
        f"{_UNET}.lora_loader.backup",
        "forge_objects.unet.backup",
    ),
    "the scale of latents": (
        f"{_VAE}.first_stage_model.process_in",
        f"{_UNET}.process_latent_in",
        f"{_UNET}.model_config.latent_format.process_in",
    ),
}

MANAGERS: Final = ("backend.memory_management", "ldm_patched.modules.model_management")
"""Modules that bring models to the device."""


def find(model: Any, what: str) -> Any:
    """A thing of the table; None where no place holds it."""
    places = (_follow(model, place) for place in PLACES[what])
    return next((found for found in places if found is not None), None)


def require(model: Any, what: str) -> Any:
    """A thing of the table.

    Raises:
        HostError: no place holds it.
    """
    found = find(model, what)
    if found is None:
        looked = ", ".join(PLACES[what])
        msg = f"ControlNet does not find {what} of the loaded checkpoint in this WebUI ({looked})"
        raise HostError(msg)
    return found


def _follow(model: Any, place: str) -> Any:
    found = model
    for name in place.split("."):
        found = getattr(found, name.removesuffix("()"), None)
        if found is not None and name.endswith("()"):
            found = found()
    return found


def find_manager() -> ModuleType | None:
    """The host's memory manager; the host has imported it long ago."""
    name = next((name for name in MANAGERS if name in sys.modules), None)
    return None if name is None else importlib.import_module(name)
