"""`check`: every fault and remark, and the exit status that follows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tool_files import Tools, base_file, control_file, tools
from torch import Tensor

__all__ = ["tools"]  # a fixture

WEIGHT = "input_blocks.1.0.in_layers.2.weight"
OUTPUTS = ("zero_convs.", "middle_block_out.")


def put(weights: dict[str, Tensor], name: str, value: float) -> None:
    """One bad number in an otherwise sound tensor."""
    weights[name].view(-1)[-1] = value


def silence(weights: dict[str, Tensor], *starts: str) -> None:
    for name, value in weights.items():
        if name.startswith(starts):
            value.zero_()


FAULTS = {
    "NaN": (lambda w: put(w, WEIGHT, float("nan")), f"NaN in 1 tensor ({WEIGHT})"),
    "infinite": (
        lambda w: put(w, "time_embed.0.bias", float("-inf")),
        "infinite values in 1 tensor (time_embed.0.bias)",
    ),
    "missing": (
        lambda w: (w.pop("zero_convs.3.0.bias"), w.pop("time_embed.2.bias")),
        "missing: 2 tensors (time_embed.2.bias, zero_convs.3.0.bias)",
    ),
    "unexpected": (
        lambda w: w.update({"input_blocks.1.0.other": torch.ones(1)}),
        "unexpected: 1 tensor (input_blocks.1.0.other)",
    ),
    "misshapen": (
        lambda w: w.update({"zero_convs.1.0.bias": torch.ones(3)}),
        "misshapen: 1 tensor (zero_convs.1.0.bias (3,) instead of (32,))",
    ),
    "incomplete": (
        lambda w: w.pop("input_blocks.0.0.weight"),
        "incomplete: input_blocks.0.0.weight is missing",
    ),
    "untrained": (
        lambda w: silence(w, *OUTPUTS),
        "never trained: every zero convolution is zero",
    ),
    "untrained hint": (
        lambda w: silence(w, "input_hint_block.14."),
        "never trained: input_hint_block.14.weight is zero, so the picture has no effect",
    ),
}


def changed(folder: Path, change: object, **options: object) -> Path:
    """A sound file with one change."""
    path = control_file(folder, **options)
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    return path


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("SD1", torch.float32), ("SD2", torch.float16), ("SDXL", torch.float16)],
    ids=["SD1-fp32", "SD2-fp16", "SDXL-fp16"],
)
def test_sound_model_has_no_fault(
    kind: str, dtype: torch.dtype, tmp_path: Path, tools: Tools
) -> None:
    assert tools("check", control_file(tmp_path, kind, dtype), "--strict") == 0
    assert tools.printed().endswith(", sound\n")


@pytest.mark.parametrize("case", FAULTS)
def test_fault_is_named_and_ends_with_status_one(case: str, tmp_path: Path, tools: Tools) -> None:
    change, sentence = FAULTS[case]
    assert tools("check", changed(tmp_path, change)) == 1
    printed = tools.printed()
    assert ", faulty\n" in printed.splitlines(keepends=True)[0]
    assert f"  fault: {sentence}\n" in printed
    assert printed.count("fault:") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: silence(w, "zero_convs.2."), "without effect, being zero: 1 zero convolution"),
        (
            lambda w: w.update({WEIGHT: w[WEIGHT].half()}),
            "several precisions: 339 float32, 1 float16",
        ),
    ],
    ids=["one silent layer", "two precisions"],
)
def test_remark_is_a_fault_for_the_strict(
    change: object, sentence: str, tmp_path: Path, tools: Tools
) -> None:
    path = changed(tmp_path, change)
    assert tools("check", path) == 0
    assert f"  remark: {sentence}" in tools.printed()
    assert tools("check", path, "--strict") == 1


def test_zero_weight_with_a_bias_is_still_an_effect(tmp_path: Path, tools: Tools) -> None:
    """Only the weights decide: the bias of a trained zero convolution is rarely zero."""
    path = changed(tmp_path, lambda w: silence(w, "zero_convs.0.0.bias"))
    assert tools("check", path, "--strict") == 0


def test_pickle_and_joint_file_are_remarks(tmp_path: Path, tools: Tools) -> None:
    weights = {f"control_model.{k}": v for k, v in load_file(control_file(tmp_path)).items()}
    torch.save({**weights, "first_stage_model.x": torch.ones(1)}, tmp_path / "old.pth")
    assert tools("check", tmp_path / "old.pth") == 0
    printed = tools.printed()
    assert "remark: 1 tensors beside the control model; extract it" in printed
    assert "remark: a pickle; convert makes it a .safetensors file" in printed


def test_diffusers_layout_is_checked_by_its_meaning(tmp_path: Path, tools: Tools) -> None:
    theirs = tmp_path / "theirs.safetensors"
    tools("convert", control_file(tmp_path), theirs, "--layout", "diffusers")
    assert tools("check", theirs, "--strict") == 0
    weights = load_file(theirs)
    del weights["controlnet_mid_block.bias"]
    save_file(weights, theirs)
    assert tools("check", theirs) == 1
    assert "missing: 1 tensor (middle_block_out.0.bias)" in tools.printed()


def test_difference_may_leave_out_what_did_not_change(tmp_path: Path, tools: Tools) -> None:
    diff = tmp_path / "diff.safetensors"
    tools("diff", control_file(tmp_path), base_file(tmp_path), diff)
    assert tools("check", diff, "--strict") == 0
    weights = load_file(diff)
    del weights["time_embed.2.bias"]
    save_file(weights, diff)
    assert tools("check", diff) == 0
    del weights["zero_convs.0.0.weight"]
    save_file(weights, diff)
    tools.printed()
    assert tools("check", diff) == 1
    assert "missing: 1 tensor (zero_convs.0.0.weight)" in tools.printed()


def test_halves_of_a_low_rank_pair_belong_together(tmp_path: Path, tools: Tools) -> None:
    lora = tmp_path / "lora.safetensors"
    tools("to-lora", control_file(tmp_path), base_file(tmp_path), lora, "--rank", 4)
    weights = load_file(lora)
    weights["time_embed.0.up"] = weights["time_embed.0.up"][:, :2].contiguous()
    save_file(weights, lora)
    tools.printed()
    assert tools("check", lora) == 1
    printed = tools.printed()
    assert "2 tensors (time_embed.0.down, time_embed.0.up) without the other half" in printed
    del weights["time_embed.0.up"]
    save_file(weights, lora)
    assert tools("check", lora) == 1
    assert "1 tensor (time_embed.0.down) without the other half of a pair" in tools.printed()


def test_kinds_without_a_table_are_checked_for_values_only(tmp_path: Path, tools: Tools) -> None:
    path = tmp_path / "lllite.safetensors"
    save_file({"lllite_unet_x.down.0.weight": torch.ones(2)}, path)
    assert tools("check", path) == 0
    assert "remark: names and shapes are not checked for this kind" in tools.printed()
    save_file({"lllite_unet_x.down.0.weight": torch.tensor([float("nan")])}, path)
    assert tools("check", path) == 1


def test_every_file_is_checked_whatever_the_others_are(tmp_path: Path, tools: Tools) -> None:
    sound = control_file(tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(sound.read_bytes()[:-9])
    assert tools("check", cut, tmp_path / "none.pth", sound) == 1
    assert "cut.safetensors is damaged or incomplete" in tools.said
    assert "none.pth cannot be opened" in tools.said
    assert "control.safetensors: a ControlNet, 340 tensors, sound" in tools.printed()
    assert tools("check", sound, sound) == 0


def test_checkpoint_is_no_control_model(tmp_path: Path, tools: Tools) -> None:
    assert tools("check", base_file(tmp_path)) == 1
    assert "without a control part, not a control model" in tools.said


def test_eight_bit_values_are_looked_at(tmp_path: Path, tools: Tools) -> None:
    weights = load_file(control_file(tmp_path))
    weights = {name: value.to(torch.float8_e4m3fn) for name, value in weights.items()}
    save_file(weights, tmp_path / "eight.safetensors")
    assert tools("check", tmp_path / "eight.safetensors", "--strict") == 0
    put(weights, WEIGHT, float("nan"))
    save_file(weights, tmp_path / "eight.safetensors")
    assert tools("check", tmp_path / "eight.safetensors") == 1
    assert f"NaN in 1 tensor ({WEIGHT})" in tools.printed()
