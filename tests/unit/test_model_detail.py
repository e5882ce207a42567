"""What the lists say of a model: its family, its base, and what speaks against it."""

from __future__ import annotations

from pathlib import Path

import pytest
import support
from fake_web import served
from panels import FOLLOWING, FakeRuntime

from lib_controlnet.families import Refusal
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.ui import choices


def test_model_list_says_what_each_is_and_what_speaks_against_it(tmp_path: Path) -> None:
    (tmp_path / "odd.safetensors").write_bytes(b"x")
    support.save_sparse(tmp_path / "promax.safetensors", support.golden("sdxl_union_8"))
    with served(tmp_path) as (client, runtime):
        runtime.refused["promax"] = Refusal("it is made for SDXL", other_base=True)
        body = client.get("/controlnet/model_list").json()
    assert list(body["model_detail"]) == body["model_list"]
    told = {name.split(" [")[0]: detail for name, detail in body["model_detail"].items()}
    size = (tmp_path / "promax.safetensors").stat().st_size
    assert "odd.safetensors is damaged" in told["odd"].pop("unknown")
    nothing = {"family": None, "base": None, "control_types": [], "precision": None}
    assert told["odd"] == {**nothing, "size": 1}
    assert {"Canny", "Depth", "OpenPose"} < set(told["promax"].pop("control_types"))
    assert told["promax"] == {
        "family": "ControlNet Union",
        "base": "SDXL",
        "precision": "fp16",
        "size": size,
        "unavailable": "it is made for SDXL",
    }


def test_panel_says_what_a_model_is_while_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "odd.safetensors").write_bytes(b"x")
    support.save_sparse(tmp_path / "promax.safetensors", support.golden("sdxl_union_8"))
    runtime = FakeRuntime(Catalog([tmp_path]))
    odd, promax = runtime.catalog.names()

    def said(module: str, model: str) -> list[str]:
        chosen = choices.on_model("All", module, model, runtime)[0]
        followed = choices.on_module("All", module, model, False, runtime)[FOLLOWING - 2]
        offered = choices.on_offer("All", module, model, runtime)[1]
        lines = [chosen, followed, offered]
        assert all(line["visible"] is bool(line["value"]) for line in lines)
        return [line["value"] for line in lines]

    assert said("canny", promax) == ["ControlNet Union for SDXL, fp16, 2.5 GB"] * 3
    assert all("odd.safetensors is damaged" in line for line in said("canny", odd))
    assert said("canny", "None") == [""] * 3
    assert said("canny", "gone [e3b0c442]") == [""] * 3
    assert said("reference_only", promax)[1:] == [""] * 2


def test_base_that_a_name_claims_is_told_and_compared(tmp_path: Path) -> None:
    stem = "CN-anytest_v4-marged_pn_dim16"
    shapes = support.golden("sdxl_full_control_lora_16")
    support.save_sparse(tmp_path / f"{stem}.safetensors", shapes)
    with served(tmp_path) as (client, _runtime):
        (told,) = client.get("/controlnet/model_list").json()["model_detail"].values()
    about = {name: told[name] for name in ("family", "base", "made_on")}
    assert about == {"family": "Control-LoRA", "base": "SDXL", "made_on": "Pony Diffusion XL"}
    runtime = FakeRuntime(Catalog([tmp_path]))
    (model,) = runtime.catalog.names()
    said = choices.about(model, runtime)["value"]
    assert said.startswith("Control-LoRA for SDXL, made on Pony Diffusion XL by its name, fp16, ")
    for checkpoint, differs in (("ponyDiffusionV6XL", False), ("animagineXLV31_v31", True)):
        runtime.checkpoint = checkpoint
        remarks = choices.remarks("All", "none", model, runtime)
        assert [f"{model} was made on Pony" in remark for remark in remarks] == [True] * differs


STARTS = {  # table, file's name: what the T2I-Adapter and IP-Adapter types start with
    ("t2i_sd14_original", "t2iadapter_canny"): ("T2I-Adapter", "none"),
    ("t2i_sd14_grey_original", "t2iadapter_sketch"): ("T2I-Adapter", "t2ia_sketch_pidi"),
    ("t2i_sd14_original", "t2iadapter_style"): ("T2I-Adapter", "none"),
    ("t2i_sd14_light_original", "t2iadapter_color"): ("T2I-Adapter", "t2ia_color_grid"),
    ("t2i_sd14_style", "t2iadapter_style"): ("T2I-Adapter", "t2ia_style_clipvision"),
    ("ip-adapter-plus_sd15", "plus"): ("IP-Adapter", "ip-adapter-auto"),
    ("sd15_original", "ip-adapter_by_name_alone"): ("IP-Adapter", "ip-adapter-auto"),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_type_starts_with_what_its_model_reads(case: tuple[str, str], tmp_path: Path) -> None:
    table, name = case
    kind, expected = STARTS[case]
    support.save_sparse(tmp_path / f"{name}.safetensors", support.golden(table))
    runtime = FakeRuntime(Catalog([tmp_path]))
    module, *rest = choices.on_control_type(kind, False, runtime)[: 1 + FOLLOWING]
    assert module["value"] == expected
    goes_together = name != "ip-adapter_by_name_alone"
    assert ("reads" in rest[-1]["value"]) is not goes_together


def test_what_does_not_go_together_is_said_before(tmp_path: Path) -> None:
    for name, table in (("ip", "ip-adapter-plus_sd15"), ("cn", "sd15_original")):
        support.save_sparse(tmp_path / f"{name}.safetensors", support.golden(table))
    (tmp_path / "odd.safetensors").write_bytes(b"x")
    runtime = FakeRuntime(Catalog([tmp_path]))
    names = {name.split(" [")[0]: name for name in runtime.catalog.names()}

    def said(module: str, model: str) -> str:
        return " ".join(choices.remarks("All", module, names[model], runtime))

    assert "reads an embedding, and canny gives a map; choose ip-adapter_clip_h" in said(
        "canny", "ip"
    )
    assert "reads a map, and ip-adapter_clip_h gives an embedding" in said(
        "ip-adapter_clip_h", "cn"
    )
    for module, model in (("canny", "cn"), ("ip-adapter_clip_h", "ip"), ("canny", "odd")):
        assert "reads" not in said(module, model)
