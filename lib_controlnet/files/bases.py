"""The base model that a file of weights was made for, by the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from lib_controlnet.enums import BaseModel
from lib_controlnet.words import word

CONTEXT_TO_BASE: Final[Mapping[int, BaseModel]] = {
    768: BaseModel.SD1,
    1024: BaseModel.SD2,
    2048: BaseModel.SDXL,
}
"""Width of the text tokens of the published base models."""

XL_UNSHUFFLED: Final = 256
"""Inputs of an SDXL T2I-Adapter are a multiple of this: 16 x 16 pixels of each channel."""

TEXT_READERS: Final = re.compile(r"(^|\.)(attn2\.to_k\.(weight|down)|\d+\.to_k_ip\.weight)$")
"""Tensors with as many columns as the base's text tokens are wide."""

LLLITE_BLOCK: Final = re.compile(r"lllite_unet_input_blocks_(\d+)_1_")
SDXL_ATTENDING: Final = frozenset({"4", "5", "7", "8"})
"""SDXL's input blocks with attention; all published LLLites act there."""


def base_of(key: str, shapes: Mapping[str, Sequence[int]]) -> BaseModel | None:
    """The base that a file is for, None where neither its kind nor a shape tells.

    Args:
        key: of its kind, see `signatures`.
        shapes: of its tensors.
    """
    if key == "lllite":
        return BaseModel.SDXL if is_lllite_of_sdxl(shapes) else None
    if key in ("t2i_light", "t2i_style", "coadapter"):
        return BaseModel.SD1
    if key == "t2i" and "conv_in.weight" in shapes:
        is_xl = shapes["conv_in.weight"][1] % XL_UNSHUFFLED == 0
        return BaseModel.SDXL if is_xl else BaseModel.SD1
    width = next((s[1] for name, s in shapes.items() if TEXT_READERS.search(name)), 0)
    if not width and "label_emb.0.0.weight" in shapes:  # small ones read no text, only the vector
        return BaseModel.SDXL
    return CONTEXT_TO_BASE.get(width)


def is_lllite_of_sdxl(shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether the attention that an LLLite acts in is where SDXL has some.

    Its tensors do not know the text's width; other U-Nets attend in other input blocks.
    """
    blocks = {found[1] for found in map(LLLITE_BLOCK.match, shapes) if found}
    return bool(blocks) and blocks <= SDXL_ATTENDING


def describe_misfit(base: BaseModel, own: BaseModel) -> str:
    """Why a file for a base does not fit a checkpoint, in a few words; "" where it does."""
    return "" if base is own else word("other_base", base=base, checkpoint=own)
