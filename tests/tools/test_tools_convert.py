"""`convert` and `extract`: names, precisions, containers, metadata, and what they refuse."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from oracle import PUBLISHED, TINY, assert_close, control_net, run_theirs, vector_condition
from safetensors.torch import load_file, save_file
from support import inputs, memory_checkpoint, random_hint, tiny_base, tiny_controlnet
from tool_files import Tools, control_file, leftovers, metadata, same_tensors, tools

from lib_controlnet.families import load_network
from lib_controlnet.files.layouts import diffusers_renamer
from lib_controlnet.tools.renaming import diffusers_config, to_diffusers

__all__ = ["tools"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("SD1", "SD2", "SDXL")


def table(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file."""
    raw = (ROOT / "tests/data/keys" / f"{name}.json.gz").read_bytes()
    return {key: tuple(shape) for key, shape in json.loads(gzip.decompress(raw)).items()}


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_published_files_are_translated_both_ways(name: str) -> None:
    ldm, theirs = table(f"{name}_original"), table(f"{name}_diffusers")
    there, back = to_diffusers(ldm), diffusers_renamer(theirs)
    assert {there(key): shape for key, shape in ldm.items()} == theirs
    assert all(back(there(key)) == key for key in ldm)


def test_names_without_a_counterpart_stay() -> None:
    rename = to_diffusers(["input_blocks.3.0.op.weight", "task_embedding"])
    assert rename("task_embedding") == "task_embedding"
    assert rename("transformer_layes.0.ln_1.weight") == "transformer_layes.0.ln_1.weight"


@pytest.mark.parametrize("name", PUBLISHED)
def test_configuration_makes_diffusers_build_the_published_network(name: str) -> None:
    config = diffusers_config(table(f"{name}_original"))
    del config["_class_name"]
    with torch.device("meta"):
        built, expected = ControlNetModel(**config), control_net(PUBLISHED[name])
    assert {k: tuple(v.shape) for k, v in built.state_dict().items()} == table(f"{name}_diffusers")
    for key, value in PUBLISHED[name].items():
        ours = built.config[key]
        same = value in (ours, ours[0] if isinstance(ours, list) else None)
        assert same or list(ours) == list(value), key
    assert built.config.addition_time_embed_dim == expected.config.addition_time_embed_dim


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_file_for_diffusers_loads_there_and_computes_the_same(
    kind: str, tmp_path: Path, tools: Tools
) -> None:
    source, theirs = control_file(tmp_path, kind), tmp_path / "theirs.safetensors"
    assert tools("convert", source, theirs, "--layout", "diffusers") == 0
    model = control_net(TINY[kind])
    model.load_state_dict(load_file(theirs), strict=True)
    call, hint = inputs(kind), random_hint()
    extra, call["y"] = vector_condition(model, len(call["x"]))
    network = tiny_controlnet(kind)
    ours = network.evaluate(
        **call, guided_hint=network.encode_hint(hint), wanted=[True] * network.layers
    )
    with torch.no_grad():
        for mine, other in zip(ours, run_theirs(model, call, hint, extra), strict=True):
            assert_close(mine, other)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("SD1", torch.float16), ("SD2", torch.float32), ("SDXL", torch.float16)],
    ids=["SD1-fp16", "SD2-fp32", "SDXL-fp16"],
)
def test_to_diffusers_and_back_changes_no_bit(
    kind: str, dtype: torch.dtype, tmp_path: Path, tools: Tools
) -> None:
    source = control_file(tmp_path, kind, dtype)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert tools("convert", source, there, "--layout", "diffusers") == 0
    assert "down_blocks.0.resnets.0.conv1.weight" in load_file(there)
    assert tools("convert", there, back, "--layout", "ldm") == 0
    assert same_tensors(source, back)


def test_layout_is_kept_unless_one_is_named(tmp_path: Path, tools: Tools) -> None:
    source = control_file(tmp_path)
    theirs, kept = tmp_path / "theirs.safetensors", tmp_path / "kept.safetensors"
    tools("convert", source, theirs, "--layout", "diffusers")
    assert tools("convert", theirs, kept) == 0
    assert same_tensors(theirs, kept)
    assert tools("convert", source, kept, "--force") == 0
    assert same_tensors(source, kept)


def test_folder_is_a_repository_that_diffusers_opens(tmp_path: Path, tools: Tools) -> None:
    source = control_file(tmp_path)
    assert tools("convert", source, tmp_path / "repository", "--layout", "diffusers") == 0
    model, loading = ControlNetModel.from_pretrained(
        tmp_path / "repository", output_loading_info=True
    )
    assert not any(loading.values())
    network, call, hint = tiny_controlnet("SD1"), inputs("SD1"), random_hint()
    ours = network.evaluate(
        **call, guided_hint=network.encode_hint(hint), wanted=[True] * network.layers
    )
    with torch.no_grad():
        for mine, other in zip(ours, run_theirs(model.eval(), call, hint, {}), strict=True):
            assert_close(mine, other)
    assert tools("convert", source, tmp_path / "repository", "--layout", "diffusers") == 1
    assert "add --force" in tools.said


def test_failed_folder_is_not_left_behind(tmp_path: Path, tools: Tools) -> None:
    weights = load_file(control_file(tmp_path))
    weights["time_embed.0.bias"][0] = 1e6
    save_file(weights, tmp_path / "large.safetensors")
    words = ("convert", tmp_path / "large.safetensors", tmp_path / "new", "--layout", "diffusers")
    assert tools(*words, "--dtype", "fp16") == 1
    assert not (tmp_path / "new").exists()


# --- precision, containers --------------------------------------------------------------------


@pytest.mark.parametrize(("word", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_values_are_rounded_and_integers_kept(
    word: str, dtype: torch.dtype, tmp_path: Path, tools: Tools
) -> None:
    source = control_file(tmp_path, counts=torch.tensor([7]))
    out = tmp_path / "out.safetensors"
    assert tools("convert", source, out, "--dtype", word) == 0
    original = load_file(source)
    expected = {k: v if k == "counts" else v.to(dtype) for k, v in original.items()}
    assert same_tensors(expected, out)
    assert tools("convert", out, tmp_path / "wide.safetensors", "--dtype", "fp32") == 0
    widened = {k: v if k == "counts" else v.float() for k, v in expected.items()}
    assert same_tensors(widened, tmp_path / "wide.safetensors")


def test_values_beyond_half_precision_are_refused_and_named(tmp_path: Path, tools: Tools) -> None:
    weights = load_file(control_file(tmp_path))
    weights["middle_block.0.in_layers.2.weight"][0] = 70000.0
    save_file(weights, tmp_path / "large.safetensors")
    out = tmp_path / "out.safetensors"
    assert tools("convert", tmp_path / "large.safetensors", out, "--dtype", "fp16") == 1
    assert "middle_block.0.in_layers.2.weight holds values up to 7e+04" in tools.said
    assert not out.exists()
    assert tools("convert", tmp_path / "large.safetensors", out, "--dtype", "bf16") == 0


def test_infinite_values_of_the_source_are_no_overflow(tmp_path: Path, tools: Tools) -> None:
    weights = load_file(control_file(tmp_path))
    weights["time_embed.0.bias"][0] = float("inf")
    save_file(weights, tmp_path / "broken.safetensors")
    out = tmp_path / "out.safetensors"
    assert tools("convert", tmp_path / "broken.safetensors", out, "--dtype", "fp16") == 0


@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_pickles_become_safetensors(suffix: str, tmp_path: Path, tools: Tools) -> None:
    source = control_file(tmp_path)
    weights = {f"control_model.{key}": value for key, value in load_file(source).items()}
    weights |= {"cond_stage_model.weight": torch.ones(3), "model_ema.decay": torch.ones(())}
    old = tmp_path / f"old{suffix}"
    torch.save({"state_dict": weights, "epoch": 3}, old)
    assert tools("convert", old, tmp_path / "new.safetensors") == 0
    assert same_tensors(source, tmp_path / "new.safetensors")
    assert "2 tensors beside the control model were left out" in tools.said


class Trap:
    """Code that a pickle would run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, tools: Tools) -> None:
    torch.save({"x": Trap(tmp_path / "trap")}, tmp_path / "bad.pth")
    assert tools("convert", tmp_path / "bad.pth", tmp_path / "out.safetensors") == 1
    assert "refused: it holds more than tensors" in tools.said
    assert not (tmp_path / "trap").exists()


def test_other_kinds_keep_their_names(tmp_path: Path, tools: Tools) -> None:
    nested = {
        "image_proj": {"proj.weight": torch.ones(4, 3)},
        "ip_adapter": {"1.to_k_ip.weight": torch.ones(4, 768)},
    }
    torch.save(nested, tmp_path / "ip-adapter.bin")
    out = tmp_path / "ip-adapter.safetensors"
    assert tools("convert", tmp_path / "ip-adapter.bin", out, "--dtype", "fp16") == 0
    assert load_file(out).keys() == {"image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"}
    adapter = {"adapter.body.0.resnets.0.block1.weight": torch.ones(2, 2, 3, 3)}
    adapter["adapter.conv_in.weight"] = torch.ones(2, 768, 3, 3)
    save_file(adapter, tmp_path / "t2i.safetensors")
    assert tools("convert", tmp_path / "t2i.safetensors", out, "--force") == 0
    assert same_tensors(adapter, out)


# --- metadata ---------------------------------------------------------------------------------


def test_metadata_is_kept_and_grows_a_history(tmp_path: Path, tools: Tools) -> None:
    source = control_file(tmp_path, metadata={"control_type": "Canny", "history": "trained"})
    out = tmp_path / "out.safetensors"
    assert tools("convert", source, out) == 0
    assert metadata(out) == {
        "control_type": "Canny",
        "history": "trained; convert control.safetensors",
    }


def test_pooling_that_a_yaml_says_goes_into_the_metadata(tmp_path: Path, tools: Tools) -> None:
    source = control_file(tmp_path)
    source.with_suffix(".yaml").write_text("global_average_pooling: True")
    out = tmp_path / "renamed.safetensors"
    assert tools("convert", source, out) == 0
    assert metadata(out)["global_average_pooling"] == "true"
    assert load_network(out, tiny_base("SD1"), torch.float32, "cpu").global_average_pooling
    assert tools("convert", source, tmp_path / "folder", "--layout", "diffusers") == 0
    config = json.loads((tmp_path / "folder/config.json").read_text())
    assert config["global_pool_conditions"] is True


def test_channel_order_that_only_a_configuration_knows_is_a_warning(
    tmp_path: Path, tools: Tools
) -> None:
    source = control_file(tmp_path)
    source.with_suffix(".json").write_text('{"controlnet_conditioning_channel_order": "bgr"}')
    assert tools("convert", source, tmp_path / "out.safetensors") == 0
    assert "control.safetensors reads BGR pictures" in tools.said


# --- extract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["control_model.", "model.control_model."])
def test_control_part_of_a_joint_checkpoint_is_taken_out(
    prefix: str, tmp_path: Path, tools: Tools
) -> None:
    alone = control_file(tmp_path)
    joint = {f"{prefix}{key}": value for key, value in load_file(alone).items()}
    joint["model.diffusion_model.input_blocks.0.0.weight"] = torch.ones(9)
    save_file(joint, tmp_path / "joint.safetensors")
    out = tmp_path / "out.safetensors"
    assert tools("extract", tmp_path / "joint.safetensors", out, "--dtype", "fp16") == 0
    assert same_tensors({k: v.half() for k, v in load_file(alone).items()}, out)


def test_extracting_from_a_control_model_alone_is_refused(tmp_path: Path, tools: Tools) -> None:
    assert tools("extract", control_file(tmp_path), tmp_path / "out.safetensors") == 1
    assert "holds a ControlNet and nothing else; use convert" in tools.said


# --- refusals ---------------------------------------------------------------------------------


def test_existing_file_is_replaced_by_force_only(tmp_path: Path, tools: Tools) -> None:
    source, out = control_file(tmp_path), tmp_path / "out.safetensors"
    out.write_bytes(b"precious")
    assert tools("convert", source, out) == 1
    assert "out.safetensors is there already; add --force" in tools.said
    assert out.read_bytes() == b"precious"
    assert tools("convert", source, out, "--force") == 0
    assert same_tensors(source, out)


def test_file_may_take_its_own_place(tmp_path: Path, tools: Tools) -> None:
    source = control_file(tmp_path)
    expected = {key: value.half() for key, value in load_file(source).items()}
    assert tools("convert", source, source, "--dtype", "fp16", "--force") == 0
    assert same_tensors(expected, source)


def saved(path: Path, **tensors: torch.Tensor) -> Path:
    """A file of tensors; the names' dots are written as two underscores."""
    save_file({name.replace("__", "."): value for name, value in tensors.items()}, path)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-100])
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


ONE = torch.ones(2)
THEIRS = ("--layout", "diffusers")
REFUSED = {
    "extension": (lambda f: (control_file(f), f / "o.pth"), "only .safetensors files are"),
    "folder": (lambda f: (control_file(f), f / "no/o.safetensors"), "there is no folder"),
    "is a folder": (lambda f: (control_file(f), folder(f / "o.safetensors")), "is a folder"),
    "no parent": (lambda f: (control_file(f), f / "no/out", *THEIRS), "there is no folder"),
    "missing": (lambda f: (f / "a.pth", f / "o.safetensors"), "a.pth cannot be opened"),
    "damaged": (lambda f: (cut(control_file(f)), f / "o.safetensors"), "damaged or incomplete"),
    "LoRA": (
        lambda f: (saved(f / "l.safetensors", lora_unet_x=ONE), f / "o.safetensors"),
        "l.safetensors is a LoRA, not a control model",
    ),
    "unknown": (
        lambda f: (saved(f / "u.safetensors", some=ONE), f / "o.safetensors"),
        "u.safetensors is no model of a known kind, not a control model",
    ),
    "layout": (
        lambda f: (saved(f / "k.safetensors", lllite_unet_x=ONE), f / "o.safetensors", *THEIRS),
        "k.safetensors is a ControlNet-LLLite; only ControlNets have another layout",
    ),
    "difference": (
        lambda f: (control_file(f, difference=torch.ones(())), f / "o.safetensors", *THEIRS),
        "is a difference ControlNet, which diffusers does not know; transfer it first",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_conversion_is_one_sentence(case: str, tmp_path: Path, tools: Tools) -> None:
    words, sentence = REFUSED[case][0](tmp_path), REFUSED[case][1]
    assert tools("convert", *words) == 1
    assert sentence in tools.said
    assert not leftovers(tmp_path)
    assert not (tmp_path / "o.safetensors").is_file()


def test_union_has_no_configuration_of_ours(tmp_path: Path, tools: Tools) -> None:
    extra = {"task_embedding": torch.ones(6, 32)}
    extra["control_add_embedding.linear_1.weight"] = torch.ones(128, 8)
    source = control_file(tmp_path, "SDXL", **extra)
    assert tools("convert", source, tmp_path / "folder", "--layout", "diffusers") == 1
    assert "name a .safetensors file to write it without" in tools.said
    out = tmp_path / "out.safetensors"
    assert tools("convert", source, out, "--layout", "diffusers") == 0
    assert {"task_embedding", "controlnet_mid_block.weight"} <= load_file(out).keys()


def test_shapes_alone_are_enough_for_names() -> None:
    """The tables stand for files that nobody downloads in a test."""
    ckpt = memory_checkpoint(table("sd15_diffusers"))
    assert ckpt.diffusers
    assert set(map(to_diffusers(ckpt.keys), ckpt.keys)) == set(table("sd15_diffusers"))
