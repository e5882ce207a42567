"""Presets in the panel, without a browser: what the dialog is answered, what widgets get."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panels import CANNY, FakeRuntime, build, data_url

from lib_controlnet.files.catalog import Catalog
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.presets.store import Presets
from lib_controlnet.ui.presets import answer_page
from lib_controlnet.ui.unit_value import build_unit
from lib_controlnet.units.unit import parse_unit


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "control_demo_canny.safetensors").write_bytes(b"x")
    presets = Presets(lambda: tmp_path / "presets", lambda: [tmp_path / "old"])
    return FakeRuntime(Catalog([tmp_path]), presets=presets)


class Panel:
    """A built panel, the event of its presets, and that by which the page writes units."""

    def __init__(self, runtime: FakeRuntime, tab: str = "txt2img") -> None:
        self.demo, self.units = build(runtime, tab)
        self._answer, outputs = self._find(f"{tab}_controlnet_presets")
        assert len(outputs) == 1
        self._write, self._outputs = self._find(f"{tab}_controlnet_apply")

    def _find(self, name: str) -> tuple[Any, list[Any]]:
        """What the server does when a button is pressed, and the widgets that it writes."""
        (button,) = (b for b in self.demo.blocks.values() if b.elem_id == name)
        ((fn, dependency),) = (
            (fn, dependency)
            for fn, dependency in zip(self.demo.fns, self.demo.dependencies, strict=True)
            if any(target == button._id for target, *_ in _targets(dependency))
            and fn.fn is not None
        )
        return fn.fn, [self.demo.blocks[number] for number in dependency["outputs"]]

    def ask(self, *values: Any, **question: Any) -> tuple[dict, dict[int, Any]]:
        """The answer, and what is written, by the id of the widget; nothing where all stays."""
        units = [*values, *(ControlNetUnit() for _ in self.units[len(values) :])]
        said = self._answer({"serial": 1, **question}, *units)
        updates = self._write(json.loads(json.dumps(said.get("edits", []))))
        pairs = zip(self._outputs, updates, strict=True)
        return said, {w._id: u for w, u in pairs if set(u) - {"__type__"}}


def _targets(dependency: dict) -> list[Any]:
    targets = dependency["targets"]
    return [target if isinstance(target, (list, tuple)) else (target,) for target in targets]


def test_a_unit_comes_back_with_what_depends_on_it(runtime: FakeRuntime) -> None:
    panel = Panel(runtime)
    fields = {"enabled": True, "module": "canny", "model": CANNY, "threshold_a": 64, "weight": 0.6}
    unit = ControlNetUnit(**fields, control_mode="ControlNet is more important", low_vram=True)
    said, written = panel.ask(ControlNetUnit(), unit, do="save", name="mine", unit=1)
    assert "fault" not in said
    assert written == {}
    assert [one["name"] for one in said["presets"]] == ["mine"]
    said, written = panel.ask(do="load", name="mine", unit=0)
    own = panel.units[0].unit_widgets
    value = {
        name: written[widget._id].get("value")
        for name, widget in vars(own).items()
        if getattr(widget, "_id", None) in written
    }
    for name, expected in fields.items():
        assert value[name] == expected, name
    assert value["control_type"] == "Canny"
    assert value["control_mode"] == "ControlNet is more important"
    assert value["low_vram"] is True
    assert written[own.threshold_a._id]["maximum"] == 255
    assert "image" not in value
    others = {
        widget._id
        for unit in panel.units[1:]
        for widget in vars(unit.unit_widgets).values()
        if hasattr(widget, "_id")
    }
    assert not written.keys() & others


def test_all_units_come_back_and_the_others_are_switched_off(runtime: FakeRuntime) -> None:
    panel = Panel(runtime)
    units = [ControlNetUnit(enabled=True, module="canny", style_align=True)]

    panel.ask(*units, do="save", name="all", unit=None)
    runtime.presets.rename("all", "every")
    said, written = panel.ask(do="load", name="every", unit=None)
    assert written[panel.units[0].unit_widgets.enabled._id]["value"] is True
    assert written[panel.units[1].unit_widgets.enabled._id]["value"] is False
    assert written[panel.units[0].widgets["style_align"]._id]["value"] is True
    said, written = panel.ask(do="load", name="every", unit=2)
    assert "its unit 0 was taken" in said["notes"][0]
    assert written[panel.units[2].unit_widgets.module._id]["value"] == "canny"
    assert panel.units[0].widgets["style_align"]._id not in written
    document = {"scope": "all", "units": [{"module": "canny"}]}
    runtime.presets.add("one", json.dumps(document).encode(), {})
    assert panel.ask(do="load", name="one", unit=None)[0]["off"] == [1, 2]


def test_pictures_drawing_and_region_come_back_as_they_were(runtime: FakeRuntime) -> None:
    panel = Panel(runtime, "img2img")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 12, 3), np.uint8)
    layer = np.zeros((8, 12, 4), np.uint8)
    layer[2:5, 3:9] = (0, 0, 0, 200)
    region = np.repeat(rng.integers(0, 256, (8, 12, 1), np.uint8), 3, axis=2)
    raw = {"image": {"image": data_url(image), "mask": data_url(layer)}, "enabled": True}
    raw |= {"region": "Own mask", "effective_region_mask": data_url(region)}
    unit = build_unit({**raw, "independent": True})
    panel.ask(unit, do="save", name="p", unit=0, pictures=True)
    said, written = panel.ask(do="load", name="p", unit=0)
    (edit,) = said["edits"]
    put_in = edit["pictures"]
    again = build_unit(
        {
            **raw,
            "image": {"image": put_in["image"], "mask": put_in["drawing"]},
            "effective_region_mask": put_in["mask"],
        }
    )
    assert again == unit
    own = panel.units[0].unit_widgets
    assert edit["values"]["independent"] is True
    assert written[own.region._id]["value"] == "Own mask"
    assert written[own.region_status._id]["visible"] is False
    panel.ask(unit, do="save", name="q", unit=0, pictures=False)
    said, written = panel.ask(do="load", name="q", unit=0)
    assert own.image._id not in written
    (edit,) = said["edits"]
    assert not {"pictures", "independent", "merge_images"} & {*edit, *edit["values"]}, "as they are"
    assert "was not kept" in written[own.region_status._id]["value"]


def test_regions_in_colours_come_back_as_masks(runtime: FakeRuntime) -> None:
    panel = Panel(runtime)
    painted = np.zeros((8, 12, 3), np.uint8)
    painted[:, :4], painted[:, 8:] = (255, 0, 0), (0, 0, 255)
    units = [{"region_colour": "red"}, {"region_colour": "blue", "region_map": data_url(painted)}]
    runtime.presets.save("p", [parse_unit(one) for one in units], is_whole=True, with_pictures=True)
    said, written = panel.ask(do="load", name="p", unit=None)
    assert said["notes"] == []
    for number, columns in enumerate((slice(0, 4), slice(8, None))):
        mask = decode_image(said["edits"][number]["pictures"]["mask"])
        assert (mask[:, columns] == 255).all()
        assert (mask > 0).sum() == 8 * 4 * 3
        own = panel.units[number].unit_widgets
        assert written[own.region._id]["value"] == "Own mask"


def test_several_pictures_come_back_as_uploads(runtime: FakeRuntime) -> None:
    panel = Panel(runtime)
    arrays = [np.full((8, 8, 3), value, np.uint8) for value in (9, 90)]
    unit = ControlNetUnit(module="canny", input_mode="merge", batch_images=arrays)
    panel.ask(unit, do="save", name="p", unit=0, pictures=True)
    said, written = panel.ask(do="load", name="p", unit=0)
    own = panel.units[0].unit_widgets
    shown = written[own.merge_gallery._id]["value"]
    assert [decode_image(Path(path).read_bytes(), "it").max() for path in shown] == [9, 90]
    assert written[own.merge_images._id]["value"] == json.dumps([str(path) for path in shown])
    assert written[own.input_mode._id]["value"] == "merge"
    assert written[own.batch_images._id]["value"] == ""


def test_a_resolution_behind_pixel_perfect_is_kept(runtime: FakeRuntime) -> None:
    panel = Panel(runtime)
    unit = ControlNetUnit(module="canny", pixel_perfect=True, processor_res=640)
    panel.ask(unit, do="save", name="p", unit=0)
    _said, written = panel.ask(do="load", name="p", unit=0)
    slider = written[panel.units[0].unit_widgets.processor_res._id]
    assert (slider["value"], slider["visible"]) == (640, False)


def test_what_the_panel_does_not_show_is_said(runtime: FakeRuntime) -> None:
    panel = Panel(runtime)
    asked = {"module": "canny", "save_detected_map": False, "animatediff_batch": True}
    runtime.presets.add("api", json.dumps([asked]).encode(), {})
    said, written = panel.ask(do="load", name="api", unit=0)
    assert said["notes"] == [
        "unit 0: left out, because the panel does not show it: save_detected_map, animatediff_batch"
    ]
    assert written[panel.units[0].unit_widgets.processor_res._id]["value"] == 512


def test_the_dialog_is_told_what_went_wrong(runtime: FakeRuntime, tmp_path: Path) -> None:
    shown: list[str] = []

    def ask(**question: Any) -> dict:
        return answer_page(question, [ControlNetUnit()] * 3, shown, runtime.presets)

    assert ask(do="save", name="a", unit=0)["presets"]
    taken = ask(do="save", name="A", unit=0)
    assert taken["isTaken"]
    assert "already" in taken["fault"]
    for question, told in (
        ({"do": "load", "name": "b"}, "there is no preset b"),
        ({"do": "save", "name": "x/y"}, "holds /"),
        ({"do": "save", "name": "c", "unit": 9}, "there is no unit 9"),
        ({"do": "what"}, "reload the page"),
        ({"do": "import", "files": {"a.gif": ""}}, "no preset is among the files"),
        ({"do": "import", "files": {"a.json": "data:,!"}}, "did not arrive whole"),
        ({"do": "rename", "name": "a", "to": "nul"}, "device"),
    ):
        answer = ask(**question)
        assert told in answer["fault"], question
        assert [one["name"] for one in answer["presets"]] == ["a"]
    text = base64.b64encode(b"Module: canny, Model: None, Weight: 0.5").decode()
    answer = ask(do="import", files={"mine.txt": f"data:text/plain;base64,{text}"})
    assert answer["added"] == ["mine"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/theirs.txt").write_text("Module: canny, Weight: 0.25")
    assert ask(do="list")["old"] == ["theirs"]
    assert ask(do="importOld")["added"] == ["theirs"]
