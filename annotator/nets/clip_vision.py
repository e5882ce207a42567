"""CLIP's vision networks (Radford et al. 2021, OpenCLIP 2022) in `transformers`' own class.

The structure follows from the tensors; names are those of Hugging Face or of OpenCLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

HEADS: Final = 16
"""Of ViT-L, ViT-H and ViT-bigG alike."""
QUICK: Final = 1024
"""Width of ViT-L, whose activation is OpenAI's approximation of GELU."""

_HEAD: Final = "vision_model."
_OPEN_CLIP: Final = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.": "pre_layrnorm.",  # the class is spelled so
    "ln_post.": "post_layernorm.",
}
_BLOCK: Final = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}


class Seen(NamedTuple):
    """What the network makes of pictures.

    Attributes:
        pooled: projected class token, (n, projection).
        hidden: output of the last block but one, (n, tokens, width).
        last: output of the last block.
    """

    pooled: Tensor
    hidden: Tensor
    last: Tensor


class VisionEncoder(nn.Module):
    """A vision network, and what it makes of nothing.

    Args:
        clip: `CLIPVisionModelWithProjection`.
        side: width and height of the pictures it reads.
    """

    def __init__(self, clip: nn.Module, side: int) -> None:
        super().__init__()
        self.clip = clip
        self.side = side
        self._blank: Tensor | None = None

    def forward(self, pixels: Tensor) -> Seen:
        """Look at pictures (n, 3, side, side), normalised."""
        out = self.clip(pixel_values=pixels, output_hidden_states=True)
        return Seen(out.image_embeds, out.hidden_states[-2], out.last_hidden_state)

    def blank(self, like: Tensor) -> Tensor:
        """`Seen.hidden` of a picture of zeros, (1, tokens, width), made once; on the CPU."""
        if self._blank is None:
            self._blank = self(torch.zeros_like(like[:1])).hidden.float().cpu()
        return self._blank


def build(state: Mapping[str, Tensor]) -> VisionEncoder:
    """The network of a file's tensors; those of a text network beside it are left out.

    Raises:
        KeyError: a tensor is missing.
        RuntimeError: tensors do not fit.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    weights = _vision_part(state)
    width = weights[f"{_HEAD}embeddings.class_embedding"].shape[0]
    kernel = weights[f"{_HEAD}embeddings.patch_embedding.weight"]
    positions = weights[f"{_HEAD}embeddings.position_embedding.weight"].shape[0]
    patch = kernel.shape[-1]
    side = round((positions - 1) ** 0.5) * patch
    blocks = {int(m[1]) for m in (re.search(r"\.layers\.(\d+)\.", k) for k in weights) if m}
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=weights[f"{_HEAD}encoder.layers.0.mlp.fc1.weight"].shape[0],
        projection_dim=weights["visual_projection.weight"].shape[0],
        num_hidden_layers=len(blocks),
        num_attention_heads=HEADS,
        image_size=side,
        patch_size=patch,
        hidden_act="quick_gelu" if width == QUICK else "gelu",
    )
    with torch.device("meta"):
        clip = CLIPVisionModelWithProjection(config)
    embeddings = clip.vision_model.embeddings
    embeddings.register_buffer("position_ids", torch.arange(positions)[None], persistent=False)
    clip.load_state_dict(weights, strict=True, assign=True)
    return VisionEncoder(clip, side)


def _vision_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the vision network under Hugging Face's names."""
    if any(key.startswith("visual.") for key in state):
        return _from_open_clip(state)
    return {
        key: tensor
        for key, tensor in state.items()
        if key.startswith((_HEAD, "visual_projection.")) and not key.endswith(".position_ids")
    }


def _from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = key.removeprefix("visual.")
        if name == key:
            continue
        if name == "proj":
            renamed["visual_projection.weight"] = tensor.t().contiguous()
            continue
        block = re.match(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if block is None:
            old = next((old for old in _OPEN_CLIP if name.startswith(old)), name)
            renamed[_HEAD + name.replace(old, _OPEN_CLIP.get(old, old), 1)] = tensor
            continue
        layer, leaf = f"{_HEAD}encoder.layers.{block[1]}.", block[2]
        if leaf.startswith("attn.in_proj_"):
            kind = leaf.removeprefix("attn.in_proj_")
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layer}self_attn.{part}_proj.{kind}"] = piece.contiguous()
            continue
        old = next((old for old in _BLOCK if leaf.startswith(old)), leaf)
        renamed[layer + leaf.replace(old, _BLOCK.get(old, old), 1)] = tensor
    return renamed
