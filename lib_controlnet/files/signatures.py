"""What kind of model a file holds, told by its tensors' names and shapes; never by its own name.

The order matters and follows what the kinds share: the first entry that fits decides. A kind
without a family in this package is still recognised, so that the user reads what the file is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lib_controlnet.enums import UNION_TYPES

Test = Callable[["Names"], bool]

OTHER_BASE: Final = "use one made for SD1, SD2 or SDXL"
NOT_RUN: Final = "this extension does not run such models; use a ControlNet, or a T2I-Adapter"
NOT_RUN_INPAINT: Final = "this extension does not run such models; use an inpaint ControlNet"


class Names:
    """The names of a file's tensors, with the few questions that tell kinds apart.

    Args:
        names: as a network uses them.
        shapes: of these tensors, where they are known; without them no kind is told by shapes.
    """

    def __init__(
        self, names: Iterable[str], shapes: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.all = frozenset(names)
        self._shapes = shapes or {}

    def has(self, *names: str) -> bool:
        """All of these names are there."""
        return self.all.issuperset(names)

    def starts(self, *prefixes: str) -> bool:
        """Some name starts with one of these."""
        return any(name.startswith(prefixes) for name in self.all)

    def match(self, pattern: str) -> bool:
        """Some name contains the pattern."""
        return any(re.search(pattern, name) for name in self.all)

    def size(self, ending: str, axis: int) -> int:
        """Length of an axis of the first tensor whose name ends so; 0 where it is not known."""
        found = sorted(name for name in self._shapes if name.endswith(ending))
        shape = self._shapes[found[0]] if found else ()
        return shape[axis] if len(shape) > axis else 0


@dataclass(frozen=True)
class Signature:
    """One kind of file.

    Attributes:
        key: short name that families refer to.
        title: what the file seems to be, completing "this file is ...".
        test: whether names are of this kind.
        advice: what to do with it, of kinds that no family loads.
        control_types: lists, in lower case, that name such a file whatever it is called.
    """

    key: str
    title: str
    test: Test
    advice: str = ""
    control_types: tuple[str, ...] = ()


def _control_net(names: Names) -> bool:
    return names.has("input_hint_block.0.weight") or names.has("zero_convs.0.0.weight")


KEY_IP: Final = ".to_k_ip.weight"
"""End of the name of an IP-Adapter's keys, (width of the layer, width of the tokens)."""

TOKENS_OF_TRANSFORMERS: Final = 4096
FLUX_WIDTH: Final = 3072
FACE_NUMBERS: Final = 512
"""Of a recogniser's embedding."""
TEMPORALNET_CHANNELS: Final = 6
KOLORS_TOKENS: Final = 2048


def _transformer(key: str, name: str, test: Test) -> Signature:
    return Signature(key, f"a control model for {name}", test, OTHER_BASE)


TRANSFORMERS: Final = (
    _transformer(
        "anima",
        "Anima or another transformer (LLLite)",
        lambda n: n.starts("lllite_dit_", "lllite_conditioning1.", "lllite_modules."),
    ),
    _transformer(
        "z_image",
        "Z-Image",
        lambda n: n.starts("control_all_x_embedder.", "control_layers.", "control_noise_refiner."),
    ),
    _transformer(
        "qwen",
        "Qwen-Image",
        lambda n: (
            n.has("controlnet_blocks.0.y_rms.weight")
            or n.starts("control_img_in.", "transformer_blocks.0.img_mlp.")
        ),
    ),
    _transformer(
        "hunyuan_dit",
        "Hunyuan-DiT",
        lambda n: n.starts("after_proj_list.", "time_extra_emb."),
    ),
    _transformer("sana", "Sana", lambda n: n.match(r"^transformer_blocks\.\d+\.ff\.conv_depth\.")),
    _transformer(
        "pixart",
        "PixArt",
        lambda n: n.match(r"^(controlnet\.)?controlnet(_blocks)?\.\d+\.(transformer|copied)"),
    ),
    _transformer("wan", "Wan", lambda n: n.starts("vace_blocks.", "vace_patch_embedding.")),
    _transformer("cascade", "Stable Cascade", lambda n: n.match(r"^backbone\.(0|10)\.")),
    _transformer(
        "sd3",
        "SD3",
        lambda n: (
            n.starts("joint_blocks.", "pos_embed_input.proj.")
            or (n.has("pos_embed.proj.weight") and n.starts("transformer_blocks."))
        ),
    ),
    _transformer(
        "flux",
        "Flux",
        lambda n: (
            n.starts(
                *("double_blocks.", "single_blocks.", "single_transformer_blocks."),
                *("controlnet_x_embedder.", "controlnet_single_blocks.", "pulid_ca."),
                *("single_controlnet_blocks.", "ip_adapter_proj_model."),
            )
            or (n.size(KEY_IP, 1) == TOKENS_OF_TRANSFORMERS and n.size(KEY_IP, 0) == FLUX_WIDTH)
        ),
    ),
    _transformer(
        "dit",
        "a transformer (Flux, SD3, Qwen, Z-Image or similar)",
        lambda n: (
            n.starts("transformer_blocks.")
            or (n.has("controlnet_blocks.0.weight") and not n.starts("controlnet_down_blocks."))
        ),
    ),
)
"""Control models for networks that are no U-Nets."""


def _kolors_ip_adapter(names: Names) -> bool:
    plus = names.size("image_proj.layers.0.0.to_out.weight", 0) == KOLORS_TOKENS
    return plus or names.size(KEY_IP, 1) == TOKENS_OF_TRANSFORMERS


SIGNATURES: Final = (
    *TRANSFORMERS,
    Signature(
        "control_lora",
        "a Control-LoRA",
        lambda n: n.has("lora_controlnet") or n.match(r"^input_blocks\..*\.(up|down)$"),
    ),
    Signature(
        "ctrlora",
        "a CtrLoRA",
        lambda n: n.match(r"input_blocks\..*\.lora_layer"),
        NOT_RUN,
    ),
    Signature(
        "svd",
        "a ControlNet for Stable Video Diffusion",
        lambda n: n.match(r"temporal_res_block"),
        OTHER_BASE,
    ),
    Signature(
        "sparsectrl",
        "a SparseCtrl model",
        lambda n: _control_net(n) and n.starts("motion_modules."),
        control_types=("sparsectrl",),
    ),
    Signature(
        "motion",
        "a motion module of AnimateDiff",
        lambda n: n.match(r"motion_modules\.|temporal_transformer"),
        "put it into AnimateDiff's folder, and choose a control model here",
    ),
    Signature(
        "powerpaint",
        "a PowerPaint model",
        lambda n: n.starts("brushnet_") and n.match(r"\.attentions\."),
        NOT_RUN_INPAINT,
    ),
    Signature(
        "brushnet",
        "a BrushNet model",
        lambda n: n.starts("brushnet_") or n.has("conv_in_condition.weight"),
        NOT_RUN_INPAINT,
    ),
    Signature(
        "xs",
        "a ControlNet-XS",
        lambda n: n.match(r"base_to_ctrl|ctrl_to_base|control_to_base|(^|\.)enc_zero_convs"),
        NOT_RUN,
    ),
    Signature(
        "controlnext",
        "a ControlNeXt",
        lambda n: n.starts("mid_convs.0.") and n.starts("down_res.", "down_sample."),
        NOT_RUN,
    ),
    Signature(
        "kolors",
        "a control model for Kolors",
        lambda n: (_control_net(n) and n.starts("encoder_hid_proj.")) or _kolors_ip_adapter(n),
        "use one made for SDXL",
    ),
    Signature(
        "uni_controlnet",
        "a Uni-ControlNet",
        lambda n: n.starts("feature_extractor.pre_extractor.", "global_adapter."),
        NOT_RUN,
    ),
    Signature(
        "ctrlora_base",
        "a ControlNet without a hint block, such as the base of CtrLoRA",
        lambda n: n.has("zero_convs.0.0.weight") and not n.starts("input_hint_block."),
        NOT_RUN,
    ),
    Signature(
        "temporalnet",
        "a TemporalNet 2, which reads the frame before and its flow",
        lambda n: n.size("input_hint_block.0.weight", 1) == TEMPORALNET_CHANNELS,
        NOT_RUN,
    ),
    Signature(
        "photomaker",
        "a PhotoMaker model",
        lambda n: n.starts("id_encoder.") and n.starts("lora_weights."),
        "this extension does not run such models; use an IP-Adapter for faces",
    ),
    Signature(
        "union",
        "a ControlNet Union",
        lambda n: (
            _control_net(n)
            and n.starts("task_embedding")
            and n.has("control_add_embedding.linear_1.weight")
        ),
        control_types=tuple(UNION_TYPES),
    ),
    Signature("controlnet", "a ControlNet", _control_net),
    Signature(
        "t2i_style",
        "a T2I-Adapter (style)",
        lambda n: n.has("style_embedding"),
        control_types=("t2i-adapter",),
    ),
    Signature(
        "coadapter",
        "a CoAdapter fuser",
        lambda n: n.has("task_embedding", "seq_proj") and n.starts("spatial_ch_projs.0."),
        "use the adapters that it fuses, each in a unit of its own",
    ),
    Signature(
        "t2i_light",
        "a T2I-Adapter (colour)",
        lambda n: (
            n.has("body.0.in_conv.weight")
            and n.match(r"^body\.0\.(body|resnets)\.0\.block1\.weight$")
            and not n.has("conv_in.weight")
        ),
        control_types=("t2i-adapter",),
    ),
    Signature(
        "t2i",
        "a T2I-Adapter",
        lambda n: n.has("conv_in.weight", "body.0.block1.weight"),
        control_types=("t2i-adapter",),
    ),
    Signature("lllite", "a ControlNet-LLLite", lambda n: n.starts("lllite_unet_")),
    Signature(
        "pulid",
        "a PuLID model",
        lambda n: n.starts("image_proj.mapping_", "image_proj.body.", "image_proj.id_embedding_"),
        control_types=("ip-adapter",),
    ),
    Signature(
        "face_id",
        "an IP-Adapter for faces (FaceID)",
        lambda n: n.has("image_proj.proj.2.weight", "image_proj.norm.weight"),
        control_types=("ip-adapter",),
    ),
    Signature(
        "instant_id",
        "InstantID's adapter",
        lambda n: (
            n.has("image_proj.latents") and n.size("image_proj.proj_in.weight", 1) == FACE_NUMBERS
        ),
        control_types=("instant-id",),
    ),
    Signature(
        "ip_adapter",
        "an IP-Adapter",
        lambda n: n.starts("image_proj.", "ip_adapter.", "adapter_modules."),
        control_types=("ip-adapter",),
    ),
    Signature(
        "fooocus_head",
        "the head of Fooocus' inpaint model",
        lambda n: n.all == {"head"},
        control_types=("inpaint",),
    ),
    Signature(
        "fooocus_patch",
        "the patch of Fooocus' inpaint model",
        lambda n: n.match(r"input_blocks\..*\.weight\.[012]$"),
        control_types=("inpaint",),
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


BY_KEY: Final = {signature.key: signature for signature in SIGNATURES}

NO_CONTROL: Final = frozenset({"lora", "checkpoint", "vae", "embedding", "motion"})
"""Kinds of files that hold no control model."""


def classify_names(
    names: Iterable[str], shapes: Mapping[str, Sequence[int]] | None = None
) -> Signature | None:
    """The kind of a file by the names a network uses, or None for a file of no known kind."""
    known = Names(names, shapes)
    return next((signature for signature in SIGNATURES if signature.test(known)), None)
