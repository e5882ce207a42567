"""Constructor arguments of a base model's networks, from its tensors' shapes and its YAML.

Widths, depths and numbers of blocks are in the shapes; attention heads and the objective are not:
they come from the YAML beside the file, else from the rule of the published models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lib_controlnet.engine.unet import read_shape
from lib_controlnet.enums import BaseModel

from .errors import TrainError

Shapes = Mapping[str, Sequence[int]]

SD1_HEADS: Final = 8
HEAD_WIDTH: Final = 64
TIME_IDS: Final = 6
"""Numbers in SDXL's vector condition besides the pooled text: three sizes of two numbers."""
TIME_WIDTH: Final = 256
"""Width of the sinusoids of each of them in the published SDXL."""


@dataclass(frozen=True)
class Level:
    """One resolution of a U-Net's encoder."""

    width: int
    blocks: int
    depth: int


def read_levels(shapes: Shapes) -> list[Level]:
    """The encoder's resolutions, finest first, from shapes by LDM name."""
    found = [{"width": int(shapes["input_blocks.0.0.weight"][0]), "blocks": 0, "depth": 0}]
    for n in range(1, _count(shapes, r"input_blocks\.(\d+)\.")):
        block = f"input_blocks.{n}"
        if f"{block}.0.op.weight" in shapes:
            found.append({"width": found[-1]["width"], "blocks": 0, "depth": 0})
            continue
        level = found[-1]
        level["blocks"] += 1
        level["width"] = int(shapes[f"{block}.0.out_layers.3.weight"][0])
        depth = _count(shapes, rf"{re.escape(block)}\.1\.transformer_blocks\.(\d+)\.")
        level["depth"] = max(level["depth"], depth)
    return [Level(**level) for level in found]


def unet_arguments(
    shapes: Shapes, yaml: Mapping[str, Any] | None = None, pooled: int | None = None
) -> dict[str, Any]:
    """Arguments of diffusers' `UNet2DConditionModel`.

    Args:
        shapes: of the U-Net's tensors, by LDM name.
        yaml: `unet_config.params` of the YAML beside the file.
        pooled: width of SDXL's pooled text, where a text encoder tells.

    Raises:
        TrainError: the U-Net is of a kind that cannot be trained for here.
    """
    try:
        shape, levels = read_shape(shapes), read_levels(shapes)
    except KeyError as error:
        msg = f"the base holds no Stable Diffusion U-Net: {error.args[0]} is missing"
        raise TrainError(msg) from None
    blocks = {level.blocks for level in levels}
    if len(blocks) != 1:
        msg = f"the base's U-Net has {sorted(blocks)} blocks in its levels, expected one number"
        raise TrainError(msg)
    middle = _count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    if levels[-1].depth not in (0, middle):
        msg = (
            f"the base's middle block has {middle} transformer layers, its last level "
            f"{levels[-1].depth}: reduced variants of SDXL cannot be trained for"
        )
        raise TrainError(msg)
    depths = [level.depth or 1 for level in levels]
    depths[-1] = middle or 1
    arguments: dict[str, Any] = {
        "in_channels": shape.in_channels,
        "out_channels": int(shapes["out.2.weight"][0]) if "out.2.weight" in shapes else 4,
        "block_out_channels": tuple(level.width for level in levels),
        "layers_per_block": levels[0].blocks,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if level.depth else "DownBlock2D" for level in levels
        ),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if level.depth else "UpBlock2D" for level in reversed(levels)
        ),
        "transformer_layers_per_block": tuple(depths),
        "cross_attention_dim": shape.context_dim,
        "use_linear_projection": shape.linear_projection,
        "attention_head_dim": _heads(shape.kind, levels, yaml or {}),
    }
    if shape.adm_channels is not None:
        arguments |= _vector_arguments(int(shape.adm_channels), pooled)
    return arguments


def _vector_arguments(width: int, pooled: int | None) -> dict[str, Any]:
    """SDXL's extra inputs; without a text encoder half of a small vector is taken for text."""
    published = TIME_IDS * TIME_WIDTH
    text = pooled or (width - published if width > published else width // 2)
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (width - text) // TIME_IDS,
        "projection_class_embeddings_input_dim": width,
    }


def _heads(kind: BaseModel, levels: Sequence[Level], yaml: Mapping[str, Any]) -> int | tuple:
    """Heads a level; diffusers calls the number of heads `attention_head_dim`."""
    width = int(yaml.get("num_head_channels") or -1)
    if width <= 0 and int(yaml.get("num_heads") or -1) > 0:
        return int(yaml["num_heads"])
    if width <= 0 and kind is BaseModel.SD1:
        return SD1_HEADS
    return tuple(max(1, level.width // (width if width > 0 else HEAD_WIDTH)) for level in levels)


def vae_arguments(shapes: Shapes) -> dict[str, Any]:
    """Arguments of diffusers' `AutoencoderKL`, from shapes without the prefix."""
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    blocks = _count(shapes, r"encoder\.down\.0\.block\.(\d+)\.")
    widths = tuple(
        int(shapes[f"encoder.down.{i}.block.{blocks - 1}.conv2.weight"][0]) for i in range(levels)
    )
    return {
        "in_channels": int(shapes["encoder.conv_in.weight"][1]),
        "out_channels": int(shapes["decoder.conv_out.weight"][0]),
        "latent_channels": int(shapes["decoder.conv_in.weight"][1]),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "sample_size": 32,
    }


def clip_arguments(shapes: Shapes) -> dict[str, Any]:
    """Arguments of transformers' `CLIPTextConfig`, from shapes by its names."""
    words, width = shapes["text_model.embeddings.token_embedding.weight"]
    return {
        "vocab_size": int(words),
        "hidden_size": int(width),
        "intermediate_size": int(shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0]),
        "num_hidden_layers": _count(shapes, r"text_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, int(width) // HEAD_WIDTH),
        "max_position_embeddings": int(
            shapes["text_model.embeddings.position_embedding.weight"][0]
        ),
    }


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern's group takes at the start of a name."""
    found = [int(match[1]) for match in (re.match(pattern, name) for name in shapes) if match]
    return max(found) + 1 if found else 0
