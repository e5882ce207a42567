"""The table of published control models, and what is said by it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import TABLES, golden

from lib_controlnet.detect import listing
from lib_controlnet.detect.downloadable import find_order, order_published, types_of
from lib_controlnet.enums import BaseModel
from lib_controlnet.errors import BrokenCheckpointError
from lib_controlnet.families import discover
from lib_controlnet.files import published
from lib_controlnet.files.bases import base_of
from lib_controlnet.files.catalog import EXTENSIONS
from lib_controlnet.files.published import (
    PublishedFile,
    describe_size,
    find_kind,
    find_published,
    find_source,
)
from lib_controlnet.files.signatures import SIGNATURES, classify_names
from lib_controlnet.tools import check, describe

ROWS = published.list_published()
DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_family_has_a_file_and_names_are_unique() -> None:
    kinds = {row.kind for row in ROWS}
    families = [family for family in discover() if family.kinds]
    assert not [family.name for family in families if not kinds.intersection(family.kinds)]
    assert kinds <= {kind for family in families for kind in family.kinds}
    assert kinds <= {signature.key for signature in SIGNATURES}
    names = [row.name.lower() for row in ROWS]
    assert len(names) == len(set(names))
    assert len({(row.repository, row.path) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_what_can_be_checked(row) -> None:
    assert row.url.startswith("https://huggingface.co/")
    assert re.fullmatch(r"([0-9a-f]{64})?", row.sha256)
    assert row.source
    assert not (row.size and row.about)
    if row.about:
        assert re.fullmatch(r"\d+(\.\d+)? [MG]B", row.about)
    assert row.has_size(1) in (None, False)
    assert row.has_size(row.estimate) is (None if not row.estimate else True)
    assert re.fullmatch(r"\w[\w.\-]*", row.name), "a name and no path"
    assert row.name.lower().endswith(EXTENSIONS)
    assert row.repository.count("/") == 1
    assert row.base in (BaseModel.SD1, BaseModel.SDXL)
    assert {*row.control_types} <= {*listing.control_types()}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_file_is_listed_under_the_types_that_it_was_published_for(row, tmp_path: Path) -> None:
    types = types_of(row)
    assert {*row.control_types} - {listing.ALL} <= {*types}
    order = order_published(row.name.upper(), [tmp_path])
    assert order.target == tmp_path / row.name
    assert find_order(order.id, [tmp_path]).weight == order.weight
    assert order.weight.address().startswith(f"https://huggingface.co/{row.repository}/resolve/")


OF_NAME = [
    row
    for row in ROWS
    if (TABLES / f"{row.path.split('/')[-1].rpartition('.')[0]}.json.gz").exists()
]


@pytest.mark.parametrize("row", OF_NAME, ids=lambda row: row.name)
def test_tensors_of_a_row_are_of_its_kind_base_and_size(row) -> None:
    shapes = golden(row.path.split("/")[-1].rpartition(".")[0])
    kind = classify_names(shapes, shapes)
    assert kind is not None
    assert kind.key == row.kind
    assert base_of(kind.key, shapes) is row.base
    tensors = sum(2 * torch.Size(shape).numel() for shape in shapes.values())
    if row.size is not None:
        assert tensors < row.size < tensors + 200_000, "half precision and a header"


def test_there_are_such_rows() -> None:
    assert len(OF_NAME) >= 6


def test_files_are_found_by_name_or_by_a_size_of_their_own() -> None:
    promax = find_published("xinsir-controlnet-union-sdxl-1.0-promax.safetensors", 5)
    assert promax is not None
    assert find_published("renamed.safetensors", 2_513_342_408) is promax
    assert find_published("renamed.safetensors", 2_502_139_104) is None, "several have it"
    assert find_kind("fooocus_patch").name == "inpaint_v26.fooocus.patch"


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("ip-adapter_sd15.safetensors", 44_642_768, ""),
        ("IP-Adapter_SD15.safetensors", 44_642_767, "44,642,767 bytes instead of 44,642,768 bytes"),
        ("control_v11p_sd15_mlsd_fp16.safetensors", 722_601_100, ""),
        ("control_v11p_sd15_mlsd_fp16.safetensors", 700_000_000, "instead of 722.6 MB"),
        ("kohya_controllllite_xl_canny.safetensors", 5, ""),
        ("my own.safetensors", 5, ""),
    ],
)
def test_a_size_that_is_not_the_published_one_is_said(name: str, size: int, said: str) -> None:
    told = describe_size(name, size)
    assert told.startswith(said) if said[:1].isdigit() else said in told
    assert bool(told) is bool(said)


def test_tools_name_what_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "ip-adapter_sd15.safetensors"
    keys = {
        f"ip_adapter.{n}.to_{leaf}_ip.weight": torch.ones(4, 768) for n in (1, 3) for leaf in "kv"
    }
    save_file({**keys, "image_proj.proj.weight": torch.ones(8, 4)}, path)
    assert any("bytes instead of 44,642,768" in remark for remark in check.check(path).remarks)
    assert "bytes instead of 44,642,768" in str(describe.describe(path)["published"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BrokenCheckpointError, match="bytes instead of 44,642,768 bytes"):
        check.check(path)


@pytest.mark.parametrize(
    ("name", "known", "said", "is_remark"),
    [
        ("a.safetensors", True, "the SHA-256 is that of a.safetensors of o/r", False),
        ("a.safetensors", False, "which a.safetensors of o/r has", True),
        ("b.safetensors", True, "no SHA-256 is known", False),
    ],
)
def test_check_compares_the_sum(
    name: str, known: bool, said: str, is_remark: bool, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / name
    save_file({"image_proj.proj.weight": torch.ones(8, 4)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if known else 64 * "0"
    row = PublishedFile("a.safetensors", "ip_adapter", ROWS[0].base, (), "o/r", "a.safetensors")
    monkeypatch.setattr(
        published, "list_published", lambda: (dataclasses.replace(row, sha256=digest),)
    )
    verdict = check.check(path, with_sum=True)
    assert any(said in text for text in (verdict.remarks if is_remark else verdict.notes))
    assert not any(said in text for text in (verdict.notes if is_remark else verdict.remarks))


def test_a_family_that_is_missing_has_a_source() -> None:
    assert find_source("InstantID").startswith(" (ip-adapter_instant_id_sdxl.bin, from https://")
    assert find_source("Faces") == ""


def test_the_page_is_made_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    import make_control_models

    page = (DOCS / "control-models.md").read_text(encoding="utf-8")
    assert page == make_control_models.make_page(), "run python docs/make_control_models.py"
    sys.modules.pop("make_control_models")
