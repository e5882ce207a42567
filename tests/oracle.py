"""The diffusers networks that ours are compared with, and the names of their tensors in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    SparseControlNetModel,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from sessions import FakeHost, info
from support import randomise
from torch import Tensor, nn

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.prepared import PreparedUnit
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.families import load_network
from lib_controlnet.files.layouts import RESNET_NAMES, diffusers_renamer
from lib_controlnet.host.a1111.rows import build_layout

TOLERANCE = 1e-5
"""Largest difference from diffusers, as a share of the largest output value, in float32."""
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"

FOUR_LEVELS: Mapping[str, object] = {
    "down_block_types": (CROSS, CROSS, CROSS, PLAIN),
    "block_out_channels": (320, 640, 1280, 1280),
}
THREE_LEVELS: Mapping[str, object] = {
    "down_block_types": (PLAIN, CROSS, CROSS),
    "block_out_channels": (320, 640, 1280),
    "use_linear_projection": True,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
PUBLISHED: Mapping[str, Mapping[str, object]] = {
    "sd15": {**FOUR_LEVELS, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        **FOUR_LEVELS,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl_full": {**THREE_LEVELS, "transformer_layers_per_block": (1, 2, 10)},
    "sdxl_mid": {
        **THREE_LEVELS,
        "down_block_types": (PLAIN, PLAIN, CROSS),
        "transformer_layers_per_block": (1, 1, 1),
    },
    "sdxl_small": {
        **THREE_LEVELS,
        "down_block_types": (PLAIN, PLAIN, PLAIN),
        "transformer_layers_per_block": (1, 1, 1),
        "mid_block_type": "UNetMidBlock2D",
    },
}
"""Configurations of the published ControlNets."""

TINY: Mapping[str, Mapping[str, object]] = {
    "SD1": {
        **FOUR_LEVELS,
        "block_out_channels": (32, 64, 128, 128),
        "cross_attention_dim": 48,
        "attention_head_dim": 8,
    },
    "SD2": {
        **FOUR_LEVELS,
        "block_out_channels": (32, 64, 128, 128),
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2, 4, 4),
        "use_linear_projection": True,
    },
    "SDXL": {
        **THREE_LEVELS,
        "block_out_channels": (32, 64, 128),
        "cross_attention_dim": 80,
        "attention_head_dim": (1, 2, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 96,
    },
}
"""The same structures at the widths of `support.UNETS`."""


def control_net(config: Mapping[str, object]) -> ControlNetModel:
    """A ControlNet of diffusers in float32, with its own initial weights."""
    hint = (16, 32, 96, 256) if config["block_out_channels"][0] == 320 else (4, 8, 12, 16)
    return ControlNetModel(in_channels=4, conditioning_embedding_out_channels=hint, **config).eval()


def union_net(config: Mapping[str, object], types: int) -> ControlNetUnionModel:
    """A ControlNet Union of diffusers in float32, with its own initial weights."""
    width = config["block_out_channels"][0]
    hint = (16, 32, 96, 256) if width == 320 else (4, 8, 12, 16)
    extra = {"num_trans_channel": width, "num_proj_channel": width, "num_control_type": types}
    sinusoids = {"addition_time_embed_dim": 8, **config}
    return ControlNetUnionModel(
        in_channels=4, conditioning_embedding_out_channels=hint, **extra, **sinusoids
    ).eval()


SPARSE_NAMES: Mapping[str, str] = {
    "pos_embed": "attention_blocks.0.pos_encoder",
    "attn1": "attention_blocks.0",
    "norm1": "norms.0",
    "norm3": "ff_norm",
}
"""Names in a motion module of diffusers, and its authors'."""


def sparse_net(config: Mapping[str, object], kind: str) -> SparseControlNetModel:
    """A SparseCtrl of diffusers, `rgb` or `scribble`, with its own initial weights."""
    hint = (16, 32, 96, 256) if config["block_out_channels"][0] == 320 else (4, 8, 12, 16)
    blocks = tuple(f"{name.removesuffix('2D')}Motion" for name in config["down_block_types"])
    made = {**config, "down_block_types": blocks, "conditioning_embedding_out_channels": hint}
    made |= {"conditioning_channels": 4} if kind == "rgb" else {"conditioning_channels": 3}
    return SparseControlNetModel(use_simplified_condition_embedding=kind == "rgb", **made).eval()


def sparse_original(name: str) -> str:
    """A name of diffusers' SparseCtrl as its authors' files have it."""
    found = re.fullmatch(r"(down_blocks\.\d+\.motion_modules\.\d+)\.(.+)", name)
    if not found:
        return name
    rest = found[2]
    if inner := re.fullmatch(r"(transformer_blocks\.\d+)\.(\w+)\.(.+)", rest):
        rest = f"{inner[1]}.{SPARSE_NAMES.get(inner[2], inner[2])}.{inner[3]}"
    return f"{found[1]}.temporal_transformer.{rest}"


def sparse_converted(name: str) -> str:
    """A name of the authors' SD1 files in the layout that has LDM names beside motion modules."""
    if "motion_modules" in name:
        return name
    if name.startswith("controlnet_cond_embedding."):
        return name.replace("controlnet_cond_embedding.", "input_hint_block.0.", 1)
    return diffusers_renamer(["down_blocks.0.resnets.1.x"])(name)


def holding(theirs: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The ControlNet of diffusers with the very tensors of one in LDM layout."""
    names = list(theirs.state_dict())
    rename = diffusers_renamer(names)
    theirs.load_state_dict({name: weights[rename(name)] for name in names}, assign=True)
    return theirs


def u_net(config: Mapping[str, object]) -> UNet2DConditionModel:
    """A U-Net of diffusers for which `control_net(config)` is made."""
    kinds = config["down_block_types"]
    up = tuple(CROSS_UP if kind == CROSS else PLAIN_UP for kind in reversed(kinds))
    return UNet2DConditionModel(in_channels=4, out_channels=4, up_block_types=up, **config).eval()


def u_net_weights(ours: nn.Module, config: Mapping[str, object]) -> UNet2DConditionModel:
    """The U-Net of diffusers, holding the very tensors of one in LDM layout."""
    with torch.device("meta"):
        theirs = u_net(config)
    source = ours.state_dict()
    names = list(theirs.state_dict())
    rename = diffusers_renamer(names)
    weights = {}
    for name in names:
        candidates = _decoder_names(name) or [rename(name)]
        weights[name] = next(source[ldm] for ldm in candidates if ldm in source)
    theirs.load_state_dict(weights, assign=True)
    return theirs


def _decoder_names(name: str) -> list[str]:
    """Possible LDM names of a decoder tensor, none for the encoder and the middle."""
    for head, ldm in (("conv_norm_out.", "out.0."), ("conv_out.", "out.2.")):
        if name.startswith(head):
            return [ldm + name[len(head) :]]
    found = re.fullmatch(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.+)", name)
    if not found:
        return []
    level, kind, number, rest = int(found[1]), found[2], int(found[3]), found[4]
    if kind == "upsamplers":  # the last part of the level's last block
        return [f"output_blocks.{3 * level + 2}.{part}.{rest}" for part in (2, 1)]
    if kind == "attentions":
        return [f"output_blocks.{3 * level + number}.1.{rest}"]
    module, _, leaf = rest.rpartition(".")
    return [f"output_blocks.{3 * level + number}.0.{RESNET_NAMES[module]}.{leaf}"]


def vector_condition(model: nn.Module, rows: int, seed: int = 3) -> tuple[dict, Tensor | None]:
    """SDXL's extra inputs as diffusers takes them, and the vector `y` they stand for."""
    if not hasattr(model, "add_embedding"):
        return {}, None
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 1024, (rows, 6), generator=generator).float()
    sinusoids = model.add_time_proj(sizes.flatten()).reshape(rows, -1)
    width = model.config.projection_class_embeddings_input_dim - sinusoids.shape[1]
    pooled = torch.randn(rows, width, generator=generator)
    extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    return extra, torch.cat([pooled, sinusoids], dim=1)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    scale = float(theirs.abs().max())
    assert scale > 1e-3, "the comparison would pass on zeros"
    assert float((ours - theirs).abs().max()) <= TOLERANCE * scale


def diffusers_file(folder: Path, config: Mapping[str, object], seed: int = 1) -> tuple:
    """A ControlNet of diffusers with random weights, and the file it was saved to."""
    theirs = randomise(control_net(config), seed)
    path = folder / f"diffusers-{seed}.safetensors"
    save_file(theirs.state_dict(), path)
    return theirs, path


def load(path: Path, base: BaseUNet) -> ControlNetwork:
    return load_network(path, base, torch.float32, "cpu")


def run_theirs(theirs: nn.Module, call: Mapping[str, Tensor], hint: Tensor, extra: dict) -> list:
    down, middle = theirs(
        call["x"],
        call["timesteps"],
        call["context"],
        hint.expand(call["x"].shape[0], -1, -1, -1),
        return_dict=False,
        **extra,
    )
    return [*down, middle]


def agree_with(
    expected: Tensor, base: BaseUNet, call: dict, units: list[PreparedUnit]
) -> ControlSession:
    """A call of a U-Net with units is as expected and not as without, and leaves nothing behind."""
    plain = base.module(**call)
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        ours = base.module(**call)
    assert_close(ours, expected)
    assert float((plain - ours).abs().max()) > 0.05 * float(plain.abs().max())
    assert torch.equal(base.module(**call), plain)
    return session
