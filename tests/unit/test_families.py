"""Which file is what, which base it is for, and what a loaded ControlNet computes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import (
    empty_unet,
    golden,
    memory_checkpoint,
    save_controlnet,
    tiny_base,
    tiny_controlnet,
    tiny_unet,
)
from torch import nn

from lib_controlnet import families
from lib_controlnet.engine.unet import BaseUNet, UNetShape, describe_unet, read_shape
from lib_controlnet.enums import BaseModel
from lib_controlnet.errors import (
    AmbiguousCheckpointError,
    BrokenCheckpointError,
    CheckpointError,
    HostError,
    WrongBaseModelError,
)
from lib_controlnet.families import identify, load_network
from lib_controlnet.families.base import ControlFamily
from lib_controlnet.families.controlnet import ControlNetFamily, check_base
from lib_controlnet.files import signatures
from lib_controlnet.files.layouts import normalise
from lib_controlnet.files.signatures import SIGNATURES, Names
from lib_controlnet.nets.cldm import ControlNet, read_params

PUBLISHED = {
    "sd15": (BaseModel.SD1, 768, 361.279),
    "sd21": (BaseModel.SD2, 1024, 364.228),
    "sdxl_full": (BaseModel.SDXL, 2048, 1251.01),
    "sdxl_mid": (BaseModel.SDXL, 2048, 270.94),
    "sdxl_small": (BaseModel.SDXL, 0, 125.69),
}
"""Base, text width and millions of parameters of the published ControlNets."""

KINDS = ["SD1", "SD2", "SDXL", "demo"]


def published_base(name: str, title: str = "some-checkpoint") -> BaseUNet:
    """The base that a published ControlNet belongs to; its weights do not matter here."""
    full = {"sd15": "sd15", "sd21": "sd21"}.get(name, "sdxl_full")
    return BaseUNet(nn.Module(), read_shape(golden(f"{full}_original")), title, title)


# --- identification ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_keys_identify_family_and_base(name: str, layout: str) -> None:
    base, context, millions = PUBLISHED[name]
    ckpt = memory_checkpoint(golden(f"{name}_{layout}"))
    assert isinstance(identify(ckpt), ControlNetFamily)
    shape = read_shape(ckpt.shapes)
    assert (shape.kind, shape.context_dim) == (base, context)
    assert shape.layers == (10 if base is BaseModel.SDXL else 13)
    check_base(ckpt, shape, published_base(name))
    with torch.device("meta"):
        module = ControlNet(read_params(ckpt.shapes, lambda _block, _width: 8))
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == ckpt.shapes
    count = sum(p.numel() for p in module.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize("name", PUBLISHED)
def test_diffusers_names_become_the_original_ones(name: str) -> None:
    ckpt = memory_checkpoint(golden(f"{name}_diffusers"))
    assert ckpt.diffusers
    assert ckpt.shapes == golden(f"{name}_original")


PREFIXES = [
    *("control_model.", "model.control_model.", "module.", "model.", "_orig_mod.", "params."),
    *("module._orig_mod.", "_orig_mod.module.", "controlnet.", "model_state_dict.", "state_dict."),
    *("module.controlnet.", "pipe.controlnet.", "ema_model.", "net.", "nets.0.", "a.b.c.d."),
    *("_fsdp_wrapped_module.", "model._forward_module.", "controlnet_model.module."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_prefixed_keys_identify_alike(prefix: str, layout: str) -> None:
    table = {prefix + key: shape for key, shape in golden(f"sd15_{layout}").items()}
    ckpt = memory_checkpoint(table)
    assert ckpt.shapes == golden("sd15_original")
    assert ckpt.diffusers == (layout == "diffusers")


@pytest.mark.parametrize("inner", ["_orig_mod.", "_checkpoint_wrapped_module."])
def test_wrappers_inside_names_do_not_count(inner: str) -> None:
    """Blocks are compiled or wrapped one by one."""
    table = {
        re.sub(r"^((?:input_blocks|zero_convs)\.\d+\.)", rf"\1{inner}", key): shape
        for key, shape in golden("sd15_original").items()
    }
    assert memory_checkpoint(table).shapes == golden("sd15_original")


BOOKKEEPING = [
    *("global_step", "step", "epoch", "num_updates", "n_averaged", "ema_decay", "logvar", "betas"),
    *("alphas_cumprod_prev", "sqrt_recip_alphas_cumprod", "posterior_variance", "scale_factor"),
    *("optimizer.state.0.exp_avg", "optimizer_states.0.x", "lr_scheduler.last_epoch"),
    *("scheduler.x", "model_ema.decay", "position_ids", "time_embed.0.num_batches_tracked"),
    "animatediff_config",
]


@pytest.mark.parametrize("prefix", ["", "module.", "control_model."])
@pytest.mark.parametrize("stray", BOOKKEEPING)
def test_bookkeeping_of_trainers_is_left_out(stray: str, prefix: str) -> None:
    table = {prefix + key: shape for key, shape in golden("sd15_original").items()}
    for name in (stray, prefix + stray):
        assert memory_checkpoint(table | {name: ()}).shapes == golden("sd15_original")


@pytest.mark.parametrize("prefix", ["control_model.", "module.", "model.control_model.", "params."])
@pytest.mark.parametrize("marker", ["difference", "lora_controlnet"])
def test_markers_count_inside_and_outside_a_prefix(marker: str, prefix: str) -> None:
    table = {prefix + key: shape for key, shape in golden("sd15_original").items()}
    for name in (marker, prefix + marker, f"module.{marker}"):
        assert marker in memory_checkpoint(table | {name: ()})


def test_the_plain_copy_is_taken_not_its_average() -> None:
    shapes = golden("sd15_original")
    table = {f"ema.{key}": (1,) for key in shapes} | {f"net.{key}": s for key, s in shapes.items()}
    assert memory_checkpoint(table).shapes == shapes
    table = {f"ema_{key}": (1,) for key in shapes} | shapes
    assert memory_checkpoint(table).shape("input_hint_block.0.weight") != (1,)


def test_a_tensor_that_nobody_knows_is_not_passed_over() -> None:
    base = published_base("sd15")
    ckpt = memory_checkpoint(golden("sd15_original") | {"mask_encoder.weight": (4, 4)})
    with pytest.raises(BrokenCheckpointError, match=r"1 unexpected \(mask_encoder\.weight\)"):
        identify(ckpt).load(ckpt, base, torch.float32, "cpu")


@pytest.mark.parametrize(
    "name",
    [
        "control_instant_id_sdxl.safetensors",
        "InstantID-ControlNet.safetensors",
        "InstantID/ControlNetModel/diffusion_pytorch_model.safetensors",
    ],
)
def test_instant_ids_network_reads_its_tokens(name: str) -> None:
    network = tiny_controlnet("SDXL")
    tensors = dict(network.module.state_dict())
    loaded = ControlNetFamily().load(
        memory_checkpoint(tensors, name), tiny_base("SDXL"), torch.float32, "cpu"
    )
    assert loaded.partner == "InstantID"
    plain = memory_checkpoint(tensors, "control_identity_instant.safetensors")
    assert ControlNetFamily().load(plain, tiny_base("SDXL"), torch.float32, "cpu").partner == ""


def test_whole_model_beside_the_control_part_is_left_out() -> None:
    table = {f"control_model.{k}": v for k, v in golden("sd15_original").items()}
    table |= {f"model.diffusion_model.{k}": v for k, v in golden("sd15_original").items()}
    table |= {
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
        "model_ema.decay": (),
    }
    assert memory_checkpoint(table).shapes == golden("sd15_original")


HINT = "input_hint_block.0.weight zero_convs.0.0.weight"
OTHERS = {
    "transformer": ("dit", "transformer_blocks.0.attn.to_q.weight"),
    "transformer-blocks": ("dit", "controlnet_blocks.0.weight"),
    "control-lora": ("control_lora", f"{HINT} lora_controlnet"),
    "control-lora-by-pairs": ("control_lora", f"{HINT} input_blocks.1.0.emb_layers.1.up"),
    "ctrlora": ("ctrlora", "control_model.input_blocks.1.1.proj_in.lora_layer.up.weight"),
    "sparsectrl": (
        "sparsectrl",
        f"{HINT} down_blocks.0.motion_modules.0.temporal_transformer.norm.weight",
    ),
    "svd": (
        "svd",
        "controlnet_down_blocks.0.weight down_blocks.0.resnets.0.temporal_res_block.conv1.weight",
    ),
    "brushnet": ("brushnet", "conv_in_condition.weight brushnet_down_blocks.0.weight"),
    "xs-diffusers": (
        "xs",
        "controlnet_cond_embedding.conv_in.weight control_to_base_for_conv_in.weight",
    ),
    "xs-original": (
        "xs",
        "control_model.control_model.x.weight control_model.enc_zero_convs_out.0.0.weight",
    ),
    "controlnext": ("controlnext", "mid_convs.0.0.weight down_res.0.conv1.weight"),
    "kolors": ("kolors", "controlnet_cond_embedding.conv_in.weight encoder_hid_proj.weight"),
    "union": ("union", f"{HINT} task_embedding control_add_embedding.linear_1.weight"),
    "t2i-style": ("t2i_style", "style_embedding proj ln_pre.weight"),
    "coadapter": ("coadapter", "task_embedding seq_proj spatial_ch_projs.0.weight"),
    "t2i": ("t2i", "conv_in.weight body.0.block1.weight"),
    "t2i-diffusers": ("t2i", "adapter.conv_in.weight adapter.body.0.resnets.0.block1.weight"),
    "t2i-light": ("t2i_light", "body.0.in_conv.weight body.0.body.0.block1.weight"),
    "lllite": (
        "lllite",
        "lllite_unet_middle_block_1_transformer_blocks_0_attn1_to_q.down.0.weight",
    ),
    "ip-adapter": ("ip_adapter", "image_proj.proj.weight ip_adapter.1.to_k_ip.weight"),
    "pulid": ("pulid", "id_adapter.body.0.weight id_adapter_attn_layers.1.id_to_k.weight"),
    "lora": ("lora", "lora_unet_down_blocks_0_attentions_0.lora_up.weight lora_te_x.alpha"),
    "full-checkpoint": (
        "checkpoint",
        "model.diffusion_model.input_blocks.0.0.weight first_stage_model.decoder.conv_in.weight",
    ),
    "diffusers-unet": ("checkpoint", "conv_in.weight up_blocks.0.resnets.0.conv1.weight"),
    "vae": ("vae", "decoder.conv_in.weight"),
    "embedding": ("embedding", "emb_params"),
}
"""Kinds of files that are not ControlNets: the signature, and a few of their tensors' names."""


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_are_named_in_the_refusal(name: str) -> None:
    key, names = OTHERS[name]
    ckpt = memory_checkpoint(dict.fromkeys(names.split(), (4, 4)), f"{name}.safetensors")
    kind = ckpt.kind
    assert kind is not None
    assert kind.key == key
    if any(family.matches(ckpt) for family in families.discover()):
        return  # a family of its own loads it
    with pytest.raises(CheckpointError) as caught:
        identify(ckpt)
    assert str(caught.value).startswith(f"{name}.safetensors is {kind.title}, not a ControlNet: ")
    assert str(caught.value).endswith(kind.advice)


@pytest.mark.parametrize(
    ("read", "fits"),
    [("load_network", True), ("look_into", True), ("look_into", False), ("preprocessor_for", None)],
)
def test_a_file_is_classified_once(
    read: str, fits: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many families ask; in large folders this is most of what a list of them takes."""
    path, base = tmp_path / "x.safetensors", tiny_base("SD1")
    save_controlnet(path, tiny_controlnet("SD1"))
    asked = []

    def test(names: Names) -> bool:
        asked.append(names)
        return SIGNATURES[0].test(names)

    counting = replace(SIGNATURES[0], test=test)  # every classification begins with it
    monkeypatch.setattr(signatures, "SIGNATURES", (counting, *SIGNATURES[1:]))
    given: tuple[object, ...] = () if fits is None else (base if fits else None,)
    given += (torch.float32, "cpu") if read == "load_network" else ()
    getattr(families, read)(path, *given)
    assert len(asked) == 1


def test_signatures_have_unique_keys() -> None:
    keys = [signature.key for signature in SIGNATURES]
    assert len(keys) == len(set(keys))


def test_unknown_file_is_described_by_its_tensors() -> None:
    with pytest.raises(CheckpointError, match=r"x\.bin is no control model of a known kind") as e:
        identify(memory_checkpoint({"a.weight": (1,), "b.weight": (2,)}, "x.bin"))
    assert "2 tensors (first names: a.weight, b.weight)" in str(e.value)


def test_two_families_for_one_file_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greedy(ControlNetFamily):
        name = "Greedy"

    monkeypatch.setattr(families, "discover", lambda: (ControlNetFamily(), Greedy()))
    ckpt = memory_checkpoint(golden("sd15_original"))
    with pytest.raises(AmbiguousCheckpointError, match="claimed by ControlNet and Greedy"):
        identify(ckpt)


def test_discovery_finds_each_family_once() -> None:
    found = [type(family) for family in families.discover()]
    assert ControlNetFamily in found
    assert len(found) == len(set(found))
    assert all(issubclass(family, ControlFamily) for family in found)


# --- the base ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("SD1", "SD1 (context 48)"),
        ("SD2", "SD2 (context 64)"),
        ("SDXL", "SDXL (context 80)"),
        ("demo", "SD1 (context 128)"),
    ],
)
def test_described_unet_has_the_kind_of_its_structure(kind: str, text: str) -> None:
    assert str(describe_unet(empty_unet(kind))) == text


def test_described_unet_lists_skips_and_heads() -> None:
    shape = describe_unet(empty_unet("demo", in_channels=9, channel_mult=(1, 2, 3)))
    assert shape.skips == (64, 64, 64, 128, 128, 192)
    assert (shape.model_channels, shape.in_channels, shape.middle) == (64, 9, 192)
    assert shape.layers == 7
    assert shape.heads["input_blocks.3.1"] == 8
    assert shape.heads["middle_block.1"] == 8
    assert "input_blocks.1.1" not in shape.heads


def test_describe_unet_reads_modules_without_memory() -> None:
    shape = describe_unet(empty_unet("SDXL").to(torch.float8_e4m3fn))
    assert (shape.kind, shape.adm_channels) == (BaseModel.SDXL, 96)


def test_describe_unet_refuses_a_transformer() -> None:
    with pytest.raises(
        HostError, match=r"\(Linear\) has no input_blocks; control models need an SD1"
    ):
        describe_unet(nn.Linear(2, 2))


WRONG = [
    ("sdxl_full", "sd15", "made for SDXL (context 2048)", "is SD1 (context 768)"),
    ("sdxl_small", "sd15", "made for SDXL (vector 2816)", "is SD1 (context 768)"),
    ("sd15", "sdxl_full", "made for SD1 (context 768)", "is SDXL (context 2048)"),
    ("sd21", "sd15", "made for SD2 (context 1024)", "is SD1 (context 768)"),
    ("sd15", "sd21", "made for SD1 (context 768)", "is SD2 (context 1024)"),
]


@pytest.mark.parametrize(("file", "loaded", "theirs", "ours"), WRONG)
def test_wrong_base_names_both(file: str, loaded: str, theirs: str, ours: str) -> None:
    # The name says the opposite of the content on purpose: it must not matter.
    ckpt = memory_checkpoint(golden(f"{file}_diffusers"), "control_sd15_xl_sd21.safetensors")
    with pytest.raises(WrongBaseModelError) as caught:
        identify(ckpt).load(ckpt, published_base(loaded, "dream"), torch.float32, "cpu")
    text = str(caught.value)
    assert text.startswith(f"control model control_sd15_xl_sd21 is {theirs}, ")
    assert f"the loaded checkpoint dream {ours}; choose a control model made for SD" in text


def test_wrong_base_of_the_same_kind_gives_no_confusing_advice() -> None:
    """The bundled demo checkpoint is an SD1 of its own width."""
    base = BaseUNet(nn.Module(), describe_unet(empty_unet("demo")), "demo", "demo")
    ckpt = memory_checkpoint(golden("sd15_original"), "control_v11p_sd15_canny.pth")
    with pytest.raises(WrongBaseModelError) as caught:
        identify(ckpt).load(ckpt, base, torch.float32, "cpu")
    assert str(caught.value) == (
        "control model control_v11p_sd15_canny is made for SD1 (context 768), the loaded "
        "checkpoint demo is SD1 (context 128); choose a control model made for it"
    )


def test_wrong_widths_of_the_same_kind_are_named(tmp_path: Path) -> None:
    path = save_controlnet(tmp_path / "c.safetensors", tiny_controlnet("SD1"))
    wide = tiny_unet("SD1", model_channels=64)
    base = BaseUNet(wide, describe_unet(wide), "wide", "wide")
    with pytest.raises(
        WrongBaseModelError, match=r"12 input blocks of 32, 64, 128 channels, the"
    ) as e:
        load_network(path, base, torch.float32, "cpu")
    assert "wide (SD1 (context 48)) has 12 input blocks of 64, 128, 256 channels" in str(e.value)


@pytest.mark.parametrize(("name", "heads"), [("sd15", (8, 8, 8)), ("sd21", (5, 10, 20))])
def test_heads_of_blocks_that_the_base_lacks_follow_the_published_rule(
    name: str, heads: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base of these tables tells no heads at all."""
    asked = {}
    real = read_params

    def spy(shapes: Mapping, rule: object) -> object:
        params = real(shapes, rule)
        asked.update({i: params.blocks[i].heads for i in (1, 4, 7)})
        message = "enough"
        raise KeyError(message)

    monkeypatch.setattr("lib_controlnet.families.controlnet.read_params", spy)
    ckpt = memory_checkpoint(golden(f"{name}_original"))
    with pytest.raises(BrokenCheckpointError):
        identify(ckpt).load(ckpt, published_base(name), torch.float32, "cpu")
    assert tuple(asked.values()) == heads


def test_normalise_keeps_unknown_names() -> None:
    assert normalise(["a.b", "position_ids", "x.position_ids", "model_ema.q"]) == {"a.b": "a.b"}


def test_signature_of_a_shape_is_hashable_and_tells_bases_apart() -> None:
    shapes = {kind: describe_unet(empty_unet(kind)) for kind in KINDS}
    assert all(isinstance(shape, UNetShape) for shape in shapes.values())
    assert len({shape.signature for shape in shapes.values()}) == len(KINDS)


# --- what fits, told by the header alone ------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kind", ["SD1", "SD2", "SDXL"])
def test_refusal_of_a_file_is_for_every_base_but_its_own(
    kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_controlnet(tmp_path / f"model{suffix}", tiny_controlnet(kind))
    monkeypatch.setattr(ControlNetFamily, "load", None)  # nothing is loaded for it
    for other in ("SD1", "SD2", "SDXL"):
        refused = families.look_into(path, tiny_base(other))[1]
        assert (refused is None) == (other == kind)
        assert refused is None or refused.other_base
        assert refused is None or "is made for" in refused.sentence


def test_refusal_of_what_controls_nothing_is_no_matter_of_the_base(tmp_path: Path) -> None:
    base = tiny_base("SD1")
    lora, torn, old = (tmp_path / name for name in ("lora.safetensors", "torn.bin", "old.pth"))
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(2, 2)}, lora)
    torn.write_bytes(b"<html>")
    tensors = tiny_controlnet("SDXL").module.state_dict()
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    for path, said in ((lora, "is a LoRA"), (torn, "a web page")):
        refused = families.look_into(path, base)[1]
        assert said in refused.sentence
        assert not refused.other_base
    assert families.look_into(old, base)[1] is None, (
        "its names are not to be had without its tensors"
    )
    assert families.look_into(tmp_path / "absent.pth", base)[1] is None


def test_bases_of_other_depths_do_not_share_networks() -> None:
    full, same = (describe_unet(tiny_unet("SDXL", seed)) for seed in (0, 1))
    fewer = describe_unet(tiny_unet("SDXL", transformer_depth=(0, 1, 3)))
    inpainting = describe_unet(tiny_unet("SDXL", in_channels=9))
    assert full.signature == same.signature == inpainting.signature
    assert full.signature != fewer.signature
