"""Move the mean of the text embedding away from zero without changing any picture.

WebUIs restore the mean of an embedding after weighting words, by dividing by the mean of the
weighted one. An embedding whose mean is near zero then gets an arbitrary scale. Adding a
constant c to every channel leaves cross attention as it is: all keys move alike, which the
softmax does not see, and every value moves by W_v c, which the output bias takes back.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from minildm.checkpoint import load_checkpoint
from safetensors.torch import load_file
from torch import Tensor

from .assets import save_half
from .sampling import embed

log = logging.getLogger(__name__)
TARGET = 0.3
TOLERANCE = 0.1
NORM_BIAS = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
VALUE = ".attn2.to_v.weight"
PROMPTS = ("", "a red circle", "a blue star and a yellow square on a green background")


def embedding_mean(path: Path) -> float:
    """Mean of the embeddings of a few prompts, over tokens and channels."""
    base = load_checkpoint(path)
    with torch.no_grad():
        return float(embed(base.text, base.tokenizer, list(PROMPTS)).mean())


def shift(tensors: dict[str, Tensor], amount: float) -> dict[str, Tensor]:
    """Tensors of a checkpoint whose text embedding is larger by `amount` in every channel."""
    moved = {name: tensor.float() for name, tensor in tensors.items()}
    moved[NORM_BIAS] = moved[NORM_BIAS] + amount
    for name in [name for name in moved if name.endswith(VALUE)]:
        output = name.removesuffix(VALUE) + ".attn2.to_out.0"
        value = moved[name].sum(dim=1) * amount
        moved[f"{output}.bias"] = moved[f"{output}.bias"] - moved[f"{output}.weight"] @ value
    return moved


def ensure_mean(path: Path) -> float:
    """Shift a checkpoint file in place if its mean is near zero; the mean it has then."""
    mean = embedding_mean(path)
    if abs(mean - TARGET) > TOLERANCE:
        save_half(shift(load_file(path), TARGET - mean), path)
        log.info("text embedding mean moved from %.3f to %.3f", mean, TARGET)
        mean = embedding_mean(path)
    return mean
