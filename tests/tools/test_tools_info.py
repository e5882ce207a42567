"""`info`: kind, base, structure, precision, hash and the panel's lists, for people and programs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import golden
from tool_files import Tools, base_file, control_file, tools

from lib_controlnet.detect import listing
from lib_controlnet.files.catalog import Catalog, short_hash
from lib_controlnet.tools import describe, writer

__all__ = ["tools"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "minihost" / "assets"

PUBLISHED = {
    "sd15": ("SD1 (context 768)", 361.279, 13, [0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 0], 1),
    "sd21": ("SD2 (context 1024)", 364.228, 13, [0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 0, 0], 1),
    "sdxl_full": ("SDXL (context 2048)", 1251.01, 10, [0, 0, 0, 0, 2, 2, 0, 10, 10], 10),
    "sdxl_mid": ("SDXL (context 2048)", 270.94, 10, [0, 0, 0, 0, 0, 0, 0, 1, 1], 1),
    "sdxl_small": ("SDXL (vector 2816)", 125.69, 10, [0] * 9, 0),
}
"""Base, millions of parameters, residuals and transformer depths of the published ControlNets."""


def hollow(path: Path, shapes: dict[str, Sequence[int]]) -> Path:
    """A file of zeros that takes no room on the disk: nothing but its header is ever read."""
    plan = {name: (tuple(shape), torch.float16) for name, shape in shapes.items()}
    header, _places = writer._header(plan, {})
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + writer.nbytes(plan))
    return path


def told(tools: Tools, *paths: Path) -> list[dict]:
    assert tools("info", *paths, "--json") == 0
    return json.loads(tools.printed())


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_controlnets_are_described(
    name: str, layout: str, tmp_path: Path, tools: Tools
) -> None:
    raw = (ROOT / "tests/data/keys" / f"{name}_{layout}.json.gz").read_bytes()
    path = hollow(tmp_path / f"{name}.safetensors", json.loads(gzip.decompress(raw)))
    (found,) = told(tools, path)
    base, millions, residuals, depths, middle = PUBLISHED[name]
    assert found["kind"] == "ControlNet"
    assert found["base"] == base
    assert found["layout"] == {"original": "LDM", "diffusers": "diffusers"}[layout]
    assert found["parameters"] / 1e6 == pytest.approx(millions, abs=0.006)
    assert found["structure"]["residuals"] == residuals
    assert found["structure"]["transformer_depths"] == depths
    assert found["structure"]["middle_depth"] == middle
    assert found["structure"]["hint_widths"] == [3, 16, 16, 32, 32, 96, 96, 256, 320]
    assert found["dtypes"] == {"float16": len(json.loads(gzip.decompress(raw)))}
    assert found["size"] == path.stat().st_size
    assert found["loaded_by"] == ["ControlNet"]


KINDS = {
    "T2I-Adapter": ({"conv_in.weight": (320, 192, 3, 3), "body.0.block1.weight": (1,)}, "SD1"),
    "T2I-Adapter XL": (
        {
            "adapter.conv_in.weight": (320, 768, 3, 3),
            "adapter.body.0.resnets.0.block1.weight": (1,),
        },
        "SDXL",
    ),
    "ControlNet-LLLite": ({"lllite_unet_input_blocks_4_1_x.down.0.weight": (32, 640)}, "SDXL"),
    "IP-Adapter": (
        {"image_proj.proj.weight": (1, 1), "ip_adapter.1.to_k_ip.weight": (320, 768)},
        "SD1",
    ),
    "IP-Adapter XL": (
        {"image_proj.proj.weight": (1, 1), "ip_adapter.1.to_k_ip.weight": (640, 2048)},
        "SDXL",
    ),
    "T2I-Adapter (style)": ({"style_embedding": (1, 8, 1024), "proj": (1024, 768)}, "SD1"),
}


def test_a_lllite_for_blocks_that_sdxl_has_not_tells_no_base(tmp_path: Path, tools: Tools) -> None:
    """As for the demo model: the names are any U-Net's, and the text's width is not in them."""
    shapes = {f"lllite_unet_input_blocks_{n}_1_x.down.0.weight": (32, 128) for n in (3, 5)}
    (found,) = told(tools, hollow(tmp_path / "x.safetensors", shapes))
    assert found["kind"] == "ControlNet-LLLite"
    assert "base" not in found


def test_a_union_tells_its_types(tmp_path: Path, tools: Tools) -> None:
    path = hollow(tmp_path / "union.safetensors", golden("sdxl_union_9"))
    (found,) = told(tools, path)
    assert found["kind"] == "ControlNet Union"
    assert found["types"][-3:] == ["Tile", "Inpaint", "Fuse"]
    assert len(found["types"]) == 9
    tools("info", path)
    assert "types         OpenPose, Depth, Soft Edge" in tools.printed()


@pytest.mark.parametrize("case", KINDS)
def test_other_families_are_told_with_their_base(case: str, tmp_path: Path, tools: Tools) -> None:
    shapes, base = KINDS[case]
    (found,) = told(tools, hollow(tmp_path / "x.safetensors", shapes))
    assert found["kind"] == case.removesuffix(" XL")
    assert found["base"] == base
    assert "structure" not in found


def test_files_that_are_no_control_models_are_described_too(tmp_path: Path, tools: Tools) -> None:
    base = base_file(tmp_path, "SDXL")
    lora = hollow(tmp_path / "lora.safetensors", {"lora_unet_x.lora_up.weight": (4, 4)})
    some = hollow(tmp_path / "some.safetensors", {"some": (4,)})
    first, second, third = told(tools, base, lora, some)
    assert first["kind"] == "full Stable Diffusion checkpoint without a control part"
    assert first["base"] == "SDXL (context 80)"
    assert (second["kind"], third["kind"]) == ("LoRA", "no model of a known kind")
    assert not any("loaded_by" in found for found in (first, second, third))


@pytest.mark.parametrize(
    ("stem", "own"),
    [
        ("control_v11p_sd15_canny_fp16", {}),
        ("my-sketch", {}),
        ("xinsir_union", {}),
        ("plain", {}),
        ("control_seg_depth", {}),
        ("canny", {"control_type": "Tile"}),
        ("canny", {"control_type": "Canny", "preprocessor": "none"}),
        ("any", {"control_type": "Canny", "preprocessor": "of nobody"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value.values()),
)
def test_lists_are_those_of_the_panel(
    stem: str, own: dict[str, str], tmp_path: Path, tools: Tools
) -> None:
    path = control_file(tmp_path, name=f"{stem}.safetensors", metadata=own)
    (found,) = told(tools, path)
    catalog = Catalog([tmp_path])
    kinds = [
        kind
        for kind in listing.control_types()
        if kind != listing.ALL and found["panel_name"] in listing.models_for(catalog, kind)
    ]
    assert found["panel_name"] == catalog.names()[0]
    assert [one["type"] for one in found["control_types"]] == kinds
    for one in found["control_types"]:
        start = listing.default_module(one["type"])
        assert one["preprocessor"] == ("none" if own.get("preprocessor") == "none" else start)


def test_hash_is_the_panels(tools: Tools) -> None:
    path = ASSETS / "control_demo_canny.safetensors"
    (found,) = told(tools, path)
    assert found["hash"] == short_hash(path)
    assert found["panel_name"] == f"control_demo_canny [{short_hash(path)}]"


def test_difference_pickle_joint_and_pooling_are_mentioned(tmp_path: Path, tools: Tools) -> None:
    source = control_file(
        tmp_path, metadata={"global_average_pooling": "true"}, difference=torch.ones(())
    )
    assert tools("info", source) == 0
    printed = tools.printed()
    assert "kind          difference ControlNet\n" in printed
    assert "residuals     averaged over the picture (shuffle)\n" in printed
    assert "metadata      global_average_pooling: true\n" in printed
    assert "precision     float32 (341 tensors)\n" in printed
    joint = {"control_model.input_hint_block.0.weight": torch.ones(1), "other": torch.ones(1)}
    torch.save(joint, tmp_path / "joint.pth")
    assert tools("info", tmp_path / "joint.pth") == 0
    printed = tools.printed()
    assert "container     pickle\n" in printed
    assert "beside it     1 tensors of other models\n" in printed


def test_damaged_controlnet_is_described_as_far_as_it_goes(tmp_path: Path, tools: Tools) -> None:
    shapes = {"input_blocks.0.0.weight": (32, 4, 3, 3), "zero_convs.0.0.weight": (32, 32, 1, 1)}
    (found,) = told(tools, hollow(tmp_path / "x.safetensors", shapes))
    assert found["structure"] == "incomplete: input_hint_block.0.weight is missing"


def test_file_that_cannot_be_opened_does_not_hide_the_others(tmp_path: Path, tools: Tools) -> None:
    source = control_file(tmp_path)
    assert tools("info", tmp_path / "none.safetensors", source, "--json") == 1
    assert len(json.loads(tools.printed())) == 1
    assert "none.safetensors cannot be opened" in tools.said
    assert tools("info", tmp_path / "none.safetensors") == 1
    assert tools.printed() == ""


def test_long_metadata_is_cut_for_people_only(tmp_path: Path, tools: Tools) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"some": torch.ones(1)}, path, metadata={"long": "m" * 999})
    assert told(tools, path)[0]["metadata"]["long"] == "m" * 999
    tools("info", path)
    assert f"long: {'m' * 200}...\n" in tools.printed()


@pytest.mark.parametrize(
    "words",
    [[], ["info"], ["polish", "x"], ["convert", "a", "b", "--dtype", "int4"],
     ["to-lora", "a", "b", "c"], ["transfer", "a", "b"], ["convert", "a", "b", "--layout", "x"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments_end_with_status_two(words: list[str], tools: Tools) -> None:
    with pytest.raises(SystemExit) as ended:
        tools(*words)
    assert ended.value.code == 2


def test_labels_cover_what_is_told(tmp_path: Path) -> None:
    """An entry without a label would be hidden from people."""
    found = describe.describe(control_file(tmp_path))
    assert found.keys() <= describe.LABELS.keys()
