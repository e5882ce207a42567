"""What kind of model a file holds, told by its tensors' names; never by its own name.

The order matters and follows what the kinds share: the first entry that fits decides. A kind
without a family in this package is still recognised, so that the user reads what the file is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lib_controlnet.files.checkpoint import Checkpoint

Test = Callable[["Names"], bool]

DIT_STARTS: Final = (
    "double_blocks.", "single_blocks.", "transformer_blocks.", "single_transformer_blocks.",
    "joint_blocks.", "controlnet_x_embedder.", "pos_embed_input.proj.", "after_proj_list.",
    "control_layers.", "control_all_x_embedder.", "lllite_dit_blocks_", "ip_adapter_proj_model.",
)  # fmt: skip

NOT_YET: Final = "such models are not supported yet by this extension"


class Names:
    """The names of a file's tensors, with the few questions that tell kinds apart."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.all = frozenset(names)

    def has(self, *names: str) -> bool:
        """All of these names are there."""
        return self.all.issuperset(names)

    def starts(self, *prefixes: str) -> bool:
        """Some name starts with one of these."""
        return any(name.startswith(prefixes) for name in self.all)

    def match(self, pattern: str) -> bool:
        """Some name contains the pattern."""
        return any(re.search(pattern, name) for name in self.all)


@dataclass(frozen=True)
class Signature:
    """One kind of file.

    Attributes:
        key: short name that families refer to.
        title: what the file seems to be, completing "this file is ...".
        test: whether names are of this kind.
        advice: what to do with it as long as no family loads it.
    """

    key: str
    title: str
    test: Test
    advice: str = NOT_YET


def _control_net(names: Names) -> bool:
    return names.has("input_hint_block.0.weight") or names.has("zero_convs.0.0.weight")


SIGNATURES: Final = (
    Signature(
        "dit",
        "a control model for a transformer (Flux, SD3, Qwen, Z-Image or similar)",
        lambda n: (
            n.starts(*DIT_STARTS)
            or (n.has("controlnet_blocks.0.weight") and not n.starts("controlnet_down_blocks."))
        ),
        "use one made for SD1, SD2 or SDXL",
    ),
    Signature(
        "control_lora",
        "a Control-LoRA",
        lambda n: n.has("lora_controlnet") or n.match(r"^input_blocks\..*\.(up|down)$"),
    ),
    Signature(
        "ctrlora",
        "a CtrLoRA",
        lambda n: n.match(r"input_blocks\..*\.lora_layer\."),
    ),
    Signature(
        "svd",
        "a ControlNet for Stable Video Diffusion",
        lambda n: n.match(r"temporal_res_block"),
        "use one made for SD1, SD2 or SDXL",
    ),
    Signature(
        "sparsectrl",
        "a SparseCtrl model",
        lambda n: n.match(r"motion_modules\.|temporal_transformer"),
    ),
    Signature(
        "brushnet",
        "a BrushNet or PowerPaint model",
        lambda n: n.starts("brushnet_") or n.has("conv_in_condition.weight"),
    ),
    Signature(
        "xs",
        "a ControlNet-XS",
        lambda n: n.match(r"base_to_ctrl|ctrl_to_base|control_to_base|(^|\.)enc_zero_convs"),
    ),
    Signature(
        "controlnext",
        "a ControlNeXt",
        lambda n: n.starts("mid_convs.0.") and n.starts("down_res.", "down_sample."),
    ),
    Signature(
        "kolors",
        "a ControlNet for Kolors",
        lambda n: _control_net(n) and n.starts("encoder_hid_proj."),
        "use one made for SDXL",
    ),
    Signature(
        "union",
        "a ControlNet Union",
        lambda n: (
            _control_net(n)
            and n.starts("task_embedding")
            and n.has("control_add_embedding.linear_1.weight")
        ),
    ),
    Signature("controlnet", "a ControlNet", _control_net),
    Signature("t2i_style", "a T2I-Adapter (style)", lambda n: n.has("style_embedding")),
    Signature(
        "coadapter",
        "a CoAdapter fuser",
        lambda n: n.has("task_embedding", "seq_proj") and n.starts("spatial_ch_projs.0."),
    ),
    Signature(
        "t2i_light",
        "a T2I-Adapter (colour)",
        lambda n: (
            n.has("body.0.in_conv.weight")
            and n.match(r"^body\.0\.(body|resnets)\.0\.block1\.weight$")
            and not n.has("conv_in.weight")
        ),
    ),
    Signature(
        "t2i",
        "a T2I-Adapter",
        lambda n: n.has("conv_in.weight", "body.0.block1.weight"),
    ),
    Signature("lllite", "a ControlNet-LLLite", lambda n: n.starts("lllite_unet_")),
    Signature(
        "pulid",
        "a PuLID model",
        lambda n: n.starts("id_adapter", "pulid_", "image_proj.mapping_patch_"),
    ),
    Signature(
        "ip_adapter",
        "an IP-Adapter",
        lambda n: n.starts("image_proj.", "ip_adapter.", "adapter_modules."),
    ),
    Signature(
        "lora",
        "a LoRA",
        lambda n: n.starts("lora_unet_", "lora_te") or n.match(r"\.lora_(A|B|up|down)\."),
        "put it into the LoRA folder and add it to the prompt, or choose a control model",
    ),
    Signature(
        "checkpoint",
        "a full Stable Diffusion checkpoint without a control part",
        lambda n: (
            n.starts("model.diffusion_model.", "diffusion_model.", "output_blocks.")
            or n.has("up_blocks.0.resnets.0.conv1.weight")
        ),
        "choose it at the top of the page as the checkpoint, and a control model here",
    ),
    Signature(
        "vae",
        "a VAE",
        lambda n: n.starts("first_stage_model.", "decoder.", "encoder.down"),
        "choose a control model instead",
    ),
    Signature(
        "embedding",
        "a textual inversion embedding",
        lambda n: n.has("emb_params") or n.starts("string_to_param"),
        "choose a control model instead",
    ),
)


NO_CONTROL: Final = frozenset({"lora", "checkpoint", "vae", "embedding"})
"""Kinds of files that hold no control model."""


def classify_names(names: Iterable[str]) -> Signature | None:
    """The kind of a file by the names a network uses, or None for a file of no known kind."""
    known = Names(tuple(names))
    return next((signature for signature in SIGNATURES if signature.test(known)), None)


def classify(ckpt: Checkpoint) -> Signature | None:
    """The kind of a file, or None for a file of no known kind."""
    return classify_names(ckpt.keys)
