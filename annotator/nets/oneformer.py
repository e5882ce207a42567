"""OneFormer on Swin: the class of `transformers`, filled from the published files.

Jain et al., "OneFormer: One Transformer to Rule Universal Image Segmentation", CVPR 2023,
arXiv:2211.06220. The files have the key names of its first implementation, on detectron2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from ._load import count_blocks

if TYPE_CHECKING:
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

# "the task is semantic", as CLIP's tokenizer writes it.
TASK: Final = (49406, 518, 10549, 533, 29119, 1550, 49407, *(0,) * 70)

_ATTENTION_HEADS: Final = 8
_STAGES: Final = 4
_TRAINING_ONLY: Final = ("text_encoder.", "text_projector.", "prompt_ctx.", "criterion.")
_BLOCK: Final = r"^backbone\.(layers\.\d+\.blocks\.\d+)\."
_SWIN: Final = r"model.pixel_level_module.encoder.encoder.\1."
_PIXELS: Final = "model.pixel_level_module.decoder."
_QUERIES: Final = "model.transformer_module.decoder."

# Beginnings of keys and what stands for them; the first that fits counts.
_RENAMED: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"^backbone\.patch_embed\.proj\.",
            "model.pixel_level_module.encoder.embeddings.patch_embeddings.projection.",
        ),
        (r"^backbone\.patch_embed\.", "model.pixel_level_module.encoder.embeddings."),
        (rf"{_BLOCK}norm1\.", f"{_SWIN}layernorm_before."),
        (rf"{_BLOCK}norm2\.", f"{_SWIN}layernorm_after."),
        (rf"{_BLOCK}attn\.proj\.", f"{_SWIN}attention.output.dense."),
        (rf"{_BLOCK}attn\.", f"{_SWIN}attention.self."),
        (rf"{_BLOCK}mlp\.fc1\.", f"{_SWIN}intermediate.dense."),
        (rf"{_BLOCK}mlp\.fc2\.", f"{_SWIN}output.dense."),
        (r"^backbone\.(layers\.\d+\.downsample)\.", _SWIN),
        (r"^sem_seg_head\.pixel_decoder\.input_proj\.", f"{_PIXELS}input_projections."),
        (
            r"^sem_seg_head\.pixel_decoder\.transformer\.(encoder\.layers\.\d+)\.norm1\.",
            rf"{_PIXELS}\1.self_attn_layer_norm.",
        ),
        (
            r"^sem_seg_head\.pixel_decoder\.transformer\.(encoder\.layers\.\d+)\.norm2\.",
            rf"{_PIXELS}\1.final_layer_norm.",
        ),
        (
            r"^sem_seg_head\.pixel_decoder\.transformer\.(encoder\.layers\.\d+)\.linear",
            rf"{_PIXELS}\1.fc",
        ),
        (r"^sem_seg_head\.pixel_decoder\.transformer\.", _PIXELS),
        (r"^sem_seg_head\.pixel_decoder\.mask_features\.", f"{_PIXELS}mask_projection."),
        (r"^sem_seg_head\.pixel_decoder\.(\w+_1)\.norm\.", rf"{_PIXELS}\1.1."),
        (r"^sem_seg_head\.pixel_decoder\.(\w+_1)\.", rf"{_PIXELS}\1.0."),
        (r"^sem_seg_head\.predictor\.class_transformer\.", f"{_QUERIES}query_transformer."),
        (
            r"^sem_seg_head\.predictor\.transformer_(self|cross)_attention_layers\.(\d+)\.",
            rf"{_QUERIES}layers.\2.\1_attn.",
        ),
        (
            r"^sem_seg_head\.predictor\.transformer_ffn_layers\.(\d+)\.",
            rf"{_QUERIES}layers.\1.ffn.",
        ),
        (
            r"^sem_seg_head\.predictor\.query_embed\.",
            "model.transformer_module.queries_embedder.",
        ),
        (r"^sem_seg_head\.predictor\.level_embed\.", "model.transformer_module.level_embed."),
        (
            r"^sem_seg_head\.predictor\.class_input_proj\.",
            f"{_QUERIES}query_input_projection.",
        ),
        (
            r"^sem_seg_head\.predictor\.mask_embed\.layers\.(\d)\.",
            rf"{_QUERIES}mask_embed.layers.\1.0.",
        ),
        (r"^sem_seg_head\.predictor\.", _QUERIES),
        (r"^task_mlp\.layers\.(\d)\.", r"model.task_encoder.task_mlp.layers.\1.0."),
    )
)
_NORM: Final = re.compile(r"^backbone\.norm(\d)\.")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published file's tensors under the names of `transformers`.

    Joined projections of queries, keys and values are taken apart. What only training needs is
    left out.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith(_TRAINING_ONLY):
            continue
        for name, part in _split(_rename(key), tensor):
            found[name] = part
    return found


def config_of(state: Mapping[str, Tensor]) -> OneFormerConfig:
    """The sizes of a published file, read from the shapes of its tensors.

    Raises:
        KeyError: the file holds something else.
    """
    from transformers import OneFormerConfig, SwinConfig

    stages = range(_STAGES)
    tables = [
        state[f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in stages
    ]
    swin: Any = SwinConfig(  # Any: they declare a dict, and take both
        embed_dim=len(state["backbone.patch_embed.proj.bias"]),
        depths=[count_blocks(state, f"backbone.layers.{i}.blocks.") for i in stages],
        num_heads=[table.shape[1] for table in tables],
        window_size=(math.isqrt(tables[0].shape[0]) + 1) // 2,
        out_features=[f"stage{i + 1}" for i in stages],
    )
    decoder, predictor = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."
    mask_dim, conv_dim = state[f"{decoder}mask_features.weight"].shape[:2]
    queries, hidden = state[f"{predictor}query_embed.weight"].shape
    encoder = f"{decoder}transformer.encoder.layers."
    return OneFormerConfig(
        backbone_config=swin,
        num_labels=len(state[f"{predictor}class_embed.bias"]) - 1,
        num_queries=queries,
        hidden_dim=hidden,
        conv_dim=conv_dim,
        mask_dim=mask_dim,
        encoder_layers=count_blocks(state, encoder),
        encoder_feedforward_dim=len(state[f"{encoder}0.linear1.bias"]),
        # The class counts the predictions, and there is one before the first layer.
        decoder_layers=count_blocks(state, f"{predictor}transformer_ffn_layers.") + 1,
        dim_feedforward=len(state[f"{predictor}transformer_ffn_layers.0.linear1.bias"]),
        query_dec_layers=count_blocks(state, f"{predictor}class_transformer.decoder.layers."),
        num_attention_heads=_ATTENTION_HEADS,
        is_training=False,
        output_auxiliary_logits=False,
    )


def build(state: Mapping[str, Any]) -> OneFormerForUniversalSegmentation:
    """The network of a published file: {"model": tensors}.

    Raises:
        RuntimeError: a tensor is missing, unexpected or of another shape.
    """
    from transformers import OneFormerForUniversalSegmentation

    state = state.get("model", state)
    with _without_random_weights():
        network = OneFormerForUniversalSegmentation(config_of(state))
    network.add_module("criterion", None)  # compares with the truth, which there is not
    network.load_state_dict(convert(state), strict=True, assign=True)
    return network


def semantic(
    class_logits: Tensor, mask_logits: Tensor, size: tuple[int, ...], at_once: int = 1 << 25
) -> Tensor:
    """The most likely class of every pixel.

    Each query votes for its classes wherever its mask is.

    Args:
        class_logits: (queries, classes + 1); the last one stands for "nothing".
        mask_logits: (queries, h, w).
        size: height and width wanted; masks are enlarged bilinearly.
        at_once: numbers to hold in memory at a time.

    Returns:
        int64 (height, width).
    """
    height, width = size
    votes = class_logits.float().softmax(dim=-1)[:, :-1]
    masks = mask_logits.float()
    down, across = (_weights(n, m, masks) for n, m in zip(masks.shape[1:], size, strict=True))
    queries, classes = votes.shape
    step = max(at_once // (max(queries, classes) * width), 1)
    strips = []
    for top in range(0, height, step):
        strip = down[top : top + step] @ masks @ across.T
        scores = torch.einsum("qc,qhw->chw", votes, strip.sigmoid())
        strips.append(scores.argmax(dim=0))
    return torch.cat(strips)


def _without_random_weights() -> AbstractContextManager[object]:
    """Saves the seconds that drawing 220 million random numbers takes."""
    try:
        from transformers.modeling_utils import no_init_weights
    except ImportError:  # it is not part of the package's promises
        return nullcontext()
    return no_init_weights()


def _weights(given: int, wanted: int, like: Tensor) -> Tensor:
    """Bilinear interpolation along one side as a matrix, (wanted, given)."""
    unit = torch.eye(given, device=like.device, dtype=like.dtype)
    return torch.nn.functional.interpolate(unit[None], wanted, mode="linear")[0].T


def _rename(key: str) -> str:
    norm = _NORM.match(key)
    if norm:
        stage = f"model.pixel_level_module.encoder.hidden_states_norms.stage{int(norm[1]) + 1}."
        return stage + key[norm.end() :]
    for pattern, replacement in _RENAMED:
        name, changes = pattern.subn(replacement, key)
        if changes:
            return name
    return key


def _split(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Three tensors of a joined projection, or the one."""
    if ".attention.self.qkv." in name:
        kinds, joined = ("query", "key", "value"), "qkv"
    elif ".self_attn.self_attn.in_proj_" in name:
        kinds, joined = ("q_proj.", "k_proj.", "v_proj."), "in_proj_"
    else:
        yield name, tensor
        return
    for kind, part in zip(kinds, tensor.chunk(3), strict=True):
        yield name.replace(joined, kind), part
