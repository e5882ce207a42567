"""Whole units that the page writes: what the server makes of their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from panels import CANNY, FakeRuntime, build, by_id

from lib_controlnet.detect import listing
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.ui.unit_value import REGION_CANVAS

UNIT = "txt2img_controlnet_ControlNet-{}_"
VALUES = {
    "control_type": "Canny",
    "module": "canny",
    "model": CANNY,
    "enabled": True,
    "weight": 0.65,
    "processor_res": 640,
    "threshold_a": 64,
    "guidance_end": 0.8,
    "control_mode": "ControlNet is more important",
    "resize_mode": "Just Resize",
    "region": "Own mask",
    "region_feather": 12,
    "hr_option": "Low res only",
    "advanced_weighting": "1, 0.5",
    "input_mode": "batch",
    "batch_images": "/pictures",
    "loopback": True,
    "low_vram": True,
}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    (tmp_path / "control_demo_canny.safetensors").write_bytes(b"x")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    return FakeRuntime(Catalog([tmp_path]))


def apply(
    runtime: FakeRuntime, asked: Any, saved: dict[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Ask for a write; what each of the panel's widgets is updated with, without what stays.

    Args:
        saved: defaults that the host has put into the first unit's widgets.
    """
    demo = build(runtime)[0]
    for name, value in (saved or {}).items():
        by_id(demo)[f"{UNIT.format(0)}controlnet_{name}"].value = value
    button = by_id(demo)["txt2img_controlnet_apply"]
    events = [e for e in demo.dependencies if button._id in _targets(e) and e["backend_fn"]]
    assert len(events) == 1
    function = demo.fns[demo.dependencies.index(events[0])].fn
    answer = function(asked)
    assert len(answer) == len(events[0]["outputs"])
    found = {}
    for number, update in zip(events[0]["outputs"], answer, strict=True):
        block = demo.blocks[number]
        if update != gr.update():
            found[block.elem_id or block.label] = update
    return found


def _targets(event: dict[str, Any]) -> list[int]:
    return [
        target[0] if isinstance(target, (list, tuple)) else target for target in event["targets"]
    ]


def test_values_are_written_with_what_depends_on_them(runtime: FakeRuntime) -> None:
    found = apply(runtime, [{"unit": 1, "values": VALUES}])
    unit = UNIT.format(1)
    assert not [name for name in found if name.startswith((UNIT.format(0), UNIT.format(2)))]
    value = {name.removeprefix(unit): update.get("value") for name, update in found.items()}
    assert value["controlnet_type_filter_radio"] == "Canny"
    assert found[f"{unit}controlnet_preprocessor_dropdown"]["choices"] == listing.labels_for(
        "Canny"
    )
    assert found[f"{unit}controlnet_model_dropdown"]["visible"]
    assert value["controlnet_model_dropdown"] == CANNY
    assert value["controlnet_enable_checkbox"] is True
    assert value["controlnet_low_vram_checkbox"] is True
    assert value["controlnet_control_weight_slider"] == 0.65
    slider = found[f"{unit}controlnet_threshold_A_slider"]
    assert (slider["label"], slider["value"], slider["visible"]) == ("Low Threshold", 64, True)
    assert value["controlnet_threshold_B_slider"] == 200, "its own start, where none is asked for"
    assert value["controlnet_control_mode_radio"] == VALUES["control_mode"]
    assert value["controlnet_region_radio"] == "Own mask"
    assert value["controlnet_region_feather_slider"] == 12
    assert value["controlnet_hr_option_radio"] == "Low res only"
    assert value["controlnet_advanced_weighting_textbox"] == "1 0.5"
    assert (value["input_mode"], value["batch_image_dir"]) == ("batch", "/pictures")
    assert value["controlnet_region_status"] == "", "its mask comes along"
    assert value["controlnet_picture_note"] == ""
    pictures = ("input_image", "mask_image", "region_canvas")
    assert not {f"{unit}{name}" for name in pictures} & found.keys(), "the page writes those"


def test_what_is_missing_goes_back_to_what_a_unit_starts_with(runtime: FakeRuntime) -> None:
    saved = {
        "preprocessor_dropdown": "canny",
        "control_weight_slider": 0.4,
        "low_vram_checkbox": True,
    }
    found = apply(runtime, [{"unit": 0, "values": {"weight": None}}], saved)
    value = {name.removeprefix(UNIT.format(0)): one.get("value") for name, one in found.items()}
    assert {name: value[f"controlnet_{name}"] for name in saved} == saved
    assert value["controlnet_enable_checkbox"] is False
    assert value["controlnet_type_filter_radio"] == "Canny"
    assert value["controlnet_region_radio"] == "Whole picture"
    assert value["merge_gallery"] == []


def test_a_preprocessor_without_a_model_hides_the_list(runtime: FakeRuntime) -> None:
    found = apply(runtime, [{"unit": 0, "values": {"module": "reference_only"}}])
    unit = UNIT.format(0)
    for name in ("model_dropdown", "refresh_models"):
        assert found[f"{unit}controlnet_{name}"]["visible"] is False, name
    again = apply(runtime, [{"unit": 0, "values": {"module": "canny"}}])
    assert again[f"{unit}controlnet_refresh_models"]["visible"] is True


def test_several_pictures_are_those_that_were_uploaded(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    inside = tmp_path / "uploads" / "a.png"
    inside.parent.mkdir()
    inside.write_bytes(b"x")
    (tmp_path / "b.png").write_bytes(b"x")
    text = json.dumps([str(inside), str(tmp_path / "b.png")])
    found = apply(runtime, [{"unit": 0, "values": {"merge_images": text}}])
    assert found[f"{UNIT.format(0)}merge_gallery"]["value"] == [str(inside)]
    assert found["Merged Images"]["value"] == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weight", "much"),
        ("guidance_end", 7),
        ("region", "there"),
        ("control_mode", {}),
        ("merge_images", "["),
        ("merge_images", "7"),
        ("advanced_weighting", "1 x"),
        ("enabled", "perhaps"),
    ],
)
def test_a_value_without_meaning_is_said_and_left_at_its_start(
    runtime: FakeRuntime, name: str, value: Any
) -> None:
    found = apply(runtime, [{"unit": 0, "values": {name: value, "weight": 0.3} | {name: value}}])
    note = found[f"{UNIT.format(0)}controlnet_picture_note"]
    assert note["visible"]
    assert note["value"].startswith(name)


@pytest.mark.parametrize(
    "asked", [None, [], [3], {}, "x", [{"unit": 7, "values": {}}], [{"unit": 0}]]
)
def test_nothing_that_can_be_written_changes_nothing(runtime: FakeRuntime, asked: Any) -> None:
    assert not apply(runtime, asked)


def test_pictures_are_not_sent_to_the_server_and_back(runtime: FakeRuntime) -> None:
    """The page keeps them; what it sends of them all the same is not written."""
    picture = "data:image/png;base64,AAAA"
    values = {"image": picture, REGION_CANVAS: {"image": picture, "mask": picture}}
    found = apply(runtime, [{"unit": 0, "values": values}])
    assert picture not in json.dumps(found, default=str)
