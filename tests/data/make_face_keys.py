"""Write the key tables of the published files that a face steers: FaceID, InstantID, PuLID.

    python tests/data/make_face_keys.py

The count of bytes of each file, in the precision it is kept in, is the published one's but for the
header.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from make_keys import write

from lib_controlnet.nets.face_id import FaceParams, FaceProjection
from lib_controlnet.nets.pulid import IdEncoder, IdFormer, IdParams
from lib_controlnet.nets.resampler import Resampler, ResamplerParams

Table = dict[str, tuple[int, ...]]

CROSS_ATTENTIONS = {
    "sd15": [320, 320, 640, 640, *[1280] * 5, *[640] * 3, *[320] * 3, 1280],
    "sdxl": [*[640] * 4, *[1280] * 50, *[640] * 6, *[1280] * 10],
}
"""Channels of the transformer blocks in diffusers' order: down, up, middle."""

CONTEXT = {"sd15": 768, "sdxl": 2048}

FACES = {
    "sd15_face_id": ("sd15", 4, False, 128),
    "sd15_face_id_plus": ("sd15", 4, True, 128),
    "sd15_face_id_portrait": ("sd15", 16, False, 0),
    "sdxl_face_id": ("sdxl", 4, False, 128),
    "sdxl_face_id_plus": ("sdxl", 4, True, 128),
    "sdxl_face_id_portrait": ("sdxl", 16, False, 0),
}
"""Base, tokens, whether CLIP's picture is read, and rank of the LoRA."""


def face_id(base: str, tokens: int, plus: bool, rank: int) -> Table:
    """Names and shapes of a published IP-Adapter-FaceID, as its nested pickle is read."""
    width = CONTEXT[base]
    resampler = ResamplerParams(1280, width, width, 4 * width, 4, 0, width) if plus else None
    shapes = projection(FaceProjection, FaceParams(512, 1024, tokens, width, resampler))
    for number, own in enumerate(CROSS_ATTENTIONS[base]):
        for kind, given in ((2 * number, own), (2 * number + 1, width)):
            for layer in ("q", "k", "v", "out") if rank else ():
                name = f"ip_adapter.{kind}.to_{layer}_lora"
                shapes[f"{name}.down.weight"] = (rank, given if layer in "kv" else own)
                shapes[f"{name}.up.weight"] = (own, rank)
    return shapes | keys_and_values(base, "ip_adapter.{}.to_{}_ip.weight")


def projection(
    make: Callable[..., torch.nn.Module], params: object, prefix: str = "image_proj."
) -> Table:
    """Names and shapes of what makes the tokens."""
    with torch.device("meta"):
        module = make(params)
    return {f"{prefix}{key}": tuple(value.shape) for key, value in module.state_dict().items()}


def keys_and_values(base: str, pattern: str) -> Table:
    """Names and shapes of the second keys and values of every cross attention."""
    return {
        pattern.format(2 * number + 1, layer): (width, CONTEXT[base])
        for number, width in enumerate(CROSS_ATTENTIONS[base])
        for layer in "kv"
    }


def instant_id() -> Table:
    """Names and shapes of InstantID's adapter."""
    params = ResamplerParams(512, 1280, 1280, 5120, 4, 16, 2048)
    return projection(Resampler, params) | keys_and_values("sdxl", "ip_adapter.{}.to_{}_ip.weight")


def pulid(version: str) -> Table:
    """Names and shapes of PuLID 1.0, under its own names or the renamed ones, or of 1.1."""
    old = IdParams(1280, 1024, 1024, 5, 2048)
    if version == "renamed":
        pairs = keys_and_values("sdxl", "ip_adapter.{}.to_{}_ip.weight")
        return projection(IdEncoder, old) | pairs
    pairs = keys_and_values("sdxl", "id_adapter_attn_layers.{}.id_to_{}.weight")
    if version == "1.0":
        return projection(IdEncoder, old, "id_adapter.") | pairs
    new = IdParams(1280, 1024, 1024, 5, 2048, 1024, 1024, 4096, 10, 32)
    return projection(IdFormer, new, "id_adapter.") | pairs


if __name__ == "__main__":
    for title, face in FACES.items():
        write(title, face_id(*face))
    write("sdxl_instant_id", instant_id())
    for version in ("1.0", "1.1", "renamed"):
        write(f"sdxl_pulid_{version}", pulid(version))
