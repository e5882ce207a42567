"""Write the golden key tables: names and shapes of published ControlNets, without weights.

    python tests/data/make_keys.py

Names in diffusers' layout come from its own class; names in the original layout from the U-Net
with the original names, whose encoder a ControlNet copies. Both at the published sizes.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / "minihost"), str(HERE.parent)]

import oracle  # noqa: E402 - the paths above come first
from diffusers import T2IAdapter  # noqa: E402
from minildm.unet import UNetModel  # noqa: E402
from support import HINT_WIDTHS, controlnet_shapes  # noqa: E402

COMMON = {"in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2}
SD2 = {"num_head_channels": 64, "use_linear_in_transformer": True}
FOUR = {"channel_mult": (1, 2, 4, 4), "attention_resolutions": (4, 2, 1)}
XL = {
    "channel_mult": (1, 2, 4),
    "attention_resolutions": (4, 2),
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
UNETS = {
    "sd15": {**COMMON, **FOUR, "num_heads": 8, "context_dim": 768},
    "sd21": {**COMMON, **FOUR, **SD2, "context_dim": 1024},
    "sdxl_full": {**COMMON, **XL, **SD2, "transformer_depth": (0, 2, 10)},
    "sdxl_mid": {**COMMON, **XL, **SD2, "transformer_depth": (0, 0, 1)},
    "sdxl_small": {**COMMON, **XL, **SD2, "transformer_depth": (0, 0, 0)},
}


CONTROL_LORAS = (("sd15", 128), *(("sdxl_full", rank) for rank in (16, 32, 64, 128, 256)))


def original_layout(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published ControlNet in the original (LDM) layout."""
    with torch.device("meta"):
        shapes = controlnet_shapes(UNetModel(**UNETS[name]), HINT_WIDTHS)
    if name == "sdxl_small":  # its middle is a single res block
        shapes = {k: v for k, v in shapes.items() if not k.startswith("middle_block.1")}
    return shapes


def diffusers_layout(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published ControlNet as diffusers saves it."""
    with torch.device("meta"):
        model = oracle.control_net(oracle.PUBLISHED[name])
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def control_lora(name: str, rank: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published Control-LoRA: pairs in the place of the encoder's weights."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in original_layout(name).items():
        is_own = key.startswith(("input_hint_block.", "zero_convs.", "middle_block_out."))
        if is_own or len(shape) == 1:
            shapes[key] = shape
            continue
        layer, r = key.removesuffix(".weight"), min(rank, *shape[:2])
        shapes[f"{layer}.up"] = (shape[0], r, *[1] * (len(shape) - 2))
        shapes[f"{layer}.down"] = (r, *shape[1:])
    return shapes | {"lora_controlnet": (0,)}


def union(types: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of xinsir's Union (6 types), ProMax (8) or Chenkin's UniControl (9).

    As diffusers saves them. That the last has 9 is concluded from its card.
    """
    with torch.device("meta"):
        model = oracle.union_net(oracle.PUBLISHED["sdxl_full"], types)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def sparsectrl(kind: str, layout: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a SparseCtrl, `rgb` or `scribble`.

    Layouts: as diffusers saves it, its authors' own, and the one with the original (LDM) names of
    all but the motion modules.
    """
    with torch.device("meta"):
        model = oracle.sparse_net(oracle.PUBLISHED["sd15"], kind)
    found = {}
    for key, value in model.state_dict().items():
        name = key if layout == "diffusers" else oracle.sparse_original(key)
        name = oracle.sparse_converted(name) if layout == "converted" else name
        found[name] = tuple(value.shape)
    return found


ADAPTERS = {
    "t2i_sd14": ("full_adapter", 2, 8, 3),
    "t2i_sd14_grey": ("full_adapter", 2, 8, 1),
    "t2i_sd14_light": ("light_adapter", 4, 8, 3),
    "t2i_sdxl": ("full_adapter_xl", 2, 16, 3),
    "t2i_sdxl_grey": ("full_adapter_xl", 2, 16, 1),
}
"""T2I-Adapters: diffusers' name of the structure, blocks a level, pixels in a cell's side, hint
channels."""


def adapter(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published T2I-Adapter as diffusers saves it."""
    kind, blocks, patch, channels = ADAPTERS[name]
    widths = [320, 640, 1280, 1280][: 3 if kind == "light_adapter" else 4]  # it repeats the last
    with torch.device("meta"):
        model = T2IAdapter(channels, widths, blocks, patch, kind)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def original_adapter(name: str) -> dict[str, tuple[int, ...]]:
    """The same as TencentARC's own code saves it: full ones count blocks through."""
    renamed = {}
    for key, shape in adapter(name).items():
        level, rest = re.fullmatch(r"adapter\.(?:body\.(\d+)\.)?(.+)", key).groups()
        block, leaf = re.fullmatch(r"(?:resnets\.(\d+)\.)?(.+)", rest).groups()
        if level is None:
            renamed[leaf] = shape
        elif name.endswith("light"):
            inside = leaf if block is None else f"body.{block}.{leaf}"
            renamed[f"body.{level}.{inside}"] = shape
        else:
            renamed[f"body.{2 * int(level) + int(block or 0)}.{leaf}"] = shape
    return renamed


def style_adapter() -> dict[str, tuple[int, ...]]:
    """Names and shapes of `t2iadapter_style_sd14v1.pth` and `coadapter-style-sd15v1.pth`."""
    shapes: dict[str, tuple[int, ...]] = {"style_embedding": (1, 8, 1024), "proj": (1024, 768)}
    for block in range(3):
        name = f"transformer_layes.{block}"
        shapes |= {
            f"{name}.attn.in_proj_weight": (3072, 1024),
            f"{name}.attn.in_proj_bias": (3072,),
        }
        for layer, size in (("attn.out_proj", 1024), ("mlp.c_fc", 4096), ("mlp.c_proj", 1024)):
            width_in = 4096 if layer == "mlp.c_proj" else 1024
            shapes |= {f"{name}.{layer}.weight": (size, width_in), f"{name}.{layer}.bias": (size,)}
        norms = [f"{name}.ln_1", f"{name}.ln_2"]
        shapes |= {f"{norm}.{leaf}": (1024,) for norm in norms for leaf in ("weight", "bias")}
    norms = ("ln_pre", "ln_post")
    return shapes | {f"{norm}.{leaf}": (1024,) for norm in norms for leaf in ("weight", "bias")}


LLLITES = ((8, 16), (16, 32), (32, 64), (128, 128), (128, 256))
"""ControlNet-LLLites: widths of the embedding and of the layers."""

LLLITE_LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q")


def lllite(cond: int, mlp: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a ControlNet-LLLite: kohya-ss', bdsqlsz', CN-anytest, anystyle."""
    half, shapes = cond // 2, {}
    for key, shape in original_layout("sdxl_full").items():
        if not key.endswith(tuple(f"{layer}.weight" for layer in LLLITE_LAYERS)):
            continue
        name = "lllite_unet_" + key.removesuffix(".weight").replace(".", "_")
        is_wide = key.startswith(("input_blocks.4", "input_blocks.5"))
        convs = [(half, 3, 4), (cond, half, 4)] if is_wide else [(half, 3, 4), (half, half, 4)]
        convs += [] if is_wide else [(cond, half, 2)]
        for position, (width_out, width_in, side) in enumerate(convs):
            layer = f"{name}.conditioning1.{2 * position}"
            shapes |= {f"{layer}.weight": (width_out, width_in, side, side)}
            shapes |= {f"{layer}.bias": (width_out,)}
        for part, width_out, width_in in (
            *(("down", mlp, shape[1]), ("mid", mlp, mlp + cond), ("up", shape[1], mlp)),
        ):
            shapes |= {f"{name}.{part}.0.weight": (width_out, width_in)}
            shapes |= {f"{name}.{part}.0.bias": (width_out,)}
    return shapes


def ip_adapter(base: str, image_proj: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an IP-Adapter: its projection, and keys and values by their numbers."""
    shapes = {f"image_proj.{name}": shape for name, shape in image_proj.items()}
    with torch.device("meta"):
        unet = oracle.u_net(oracle.PUBLISHED[base])
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for part in ("to_k_ip", "to_v_ip"):
                shape = tuple(layer.to_k.weight.shape)
                shapes[f"ip_adapter.{number}.{part}.weight"] = shape
    return shapes


def linear_projection(read: int, context: int, tokens: int = 4) -> dict[str, tuple[int, ...]]:
    """Base files: one linear layer."""
    rows = tokens * context
    norm = {"norm.weight": (context,), "norm.bias": (context,)}
    return {"proj.weight": (rows, read), "proj.bias": (rows,), **norm}


def perceptron(read: int, context: int) -> dict[str, tuple[int, ...]]:
    """Full-face files."""
    shapes = {"proj.0.weight": (read, read), "proj.0.bias": (read,)}
    shapes |= {"proj.2.weight": (context, read), "proj.2.bias": (context,)}
    return shapes | {"proj.3.weight": (context,), "proj.3.bias": (context,)}


def resampler(read: int, context: int, width: int, heads: int) -> dict[str, tuple[int, ...]]:
    """Plus files: four blocks, 16 tokens."""
    inner = 64 * heads
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, 16, width)}
    for name, shape in (("proj_in", (width, read)), ("proj_out", (context, width))):
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    shapes |= {"norm_out.weight": (context,), "norm_out.bias": (context,)}
    for i in range(4):
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"layers.{i}.{norm}.{leaf}": (width,) for leaf in ("weight", "bias")}
        linear = {"0.to_q": (inner, width), "0.to_kv": (2 * inner, width)}
        linear |= {"0.to_out": (width, inner), "1.1": (4 * width, width), "1.3": (width, 4 * width)}
        shapes |= {f"layers.{i}.{name}.weight": shape for name, shape in linear.items()}
    return shapes


IP_ADAPTERS = {
    "ip-adapter_sd15": ("sd15", linear_projection(1024, 768)),
    "ip-adapter_sd15_vit-G": ("sd15", linear_projection(1280, 768)),
    "ip-adapter-plus_sd15": ("sd15", resampler(1280, 768, 768, 12)),
    "ip-adapter-full-face_sd15": ("sd15", perceptron(1280, 768)),
    "ip-adapter_sdxl": ("sdxl_full", linear_projection(1280, 2048)),
    "ip-adapter_sdxl_vit-h": ("sdxl_full", linear_projection(1024, 2048)),
    "ip-adapter-plus_sdxl_vit-h": ("sdxl_full", resampler(1280, 2048, 1280, 20)),
}
"""Light, plus-face, composition and noob-ipa files have the layout of one of these."""


def write(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write one table; the bytes depend on the content alone."""
    text = json.dumps({key: list(shape) for key, shape in shapes.items()}, indent=0)
    path = HERE / "keys" / f"{name}.json.gz"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{path.name}: {len(shapes)} tensors")


if __name__ == "__main__":
    for title in UNETS:
        write(f"{title}_original", original_layout(title))
        write(f"{title}_diffusers", diffusers_layout(title))
    for title, rank in CONTROL_LORAS:
        write(f"{title}_control_lora_{rank}", control_lora(title, rank))
    for types in (6, 8, 9):
        write(f"sdxl_union_{types}", union(types))
    for kind in ("rgb", "scribble"):
        for layout in ("diffusers", "original", "converted"):
            write(f"sd15_sparsectrl_{kind}_{layout}", sparsectrl(kind, layout))
    for title in ADAPTERS:
        write(f"{title}_original", original_adapter(title))
        write(f"{title}_diffusers", adapter(title))
    write("t2i_sd14_style", style_adapter())
    for cond, mlp in LLLITES:
        write(f"sdxl_lllite_{cond}_{mlp}", lllite(cond, mlp))
    for title, (base, projection) in IP_ADAPTERS.items():
        write(title, ip_adapter(base, projection))
