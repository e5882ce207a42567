"""What lists know of many files: found once, in the background, and kept without harm."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import support
import torch

from lib_controlnet import families
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import BaseModel
from lib_controlnet.families import known
from lib_controlnet.families.known import KnownFiles
from lib_controlnet.files import catalog, file_store
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.files.header_store import HeaderStore

TABLES = ("sdxl_union_6", "sd15_original", "ip-adapter_sdxl", "sdxl_pulid_1.1", "t2i_sd14_original")


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A file of each of some families, and one that is none."""
    folder = tmp_path / "models"
    folder.mkdir()
    made = [
        support.save_sparse(folder / f"{name}.safetensors", support.golden(name)) for name in TABLES
    ]
    (folder / "broken.safetensors").write_bytes(b"no model")
    return [*made, folder / "broken.safetensors"]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Counts how often a file is looked into, by name."""
    counted: Counter = Counter()

    def look(path: Path, base: Any) -> Any:
        counted[path.name] += 1
        return families.look_into(path, base)

    monkeypatch.setattr(known, "look_into", look)
    return counted


def base(kind: str = "SD1", name: str = "mine") -> BaseUNet:
    unet = support.tiny_unet(kind)
    return BaseUNet(unet, describe_unet(unet), name, name)


def test_facts_are_found_once_and_kept_on_disk(
    models: list[Path], looks: Counter, tmp_path: Path
) -> None:
    store = tmp_path / "cache" / "models.json"
    first = KnownFiles(store)
    found = {path.name: first.facts(path) for path in models * 2}
    assert set(looks.values()) == {1}
    first.close()
    looks.clear()
    again = KnownFiles(store)
    assert {path.name: again.facts(path) for path in models} == found
    assert not looks
    union = found["sdxl_union_6.safetensors"]
    assert (union.family, union.base, union.precision) == (
        "ControlNet Union",
        BaseModel.SDXL,
        "fp16",
    )
    assert union.size == models[0].stat().st_size
    assert len(union.picture_types) == 6
    assert "broken.safetensors is damaged" in found["broken.safetensors"].unread

    models[0].write_bytes(b"another file under its name")
    assert "damaged" in again.facts(models[0]).unread
    assert looks == {models[0].name: 1}


def _change(entry: list[Any], index: int, value: object) -> list[Any]:
    return [*entry[:index], value, *entry[index + 1 :]]


WRONG = {
    "nothing": lambda _kept: "",
    "no JSON": lambda _kept: "{",
    "a list": lambda _kept: "[1]",
    "nested": lambda _kept: "[" * 200_000,
    "numbers": lambda kept: json.dumps(dict.fromkeys(kept, 3)),
    "another version's": lambda kept: json.dumps({**kept, file_store.STAMP: "old"}),
    "fewer fields": lambda kept: json.dumps({path: entry[:-1] for path, entry in kept.items()}),
    **{
        f"field {index} of another kind": lambda kept, index=index: json.dumps(
            {
                path: entry if path == file_store.STAMP else _change(entry, index, {"a": [None]})
                for path, entry in kept.items()
            }
        )
        for index in range(2, 2 + len(known._FIELDS))
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_store_is_made_anew(
    case: str, models: list[Path], looks: Counter, tmp_path: Path
) -> None:
    store = tmp_path / "models.json"
    first = KnownFiles(store)
    found = first.facts(models[0])
    first.close()
    store.write_text(WRONG[case](json.loads(store.read_text())))
    looks.clear()
    again = KnownFiles(store)
    assert again.facts(models[0]) == found
    assert looks == {models[0].name: 1}
    again.close()
    assert KnownFiles(store).facts(models[0]) == found
    assert looks == {models[0].name: 1}


def test_a_store_that_cannot_be_kept_is_done_without(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = KnownFiles(tmp_path / "file" / "models.json")
    assert files.facts(models[0]).family
    files.close()


def test_the_store_is_bounded(
    models: list[Path], looks: Counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "FILES_REMEMBERED", 2)
    store = tmp_path / "models.json"
    files = KnownFiles(store)
    for path in models:
        files.facts(path)
    files.close()
    kept = json.loads(store.read_text())
    assert set(kept) == {file_store.STAMP, *map(str, models[-2:])}


def unreadable(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files of which nothing can be known, and a part of the sentence that says so."""
    (folder / "folder.safetensors").mkdir()
    (folder / "legacy.pth").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.ones(1)}, folder / "first.pth", _use_new_zipfile_serialization=False)
    (folder / "page.safetensors").write_bytes(b"<html>")
    support.save_sparse(folder / "other.safetensors", {"double_blocks.0.a": (1,)})
    support.save_sparse(folder / "none.safetensors", {"something": (1,)})
    said = {
        "gone.safetensors": "cannot be looked into",
        "folder.safetensors": "it is no file",
        "legacy.pth": "is told when it is loaded",
        "first.pth": "is told when it is loaded",
        "page.safetensors": "a web page",
        "other.safetensors": "a control model for Flux",
        "none.safetensors": "no control model of a known kind",
    }
    return {name: (folder / name, part) for name, part in said.items()}


def test_files_that_nobody_can_read_are_a_sentence(tmp_path: Path) -> None:
    files = KnownFiles()
    for name, (path, part) in unreadable(tmp_path).items():
        facts = files.facts(path)
        assert part in facts.unread, name
        assert name in facts.unread
        assert not facts.family
        assert not str(facts)
        refused = files.refusals(base())(path)
        assert refused is None or refused.short == facts.unread


def test_what_could_not_be_opened_is_tried_again(
    models: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = tmp_path / "models.json"
    files = KnownFiles(store)
    with monkeypatch.context() as patched:
        patched.setattr(
            families, "_hides_names", lambda _path: (_ for _ in ()).throw(OSError(13, "denied"))
        )
        assert "denied" in files.facts(models[0]).unread
        assert files.look_ahead(models[:1], None) == frozenset(), (
            "it is not asked for again and again"
        )
    files.close()
    assert str(models[0]) not in (store.read_text() if store.exists() else "")
    files.forget()
    assert files.facts(models[0]).family


def test_a_model_for_another_base_has_a_short_reason(models: list[Path]) -> None:
    shapes = {
        "input_blocks.0.0.weight": (4, 4, 3, 3),
        "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (1, 2048),
        "zero_convs.0.0.weight": (4, 4, 1, 1),
        "input_hint_block.0.weight": (4, 3, 3, 3),
    }
    path = support.save_sparse(models[0].with_name("xl.safetensors"), shapes)
    refused = KnownFiles().refusals(base())(path)
    assert refused.other_base
    assert refused.short == "SDXL, your checkpoint is SD1"
    assert "is made for SDXL" in refused.sentence


def test_files_are_looked_into_in_the_background(
    models: list[Path], looks: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, look = threading.Event(), known.look_into

    def wait(path: Path, loaded: Any) -> Any:
        gate.wait(10)
        return look(path, loaded)

    monkeypatch.setattr(known, "look_into", wait)
    monkeypatch.setattr(known, "REST", 0)
    files, loaded = KnownFiles(), base()
    assert files.look_ahead(models, loaded, patience=0) == frozenset(models)
    gate.set()
    assert files.look_ahead(models, loaded, patience=10) == frozenset()
    thread_ended = time.monotonic() + 10
    while files._thread is not None and time.monotonic() < thread_ended:
        time.sleep(0.01)
    assert files._running is None, "it holds no checkpoint"
    assert set(looks) == {path.name for path in models}
    looks.clear()
    assert all(files.facts(path) for path in models)
    assert files.refusals(loaded)(models[1]) is not None
    assert not looks, "facts and fit of a file are found in one look"
    other = base("SDXL", "another")
    assert files.look_ahead(models[:1], other, patience=10) == frozenset()
    assert looks == {models[0].name: 1}
    files.close()


def test_a_second_scan_reads_no_header(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the choice of a control type, which asks each file what it says of itself."""
    folder, store = models[0].parent, tmp_path / "headers.json"
    support.save_sparse(folder / "lora.safetensors", {"lora_unet_x": (1,)})
    first = Catalog([folder], headers=HeaderStore(store))
    listed = {kind: first.for_type(kind) for kind in ("all", "canny", "ip-adapter")}
    assert not any(name.startswith("lora") for name in listed["all"])
    assert any(name.startswith("sdxl_union_6") for name in listed["canny"])

    def read(path: Path) -> None:
        pytest.fail(f"{path.name} is read again")

    monkeypatch.setattr(catalog, "read_header", read)
    again = Catalog([folder], headers=HeaderStore(store))
    assert {kind: again.for_type(kind) for kind in listed} == listed


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"": "old"}', '{"m": [1, 2, 3, 4, 5]}'])
def test_a_wrong_store_of_headers_is_made_anew(content: str, tmp_path: Path) -> None:
    store = tmp_path / "headers.json"
    store.write_text(content)
    assert HeaderStore(store).load() == {}


def test_a_name_does_not_reach_the_disk_unbounded(tmp_path: Path) -> None:
    """What a file's metadata says of its type is kept as far as a type's name goes."""
    path = tmp_path / "m.safetensors"
    header = json.dumps({"__metadata__": {"control_type": "x" * 10**6}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    store = tmp_path / "headers.json"
    Catalog([tmp_path], headers=HeaderStore(store)).names()
    assert store.stat().st_size < 1000
    assert SimpleNamespace(**vars(HeaderStore(store).load().popitem()[1])).control_type == "x" * 100
