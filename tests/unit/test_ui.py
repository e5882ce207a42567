"""The panel without a browser: structure, units made of widget values, events, pasting."""

from __future__ import annotations

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from fastapi.encoders import jsonable_encoder
from panels import CANNY, FOLLOWING, FakeRuntime, build, by_id, data_url
from PIL import Image

from annotator.registry import Detected, Detector
from lib_controlnet.detect import listing, preprocess
from lib_controlnet.enums import (
    ControlMode,
    ControlNetUnionControlType,
    ResizeMode,
    union_type,
)
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.pictures.maps import Size
from lib_controlnet.ui import choices, messages, preview
from lib_controlnet.ui.pictures import read_region, read_sketch
from lib_controlnet.ui.unit_value import build_unit
from lib_controlnet.units.request import GenerationRequest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("javascript/*.js"))]


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    for name in ("control_demo_canny", "control_demo_depth"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x")
    return FakeRuntime(Catalog([tmp_path]))


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_row_13_panel_element_ids_and_labels_are_published(runtime: FakeRuntime, tab: str) -> None:
    found = by_id(build(runtime, tab)[0])
    panel = f"{tab}_controlnet"
    assert {panel, "controlnet", f"{panel}_tabs"} <= set(found)
    published = {
        "input_image": None,
        "generated_image": "Preprocessor Preview",
        "mask_image": "Region mask",
        "controlnet_enable_checkbox": "Enable",
        "controlnet_low_vram_checkbox": "Low VRAM",
        "controlnet_pixel_perfect_checkbox": "Pixel Perfect",
        "controlnet_preprocessor_preview_checkbox": "Allow Preview",
        "controlnet_mask_upload_checkbox": "Region: own mask",
        "controlnet_same_img2img_checkbox": "Upload independent control image",
        "controlnet_type_filter_radio": "Control Type",
        "controlnet_preprocessor_dropdown": "Preprocessor",
        "controlnet_trigger_preprocessor": None,
        "controlnet_model_dropdown": "Model",
        "controlnet_refresh_models": None,
        "controlnet_control_weight_slider": "Control Weight",
        "controlnet_start_control_step_slider": "Starting Control Step",
        "controlnet_ending_control_step_slider": "Ending Control Step",
        "controlnet_preprocessor_resolution_slider": "Preprocessor resolution",
        "controlnet_threshold_A_slider": "Threshold A",
        "controlnet_threshold_B_slider": "Threshold B",
        "controlnet_control_mode_radio": "Control Mode",
        "controlnet_resize_mode_radio": "Resize Mode",
        "controlnet_hr_option_radio": "Hires-Fix Option",
        "controlnet_canvas_width": "New Canvas Width",
        "controlnet_canvas_height": "New Canvas Height",
        "controlnet_canvas_create_button": None,
        "controlnet_canvas_cancel_button": None,
        "controlnet_open_new_canvas_button": None,
        "controlnet_send_dimen_button": None,
    }
    for index in range(3):
        for suffix, label in published.items():
            block = found[f"{panel}_ControlNet-{index}_{suffix}"]
            assert label is None or block.label == label


def test_panel_single_unit_has_no_tabs_and_no_number(runtime: FakeRuntime) -> None:
    runtime.units = 1
    demo, units = build(runtime)
    assert len(units) == 1
    found = by_id(demo)
    assert "txt2img_controlnet_ControlNet_input_image" in found
    assert "txt2img_controlnet_tabs" not in found


def test_panel_builds_again_without_side_effects_and_defaults_are_disabled(
    runtime: FakeRuntime,
) -> None:
    for _ in range(3):
        _demo, units = build(runtime, "img2img")
        assert [unit.value for unit in units] == [ControlNetUnit()] * 3
        assert jsonable_encoder(units[0].value)["enabled"] is False
        assert units[0].value is not units[1].value


def test_panel_control_type_as_dropdown_by_setting(runtime: FakeRuntime) -> None:
    runtime.options["controlnet_control_type_dropdown"] = True
    picker = by_id(build(runtime)[0])[
        "txt2img_controlnet_ControlNet-0_controlnet_type_filter_radio"
    ]
    assert isinstance(picker, gr.Dropdown)


@pytest.mark.parametrize("queue", [True, False])
@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_panel_lets_gradio_start_with_and_without_its_queue(
    runtime: FakeRuntime, tab: str, queue: bool
) -> None:
    runtime.queue = queue
    demo = build(runtime, tab)[0]
    if queue:
        demo.queue()
    demo.validate_queue_settings()  # as `launch` does first
    assert demo.progress_tracking is queue


def test_panel_configuration_of_the_page_is_plain_json(runtime: FakeRuntime) -> None:
    config = build(runtime)[0].get_config_file()
    states = [block for block in config["components"] if block["type"] == "state"]
    assert len(states) == 3
    assert all("value" not in block["props"] for block in states)
    assert jsonable_encoder(config)


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_panel_scripts_are_calls_of_functions_that_the_page_has(
    runtime: FakeRuntime, tab: str
) -> None:
    events = build(runtime, tab)[0].get_config_file()["dependencies"]
    names = set()
    for script in {event["js"] for event in events if event["js"]}:
        call = re.fullmatch(r"controlnetPanel\.(\w+)\((.*)\)", script)
        assert call, script
        json.loads(f"[{call[2]}]")
        names.add(call[1])
    assert len(names) > 10
    ends = ("return {", "Object.assign(window.controlnetPanel, {")
    exported = [one.rpartition(end)[2] for one in SCRIPTS for end in ends if end in one]
    assert not [name for name in names if not re.search(rf"\b{name}\b", "".join(exported))]


def test_no_javascript_stands_in_python() -> None:
    found = []
    for path in (*ROOT.glob("lib_controlnet/**/*.py"), *ROOT.glob("scripts/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and re.search(r"=> |document\.|function *\(", text):
                found.append(f"{path.name}: {text[:40]!r}")
    assert not found


def test_unit_value_untouched_page_gives_the_widgets_initial_values(
    runtime: FakeRuntime,
) -> None:
    demo, units = build(runtime)
    assert units[0].preprocess(None) == ControlNetUnit(is_ui=True)
    by_id(demo)["txt2img_controlnet_ControlNet-0_controlnet_control_weight_slider"].value = 0.5
    assert units[0].preprocess(None).weight == 0.5
    assert units[1].preprocess(None).weight == 1


def test_unit_value_takes_what_the_page_sends(runtime: FakeRuntime) -> None:
    picture = np.full((16, 24, 3), 7, np.uint8)
    _demo, units = build(runtime)
    sent = {
        "enabled": True,
        "module": "canny",
        "model": CANNY,
        "weight": 0.8,
        "control_mode": "My prompt is more important",
        "resize_mode": "Resize and Fill",
        "pixel_perfect": True,
        "image": {"image": data_url(picture), "mask": None},
    }
    unit = units[2].preprocess(sent)
    assert (unit.is_ui, unit.enabled, unit.module, unit.model) == (True, True, "canny", CANNY)
    assert unit.control_mode is ControlMode.PROMPT
    assert unit.resize_mode is ResizeMode.OUTER_FIT
    assert (unit.image["image"] == picture).all()
    assert unit.image["mask"].shape == picture.shape
    assert unit.image["mask"].max() == 0
    assert units[2].preprocess(unit) is unit


def test_build_unit_picture_counts_only_where_it_is_asked_for() -> None:
    picture = data_url(np.zeros((8, 8, 3), np.uint8))
    values = {"image": picture, "effective_region_mask": picture}
    off = build_unit({**values, "independent": False, "region": "Whole picture"})
    assert (off.image, off.effective_region_mask) == (None, None)
    on = build_unit({**values, "independent": True, "region": "Own mask"})
    assert on.image["image"].shape == on.effective_region_mask.shape == (8, 8, 3)


def drawing(shape: tuple[int, int], drawn: bool = True) -> str:
    layer = np.zeros((*shape, 4), np.uint8)
    if drawn:
        layer[: shape[0] // 2] = (10, 20, 30, 255)
    return data_url(layer)


def test_read_sketch_alpha_of_the_layer_is_the_mask() -> None:
    sketch = read_sketch(
        {"image": data_url(np.zeros((8, 6, 3), np.uint8)), "mask": drawing((8, 6))}
    )
    assert (sketch["mask"][:4] == 255).all()
    assert (sketch["mask"][4:] == 0).all()


def test_read_sketch_layer_drawn_all_over_in_black_is_full() -> None:
    full = data_url(np.dstack([np.zeros((8, 6, 3), np.uint8), np.full((8, 6), 255, np.uint8)]))
    sketch = read_sketch({"image": data_url(np.zeros((8, 6, 3), np.uint8)), "mask": full})
    assert (sketch["mask"] == 255).all()


def test_read_sketch_layer_of_another_size_is_blank() -> None:
    image = data_url(np.zeros((64, 48, 3), np.uint8))
    sketch = read_sketch({"image": image, "mask": drawing((150, 300))})
    assert sketch["mask"].shape == (64, 48, 3)
    assert sketch["mask"].max() == 0


@pytest.mark.parametrize("value", [None, "", {}, {"image": None, "mask": None}])
def test_read_sketch_nothing_is_none(value: object) -> None:
    assert read_sketch(value) is None


def test_read_sketch_undecodable_picture_stays_text_for_the_later_error() -> None:
    assert read_sketch("data:image/png;base64,AAAA") == {
        "image": "data:image/png;base64,AAAA",
        "mask": None,
    }


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which gradio 4 keeps what the page has sent."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def test_an_uploaded_file_is_a_picture(uploads: Path) -> None:
    picture = np.zeros((8, 6, 3), np.uint8)
    picture[2:] = 200
    Image.fromarray(picture).save(uploads / "a.png")
    value = {"path": str(uploads / "a.png"), "url": "/file=a.png", "orig_name": "a.png"}
    assert (read_sketch(value)["image"] == picture).all()
    assert (read_region(value, None) == picture).all()


@pytest.mark.parametrize("name", ["../secret.png", "none.png", "link.png"])
def test_an_upload_opens_no_other_file(uploads: Path, name: str) -> None:
    Image.new("RGB", (8, 6)).save(uploads.parent / "secret.png")
    (uploads / "link.png").symlink_to(uploads.parent / "secret.png")
    value = {"path": str(uploads / name)}
    assert read_sketch(value) == {"image": value["path"], "mask": None}


def test_on_control_type_filters_and_chooses_defaults(runtime: FakeRuntime) -> None:
    module, *rest = choices.on_control_type("Canny", False, runtime)
    *rest, union = rest[: FOLLOWING + 1]
    assert module["choices"] == ["none", "canny", "invert (from white bg & black line)"]
    assert module["value"] == "canny"
    assert union == gr.update(value="Unknown", visible=False), "the model is no Union"
    resolution, low, _high, model, _refresh, control_mode, _about, status = rest
    assert not status["visible"]
    assert (resolution["label"], resolution["value"], resolution["visible"]) == (
        "Resolution",
        512,
        True,
    )
    assert (low["label"], low["minimum"], low["maximum"], low["value"]) == (
        "Low Threshold",
        1,
        255,
        100,
    )
    assert (model["choices"], model["value"]) == (["None", CANNY], CANNY)
    assert control_mode["visible"]


def test_on_control_type_all_offers_everything_and_chooses_nothing(runtime: FakeRuntime) -> None:
    module, *rest = choices.on_control_type("All", False, runtime)
    union = rest[FOLLOWING]
    assert (module["value"], rest[3]["value"]) == ("none", "None")
    assert not union["visible"]
    assert len(rest[3]["choices"]) == 3


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("OpenPose", ControlNetUnionControlType.OPENPOSE),
        ("SoftEdge", ControlNetUnionControlType.SOFT_EDGE),
        ("MLSD", ControlNetUnionControlType.HARD_EDGE),
        ("Reference", ControlNetUnionControlType.UNKNOWN),
    ],
)
def test_union_type_follows_the_control_type(
    kind: str, expected: ControlNetUnionControlType
) -> None:
    assert union_type(kind) is expected


def test_on_module_without_sliders_hides_them(runtime: FakeRuntime) -> None:
    updates = choices.on_module("Inpaint", "inpaint_only", "None", False, runtime)
    assert [update["visible"] for update in updates[:3]] == [False] * 3
    assert [update["value"] for update in updates[:3]] == [-1] * 3


def test_only_preprocessors_with_a_resolution_are_told_to_the_page() -> None:
    sized = listing.modules_with_resolution()
    assert "canny" in sized
    assert not {"none", "inpaint_only"} & {*sized}


def test_on_refresh_finds_new_files_and_keeps_the_choice(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    runtime.catalog.names()
    (tmp_path / "new.safetensors").write_bytes(b"x")
    update, _about, notes, *_rest = choices.on_refresh("All", "canny", CANNY, runtime)
    assert "value" not in update, "what is chosen stays"
    assert "new [e3b0c442]" in update["choices"]
    assert not notes["visible"]
    (tmp_path / "control_demo_canny.safetensors").unlink()
    update, _about, notes, *_rest = choices.on_refresh("All", "canny", CANNY, runtime)
    assert "value" not in update
    assert CANNY not in update["choices"]
    assert "is not found" in notes["value"]


def test_on_refresh_keeps_the_control_type(runtime: FakeRuntime, tmp_path: Path) -> None:
    (tmp_path / "other_canny.safetensors").write_bytes(b"x")
    (tmp_path / "other_depth.safetensors").write_bytes(b"x")
    update, _about, _notes, *_rest = choices.on_refresh("Canny", "canny", CANNY, runtime)
    assert update["choices"] == ["None", CANNY, "other_canny [e3b0c442]"]


def asked(width: int, height: int) -> GenerationRequest:
    return GenerationRequest(size=Size(width, height))


def edge_unit(**fields: Any) -> ControlNetUnit:
    image = np.zeros((48, 96, 3), np.uint8)
    image[12:36, 24:72] = 255
    picture = {"image": image, "mask": np.zeros_like(image)}
    return ControlNetUnit(
        **{"enabled": True, "module": "canny", "model": CANNY, "image": picture, **fields}
    )


def test_on_run_gives_the_map(runtime: FakeRuntime) -> None:
    answer = preview.on_run(edge_unit(processor_res=96), asked(128, 128), runtime)
    shown = decode_image(answer["picture"], "answer")
    assert shown.shape == (96, 192, 3)
    assert shown.max() == 255
    assert (answer["said"], answer["pose"]) == ("", "")


class Posed(Detector):
    """Finds a figure."""

    name = "posed"

    def detect(self, image: np.ndarray) -> Detected:
        return Detected(image, {"people": ["<ä>"], "canvas_width": 64})


def test_on_run_offers_the_pose_as_a_file(runtime: FakeRuntime) -> None:
    preprocess.registry.add(Posed())
    try:
        pose = preview.on_run(edge_unit(module="posed"), asked(64, 64), runtime)["pose"]
    finally:
        preprocess.registry.remove("posed")
    link = re.fullmatch(
        r'<a href="data:application/json;base64,([\w+/=]+)" download="pose\.json">JSON</a>',
        pose,
    )
    found = json.loads(base64.b64decode(link[1]))
    assert found == {"people": ["<ä>"], "canvas_width": 64}


def test_on_run_previews_pixel_perfect_beyond_the_resolution_slider(runtime: FakeRuntime) -> None:
    unit = edge_unit(pixel_perfect=True, resize_mode="Resize and Fill")
    shown = preview.preview(unit, asked(64, 64), runtime)
    assert shown.shape == (32, 64, 3)


def test_on_run_pixel_perfect_works_at_the_size_of_the_picture(runtime: FakeRuntime) -> None:
    unit = edge_unit(pixel_perfect=True, resize_mode=ResizeMode.OUTER_FIT)
    shown = preview.preview(unit, asked(192, 192), runtime)
    assert shown.shape == (96, 192, 3)


def test_on_run_drawing_on_the_picture_is_the_control_picture(runtime: FakeRuntime) -> None:
    unit = edge_unit(module="none")
    unit.image["mask"][:10, :10] = 255
    assert (preview.preview(unit, asked(64, 64), runtime) == unit.image["mask"]).all()
    runtime.options["controlnet_ignore_noninpaint_mask"] = True
    assert (preview.preview(unit, asked(64, 64), runtime) == unit.image["image"]).all()


def test_on_run_inpaint_shows_the_mask(runtime: FakeRuntime) -> None:
    unit = edge_unit(module="inpaint_only")
    unit.image["mask"][:10, :10] = 255
    shown = preview.preview(unit, asked(64, 64), runtime)
    assert shown[0, 0, 3] == 128
    assert shown[20, 20, 3] == 255


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        pytest.param({"image": None}, "There is no picture to preview", id="no-picture"),
        pytest.param({"module": "nonsense"}, "Module not available", id="module"),
        pytest.param(
            {"module": "depth_hand_refiner"},
            "preprocessor depth_hand_refiner cannot run: ",
            id="unavailable",
        ),
        pytest.param(
            {"image": {"image": "data:image/png;base64,AAAA", "mask": None}},
            "cannot be decoded",
            id="undecodable",
        ),
    ],
)
def test_on_run_problem_is_a_sentence_in_the_status_line(
    runtime: FakeRuntime, fields: dict, sentence: str
) -> None:
    answer = preview.on_run(edge_unit(**fields), asked(64, 64), runtime)
    assert answer["picture"] is None
    assert sentence in answer["said"]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("None", "No control model is chosen yet"), ("absent", "is not found")],
)
def test_on_run_missing_model_is_said_beside_the_preview(
    runtime: FakeRuntime, model: str, sentence: str
) -> None:
    answer = preview.on_run(edge_unit(model=model), asked(64, 64), runtime)
    assert answer["picture"] is not None
    assert sentence in answer["said"]


def test_notice_text_is_escaped() -> None:
    assert messages.notice("<b>")["value"] == "&lt;b&gt;"


def test_no_rule_of_the_style_sheet_stands_in_another() -> None:
    style = (ROOT / "style.css").read_text(encoding="utf-8")
    depth, most = 0, 1
    for line in re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL).splitlines():
        if line.startswith("@"):  # a condition, with rules in it
            most = 2
        depth += line.count("{") - line.count("}")
        assert 0 <= depth <= most, line
        if depth == 0:
            most = 1
    assert depth == 0
