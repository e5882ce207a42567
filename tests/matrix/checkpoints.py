"""Checkpoints of other kinds, made of the demo model: for inpainting, for editing, for refining.

Each is a safetensors file with the YAML that both the embedded host and A1111 load it by. They
draw nothing worth looking at; the matrix asks what reaches their U-Net.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from yaml import safe_dump, safe_load

ASSETS = Path(__file__).resolve().parents[2] / "minihost" / "assets"
BASE = "demo"
UNET = "model.diffusion_model."
QUANT = "first_stage_model.quant_conv"
SMALLEST = -30.0
"""Of the logarithm of a variance."""
FIRST = UNET + "input_blocks.0.0.weight"

INPAINTING = "matrix-inpainting"
EDITING = "matrix-editing"
SECOND = "matrix-second"
MOVED = "matrix-moved"
"""Of the demo model's structure, but another noise schedule: the host makes new objects for it."""
OTHER = "matrix-other"
STILL = "matrix-still"
"""Its VAE draws no random numbers worth mentioning: pictures have one latent in every host."""


def _widened(tensors: dict[str, Tensor], channels: int, rng: torch.Generator) -> dict[str, Tensor]:
    """The U-Net with further input channels, which count little."""
    first = tensors[FIRST]
    more = torch.randn(first.shape[0], channels, *first.shape[2:], generator=rng) * 0.01
    return {**tensors, FIRST: torch.cat([first, more.to(first)], dim=1)}


def _shaken(tensors: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
    """The same U-Net with weights that differ by a few per cent."""
    return {
        key: tensor * (1 + 0.03 * torch.randn(tensor.shape, generator=rng)).to(tensor)
        if key.startswith(UNET) and tensor.ndim > 1
        else tensor
        for key, tensor in tensors.items()
    }


def _without_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A U-Net of another structure: no attention in its middle level."""
    gone = tuple(UNET + f"{block}.1." for block in ("input_blocks.3", "output_blocks.2"))
    enlarging = UNET + "output_blocks.3.2."
    attention = UNET + "output_blocks.3.1."
    return {
        key.replace(enlarging, attention): tensor
        for key, tensor in tensors.items()
        if not key.startswith((*gone, attention))
    }


def _still(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A VAE that is certain of its latents."""
    found = dict(tensors)
    for key, value in ((f"{QUANT}.weight", 0.0), (f"{QUANT}.bias", SMALLEST)):
        found[key] = tensors[key].clone()
        found[key][len(found[key]) // 2 :] = value
    return found


def _config(**changes: Any) -> dict[str, Any]:
    """The demo model's YAML with other values; `unet` holds those of the U-Net."""
    config = copy.deepcopy(safe_load((ASSETS / f"{BASE}.yaml").read_text(encoding="utf-8")))
    config["model"]["target"] = changes.pop("target", config["model"]["target"])
    params = config["model"]["params"]
    params["unet_config"]["params"].update(changes.pop("unet", {}))
    params.update(changes)
    return config


def write(folder: Path) -> list[Path]:
    """Write all checkpoints into a folder of checkpoints.

    The folder needs the demo model's text encoder folder beside them.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = load_file(ASSETS / f"{BASE}.safetensors")
    rng = torch.Generator().manual_seed(9)
    inpainting = {
        "target": "ldm.models.diffusion.ddpm.LatentInpaintDiffusion",
        "conditioning_key": "hybrid",
        "finetune_keys": None,
        "unet": {"in_channels": 9},
    }
    editing = {
        "target": "modules.models.diffusion.ddpm_edit.LatentDiffusion",
        "conditioning_key": "hybrid",
        "first_stage_key": "edited",
        "cond_stage_key": "edit",
        "unet": {"in_channels": 8},
    }
    made = {
        INPAINTING: (_widened(tensors, 5, rng), _config(**inpainting)),
        EDITING: (_widened(tensors, 4, rng), _config(**editing)),
        SECOND: (_shaken(tensors, rng), _config()),
        MOVED: (_shaken(tensors, rng), _config(linear_end=0.0121)),
        STILL: (_still(tensors), _config()),
        OTHER: (_without_attention(tensors), _config(unet={"attention_resolutions": [4]})),
    }
    files = []
    for name, (weights, config) in made.items():
        path = folder / f"{name}.safetensors"
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
        path.with_suffix(".yaml").write_text(safe_dump(config), encoding="utf-8")
        files += [path, path.with_suffix(".yaml")]
    return files
