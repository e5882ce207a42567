"""`diff` and `transfer`: what they keep, bit for bit, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import TINY, u_net_weights
from safetensors.torch import load_file, save_file
from support import describe_unet, tiny_base, tiny_controlnet, tiny_unet
from tool_files import UNET, Tools, base_file, control_file, metadata, same_tensors, tools

from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.families import load_network
from lib_controlnet.families.base_weights import SHARED_WITH_BASE

__all__ = ["tools"]  # a fixture

FIRST = "input_blocks.0.0.weight"


def loaded(path: Path, base: BaseUNet, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights with which the engine computes."""
    return dict(load_network(path, base, dtype, "cpu").module.state_dict())


def halved_base(folder: Path, kind: str, seed: int) -> tuple[Path, BaseUNet]:
    """A base whose weights are those of a file in half precision, and that file."""
    path, unet = base_file(folder, kind, seed), tiny_unet(kind, seed)
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    weights = {name: value.half().float() for name, value in unet.state_dict().items()}
    unet.load_state_dict(weights)
    return path, BaseUNet(unet, describe_unet(unet), path.stem, path.stem)


# --- diff -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_difference_loads_as_the_original(kind: str, tmp_path: Path, tools: Tools) -> None:
    control = control_file(tmp_path, kind, torch.float16)
    file, base = halved_base(tmp_path, kind, 0)
    out = tmp_path / "diff.safetensors"
    assert tools("diff", control, file, out, "--dtype", "fp32") == 0
    assert "values are the original's" in tools.said
    stored = load_file(out)
    assert stored["difference"].shape == ()
    assert not torch.equal(stored[FIRST], load_file(control)[FIRST].float())
    expected = loaded(control, base, torch.float16)
    assert same_tensors(loaded(out, base, torch.float16), expected)


def test_difference_in_half_precision_says_what_it_costs(tmp_path: Path, tools: Tools) -> None:
    control = control_file(tmp_path, "SD1", torch.float16)
    file, base = halved_base(tmp_path, "SD1", 0)
    out = tmp_path / "diff.safetensors"
    assert tools("diff", control, file, out) == 0
    ours, original = loaded(out, base, torch.float16), load_file(control)
    errors = [(ours[k].float() - v.float()).abs() for k, v in original.items()]
    changed = sum(int(error.count_nonzero()) for error in errors)
    largest = max(float(error.max()) for error in errors)
    assert changed
    assert f"{changed} of " in tools.said
    assert f"by up to {largest:.2g}; --dtype fp32 keeps more" in tools.said


def test_difference_keeps_the_parts_that_no_base_has(tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    out = tmp_path / "diff.safetensors"
    assert tools("diff", control, base, out) == 0
    original, unet = load_file(control), load_file(base)
    for name, value in load_file(out).items():
        if name.startswith(SHARED_WITH_BASE):
            assert torch.equal(value, original[name] - unet[UNET + name]), name
        elif name != "difference":
            assert torch.equal(value, original[name]), name
    assert metadata(out)["history"] == f"diff control.safetensors - {base.name}"


# --- transfer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("SD1", torch.float16), ("SD1", torch.float32), ("SDXL", torch.float16)],
    ids=["SD1-fp16", "SD1-fp32", "SDXL-fp16"],
)
def test_transfer_to_the_same_base_changes_no_bit(
    kind: str, dtype: torch.dtype, tmp_path: Path, tools: Tools
) -> None:
    control, base = control_file(tmp_path, kind, dtype), base_file(tmp_path, kind)
    out = tmp_path / "out.safetensors"
    assert tools("transfer", control, "--from", base, "--to", base, out) == 0
    assert same_tensors(control, out)
    assert "the encoders of the two bases differ by 0.000" in tools.said


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_transfer_gives_what_the_engine_makes_of_the_difference(
    kind: str, tmp_path: Path, tools: Tools
) -> None:
    control = control_file(tmp_path, kind)
    old, new = base_file(tmp_path, kind), base_file(tmp_path, kind, seed=1)
    diff = tmp_path / "diff.safetensors"
    full, from_diff = tmp_path / "full.safetensors", tmp_path / "from-diff.safetensors"
    assert tools("diff", control, old, diff) == 0
    assert tools("transfer", control, "--from", old, "--to", new, full) == 0
    assert tools("transfer", diff, "--to", new, from_diff) == 0
    assert "difference" not in load_file(from_diff)
    engine = loaded(diff, tiny_base(kind, 1), torch.float32)
    assert same_tensors(engine, from_diff)
    moved = load_file(full)
    assert torch.equal(moved["zero_convs.0.0.weight"], load_file(control)["zero_convs.0.0.weight"])
    for name, value in engine.items():  # two sums in another order
        assert torch.allclose(moved[name], value, rtol=0, atol=1e-5), name


def test_transfer_says_how_far_the_bases_are_apart(tmp_path: Path, tools: Tools) -> None:
    control, old = control_file(tmp_path), base_file(tmp_path)
    weights = load_file(old)
    scaled = {k: v * 1.25 if k.startswith(UNET) else v for k, v in weights.items()}
    save_file(scaled, tmp_path / "new.safetensors")
    out = tmp_path / "out.safetensors"
    assert tools("transfer", control, "--from", old, "--to", tmp_path / "new.safetensors", out) == 0
    assert "the encoders of the two bases differ by 0.250" in tools.said


def test_transfer_completes_a_difference_that_leaves_layers_out(
    tmp_path: Path, tools: Tools
) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    diff, out = tmp_path / "diff.safetensors", tmp_path / "out.safetensors"
    tools("diff", control, base, diff)
    weights = load_file(diff)
    del weights["time_embed.0.weight"], weights[FIRST]
    save_file(weights, diff)
    nine = tiny_unet("SD1", 3, in_channels=9)
    path = tmp_path / "nine.safetensors"
    save_file({UNET + name: value for name, value in nine.state_dict().items()}, path)
    assert tools("transfer", diff, "--to", path, out) == 0
    full, unet = load_file(out), nine.state_dict()
    assert torch.equal(full["time_embed.0.weight"], unet["time_embed.0.weight"])
    assert torch.equal(full[FIRST], unet[FIRST][:, :4])
    assert full.keys() == load_file(control).keys()


def test_old_base_of_a_difference_is_not_needed(tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    diff, out = tmp_path / "diff.safetensors", tmp_path / "out.safetensors"
    tools("diff", control, base, diff)
    words = ("transfer", diff, "--from", tmp_path / "lost.safetensors", "--to", base, out)
    assert tools(*words) == 0
    assert "diff.safetensors is a difference file: --from is not needed" in tools.said


# --- bases ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        *(("diffusers", kind) for kind in ("SD1", "SDXL")),
        *((layout, "SD1") for layout in ("alone", "half prefix", "pickle")),
    ],
)
def test_base_may_have_any_layout(layout: str, kind: str, tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path, kind), base_file(tmp_path, kind)
    other = tmp_path / "other.safetensors"
    unet = tiny_unet(kind)
    if layout == "diffusers":
        theirs = u_net_weights(unet, TINY[kind]).state_dict()
        save_file({name: value.contiguous() for name, value in theirs.items()}, other)
    elif layout == "pickle":
        other = tmp_path / "other.ckpt"
        torch.save({"state_dict": load_file(base)}, other)
    else:
        prefix = "" if layout == "alone" else "diffusion_model."
        save_file({prefix + name: value for name, value in unet.state_dict().items()}, other)
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    assert tools("diff", control, base, first) == 0
    assert tools("diff", control, other, second) == 0
    assert same_tensors(first, second)


def test_linear_layers_of_the_base_stand_for_convolutions(tmp_path: Path, tools: Tools) -> None:
    control, base = control_file(tmp_path), base_file(tmp_path)
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    tools("diff", control, base, first)
    flat = {
        name: value.flatten(1) if name.endswith(("proj_in.weight", "proj_out.weight")) else value
        for name, value in load_file(base).items()
    }
    save_file(flat, base)
    assert tools("diff", control, base, second) == 0
    assert same_tensors(first, second)


# --- refusals ---------------------------------------------------------------------------------


def without(path: Path, *starts: str) -> Path:
    """The file without tensors whose names start so."""
    kept = {k: v for k, v in load_file(path).items() if not k.startswith(starts)}
    save_file(kept, path)
    return path


def reduced(folder: Path) -> Path:
    """An SDXL ControlNet whose middle is one res block, as the published small ones."""
    return without(control_file(folder, "SDXL"), "middle_block.1", "middle_block.2")


REFUSED = {
    "difference already": (
        lambda f: ("diff", control_file(f, difference=torch.ones(())), base_file(f), f / "o"),
        "control.safetensors is a difference ControlNet already",
    ),
    "reduced": (
        lambda f: ("diff", reduced(f), base_file(f, "SDXL"), f / "o"),
        "is a reduced ControlNet",
    ),
    "other base": (
        lambda f: ("diff", control_file(f, "SD1"), base_file(f, "SDXL"), f / "o"),
        "control.safetensors is made for SD1 (context 48), base-SDXL-0.safetensors is SDXL",
    ),
    "other widths": (
        lambda f: (
            *("diff", control_file(f), base_file(f, "SD1", 7, channel_mult=(1, 2, 3, 4))),
            f / "o",
        ),
        "control.safetensors does not fit base-SD1-7.safetensors: input_blocks.",
    ),
    "difference, other base": (
        lambda f: (
            *("transfer", control_file(f, difference=torch.ones(()))),
            *("--to", base_file(f, "SDXL"), f / "o"),
        ),
        "does not fit base-SDXL-0.safetensors",
    ),
    "no old base": (
        lambda f: ("transfer", control_file(f), "--to", base_file(f), f / "o"),
        "name the base it was made from with --from",
    ),
    "no base": (
        lambda f: ("diff", control_file(f), control_file(f, name="x.safetensors"), f / "o"),
        "x.safetensors is no base checkpoint",
    ),
    "incomplete": (
        lambda f: ("diff", without(control_file(f), "input_blocks.0."), base_file(f), f / "o"),
        "is a ControlNet, but incomplete: input_blocks.0.0.weight is missing",
    ),
    "base first": (
        lambda f: ("diff", base_file(f), control_file(f), f / "o"),
        "is a full Stable Diffusion checkpoint without a control part, not a control model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_combination_is_one_sentence(case: str, tmp_path: Path, tools: Tools) -> None:
    *words, out = REFUSED[case][0](tmp_path)
    assert tools(*words, out.with_suffix(".safetensors")) == 1
    assert REFUSED[case][1] in tools.said
    assert not out.with_suffix(".safetensors").exists()


def test_other_kinds_have_no_difference(tmp_path: Path, tools: Tools) -> None:
    save_file({"lllite_unet_x.down.0.weight": torch.ones(2)}, tmp_path / "l.safetensors")
    words = ("diff", tmp_path / "l.safetensors", base_file(tmp_path), tmp_path / "o.safetensors")
    assert tools(*words) == 1
    assert "l.safetensors is a ControlNet-LLLite; this works on ControlNets only" in tools.said


def test_union_is_transferred_with_its_own_tensors(tmp_path: Path, tools: Tools) -> None:
    extra = {"task_embedding": torch.ones(6, 32)}
    extra["control_add_embedding.linear_1.weight"] = torch.ones(128, 8)
    union, base = control_file(tmp_path, "SDXL", **extra), base_file(tmp_path, "SDXL")
    out = tmp_path / "out.safetensors"
    assert tools("transfer", union, "--from", base, "--to", base, out) == 0
    assert same_tensors(union, out)
    assert tools("diff", union, base, out, "--force") == 1
    assert "is a ControlNet Union; this works on ControlNets only" in tools.said


def test_engine_loads_a_transferred_model(tmp_path: Path, tools: Tools) -> None:
    """The file is an ordinary ControlNet: no base is needed to load it."""
    control, old, new = control_file(tmp_path), base_file(tmp_path), base_file(tmp_path, seed=2)
    out = tmp_path / "out.safetensors"
    tools("transfer", control, "--from", old, "--to", new, out)
    network = load_network(out, tiny_base("SD1", 2), torch.float32, "cpu")
    assert not network.depends_on_base
    assert network.layers == tiny_controlnet("SD1").layers
