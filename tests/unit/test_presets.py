"""Presets: what a document says of every field, files of others, names, damage, and limits."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib_controlnet.enums import Choice, ControlMode, InputMode
from lib_controlnet.errors import ControlNetError, PresetError
from lib_controlnet.presets import folder as folder_module
from lib_controlnet.presets import form, names
from lib_controlnet.presets.store import Presets
from lib_controlnet.units.field_values import Within
from lib_controlnet.units.fields import Field
from lib_controlnet.units.unit import FIELDS, ControlUnit, parse_unit
from lib_controlnet.units.weight_curve import WeightCurve
from lib_controlnet.units.weight_types import LayerCurve, WeightType


def picture(seed: int, *shape: int) -> np.ndarray:
    """Noise, uint8; as a mask it is the same in three channels."""
    shape = shape or (6, 9, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def presets(tmp_path: Path) -> Presets:
    return Presets(lambda: tmp_path / "presets", lambda: [tmp_path / "old"])


def names_in(presets: Presets) -> list[str]:
    return [one["name"] for one in presets.summaries()]


def files_in(presets: Presets) -> list[str]:
    return sorted(path.name for path in presets.folder.path.iterdir())


def save(presets: Presets, name: str, *units: Any, pictures: bool = True, **more: Any) -> list[str]:
    more = {"is_whole": len(units) > 1, "with_pictures": pictures, **more}
    return presets.save(name, units, **more)


SPECIAL: dict[str, Any] = {
    "advanced_weighting": (1.0, 0.5, 0.25),
    "weight_curve": WeightCurve(((0.0, 1.0), (0.5, 0.25)), ()),
    "batch_images": [picture(1), picture(2)],
    "image": {"image": picture(3), "mask": picture(4)},
    "mask": picture(5),
    "effective_region_mask": picture(6),
    "ipadapter_input": "AAAA",
    "batch_image_files": ("a.png", "b.png"),
    "batch_keyframe_idx": "0,4",
    "batch_mask_dir": "masks",
    "region_colour": "#102030",
    "region_map": picture(7),
}


def other_value(field: Field) -> Any:
    """A value that is not the field's default."""
    if field.name in SPECIAL:
        return SPECIAL[field.name]
    if isinstance(field.default, Choice):
        return [member for member in field.kind if member is not field.default][-1]
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        return "a, b: [c] ü"
    return 0.5 if not isinstance(field.parse, Within) else field.parse.most / 4


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(np.array_equal(left, right))


KEPT = [name for name, field in FIELDS.items() if field.is_asked and name != "batch_modifiers"]


@pytest.mark.parametrize("name", KEPT)
def test_every_field_of_the_table_comes_back(presets: Presets, name: str) -> None:
    value = other_value(FIELDS[name])
    if name == "processor_res":
        value = 640
    unit = dataclasses.replace(ControlUnit(enabled=True), **{name: value})
    assert save(presets, "one", unit) == []
    preset, (found,) = presets.load("one")
    assert same(getattr(found, name), value), getattr(found, name)
    assert preset.has_pictures
    assert not preset.is_whole
    plain = {field: getattr(found, field) for field in KEPT if field not in (name, "enabled")}
    assert all(same(plain[field], FIELDS[field].default) for field in plain)


def test_what_cannot_be_kept_is_said(presets: Presets) -> None:
    unit = dataclasses.replace(ControlUnit(enabled=True), batch_modifiers=(print,))
    assert save(presets, "one", unit) == ["unit 0: its batch_modifiers cannot be kept"]
    assert presets.load("one")[1][0].batch_modifiers == ()


def test_curves_and_plain_fields_are_readable(presets: Presets) -> None:
    curve = LayerCurve(WeightType.STYLE_AND_COMPOSITION, 0.5)
    unit = ControlUnit(enabled=True, module="canny", advanced_weighting=curve)
    save(presets, "Kante für Ö", unit, ControlUnit(), pictures=False)
    text = (presets.folder.path / "Kante für Ö.json").read_text(encoding="utf-8")
    document = json.loads(text)
    assert document["units"][0]["control_mode"] == "Balanced"
    assert document["units"][0]["advanced_weighting"] == "style and composition 0.5"
    assert document["scope"] == "all"
    assert "is_ui" not in document["units"][0]
    assert presets.load("kante FÜR ö")[1][0].advanced_weighting == curve


def test_pictures_are_left_out_or_kept(presets: Presets) -> None:
    unit = ControlUnit(enabled=True, image={"image": picture(1), "mask": np.zeros((6, 9, 3), "u1")})
    save(presets, "plain", unit, pictures=False)
    assert files_in(presets) == ["plain.json"]
    preset, (found,) = presets.load("plain")
    assert not preset.has_pictures
    assert found.image is None
    save(presets, "whole", unit)
    assert same(presets.load("whole")[1][0].image, picture(1)), "a blank layer is none"
    summary = presets.summaries("WHOLE")[0]
    assert summary["pictures"] == 1
    assert summary["size"] > 300


def test_saving_over_renaming_and_deleting_leave_no_files(presets: Presets) -> None:
    save(presets, "one", ControlUnit(image=picture(1)), ControlUnit(image=picture(2)))
    first = files_in(presets)
    assert len(first) == 3
    with pytest.raises(PresetError, match="there is a preset one already") as caught:
        save(presets, "One", ControlUnit())
    assert caught.value.status_code == 409
    save(presets, "ONE", ControlUnit(image=picture(3)), replaces=True)
    assert names_in(presets) == ["one"]
    assert len(files_in(presets)) == 2
    presets.rename("one", "two")
    assert [name.split(".")[0] for name in files_in(presets)] == ["two", "two"]
    assert same(presets.load("two")[1][0].image, picture(3))
    presets.rename("two", "TWO")
    assert names_in(presets) == ["TWO"]
    save(presets, "three", ControlUnit())
    with pytest.raises(PresetError, match="already"):
        presets.rename("TWO", "three")
    assert same(presets.load("two")[1][0].image, picture(3))
    presets.remove("two")
    assert files_in(presets) == ["three.json"]


def test_a_picture_that_another_preset_names_stays(presets: Presets) -> None:
    save(presets, "one", ControlUnit(image=picture(1)))
    path = presets.folder.path
    (path / "copy.json").write_bytes((path / "one.json").read_bytes())
    presets.remove("one")
    assert same(presets.load("copy")[1][0].image, picture(1))
    presets.remove("copy")  # a file that was written for another is not its own
    assert len(files_in(presets)) == 1


HOSTILE = [
    *("", " ", ".", "..", "../up", "a/b", "a\\b", "/root", "C:\\x", "a:b", ".hidden", "end."),
    *("nul", "NUL.txt", "com1", "LPT9.a.b", "a\0b", "a\nb", "a\u202eb", "\ud800", "x" * 121),
    *("ü" * 61, "what?", "a*b", '"', "a|b", "last used", "Last Used ", None, 7, ["a"]),
]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_names_that_are_no_files_everywhere_are_refused(presets: Presets, name: Any) -> None:
    with pytest.raises(PresetError, match="the preset's name") as caught:
        presets.save(name, [ControlUnit()], is_whole=False, with_pictures=True)
    assert caught.value.status_code == 422
    assert len(str(caught.value)) < 300
    assert not presets.folder.path.exists()


@pytest.mark.parametrize(
    "name", ["a", "ü" * 60, "カニー 線", "a.b (2) [x] {y} #1 100%", "~x", "-r"]
)
def test_names_that_people_give_are_taken(presets: Presets, name: str) -> None:
    save(presets, f" {name} ", ControlUnit(image=picture(1)))
    assert names_in(presets) == [name]
    assert max(len(os.fsencode(file)) for file in files_in(presets)) < 255
    presets.remove(name)
    assert files_in(presets) == []


UNIT = '{"units": [%s]}'
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it holds no unit"),
    "cut": (b'{"units": [{"mod', "it is no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "long number": (b'{"units": [{"weight": ' + b"9" * 5000 + b"}]}", "no JSON"),
    "bytes": (b"\xff\xfe\x00", "neither text nor JSON"),
    "no units": (b'{"format": "ControlNet preset"}', '"units" must be a list'),
    "none": (b'{"units": []}', '"units" are 0, must be 1 to 32'),
    "many": (b'{"units": [' + b"{}," * 40 + b"{}]}", '"units" are 41'),
    "text units": (b'{"units": ["canny"]}', '"units" must be a list'),
    "version": (b'{"version": "x", "units": [{}]}', "\"version\" is 'x'"),
    "scope": (b'{"scope": 3, "units": [{}]}', '"scope" is 3'),
    "value": (b'{"units": [{"weight": 7}]}', "unit 0: weight is 7, must be between 0 and 2"),
    "off": (b'{"units": [{"enabled": false, "weight": "x"}]}', "weight is 'x'"),
    "nan": (b'{"units": [{"weight": NaN}]}', "must be a finite number"),
    "lost": (b'{"units": [{"image": "a.png"}]}', "its picture a.png is not in the folder"),
    "out": (b'{"units": [{"image": "../secret.png"}]}', "secret.png is not in the folder"),
    "link": (b'{"units": [{"image": "link.png"}]}', "link.png is not in the folder"),
    "no picture": (b'{"units": [{"image": "text.png"}]}', "no picture in a known format"),
    "base64": (b'{"units": [{"image": "AAAA"}]}', "no picture in a known format"),
    "other json": (b'{"a": 1}', "neither a preset nor a unit"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_tell_why_and_harm_nothing(
    presets: Presets, tmp_path: Path, name: str
) -> None:
    data, told = DAMAGED[name]
    save(presets, "good", ControlUnit(image=picture(1)))
    path = presets.folder.path
    (tmp_path / "secret.png").write_bytes(form.encode_png(picture(2)))
    (path / "link.png").symlink_to(tmp_path / "secret.png")
    (path / "text.png").write_text("no picture")
    (path / "bad.json").write_bytes(data)
    with pytest.raises(ControlNetError, match="the preset bad cannot be used: ") as caught:
        presets.load("bad")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 600
    assert names_in(presets) == ["bad", "good"]
    assert same(presets.load("good")[1][0].image, picture(1))
    presets.remove("bad")
    assert names_in(presets) == ["good"]


def test_odd_things_in_the_folder_are_passed_over_or_told(presets: Presets) -> None:
    save(presets, "good", ControlUnit())
    path = presets.folder.path
    (path / "folder.json").mkdir()
    (path / ".hidden.json").write_text("{}")
    (path / "notes.md").write_text("x")
    (path / "con.json").write_text('{"units": [{}]}')
    os.mkfifo(path / "pipe.json")
    (path / "large.json").write_bytes(b" " * (folder_module.MAX_DOCUMENT + 1))
    faults = {one["name"]: one.get("fault") for one in presets.summaries()}
    assert faults.keys() == {"good", "con", "large"}
    assert faults["good"] is None
    assert "device" in faults["con"]
    assert "more than 4 MB" in faults["large"]


def test_what_a_later_version_adds_is_left_out(presets: Presets) -> None:
    presets.folder.path.mkdir()
    unit = {"module": "canny", "glow": 3, "controlMode": "My prompt is more important"}
    document = {"version": 9, "units": [unit], "pictures": False, "more": {}}
    (presets.folder.path / "new.json").write_text(json.dumps(document))
    preset, (found,) = presets.load("new")
    assert preset.notes == ("it was written by a later version; what that added is left out",)
    assert found.notes == ("unknown, left out: 'glow'",)
    assert found.control_mode is ControlMode.PROMPT
    assert found.enabled


OLD = (
    "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 0.8, "
    "Resize Mode: Resize and Fill, Low Vram: False, Processor Res: 512, Threshold A: 100, "
    "Threshold B: 200, Guidance Start: 0.1, Guidance End: 0.9, Pixel Perfect: True, "
    "Control Mode: My prompt is more important, Save Detected Map: True, "
    "Hr Option: HiResFixOption.BOTH"
)
OLDEST = "preprocessor: canny, model: x [1], weight: 0.8, starting/ending: (0.1, 0.9)"
PARAMETERS = (
    'a red "circle", seen: from above\nNegative prompt: blue: 1\nSteps: 20, Sampler: Euler, '
    f'ControlNet 0: "{OLD}", ControlNet 2: "Module: none, Model: x, Weight: 0.8", Version: v1.10.1'
)
REQUEST = {"alwayson_scripts": {"ControlNet": {"args": [{"module": "canny", "weight": 0.8}, None]}}}
FOREIGN: dict[str, tuple[bytes, int, bool]] = {
    "unit of an older ControlNet": (OLD.encode(), 1, False),
    "with a mark and line ends": (f"\ufeff{OLD}\r\n".encode(), 1, False),
    "unit of early 2023": (OLDEST.encode(), 1, False),
    "generation parameters": (PARAMETERS.encode(), 3, True),
    "request": (json.dumps(REQUEST).encode(), 2, True),
    "list": (json.dumps(REQUEST["alwayson_scripts"]["ControlNet"]["args"]).encode(), 2, True),
    "object": (b'{"lowvram": true, "module": "canny", "weight": 0.8}', 1, False),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_are_imported(presets: Presets, name: str) -> None:
    data, count, is_whole = FOREIGN[name]
    assert presets.add("theirs", data, {}) == []
    preset, units = presets.load("theirs")
    assert (len(units), preset.is_whole, preset.has_pictures) == (count, is_whole, False)
    assert units[0].enabled
    assert (units[0].module, units[0].weight) == ("canny", 0.8)
    assert [unit.enabled for unit in units[1:]] == [False, True][: count - 1]
    if "Guidance" in str(data):
        assert (units[0].guidance_start, units[0].guidance_end) == (0.1, 0.9)
    presets.add("theirs", data, {}, replaces=True)


@pytest.mark.parametrize("text", [OLD, PARAMETERS], ids=["a unit", "parameters"])
def test_values_of_others_that_cannot_be_read_are_said(presets: Presets, text: str) -> None:
    notes = presets.add("theirs", text.replace("Weight: 0.8", "Weight: nan", 1).encode(), {})
    assert notes == ["unit 0: Weight is 'nan', must be a finite number; that is left out"]
    assert presets.load("theirs")[1][0].weight == 1.0


def test_presets_of_older_controlnets_are_found(presets: Presets, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/Edges.txt").write_text(OLD)
    (tmp_path / "old/broken.txt").write_text("nothing")
    (tmp_path / "old/readme.md").write_text("x")
    save(presets, "other", ControlUnit())
    assert [entry.name for entry in presets.find_old()] == ["broken", "Edges"]
    added, faults = presets.add_old()
    assert added == ["Edges"]
    assert len(faults) == 1
    assert "the preset broken cannot be used: it holds no unit" in faults[0]
    assert presets.load("edges")[1][0].weight == 0.8
    assert [entry.name for entry in presets.find_old()] == ["broken"]
    (presets.folder.path / "dropped.txt").write_text(OLD)
    assert presets.summaries("dropped")[0]["old"]
    presets.rename("dropped", "mine")
    assert "mine.json" in files_in(presets)
    assert "dropped.txt" not in files_in(presets)


def test_files_that_belong_together_are_imported_together(presets: Presets, tmp_path: Path) -> None:
    save(presets, "one", ControlUnit(image=picture(1), effective_region_mask=picture(2)))
    files = {path.name: path.read_bytes() for path in presets.folder.path.iterdir()}
    other = Presets(lambda: tmp_path / "other")
    with pytest.raises(PresetError, match="choose it together with the preset's file"):
        other.add("one", files["one.json"], {})
    assert other.add("one", files["one.json"], files) == []
    found = other.load("one")[1][0]
    assert same(found.image, picture(1))
    assert same(found.effective_region_mask, picture(2))
    described = json.dumps(presets.describe("one")).encode()
    assert other.add("in one file", described, {}) == []
    assert same(other.load("in one file")[1][0].image, picture(1))


def test_there_is_not_too_much_of_anything(
    presets: Presets, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PresetError, match="32 units at most"):
        save(presets, "x", *[ControlUnit()] * 33)
    monkeypatch.setattr(form, "MAX_TOGETHER", 100)
    with pytest.raises(PresetError, match="save it without pictures"):
        save(presets, "x", ControlUnit(image=picture(1)), ControlUnit(image=picture(2)))
    monkeypatch.setattr("lib_controlnet.presets.store.MAX_PRESETS", 1)
    long = dataclasses.replace(ControlUnit(), ipadapter_input="A" * (form.MAX_VALUE + 1))
    assert save(presets, "one", long) == ["unit 0: its ipadapter_input cannot be kept"]
    with pytest.raises(PresetError, match="1 presets already; delete some first"):
        save(presets, "two", ControlUnit())
    assert len(files_in(presets)) == 1


def test_a_full_disk_leaves_what_was_there(
    presets: Presets, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(presets, "one", ControlUnit(image=picture(1)))
    before = files_in(presets)

    def fail(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(folder_module, "_replace", fail)
    with pytest.raises(PresetError, match="cannot be written: No space left") as caught:
        save(presets, "one", ControlUnit(image=picture(2)), replaces=True)
    assert caught.value.status_code == 500
    assert files_in(presets) == before
    assert same(presets.load("one")[1][0].image, picture(1))


def test_the_last_generation_is_kept_once(presets: Presets) -> None:
    units = [parse_unit({"module": "canny", "image": picture(1)}), ControlUnit(index=1)]
    presets.remember(units, with_pictures=True)
    presets.wait()
    written = {path: path.stat().st_mtime_ns for path in presets.folder.path.iterdir()}
    presets.remember(units, with_pictures=True)
    presets.wait()
    assert written == {path: path.stat().st_mtime_ns for path in presets.folder.path.iterdir()}
    preset, found = presets.load(names.LAST_USED)
    assert preset.is_whole
    assert same(found[0].image, picture(1))
    assert [unit.enabled for unit in found] == [True, False]
    presets.remember(units, with_pictures=False)
    presets.wait()
    assert files_in(presets) == ["last used.json"]
    presets.rename(names.LAST_USED, "kept")
    assert names_in(presets) == ["kept"]
    nowhere = Presets(lambda: presets.folder.path / "kept.json")
    nowhere.remember(units, with_pictures=True)
    nowhere.wait()  # nothing is raised where nothing can be written


def test_several_pictures_keep_their_order(presets: Presets) -> None:
    several = [picture(i) for i in range(12)]
    unit = dataclasses.replace(
        ControlUnit(enabled=True), input_mode=InputMode.MERGE, batch_images=several
    )
    save(presets, "several", unit)
    assert same(presets.load("several")[1][0].batch_images, several)
