"""Trained controls as files: precision, layout, facts; read by diffusers, the engine, the panel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import describe_unet, inputs, tiny_unet
from toy_base import write_kind

from lib_controlnet.detect import listing
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.families import load_network
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.train.__main__ import main

KINDS = ("SD1", "SD2", "SDXL")


def trained(tmp_path: Path, kind: str) -> tuple[Path, Path]:
    """A base, and a control for it whose convolutions are not zero any more."""
    base, control = write_kind(tmp_path, kind), tmp_path / "trained.safetensors"
    assert main(["init", str(base), str(control), "--gaussian"]) == 0
    return base, control


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_diffusers_loads_its_layout_and_computes_the_same(kind: str, tmp_path: Path) -> None:
    base, control = trained(tmp_path, kind)
    folder = tmp_path / "folder"
    options = ["--layout", "diffusers", "--dtype", "fp32", "--base", str(base)]
    assert main(["export", str(control), str(folder), *options]) == 0
    theirs = ControlNetModel.from_pretrained(folder, low_cpu_mem_usage=False)
    unet = tiny_unet(kind)
    engine = BaseUNet(unet, describe_unet(unet), kind, kind)
    call, hint = inputs(kind), torch.rand(1, 3, 64, 128)
    extra = {}
    if kind == "SDXL":
        sizes = torch.randint(1, 512, (2, 6)).float()
        pooled = torch.randn(2, 48)
        extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
        sinusoids = theirs.add_time_proj(sizes.flatten()).reshape(2, -1)
        call["y"] = torch.cat([pooled, sinusoids], dim=1)
    down, middle = theirs(
        *(call["x"], call["timesteps"], call["context"], hint.expand(2, -1, -1, -1)),
        return_dict=False,
        **extra,
    )
    for path in (control, folder / "diffusion_pytorch_model.safetensors"):
        ours = load_network(path, engine, torch.float32, "cpu")
        wanted = [True] * ours.layers
        found = ours.evaluate(**call, guided_hint=ours.encode_hint(hint), wanted=wanted)
        for one, two in zip(found, [*down, middle], strict=True):
            scale = float(two.abs().max())
            assert scale > 1e-2
            assert float((one - two).abs().max()) < 1e-5 * scale


def test_layouts_there_and_back_are_the_same_tensors(tmp_path: Path) -> None:
    base, control = trained(tmp_path, "SDXL")
    options = ["--dtype", "fp32", "--base", str(base)]
    folder, back = tmp_path / "folder", tmp_path / "back.safetensors"
    assert main(["export", str(control), str(folder), "--layout", "diffusers", *options]) == 0
    file = folder / "diffusion_pytorch_model.safetensors"
    assert main(["export", str(file), str(back), *options]) == 0
    one, two = load_file(control), load_file(back)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_precision_and_facts_of_an_export(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    _base, control = trained(tmp_path, "SD1")
    out = tmp_path / "out.safetensors"
    facts = ["--control-type", "Depth", "--preprocessor", "depth_midas"]
    assert main(["export", str(control), str(out), "--dtype", name, *facts]) == 0
    one, two = load_file(control), load_file(out)
    assert {tensor.dtype for tensor in two.values()} == {dtype}
    assert all(torch.equal(one[key].to(dtype), two[key]) for key in one)
    known = metadata(out)
    assert (known["control_type"], known["preprocessor"]) == ("Depth", "depth_midas")
    assert (known["base"], known["base_family"]) == ("SD1", "SD1")
    assert json.loads(known["training"])["gaussian"] is True


def test_files_can_be_read_by_whom_other_new_files_can(tmp_path: Path) -> None:
    """A WebUI may run under another user."""
    _base, control = trained(tmp_path, "SD1")
    plain = tmp_path / "plain"
    plain.touch()
    assert control.stat().st_mode == plain.stat().st_mode


def test_export_refuses_with_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _base, control = trained(tmp_path, "SD1")
    for words, text in (
        ([str(tmp_path / "gone.safetensors"), str(tmp_path / "x.safetensors")], "no "),
        ([str(tmp_path), str(tmp_path / "x.safetensors")], "has not saved weights yet"),
        ([str(control), str(control)], "--force"),
        ([str(control), str(tmp_path / "x.pth")], "must end with .safetensors"),
        ([str(control), str(tmp_path / "folder"), "--layout", "diffusers"], "add --base"),
    ):
        caplog.clear()
        assert main(["export", *words]) == 1
        assert text in caplog.text
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def control_file(folder: Path, name: str, **facts: str) -> None:
    save_file({"zero_convs.0.0.weight": torch.zeros(1)}, folder / name, metadata=facts)


def test_panel_lists_a_model_under_the_type_in_its_metadata(tmp_path: Path) -> None:
    control_file(tmp_path, "mine.safetensors", control_type="Canny")
    control_file(tmp_path, "a_depth_by_name.safetensors", control_type="Canny")
    control_file(tmp_path, "plain_depth.safetensors")
    control_file(tmp_path, "short.safetensors", control_type="Seg")
    (tmp_path / "broken_depth.safetensors").write_bytes(b"nothing")
    catalog = Catalog([tmp_path])

    def stems(kind: str) -> list[str]:
        return [name.split(" [")[0] for name in catalog.for_type(kind)]

    assert stems("Canny") == ["a_depth_by_name", "mine"]
    assert stems("Depth") == ["broken_depth", "plain_depth"]
    assert stems("Segmentation") == ["short"]
    assert len(stems("All")) == 5
    name = next(name for name in catalog.names() if name.startswith("mine"))
    assert listing.control_type_of(catalog, "none", name) == "Canny"
