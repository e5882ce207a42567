"""Every published file that people use, by its tensors: it loads, or is refused by its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import diffusers
import pytest
import torch
from support import MemoryFile, golden, memory_checkpoint
from torch import Tensor

from lib_controlnet import families
from lib_controlnet.errors import CheckpointError
from lib_controlnet.families import identify
from lib_controlnet.files.checkpoint import Checkpoint
from lib_controlnet.files.signatures import SIGNATURES, TRANSFORMERS

Shapes = Mapping[str, tuple[int, ...]]


def made_of(text: str) -> Shapes:
    """Names, each with its shape behind a colon where that tells: `a.weight:2,4 b.weight`."""
    found = {}
    for word in text.split():
        name, _, shape = word.partition(":")
        found[name] = tuple(int(side) for side in shape.split(",")) if shape else (4, 4)
    return found


IP = "ip_adapter.1.to_k_ip.weight:{} ip_adapter.1.to_v_ip.weight:{}"
IP_1 = IP.format("320,768", "320,768")
IP_XL = IP.format("640,2048", "640,2048")
RESAMPLER = (
    "image_proj.latents image_proj.proj_in.weight image_proj.layers.0.0.to_out.weight:{},{} "
    "image_proj.proj_out.weight "
)
HINT = "controlnet_cond_embedding.conv_in.weight:16,3,3,3 controlnet_down_blocks.0.weight:320,320 "
LLLITE = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k."
T2I = "conv_in.weight body.0.block1.weight body.7.block2.weight"

FACES = "ip_adapter, or a kind of its own"

ROWS: list[tuple[int, str, str, Shapes]] = [
    (1, "diffusion_pytorch_model_promax", "union", golden("sdxl_union_8")),
    (2, "control_v11p_sd15_canny_fp16", "controlnet", golden("sd15_original")),
    (3, "diffusion_pytorch_model", "union", golden("sdxl_union_6")),
    (4, "noob_sdxl_controlnet_canny.fp16", "controlnet", golden("sdxl_full_diffusers")),
    (5, "diffusion_pytorch_model.fp16", "controlnet", golden("sdxl_full_diffusers")),
    (6, "openpose_pre", "controlnet", golden("sdxl_full_diffusers")),
    (7, "diffusion_pytorch_model_twins", "controlnet", golden("sdxl_full_diffusers")),
    (8, "ip-adapter_sdxl_vit-h", "ip_adapter", made_of(f"image_proj.proj.weight {IP_XL}")),
    (
        *(8, "ip-adapter-plus_sdxl_vit-h", "ip_adapter"),
        made_of(RESAMPLER.format(1280, 1280) + IP_XL),
    ),
    (9, "ip-adapter_sd15", "ip_adapter", made_of(f"image_proj.proj.weight {IP_1}")),
    (9, "ip-adapter-plus_sd15", "ip_adapter", made_of(RESAMPLER.format(768, 768) + IP_1)),
    (9, "ip-adapter-full-face_sd15", "ip_adapter", made_of(f"image_proj.proj.0.weight {IP_1}")),
    (10, "noobaiInpainting_v10.fp16", "controlnet", golden("sdxl_full_diffusers")),
    (
        11,
        "control_lora_rank128_v11f1e_sd15_tile_fp16",
        "control_lora",
        golden("sd15_control_lora_128"),
    ),
    (12, "diffusion_pytorch_model", "controlnet", golden("sdxl_full_diffusers")),
    (13, "diffusion_pytorch_model_V2", "controlnet", golden("sdxl_full_diffusers")),
    (
        *(14, "ip-adapter-faceid-plusv2_sdxl", FACES),
        made_of(
            "image_proj.proj.0.weight:1024,512 image_proj.perceiver_resampler.layers.0.0.to_out."
            f"weight:2048,2048 ip_adapter.0.to_q_lora.down.weight:128,640 {IP_XL}"
        ),
    ),
    (15, "CN-anytest_v4-marged", "controlnet", golden("sdxl_full_original")),
    (15, "CN-anytest_v4_am_dim256", "control_lora", golden("sdxl_full_control_lora_256")),
    (16, "ip-adapter", FACES, made_of(RESAMPLER.format(1280, 1280) + IP_XL)),
    (16, "ControlNetModel", "controlnet", golden("sdxl_full_diffusers")),
    (17, "OpenPoseXL2", "controlnet", golden("sdxl_full_diffusers")),
    (17, "control-lora-openposeXL2-rank256", "control_lora", golden("sdxl_full_control_lora_256")),
    (18, "noobIPAMARK1_mark1", "ip_adapter", made_of(f"image_proj.proj.weight {IP_XL}")),
    (19, "mistoLine_fp16", "controlnet", golden("sdxl_full_diffusers")),
    (19, "mistoLine_rank256", "control_lora", golden("sdxl_full_control_lora_256")),
    (20, "TTPLANET_Controlnet_Tile_realistic_v2_fp16", "controlnet", golden("sdxl_full_diffusers")),
    (21, "diffusers_xl_canny_mid", "controlnet", golden("sdxl_mid_diffusers")),
    (21, "diffusers_xl_canny_small", "controlnet", golden("sdxl_small_diffusers")),
    (21, "sai_xl_canny_128lora", "control_lora", golden("sdxl_full_control_lora_128")),
    (
        *(22, "inpaint_v26.fooocus", "fooocus_patch"),
        made_of(
            "diffusion_model.input_blocks.1.0.in_layers.2.weight.0:320,320,3,3 "
            "diffusion_model.input_blocks.1.0.in_layers.2.weight.1 "
            "diffusion_model.input_blocks.1.0.in_layers.2.weight.2"
        ),
    ),
    (22, "fooocus_inpaint_head", "fooocus_head", {"head": (320, 5, 3, 3)}),
    (23, "kohya_controllllite_xl_canny", "lllite", made_of(f"{LLLITE}down.0.weight:32,640")),
    (
        24,
        "pulid_v1.1",
        FACES,
        made_of("id_adapter.id_embedding_mapping.0.weight id_adapter_attn_layers.1.id_to_k.weight"),
    ),
    (
        25,
        "t2i-adapter-canny-sdxl-1.0.fp16",
        "t2i",
        made_of(
            "adapter.conv_in.weight adapter.body.0.resnets.0.block1.weight "
            "adapter.body.0.resnets.1.block1.weight"
        ),
    ),
    (26, "control_v1p_sd15_qrcode_monster", "controlnet", golden("sd15_original")),
    (27, "control_v1p_sd15_brightness", "controlnet", golden("sd15_diffusers")),
    (28, "Chenkin-UniControl-XL", "union", golden("sdxl_union_8")),
    (29, "control_sd15_inpaint_depth_hand_fp16", "controlnet", golden("sd15_original")),
    (30, "t2iadapter_canny_sd14v1", "t2i", made_of(T2I)),
    (
        30,
        "t2iadapter_color_sd14v1",
        "t2i_light",
        made_of("body.0.in_conv.weight body.0.body.0.block1.weight"),
    ),
    (30, "t2iadapter_style_sd14v1", "t2i_style", made_of("style_embedding ln_pre.weight proj")),
    (30, "v3_sd15_sparsectrl_rgb", "sparsectrl", golden("sd15_sparsectrl_rgb_original")),
    (30, "v3_sd15_sparsectrl_scribble", "sparsectrl", golden("sd15_sparsectrl_scribble_original")),
    (30, "ip_plus_composition_sd15", "ip_adapter", made_of(RESAMPLER.format(768, 768) + IP_1)),
    (30, "Kataragi_inpaintXL-lora128", "control_lora", golden("sdxl_full_control_lora_128")),
]


REFUSED: list[tuple[str, str, Shapes]] = [
    ("brushnet", "brushnet", made_of("conv_in_condition.weight brushnet_down_blocks.0.weight")),
    (
        *("powerpaint", "powerpaint"),
        made_of(
            "conv_in_condition.weight brushnet_down_blocks.0.weight brushnet_mid_block.weight "
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
        ),
    ),
    (
        *("controlnext", "controlnext"),
        made_of(
            "embedding.0.weight down_res.0.conv1.weight down_sample.0.conv.weight "
            "mid_convs.0.0.weight mid_convs.1.weight time_embedding.linear_1.weight"
        ),
    ),
    (
        *("xs-original", "xs"),
        made_of(
            "control_model.control_model.input_blocks.0.0.weight control_model.input_hint_block."
            "0.weight control_model.enc_zero_convs_out.0.0.weight"
        ),
    ),
    (
        *("ctrlora", "ctrlora"),
        made_of(
            "control_model.zero_convs.0.0.weight control_model.input_blocks.1.1.proj_in.lora_layer."
            "up.weight"
        ),
    ),
    (
        *("ctrlora-base", "ctrlora_base"),
        {k: v for k, v in golden("sd15_original").items() if not k.startswith("input_hint")},
    ),
    ("kolors", "kolors", made_of(f"{HINT}encoder_hid_proj.weight:2048,4096")),
    ("kolors-ip-adapter-plus", "kolors", made_of(RESAMPLER.format(2048, 2048) + IP_XL)),
    ("kolors-ip-adapter-faceid", "kolors", made_of(IP.format("640,4096", "640,4096"))),
    ("temporalnet-2", "temporalnet", made_of("input_hint_block.0.weight:16,6,3,3")),
    ("svd", "svd", made_of(f"{HINT}down_blocks.0.resnets.0.temporal_res_block.conv1.weight")),
    (
        "uni-controlnet",
        "uni_controlnet",
        made_of(
            "local_adapter.zero_convs.0.0.weight "
            "local_adapter.feature_extractor.pre_extractor.0.weight"
        ),
    ),
    ("photomaker", "photomaker", made_of("id_encoder.fuse_module.mlp1.fc1.weight lora_weights.x")),
    (
        *("animatediff", "motion"),
        made_of("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"),
    ),
    (
        "flux-original",
        "flux",
        made_of("double_blocks.0.img_attn.qkv.weight controlnet_blocks.0.weight"),
    ),
    (
        "flux-xlabs",
        "flux",
        made_of("input_hint_block.0.weight:16,3,3,3 double_blocks.0.img_mod.lin.weight"),
    ),
    (
        "flux-mistoline",
        "flux",
        made_of("single_controlnet_blocks.0.weight controlnet_blocks.0.weight"),
    ),
    ("flux-ip-adapter-xlabs", "flux", made_of("ip_adapter_proj_model.proj.weight")),
    ("flux-ip-adapter-instantx", "flux", made_of(IP.format("3072,4096", "3072,4096"))),
    ("flux-pulid", "flux", made_of("pulid_encoder.latents pulid_ca.0.to_q.weight")),
    ("sd3-original", "sd3", made_of("joint_blocks.0.x_block.attn.qkv.weight")),
    (
        *("sd35-stability", "sd3"),
        made_of(
            "controlnet_blocks.0.weight pos_embed_input.proj.weight transformer_blocks.0.a.weight"
        ),
    ),
    (
        *("qwen-instantx", "qwen"),
        made_of("controlnet_x_embedder.weight transformer_blocks.0.img_mlp.net.0.proj.weight"),
    ),
    ("qwen-diffsynth", "qwen", made_of("controlnet_blocks.0.y_rms.weight img_in.weight:3072,64")),
    ("qwen-fun", "qwen", made_of("control_blocks.0.after_proj.weight control_img_in.weight")),
    (
        *("z-image", "z_image"),
        made_of("control_all_x_embedder.2-1.weight control_layers.0.adaLN_modulation.0.weight"),
    ),
    (
        "anima",
        "anima",
        made_of(
            "lllite_dit_blocks_0_self_attn_q_proj.down.weight lllite_conditioning1.conv1.weight"
        ),
    ),
    ("anima-early", "anima", made_of("lllite_modules.0.down.weight")),
    ("hunyuan-dit", "hunyuan_dit", made_of("after_proj_list.18.bias blocks.0.attn1.qkv.weight")),
    ("wan-vace", "wan", made_of("vace_blocks.0.after_proj.weight blocks.0.self_attn.q.weight")),
    ("stable-cascade", "cascade", made_of("backbone.0.0.weight projections.0.0.weight")),
    ("another-transformer", "dit", made_of("transformer_blocks.0.attn.to_q.weight")),
]
"""Kinds that this extension does not run, in each layout that files come in."""

SMALL = {"num_layers": 1, "attention_head_dim": 4, "num_attention_heads": 2}
DIFFUSERS = {
    "flux": lambda: diffusers.FluxControlNetModel(
        num_single_layers=1, axes_dims_rope=(1, 1, 2), joint_attention_dim=8, **SMALL
    ),
    "sd3": lambda: diffusers.SD3ControlNetModel(
        joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8, **SMALL
    ),
    "hunyuan_dit": lambda: diffusers.HunyuanDiT2DControlNetModel(
        transformer_num_layers=2,
        in_channels=4,
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=4,
        hidden_size=8,
    ),
    "sana": lambda: diffusers.SanaControlNetModel(
        **SMALL, cross_attention_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=4
    ),
    "xs": diffusers.ControlNetXSAdapter,
}
"""Those that diffusers has a class for: the names that it saves."""


class HeaderOnly(MemoryFile):
    """A file that shows its names and shapes, and whose tensors nobody may read."""

    def read(
        self, names: Iterable[str], dtype: torch.dtype | None, device: torch.device | str
    ) -> Iterator[tuple[str, Tensor]]:
        raise AssertionError


def header(shapes: Shapes, name: str = "x") -> Checkpoint:
    made = memory_checkpoint({}, f"{name}.safetensors")
    return Checkpoint(made.path, HeaderOnly(shapes))


def assert_refused(ckpt: Checkpoint, key: str) -> None:
    kind = ckpt.kind
    assert kind is not None
    assert kind.key == key
    with pytest.raises(CheckpointError) as caught:
        identify(ckpt)
    assert str(caught.value) == f"{ckpt.path.name} is {kind.title}, not a ControlNet: {kind.advice}"


@pytest.mark.parametrize(("row", "name", "key", "shapes"), ROWS, ids=[row[1] for row in ROWS])
def test_a_published_file_loads_or_is_refused_by_name(row, name, key, shapes):
    ckpt = header(shapes, name)
    kind = ckpt.kind
    assert kind is not None, f"row {row}"
    assert kind.key == key or (key is FACES and kind.key not in REFUSED_KEYS)
    if not any(family.matches(ckpt) for family in families.discover()):
        assert_refused(ckpt, kind.key)


REFUSED_KEYS = {key for _name, key, _shapes in REFUSED} | {kind.key for kind in TRANSFORMERS}


def test_every_row_of_the_published_files_is_there():
    assert {row[0] for row in ROWS} == set(range(1, 31))


@pytest.mark.parametrize(("name", "key", "shapes"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_kind_that_is_not_run_is_refused_by_name(name, key, shapes):
    assert_refused(header(shapes, name), key)


@pytest.mark.parametrize("key", DIFFUSERS)
def test_what_diffusers_saves_is_refused_by_name(key):
    with torch.device("meta"):
        model = DIFFUSERS[key]()
    assert_refused(header({k: tuple(v.shape) for k, v in model.state_dict().items()}), key)


def test_each_kind_of_transformer_is_named_by_some_case():
    named = {key for _name, key, _shapes in REFUSED} | DIFFUSERS.keys()
    assert {kind.key for kind in TRANSFORMERS} - named == {"pixart"}


def test_every_kind_is_loaded_or_has_an_advice():
    loaded = {key for family in families.discover() for key in family.kinds}
    assert loaded == {kind.key for kind in SIGNATURES if not kind.advice}
