"""Names of a base model's tensors: from those of diffusers and transformers to the original ones.

The encoder's names are in `layouts.py`, which control model files share; here are the U-Net's
decoder, the autoencoder, and OpenCLIP's text encoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from lib_controlnet.files.layouts import RESNET_NAMES, diffusers_renamer

if TYPE_CHECKING:
    from torch import Tensor

DECODER: Final = re.compile(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.+)")
VAE_BLOCK: Final = re.compile(
    r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
VAE_MIDDLE: Final = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
VAE_ATTENTION: Final = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP: Final = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
OPEN_CLIP_LAYER: Final = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def unet_renamer(names: Iterable[str]) -> Callable[[str], str]:
    """A function from diffusers' names of a U-Net to the original ones."""
    names = list(names)
    encoder = diffusers_renamer(names)
    found = [match for match in map(DECODER.fullmatch, names) if match]
    blocks = 1 + max((int(m[3]) for m in found if m[2] == "resnets"), default=0)
    attending = {int(m[1]) for m in found if m[2] == "attentions"}

    def rename(name: str) -> str:
        for head, ldm in (("conv_norm_out.", "out.0."), ("conv_out.", "out.2.")):
            if name.startswith(head):
                return ldm + name[len(head) :]
        match = DECODER.fullmatch(name)
        if not match:
            return encoder(name)
        level, kind, number, rest = int(match[1]), match[2], int(match[3]), match[4]
        if kind == "upsamplers":
            part = 2 if level in attending else 1
            return f"output_blocks.{blocks * (level + 1) - 1}.{part}.{rest}"
        if kind == "attentions":
            return f"output_blocks.{blocks * level + number}.1.{rest}"
        module, _, leaf = rest.rpartition(".")
        return f"output_blocks.{blocks * level + number}.0.{RESNET_NAMES[module]}.{leaf}"

    return rename


def vae_renamer(levels: int) -> Callable[[str], str]:
    """A function from diffusers' names of an autoencoder to the original ones.

    Args:
        levels: resolutions that it works at; the original counts the decoder's from the finest.
    """

    def rename(name: str) -> str:
        if match := VAE_MIDDLE.fullmatch(name):
            part, kind, number, rest = match[1], match[2], int(match[3]), match[4]
            if kind == "resnets":
                return f"{part}.mid.block_{number + 1}.{_vae_resnet(rest)}"
            module, _, leaf = rest.rpartition(".")
            return f"{part}.mid.attn_{number + 1}.{VAE_ATTENTION[module]}.{leaf}"
        if match := VAE_BLOCK.fullmatch(name):
            part, level, kind = match[1], int(match[2]), match[3]
            number, rest = int(match[4]), match[5]
            side = "down" if part == "encoder" else "up"
            level = level if part == "encoder" else levels - 1 - level
            if kind == "resnets":
                return f"{part}.{side}.{level}.block.{number}.{_vae_resnet(rest)}"
            return f"{part}.{side}.{level}.{side}sample.{rest}"
        return name.replace("conv_norm_out.", "norm_out.")

    return rename


def _vae_resnet(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def open_clip_tensors(tensors: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """A text encoder's tensors by transformers' names, from OpenCLIP's.

    Args:
        tensors: without the prefix in the file (`transformer.resblocks.0...`).
        layers: how many of the layers are wanted.
    """
    for name, tensor in tensors.items():
        if name in OPEN_CLIP:
            yield f"text_model.{OPEN_CLIP[name]}", tensor
        elif name == "text_projection":
            yield "text_projection.weight", tensor.t().contiguous()
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if not found or int(found[1]) >= layers:
            continue
        layer = f"text_model.encoder.layers.{found[1]}"
        if found[2].startswith("attn.in_proj_"):
            leaf = found[2].removeprefix("attn.in_proj_")
            for which, part in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{layer}.self_attn.{which}_proj.{leaf}", part.contiguous()
        else:
            module, _, leaf = found[2].rpartition(".")
            yield f"{layer}.{OPEN_CLIP_LAYER[module]}.{leaf}", tensor
