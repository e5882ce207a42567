"""The original (LDM) names of a ControlNet turned into diffusers' names, and its configuration.

The other direction is `lib_controlnet/files/layouts.py`. Both are renames: no tensor changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from lib_controlnet.engine.unet import read_shape
from lib_controlnet.enums import BaseModel
from lib_controlnet.families.controlnet import HEAD_WIDTH, SD1_HEADS
from lib_controlnet.files.layouts import MIDDLE_PARTS, RESNET_NAMES, STEM_NAMES
from lib_controlnet.nets.cldm import BlockParams, ControlNetParams, read_params

STEMS: Final = {ldm: theirs for theirs, ldm in STEM_NAMES.items()}
RESNETS: Final = {ldm: theirs for theirs, ldm in RESNET_NAMES.items()}
MIDDLE: Final = {part: theirs for theirs, part in MIDDLE_PARTS.items()}

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CONFIG_CLASS: Final = "ControlNetModel"
SIZE_FIELDS: Final = 6
"""Numbers in SDXL's size condition: original, crop and target, two each."""
POOLED_WIDTH: Final = 1280
"""Width of SDXL's pooled text in its vector condition."""


def to_diffusers(names: Iterable[str]) -> Callable[[str], str]:
    """A function from LDM names to diffusers'; names without a counterpart stay as they are.

    Inverse of `lib_controlnet.files.layouts.diffusers_renamer`.
    """
    names = list(names)
    per_level = blocks_per_level(names)
    hints = [int(name.split(".")[1]) for name in names if name.startswith("input_hint_block.")]
    hint_end = max(hints, default=-1)

    def rename(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        if module in STEMS:
            return f"{STEMS[module]}.{leaf}"
        if found := re.fullmatch(r"input_hint_block\.(\d+)", module):
            number = int(found[1])
            place = "conv_out" if number == hint_end else f"blocks.{number // 2 - 1}"
            return f"controlnet_cond_embedding.{place}.{leaf}"
        if found := re.fullmatch(r"zero_convs\.(\d+)\.0", module):
            return f"controlnet_down_blocks.{found[1]}.{leaf}"
        if found := re.fullmatch(r"middle_block\.([012])\.(.+)", name):
            kind = MIDDLE[int(found[1])]
            return f"mid_block.{kind}.{_inner(kind, found[2])}"
        found = re.fullmatch(r"input_blocks\.(\d+)\.([01])\.(.+)", name)
        if not found:
            return name
        level, number = divmod(int(found[1]) - 1, per_level)
        if found[3].startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{leaf}"
        kind = "attentions" if found[2] == "1" else "resnets"
        return f"down_blocks.{level}.{kind}.{number}.{_inner(kind, found[3])}"

    return rename


def blocks_per_level(names: Iterable[str]) -> int:
    """Input blocks from one halving to the next; all of them but the first if none halves."""
    names = list(names)
    found = (re.match(r"input_blocks\.(\d+)\.0\.op\.", name) for name in names)
    first = min((int(match[1]) for match in found if match), default=None)
    if first is not None:
        return first
    blocks = {name.split(".")[1] for name in names if name.startswith("input_blocks.")}
    return max(1, len(blocks) - 1)


def _inner(kind: str, rest: str) -> str:
    head, _, leaf = rest.rpartition(".")
    return f"{RESNETS.get(head, head)}.{leaf}" if kind.startswith("resnets") else rest


def diffusers_config(
    shapes: Mapping[str, Sequence[int]], global_average_pooling: bool = False
) -> dict[str, object]:
    """What `diffusers.ControlNetModel` wants in its `config.json`, for a file's LDM shapes.

    Attention heads are those of the published models: 8 for SD1, else of width 64.
    """
    shape = read_shape(shapes)
    is_sd1 = shape.kind is BaseModel.SD1

    def heads(_block: str, width: int) -> int:
        return SD1_HEADS if is_sd1 else max(1, width // HEAD_WIDTH)

    params = read_params(shapes, heads)
    levels = _levels(params, blocks_per_level(shapes))
    depths = [max(block.depth for block in level) for level in levels]
    middle = params.middle.get(1)
    layers = [max(depth, 1) for depth in depths]
    layers[-1] = max(layers[-1], middle.depth if middle else 1)  # the middle takes the last one
    config: dict[str, object] = {
        "_class_name": CONFIG_CLASS,
        "in_channels": params.in_channels,
        "conditioning_channels": params.hint_widths[0],
        "conditioning_embedding_out_channels": list(params.hint_widths[1:-1:2]),
        "down_block_types": [CROSS if depth else PLAIN for depth in depths],
        "block_out_channels": [level[0].width_out for level in levels],
        "layers_per_block": len(levels[-1]),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": layers,
        "attention_head_dim": (
            SD1_HEADS if is_sd1 else [heads("", level[0].width_out) for level in levels]
        ),
        "cross_attention_dim": params.context_dim or 2048,
        "use_linear_projection": shape.linear_projection or not params.context_dim,
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": global_average_pooling,
    }
    if params.adm_channels is not None:
        pooled = POOLED_WIDTH if params.adm_channels > POOLED_WIDTH else 0
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (params.adm_channels - pooled) // SIZE_FIELDS,
            "projection_class_embeddings_input_dim": params.adm_channels,
        }
    return config


def _levels(params: ControlNetParams, per_level: int) -> list[list[BlockParams]]:
    """The res blocks of every level, without the blocks that halve the size."""
    rest = params.blocks[1:]
    chunks = (rest[begin : begin + per_level] for begin in range(0, len(rest), per_level))
    return [[block for block in chunk if block.kind == "res"] for chunk in chunks]
