"""Narrow checkpoints of SDXL's kind, and control models for them, made by code.

`write(folder)` puts `sdxl.safetensors` beside its YAML and tokenizer; `folder` is a host's
`models/Stable-diffusion`. `sdxl-v` predicts v, `sdxl-inpainting` reads nine channels and
`sdxl-refiner` is a refiner, of another structure. In host tests the fixture `sdxl` of
`tests/host/conftest.py` has the host with `sdxl` loaded and a control model for it, `CONTROL`.

The structure is that of the published models: levels of 1, 2 and 4 widths, linear transformers
below the first, a vector condition, two text encoders, a VAE whose `encode` samples. Weights are
the demo model's for VAE and first text encoder, and random numbers of a fixed seed for the rest. So
that pictures are not noise, the latent goes past the whole U-Net into its last layer, which gives
it back as predicted noise; everything else, a control's residuals too, is added to that.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import support
import torch
from minildm.text import OpenClip
from minildm.unet import UNetModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from yaml import safe_dump

from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.families.union import UnionFamily

ASSETS: Final = Path(__file__).resolve().parents[1] / "minihost" / "assets"
BASE, V, INPAINTING, REFINER = "sdxl", "sdxl-v", "sdxl-inpainting", "sdxl-refiner"
NAMES: Final = (BASE, V, INPAINTING, REFINER)
CONTROL: Final = "sdxl_control"
UNION: Final = "sdxl_union"
LAYERS: Final = 10
"""Residuals of a ControlNet for it: nine skips and the middle."""

WORDS, TEXT = 681, 128
NUMBERS: Final = 256
OPEN_LAYERS: Final = 2
SAMPLED: Final = 4
SHARE: Final = 0.03
"""Of the other channels in the prediction, so that the latent stays what the picture is made of."""

COMMON: Final[Mapping[str, Any]] = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": 2,
    "attention_resolutions": [4, 2],
    "channel_mult": [1, 2, 4],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": [0, 1, 2],
    "context_dim": 2 * TEXT,
    "num_classes": "sequential",
    "adm_in_channels": TEXT + 6 * NUMBERS,
}
REFINING: Final[Mapping[str, Any]] = {
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [0, 1, 1, 1],
    "context_dim": TEXT,
    "adm_in_channels": TEXT + 5 * NUMBERS,
}
CHANGES: Final[Mapping[str, Mapping[str, Any]]] = {
    BASE: {},
    V: {},
    INPAINTING: {"in_channels": 9},
    REFINER: REFINING,
}


def unet_arguments(name: str = BASE) -> dict[str, Any]:
    """Constructor arguments of a checkpoint's U-Net."""
    return {**COMMON, **CHANGES[name]}


def unet(name: str = BASE, seed: int = 0) -> UNetModel:
    """A checkpoint's U-Net."""
    with torch.device("meta"):
        made = UNetModel(**unet_arguments(name))
    made = support.randomise(made.to_empty(device="cpu"), seed)
    _let_through(made)
    return made


@torch.no_grad()
def _let_through(made: UNetModel) -> None:
    """Carry the latent x past all blocks, as x and -x: SiLU(x) - SiLU(-x) is x again."""
    first, last, out = made.input_blocks[0][0], made.output_blocks[-1][0], made.out
    skips = last.in_layers[0].num_channels - made.model_channels
    for channel in range(SAMPLED):
        for sign in (0, 1):
            place = 2 * channel + sign
            first.weight[place] = 0.0
            first.weight[place, channel, 1, 1] = 1.0 - 2.0 * sign
            first.bias[place] = 0.0
            last.skip_connection.weight[place] = 0.0
            last.skip_connection.weight[place, skips + place] = 1.0
            last.skip_connection.bias[place] = 0.0
            out[0].weight[place], out[0].bias[place] = 1.0, 0.0
            out[2].weight[channel, place] = 0.0
            out[2].weight[channel, place, 1, 1] = 1.0 - 2.0 * sign
    out[2].weight[:, 2 * SAMPLED :] *= SHARE
    out[2].bias[:] = 0.0


def open_clip(seed: int = 1) -> OpenClip:
    """The second text encoder."""
    names = [f"transformer.resblocks.{layer}.ln_1.weight" for layer in range(OPEN_LAYERS)]
    shapes = {"token_embedding.weight": (WORDS, TEXT), "text_projection": (TEXT, TEXT)}
    with torch.device("meta"):
        made = OpenClip({**shapes, **dict.fromkeys(names, (TEXT,))})
    return support.randomise(made.to_empty(device="cpu"), seed)


@functools.cache
def _demo() -> dict[str, Tensor]:
    return load_file(ASSETS / "demo.safetensors")


def tensors(name: str = BASE) -> dict[str, Tensor]:
    """A checkpoint's tensors, under the names of the published files."""
    clip = "cond_stage_model."
    found = {key: value for key, value in _demo().items() if key.startswith("first_stage_model.")}
    second = 0 if name == REFINER else 1
    if second:
        found |= {
            f"conditioner.embedders.0.{key[len(clip) :]}": value
            for key, value in _demo().items()
            if key.startswith(clip)
        }
    parts = {
        f"conditioner.embedders.{second}.model.": open_clip(),
        "model.diffusion_model.": unet(name),
    }
    for prefix, module in parts.items():
        found |= {prefix + key: value.half() for key, value in module.state_dict().items()}
    return found


def config(name: str = BASE) -> dict[str, Any]:
    """A checkpoint's YAML, in the form of the published ones."""
    scaling = "VScaling" if name == V else "EpsScaling"
    denoiser = "sgm.modules.diffusionmodules.denoiser"
    clip = {"version": "models/Stable-diffusion/demo-clip", "layer": "hidden", "layer_idx": 1}
    embedders = [
        {"target": "sgm.modules.encoders.modules.FrozenCLIPEmbedder", "params": clip},
        {"target": "sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2"},
    ]
    vae = {
        **{"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3},
        **{"ch": 64, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": []},
        "dropout": 0.0,
    }
    params = {
        "scale_factor": 0.13025,
        "disable_first_stage_autocast": True,
        "denoiser_config": {
            "target": f"{denoiser}.DiscreteDenoiser",
            "params": {
                "num_idx": 1000,
                "scaling_config": {"target": f"{denoiser}_scaling.{scaling}"},
            },
        },
        "network_config": {
            "target": "sgm.modules.diffusionmodules.openaimodel.UNetModel",
            "params": unet_arguments(name),
        },
        "conditioner_config": {
            "target": "sgm.modules.GeneralConditioner",
            "params": {"emb_models": embedders[1:] if name == REFINER else embedders},
        },
        "first_stage_config": {
            "target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper",
            "params": {"embed_dim": 4, "ddconfig": vae},
        },
    }
    return {"model": {"target": "sgm.models.diffusion.DiffusionEngine", "params": params}}


def write(folder: Path, names: Sequence[str] = (BASE,)) -> list[Path]:
    """Write checkpoints, each with its YAML, and the tokenizer; the files and folders."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names:
        path = folder / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors(name).items()}, path)
        path.with_suffix(".yaml").write_text(safe_dump(config(name)), encoding="utf-8")
        words = folder / f"{name}-clip"
        shutil.copytree(ASSETS / "demo-clip", words, dirs_exist_ok=True)
        written += [path, path.with_suffix(".yaml"), words]
    return written


def write_control(folder: Path, name: str = CONTROL, seed: int = 4) -> Path:
    """Write a random ControlNet for `sdxl` and the checkpoints of its structure."""
    folder.mkdir(parents=True, exist_ok=True)
    network = support.tiny_controlnet(name, seed, unet())
    return support.save_controlnet(folder / f"{name}.safetensors", network, torch.float16)


def write_union(folder: Path, name: str = UNION, seed: int = 5) -> Path:
    """Write a random ControlNet Union of 8 types for the same checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    made = unet()
    network = UnionFamily().tiny(BaseUNet(made, describe_unet(made), name, name), seed)
    return support.save_controlnet(folder / f"{name}.safetensors", network, torch.float16)
