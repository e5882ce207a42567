"""Model sizes of a checkpoint, from the YAML beside it or from its tensors' shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from torch import Tensor

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model."
TEXTS_PREFIX = "conditioner."
"""Of SDXL's two text encoders."""
VAE_PARAMS = ("embed_dim",)
SDXL_SCALE = 0.13025


@dataclass(frozen=True)
class ModelConfig:
    """Constructor arguments of the parts, and the constants of the diffusion."""

    unet: dict[str, object]
    vae: dict[str, object] | None
    text_version: str | None = None
    scale_factor: float = 0.18215
    parameterization: str = "eps"
    linear_start: float = 0.00085
    linear_end: float = 0.0120
    timesteps: int = 1000
    raw: dict[str, object] = field(default_factory=dict)


def read_yaml(path: Path) -> ModelConfig:
    """Read an LDM inference YAML, or one of SDXL's kind.

    Args:
        path: file with a top-level `model` whose `params` hold `unet_config` and the rest; SDXL's
            hold `network_config`, `conditioner_config` and `denoiser_config`.
    """
    raw = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    params = raw["model"]["params"]
    if "network_config" in params:
        return _read_sdxl(raw, params)
    first_stage = params["first_stage_config"]["params"]
    text = params.get("cond_stage_config", {}).get("params") or {}
    return ModelConfig(
        unet=dict(params["unet_config"]["params"]),
        vae={**first_stage["ddconfig"], **{k: first_stage[k] for k in VAE_PARAMS}},
        text_version=text.get("version"),
        scale_factor=float(params["scale_factor"]),
        parameterization=params.get("parameterization", "eps"),
        linear_start=float(params["linear_start"]),
        linear_end=float(params["linear_end"]),
        timesteps=int(params["timesteps"]),
        raw=raw,
    )


def _read_sdxl(raw: dict[str, object], params: dict[str, object]) -> ModelConfig:
    first_stage = params["first_stage_config"]["params"]
    scaling = params["denoiser_config"]["params"]["scaling_config"]["target"]
    embedders = params["conditioner_config"]["params"]["emb_models"]
    versions = [(each.get("params") or {}).get("version") for each in embedders]
    return ModelConfig(
        unet=dict(params["network_config"]["params"]),
        vae={**first_stage["ddconfig"], **{k: first_stage[k] for k in VAE_PARAMS}},
        text_version=next(filter(None, versions), None),
        scale_factor=float(params["scale_factor"]),
        parameterization="v" if scaling.endswith("VScaling") else "eps",
        raw=raw,
    )


def config_from_shapes(tensors: Mapping[str, Tensor]) -> ModelConfig:
    """Read every size from an SD checkpoint's tensors.

    The number of attention heads is not in the shapes: 8 heads for a context of 768 (SD1),
    heads of 64 channels for SD2 (a context of 1024) and SDXL (a vector condition).
    """
    unet = _strip(tensors, UNET_PREFIX)
    if not unet:
        msg = f"no tensor starts with {UNET_PREFIX}: not a Stable Diffusion checkpoint"
        raise ValueError(msg)
    vae = _strip(tensors, VAE_PREFIX)
    scale = {"scale_factor": SDXL_SCALE} if "label_emb.0.0.weight" in unet else {}
    return ModelConfig(
        unet=unet_config_from_shapes(unet),
        vae=vae_config_from_shapes(vae) if vae else None,
        **scale,
    )


def unet_config_from_shapes(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Arguments of `UNetModel`, from its state dict (keys without prefix)."""
    first = tensors["input_blocks.0.0.weight"]
    channels = first.shape[0]
    levels: list[dict[str, int]] = [{"blocks": 0, "depth": 0, "width": channels}]
    for n in range(1, _count(tensors, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{n}.0.op.weight" in tensors:
            levels.append({"blocks": 0, "depth": 0, "width": channels})
            continue
        level = levels[-1]
        level["blocks"] += 1
        level["width"] = tensors[f"input_blocks.{n}.0.out_layers.3.weight"].shape[0]
        pattern = rf"input_blocks\.{n}\.1\.transformer_blocks\.(\d+)\."
        level["depth"] = max(level["depth"], _count(tensors, pattern))
    config: dict[str, object] = {
        "image_size": 32,
        "in_channels": first.shape[1],
        "out_channels": tensors["out.2.weight"].shape[0],
        "model_channels": channels,
        "num_res_blocks": levels[0]["blocks"],
        "channel_mult": [level["width"] // channels for level in levels],
        "attention_resolutions": [2**i for i, level in enumerate(levels) if level["depth"]],
    }
    middle = _count(tensors, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    depths = [level["depth"] for level in levels]
    depths[-1] = max(depths[-1], middle)
    config["transformer_depth"] = depths
    keys = [k for k in tensors if k.endswith("attn2.to_k.weight")]
    context = tensors[keys[0]].shape[1] if keys else None
    config["context_dim"] = context
    proj = [t for k, t in tensors.items() if k.endswith(".proj_in.weight")]
    config["use_linear_in_transformer"] = bool(proj) and proj[0].ndim == 2
    by_width = context == 1024 or "label_emb.0.0.weight" in tensors
    config.update({"num_head_channels": 64} if by_width else {"num_heads": 8})
    if "label_emb.0.0.weight" in tensors:
        config["num_classes"] = "sequential"
        config["adm_in_channels"] = tensors["label_emb.0.0.weight"].shape[1]
    return config


def vae_config_from_shapes(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Arguments of `AutoencoderKL`, from its state dict (keys without prefix)."""
    ch = tensors["encoder.conv_in.weight"].shape[0]
    levels = _count(tensors, r"encoder\.down\.(\d+)\.")
    blocks = _count(tensors, r"encoder\.down\.0\.block\.(\d+)\.")
    widths = [
        tensors[f"encoder.down.{i}.block.{blocks - 1}.conv2.weight"].shape[0] for i in range(levels)
    ]
    return {
        "ch": ch,
        "ch_mult": [w // ch for w in widths],
        "num_res_blocks": blocks,
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_ch": tensors["decoder.conv_out.weight"].shape[0],
        "z_channels": tensors["decoder.conv_in.weight"].shape[1],
        "embed_dim": tensors["post_quant_conv.weight"].shape[1],
    }


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number the pattern's group takes at the start of a key."""
    found = [int(m.group(1)) for m in (re.match(pattern, key) for key in tensors) if m]
    return max(found) + 1 if found else 0
