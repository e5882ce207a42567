"""Every preprocessor that users and clients know is declared, exactly as they know it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator.registry import Output, discover
from annotator.weights import HUB, WeightFile, all_files
from lib_controlnet.detect import listing, preprocess
from lib_controlnet.detect.listing import CONTROL_TYPES
from lib_controlnet.errors import PreprocessorUnavailableError
from lib_controlnet.files.catalog import ModelFile

TABLE = json.loads(
    (Path(__file__).parents[1] / "data" / "preprocessors.json").read_text(encoding="utf-8")
)
PUBLISHED = json.loads(
    (Path(__file__).parents[1] / "data" / "weight_files.json").read_text(encoding="utf-8")
)
KNOWN = {detector.name: detector for detector in discover().all()}


def test_table_is_whole_and_nothing_is_missing() -> None:
    assert len(TABLE) == 73
    assert {row["name"] for row in TABLE} == set(KNOWN)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["name"])
def test_declaration_is_that_of_the_table(row: dict[str, Any]) -> None:
    detector = KNOWN[row["name"]]
    assert row["label"] in (detector.title, *detector.aliases)
    assert detector.tags == tuple(row["tags"])
    assert detector.priority == row["priority"]
    sliders = [(s.label, s.minimum, s.maximum, s.step, s.default) for s in detector.sliders]
    assert sliders == [tuple(slider) for slider in row["sliders"]]
    assert all(slider.visible for slider in detector.sliders)
    if row["resolution"] is None:
        assert detector.resolution is None
    else:
        side = detector.resolution
        expected = ("Resolution", 64, 2048, 8, row["resolution"])
        assert (side.label, side.minimum, side.maximum, side.step, side.default) == expected
    assert detector.mask.value == row["mask"]
    assert detector.needs_model is not row["model_free"]
    assert detector.control_mode is row["control_mode"]
    assert (detector.output is Output.EMBEDDING) is row["embedding"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["name"])
def test_name_and_label_find_it(row: dict[str, Any]) -> None:
    for spelling in (row["name"], row["label"], row["label"].upper()):
        assert discover().get(spelling) is KNOWN[row["name"]]


def test_lists_hold_every_row_in_the_order_of_priority_and_label() -> None:
    offered = listing.module_names()
    names = [row["name"] for row in sorted(TABLE, key=sort_key, reverse=True)]
    names.insert(0, names.pop(names.index("none")))
    assert [name for name in offered if name in set(names)] == names


def sort_key(row: dict[str, Any]) -> str:
    return f"{row['priority']:08d}{KNOWN[row['name']].title}"


@pytest.mark.parametrize("kind", CONTROL_TYPES)
def test_default_is_that_of_the_table_or_one_that_can_run(kind: str) -> None:
    (expected,) = (row["name"] for row in TABLE if kind in row["default_of"])
    chosen = preprocess.default_of(kind)
    assert not chosen.unavailable
    usable = [d for d in KNOWN.values() if kind in d.tags and not d.unavailable]
    if not KNOWN[expected].unavailable:
        assert chosen.name == expected
    else:
        assert chosen in usable or (chosen.name == "none" and not usable)


def test_type_of_which_nothing_can_run_starts_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "Revision"
    for detector in (found for found in KNOWN.values() if kind in found.tags):
        monkeypatch.setattr(type(detector), "unavailable", "it is not there", raising=False)
    assert len(listing.labels_for(kind)) > 1
    assert listing.default_module(kind) == "none"


@pytest.mark.parametrize(
    ("stem", "label"),
    [
        ("t2iadapter_style_sd14v1", "t2ia_style_clipvision"),
        ("t2iadapter_color_sd14v1", "t2ia_color_grid"),
        ("t2iadapter_sketch_sd14v1", "t2ia_sketch_pidi"),
        ("t2i-adapter-lineart-sdxl-1.0", "none"),
    ],
)
def test_t2i_adapters_start_with_what_they_read(stem: str, label: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.pth"
    path.write_bytes(b"x")
    assert listing.module_for(ModelFile(path, ""), "T2I-Adapter") == label
    assert listing.module_for(None, "T2I-Adapter") == "t2ia_style_clipvision"


UNAVAILABLE = [d.name for d in KNOWN.values() if "unavailable" in vars(type(d)) or d.unavailable]


def test_some_are_unavailable() -> None:
    assert {"depth_hand_refiner"} <= set(UNAVAILABLE)


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_unavailable_one_is_listed_marked_and_refused_with_its_reason(name: str) -> None:
    detector = KNOWN[name]
    reason = detector.unavailable
    assert reason
    assert reason[0].islower() or not reason[0].isalpha()
    assert not reason.endswith(".")
    assert listing.module_detail()[name]["unavailable"] == reason
    assert listing.module_detail(labels=True)[detector.title]["unavailable"] == reason
    assert preprocess.remark(name) == f"preprocessor {name} cannot run: {reason}"
    with pytest.raises(PreprocessorUnavailableError) as caught:
        preprocess.run_preprocessor(name, np.zeros((8, 8, 3), np.uint8))
    assert str(caught.value) == f"preprocessor {name} cannot run: {reason}"
    assert caught.value.status_code == 422


@pytest.mark.parametrize("file", all_files(KNOWN.values()), ids=lambda file: file.name)
def test_weight_file_is_the_published_one(file: WeightFile) -> None:
    assert file.address().startswith("https://")
    on_mirror = file.address("https://mirror.example").startswith("https://mirror.example/")
    assert on_mirror is file.address().startswith(f"{HUB}/"), "the mirror stands for the whole hub"
    assert file.licence
    assert file.folder == file.folder.strip("/")
    assert file.folder
    assert file.size > 1000
    assert re.fullmatch("[0-9a-f]{64}|", file.sha256)
    published = PUBLISHED.get(file.name)
    if published is not None:
        assert file.sha256 in (published["sha256"], "")
        if published["bytes"]:
            assert file.size == published["bytes"] or not file.exact
            assert abs(file.size / published["bytes"] - 1) < 0.03
        assert file.sha256 or not file.exact
    else:
        assert not file.exact or file.sha256, "an exact size comes from where a digest is"


def test_files_of_one_name_and_place_are_the_same() -> None:
    places = [(file.folder.lower(), file.name.lower()) for file in all_files(KNOWN.values())]
    assert len(places) == len(set(places))


def test_usable_ones_are_not_marked() -> None:
    assert "unavailable" not in listing.module_detail()["canny"]
    assert preprocess.remark("canny") is None
    assert preprocess.remark("no such") is None


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("none", []),
        ("canny", ["Resolution", "Low Threshold", "High Threshold"]),
        ("tile_resample", ["Down Sampling Rate"]),
        ("tile_colorfix", ["Variation"]),
        ("tile_colorfix+sharp", ["Variation", "Sharpness"]),
        ("recolor_luminance", ["Gamma Correction"]),
        ("inpaint_only", []),
    ],
)
def test_panel_shows_the_sliders_that_have_an_effect(name: str, shown: list[str]) -> None:
    assert [slider.label for slider in listing.sliders(name) if slider is not None] == shown
