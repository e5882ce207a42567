"""Where the demo models' files lie, how they are written, and networks of their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from minildm.checkpoint import checkpoint_tensors, save_half
from minildm.config import VAE_PREFIX, read_yaml
from minildm.text import TextEncoder, load_text_config
from minildm.unet import UNetModel
from minildm.vae import AutoencoderKL
from safetensors.torch import load_file
from torch import nn

HOME: Final = Path(__file__).resolve().parent.parent
ASSETS: Final = HOME / "assets"
RUNS: Final = HOME / "training" / "runs"
CHECKPOINT: Final = ASSETS / "demo.safetensors"
TEXT_FOLDER: Final = ASSETS / "demo-clip"
CONFIG: Final = read_yaml(CHECKPOINT.with_suffix(".yaml"))
"""The sizes of the demo models; file and tokenizer come with the repository and are not made."""


def new_unet() -> UNetModel:
    """The demo U-Net with fresh weights."""
    return UNetModel(**CONFIG.unet)


def new_vae() -> AutoencoderKL:
    """The demo autoencoder with fresh weights."""
    return AutoencoderKL(**CONFIG.vae)


def new_text_encoder() -> TextEncoder:
    """The demo text encoder with fresh weights."""
    return TextEncoder(load_text_config(TEXT_FOLDER))


def export_base(unet: nn.Module, vae: nn.Module, text: nn.Module) -> None:
    """Write the base model's file, fp16."""
    save_half(checkpoint_tensors(unet, vae, text), CHECKPOINT)


def replace_vae(vae: nn.Module) -> None:
    """Put another autoencoder into the base model's file."""
    tensors = load_file(CHECKPOINT)
    tensors |= {VAE_PREFIX + key: tensor for key, tensor in vae.state_dict().items()}
    save_half(tensors, CHECKPOINT)


def save_state(path: Path, state: dict[str, object]) -> None:
    """Write a training state, replacing the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, object] | None:
    """Read a training state, or None if there is none."""
    if not path.exists():
        return None
    return torch.load(path, map_location="cpu", weights_only=True)
