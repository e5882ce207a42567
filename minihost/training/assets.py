"""Sizes of the demo models, where their files lie, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from minildm.checkpoint import checkpoint_tensors, save_half
from minildm.config import VAE_PREFIX, ModelConfig, read_yaml
from minildm.text import TextEncoder, load_text_config
from minildm.unet import UNetModel
from minildm.vae import AutoencoderKL
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from .vocabulary import write_text_folder

HOME: Final = Path(__file__).resolve().parent.parent
ASSETS: Final = HOME / "assets"
RUNS: Final = HOME / "training" / "runs"
CHECKPOINT: Final = ASSETS / "demo.safetensors"
TEXT_FOLDER: Final = ASSETS / "demo-clip"
CONTEXT_DIM: Final = 128
SCALE_FACTOR: Final = 0.18215

UNET: Final = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "attention_resolutions": [4, 2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2, 2],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": CONTEXT_DIM,
    "use_checkpoint": False,
    "legacy": False,
}
DDCONFIG: Final = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 128,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 64,
    "ch_mult": [1, 1, 2, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def yaml_content() -> dict[str, object]:
    """The inference YAML of the demo checkpoint, in the form of SD1.x."""
    first_stage = {
        "embed_dim": 4,
        "monitor": "val/rec_loss",
        "ddconfig": DDCONFIG,
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    params = {
        "linear_start": 0.00085,
        "linear_end": 0.0120,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 16,
        "channels": 4,
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": SCALE_FACTOR,
        "use_ema": False,
        "unet_config": {
            "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": UNET,
        },
        "first_stage_config": {
            "target": "ldm.models.autoencoder.AutoencoderKL",
            "params": first_stage,
        },
        "cond_stage_config": {
            "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
            "params": {"version": f"models/Stable-diffusion/{TEXT_FOLDER.name}"},
        },
    }
    target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    return {"model": {"base_learning_rate": 1.0e-4, "target": target, "params": params}}


def write_descriptions() -> ModelConfig:
    """Write the YAML and the text folder; what the YAML says."""
    ASSETS.mkdir(parents=True, exist_ok=True)
    write_text_folder(TEXT_FOLDER, CONTEXT_DIM)
    yaml = CHECKPOINT.with_suffix(".yaml")
    yaml.write_text(OmegaConf.to_yaml(OmegaConf.create(yaml_content())), encoding="utf-8")
    return read_yaml(yaml)


def new_unet() -> UNetModel:
    """The demo U-Net with fresh weights."""
    return UNetModel(**UNET)


def new_vae() -> AutoencoderKL:
    """The demo autoencoder with fresh weights."""
    return AutoencoderKL(**DDCONFIG, embed_dim=4)


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
