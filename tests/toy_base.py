"""Base checkpoints of a few thousand weights, in the layouts that users have, for the trainer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import yaml
from minildm.checkpoint import checkpoint_tensors
from minildm.text import TextEncoder
from minildm.unet import UNetModel
from minildm.vae import AutoencoderKL
from safetensors.torch import save_file
from support import randomise, tiny_unet
from transformers import CLIPTextConfig

ASSETS = Path(__file__).resolve().parents[1] / "minihost/assets"
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "attention_resolutions": [2],
    "num_heads": 4,
    "context_dim": 32,
}
VAE = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_channels": 4, "embed_dim": 4}
SIZE = 32
"""Side of pictures that the toy base can be trained on."""


def parts(seed: int = 0) -> tuple[UNetModel, AutoencoderKL, TextEncoder]:
    """The toy's networks with random weights."""
    config = CLIPTextConfig(**text_config())
    networks = (UNetModel(**UNET), AutoencoderKL(**VAE), TextEncoder(config))
    for network in networks:
        randomise(network, seed)
    return networks


def text_config() -> dict:
    known = json.loads((ASSETS / "demo-clip/config.json").read_text(encoding="utf-8"))
    names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    return {
        **{name: known[name] for name in names},
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }


def tokenizer_folder(folder: Path) -> Path:
    """The demo's words, which need no network."""
    shutil.copytree(ASSETS / "demo-clip", folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **text_config()}), encoding="utf-8")
    return folder


def describe(path: Path, unet: dict, **params: object) -> None:
    """Write the YAML beside a checkpoint."""
    content = {"model": {"params": {"unet_config": {"params": unet}, **params}}}
    path.with_suffix(".yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def write_toy(folder: Path, seed: int = 0) -> Path:
    """A complete SD1-like checkpoint with its YAML and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "toy.safetensors"
    save_file(checkpoint_tensors(*parts(seed)), path)
    describe(path, {"num_heads": UNET["num_heads"]})
    tokenizer_folder(folder / "toy-clip")
    return path


def write_kind(folder: Path, kind: str, seed: int = 0) -> Path:
    """A checkpoint with the U-Net of `support.tiny_unet(kind)` and nothing else."""
    unet = tiny_unet(kind, seed)
    path = folder / f"{kind}.safetensors"
    save_file({f"model.diffusion_model.{k}": v.clone() for k, v in unet.state_dict().items()}, path)
    heads = {"num_heads": 8} if kind == "SD1" else {"num_head_channels": 32}
    describe(path, heads)
    return path


def open_clip_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A text encoder's weights under OpenCLIP's names, which put query, key and value together."""
    own = module.state_dict()
    head = "text_model."
    named = {
        "token_embedding.weight": own[f"{head}embeddings.token_embedding.weight"],
        "positional_embedding": own[f"{head}embeddings.position_embedding.weight"],
        "ln_final.weight": own[f"{head}final_layer_norm.weight"],
        "ln_final.bias": own[f"{head}final_layer_norm.bias"],
    }
    if "text_projection.weight" in own:
        named["text_projection"] = own["text_projection.weight"].t()
    renamed = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
               "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    for i in range(module.config.num_hidden_layers):
        theirs, ours = f"{head}encoder.layers.{i}", f"transformer.resblocks.{i}"
        for leaf in ("weight", "bias"):
            joined = [own[f"{theirs}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            named[f"{ours}.attn.in_proj_{leaf}"] = torch.cat(joined)
            for old, new in renamed.items():
                named[f"{ours}.{new}.{leaf}"] = own[f"{theirs}.{old}.{leaf}"]
    return {name: tensor.contiguous() for name, tensor in named.items()}
