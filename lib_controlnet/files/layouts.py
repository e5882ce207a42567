"""Names of tensors: prefixes that files wear, and diffusers' names turned into the original ones.

Nothing is known here but names, so a change of layout never reads or copies a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

DISCARDED: Final = re.compile(
    r"(^|\.)(model_ema\.|animatediff_config|optimizers?(_states?)?\.|lr_schedulers?\.|schedulers?\."
    r"|(position_ids|num_batches_tracked|_extra_state)$)"
)
"""Bookkeeping that trainers leave in files, at any depth; no network reads it."""

COUNTERS: Final = re.compile(
    r"global_?step|steps?|epoch|iteration|num_updates|n_averaged|(ema_)?decay|scale_factor|logvar"
    r"|betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_\w+|posterior_\w+|lvlb_weights"
)
"""The same beside the network: how far training came, and the noise schedule."""

MARKERS: Final = ("difference", "lora_controlnet")
"""Tensors of one number that say what the others are; some files keep them outside every prefix."""

WRAPPED: Final = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
"""What compiling and sharding put before the names of modules, at any depth."""

COPIES: Final = re.compile(r"(^|[._])(ema|average|averaged|shadow|target|teacher)([._]|$)")
"""Prefixes of a second copy of the weights."""

DIFFUSERS_MARKS: Final = (
    "controlnet_cond_embedding.conv_in.weight",
    "controlnet_down_blocks.0.weight",
)

ANCHORS: Final = ("input_hint_block.0.weight", "zero_convs.0.0.weight", *DIFFUSERS_MARKS)
"""Tensors of which every ControlNet has one; what stands before it is a prefix."""

ADAPTER_PARTS: Final = {
    "adapter_modules.": "ip_adapter.",  # by the trainer of IP-Adapters; published files rename it
    "id_adapter_attn_layers.": "ip_adapter.",  # PuLID
    "id_adapter.": "image_proj.",
}
"""What the two parts of an IP-Adapter are called elsewhere."""

ADAPTER_LEAVES: Final = {
    ".id_to_k.weight": ".to_k_ip.weight",
    ".id_to_v.weight": ".to_v_ip.weight",
}
"""PuLID's names of the keys and values."""

FULL_CHECKPOINT: Final = "model.diffusion_model."

RESNET_NAMES: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

STEM_NAMES: Final = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "controlnet_mid_block": "middle_block_out.0",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
}

MOTION: Final = re.compile(
    r"down_blocks\.(\d+)\.motion_modules\.(\d+)\.(?:temporal_transformer\.)?(.+)"
)
"""Names of SparseCtrl's motion modules, behind the res blocks of the same numbers."""

MOTION_NAMES: Final = {
    "attn1": "attention_blocks.0",
    "norm1": "norms.0",
    "norm3": "ff_norm",
    "pos_embed": "attention_blocks.0.pos_encoder",
}
"""Diffusers' names in a motion module, and the original ones."""

MIDDLE_PARTS: Final = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}


def normalise(names: Iterable[str]) -> dict[str, str]:
    """Map the names a network uses to the names in the file.

    Prefixes are stripped, other models in the same file and bookkeeping are left out, and a
    ControlNet in diffusers' layout gets the original (LDM) names.
    """
    mapping = {WRAPPED.sub("", name): name for name in names if not DISCARDED.search(name)}
    prefix = _control_prefix(mapping)
    if prefix:
        mapping = _below(mapping, prefix)
    mapping = _strip_if_all(mapping, "module.")
    mapping = _strip_if_all(mapping, "model.")
    mapping = {name: old for name, old in mapping.items() if not COUNTERS.fullmatch(name)}
    adapter = _strip_if_all(mapping, "adapter.")
    if any(name.startswith(("body.", "conv_in.")) for name in adapter):
        mapping = adapter
    if "input_hint_block.0.conv_in.weight" in mapping:  # a hint block that kept diffusers' names
        mapping = _name_again(mapping, "input_hint_block.0.", "controlnet_cond_embedding.")
    if is_diffusers(mapping):
        rename = diffusers_renamer(mapping)
        mapping = {rename(name): old for name, old in mapping.items()}
    mapping = _count_motion_modules(mapping)
    if "body.0.resnets.0.block1.weight" in mapping:
        is_full = "conv_in.weight" in mapping
        mapping = (_count_adapter_blocks if is_full else _rename_light_blocks)(mapping)
    return {_name_adapter_part(name): old for name, old in mapping.items()}


def _name_adapter_part(name: str) -> str:
    """A name as published IP-Adapters have it."""
    for part, published in ADAPTER_PARTS.items():
        if name.startswith(part):
            name = published + name.removeprefix(part)
            break
    for leaf, published in ADAPTER_LEAVES.items():
        if name.startswith("ip_adapter.") and name.endswith(leaf):
            return name.removesuffix(leaf) + published
    return name


def _rename_light_blocks(mapping: dict[str, str]) -> dict[str, str]:
    """Names of a light T2I-Adapter saved by diffusers, which calls its blocks otherwise."""
    return {re.sub(r"^(body\.\d+)\.resnets\.", r"\1.body.", k): old for k, old in mapping.items()}


def _count_adapter_blocks(mapping: dict[str, str]) -> dict[str, str]:
    """Names of a full T2I-Adapter saved by diffusers, which numbers its blocks by level."""
    per_level = _highest(mapping, r"body\.0\.resnets\.(\d+)\.") + 1

    def rename(name: str) -> str:
        found = re.fullmatch(r"body\.(\d+)\.(?:resnets\.(\d+)\.)?((?:in_conv|block[12])\..+)", name)
        if not found:
            return name
        return f"body.{per_level * int(found[1]) + int(found[2] or 0)}.{found[3]}"

    return {rename(name): old for name, old in mapping.items()}


def _name_again(mapping: dict[str, str], prefix: str, given: str) -> dict[str, str]:
    """The mapping with another prefix for some names."""
    return {
        given + name[len(prefix) :] if name.startswith(prefix) else name: old
        for name, old in mapping.items()
    }


def _count_motion_modules(mapping: dict[str, str]) -> dict[str, str]:
    """Names of motion modules by the number of the input block that they follow."""
    per_level = _highest(mapping, r"down_blocks\.0\.motion_modules\.(\d+)\.") + 2

    def rename(name: str) -> str:
        found = MOTION.fullmatch(name)
        if not found:
            return name
        parts = (MOTION_NAMES.get(part, part) for part in found[3].split("."))
        block = per_level * int(found[1]) + int(found[2]) + 1
        return f"motion_modules.{block}.{'.'.join(parts)}"

    return {rename(name): old for name, old in mapping.items()}


def _control_prefix(names: Iterable[str]) -> str | None:
    """What stands before the names of a ControlNet; None where there is no such network.

    Of several copies the plain one is taken, not an average of it.
    """
    found = {
        name.removesuffix(anchor)
        for name in names
        for anchor in ANCHORS
        if name == anchor or name.endswith(f".{anchor}")
    }
    return min(found, key=lambda p: (bool(COPIES.search(p)), p.count("."), p), default=None)


def _below(mapping: dict[str, str], prefix: str) -> dict[str, str]:
    """The names behind a prefix without it, and the markers wherever they are."""
    marked = {name.rpartition(".")[2]: old for name, old in mapping.items()}
    kept = {marker: marked[marker] for marker in MARKERS if marker in marked}
    inside = {name[len(prefix) :]: old for name, old in mapping.items() if name.startswith(prefix)}
    return kept | inside


def _strip_if_all(mapping: dict[str, str], prefix: str) -> dict[str, str]:
    if not mapping or not all(name.startswith(prefix) for name in mapping):
        return mapping
    if any(name.startswith(FULL_CHECKPOINT) for name in mapping):
        return mapping
    return {name[len(prefix) :]: old for name, old in mapping.items()}


def is_diffusers(names: Iterable[str]) -> bool:
    """Whether the names are those of a ControlNet saved by diffusers."""
    return not set(DIFFUSERS_MARKS).isdisjoint(names)


def _hint_layer(module: str, end: int) -> int | None:
    """Number of a hint convolution, by diffusers' name; None for another module."""
    if module == "controlnet_cond_embedding":  # a single one (SparseCtrl)
        return 0
    if module == "controlnet_cond_embedding.conv_out":
        return end
    found = re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d+)", module)
    return None if found is None else 2 * int(found[1]) + 2


def diffusers_renamer(names: Iterable[str]) -> Callable[[str], str]:
    """A function from diffusers' names to LDM names; unknown names stay as they are.

    Diffusers numbers by level, LDM counts blocks through: the number of res blocks in a level and
    of hint convolutions is taken from the names themselves.
    """
    names = list(names)
    per_level = 1 + _highest(names, r"down_blocks\.0\.resnets\.(\d+)\.") + 1
    hint_end = 2 * (_highest(names, r"controlnet_cond_embedding\.blocks\.(\d+)\.") + 2)

    def rename(name: str) -> str:
        module, _, leaf = name.rpartition(".")
        if module in STEM_NAMES:
            return f"{STEM_NAMES[module]}.{leaf}"
        if (number := _hint_layer(module, hint_end)) is not None:
            return f"input_hint_block.{number}.{leaf}"
        if found := re.fullmatch(r"controlnet_down_blocks\.(\d+)", module):
            return f"zero_convs.{found[1]}.0.{leaf}"
        if found := re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d+)\.(.+)", name):
            part = MIDDLE_PARTS.get(found[1])
            return name if part is None else f"middle_block.{part}.{_inner(found[1], found[2])}"
        found = re.fullmatch(
            r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.+)", name
        )
        if not found:
            return name
        level, kind, number, rest = int(found[1]), found[2], int(found[3]), found[4]
        if kind == "downsamplers":
            return f"input_blocks.{per_level * (level + 1)}.0.{rest.replace('conv.', 'op.', 1)}"
        part = 0 if kind == "resnets" else 1
        return f"input_blocks.{per_level * level + number + 1}.{part}.{_inner(kind, rest)}"

    return rename


def _inner(kind: str, rest: str) -> str:
    """Name inside a block; transformers have the same names in both layouts."""
    if not kind.startswith("resnets"):
        return rest
    head, _, leaf = rest.rpartition(".")
    return f"{RESNET_NAMES.get(head, head)}.{leaf}"


def _highest(names: Iterable[str], pattern: str) -> int:
    """The largest number that the pattern's group takes at the start of a name, or -1."""
    found = (re.match(pattern, name) for name in names)
    return max((int(match[1]) for match in found if match), default=-1)
