"""Folders and several pictures in the panel, without a browser."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio import processing_utils
from panels import FakeRuntime, build, by_id, data_url
from PIL import Image

from lib_controlnet.enums import InputMode
from lib_controlnet.errors import ImageError
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.pictures.maps import Size
from lib_controlnet.ui.batch import CONTROL_BOX, add_control_box, add_uploads
from lib_controlnet.ui.gradios import HAS_DRAWING
from lib_controlnet.ui.movie import build_movie_panel
from lib_controlnet.ui.panel import build_panel
from lib_controlnet.ui.preview import on_run, preview
from lib_controlnet.ui.unit_value import build_unit
from lib_controlnet.units.batch import BatchSource
from lib_controlnet.units.plan import plan
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import parse_unit

UNIT = "txt2img_controlnet_ControlNet-0"
LOOPBACK = "_controlnet_automatically_send_generated_images_checkbox"
PICTURE = {"image": data_url(np.zeros((8, 8, 3), np.uint8)), "mask": None}


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    return FakeRuntime(Catalog([tmp_path]))


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of uploaded files, with one picture."""
    folder = tmp_path / "gradio"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(folder / "one.png")
    return folder


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_panel_batch_elements_are_the_published_ones(runtime: FakeRuntime, tab: str) -> None:
    found = by_id(build(runtime, tab)[0])
    for index in range(3):
        unit = f"{tab}_controlnet_ControlNet-{index}"
        box = found[f"{unit}_batch_image_dir"]
        assert box.label == "Input Directory"
        assert box.placeholder.startswith("Leave empty to use img2img batch controlnet input dir")
        loopback = found[unit + LOOPBACK]
        assert loopback.label == (
            "[Batch Loopback] Automatically send generated images to this ControlNet unit in "
            "batch generation"
        )
        assert not loopback.visible
        assert "controlnet_loopback_checkbox" in loopback.elem_classes


def test_panel_input_tabs_have_their_names_in_order(runtime: FakeRuntime) -> None:
    demo = build(runtime)[0]
    labels = [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    assert labels[:4] == ["ControlNet Unit 0", "Single Image", "Batch", "Multi-Inputs"]


def test_unit_of_an_untouched_panel_takes_one_picture(runtime: FakeRuntime) -> None:
    assert build(runtime)[1][0].preprocess(None) == ControlNetUnit(is_ui=True)


@pytest.mark.parametrize(
    ("values", "folder", "target"),
    [
        ({"batch_images": " /own "}, "/own", ""),
        ({"batch_images": "/own", "batch_images_of_tab": "/tab"}, "/own", ""),
        ({"batch_images": " ", "batch_images_of_tab": "/tab"}, "/tab", ""),
        ({"batch_images_of_tab": "/tab", "batch_images_of_host": "/host"}, "/tab", ""),
        ({"batch_images_of_tab": "", "batch_images_of_host": "/host"}, "/host", ""),
        ({}, None, ""),
        ({"batch_images": "/own", "output_dir": "/out"}, "/own", "/out"),
        ({"batch_images": "/own", "output_dir_of_host": "/out"}, "/own", "/out"),
        (
            {"batch_images": "/own", "output_dir": "/mine", "output_dir_of_host": "/out"},
            "/own",
            "/mine",
        ),
    ],
)
def test_unit_of_the_batch_tab_takes_the_nearest_folder(
    values: dict[str, str], folder: str | None, target: str
) -> None:
    unit = build_unit({"input_mode": "batch", "loopback": True, **values})
    assert (unit.input_mode, unit.batch_images, unit.output_dir) == (
        InputMode.BATCH, folder, target,
    )  # fmt: skip
    assert unit.loopback


def test_unit_on_another_tab_or_following_the_picture_is_single() -> None:
    folders = {"batch_images": "/own", "output_dir": "/out", "image": PICTURE}
    single = build_unit({"input_mode": "simple", **folders})
    following = build_unit({"input_mode": "batch", "independent": False, **folders})
    for unit in (single, following):
        assert (unit.input_mode, unit.batch_images, unit.output_dir) == (InputMode.SIMPLE, "", "")
    assert single.image is not None
    assert following.image is None


def test_uploads_are_added_to_those_that_are_there(uploads: Path) -> None:
    (uploads / "two.png").write_bytes((uploads / "one.png").read_bytes())
    files = [SimpleNamespace(name=str(uploads / name)) for name in ("one.png", "two.png")]
    _paths, text, *_ = add_uploads(files[:1], "")
    paths, text, note, enabled = add_uploads(files[1:], text)
    assert paths == json.loads(text) == [file.name for file in files]
    assert (note["visible"], enabled["value"]) == (False, True)


def test_uploads_that_are_no_pictures_are_said_and_left_out(uploads: Path) -> None:
    (uploads / "notes.png").write_text("no picture")
    files = [SimpleNamespace(name=str(uploads / name)) for name in ("notes.png", "one.png")]
    paths, _text, note, enabled = add_uploads(files, "")
    assert paths == [files[1].name]
    assert "notes.png cannot be used: it is no picture" in note["value"]
    assert enabled["value"] is True
    paths, _text, _note, enabled = add_uploads(files[:1], "")
    assert paths == []
    assert "value" not in enabled, "nothing was added that could switch the unit on"


def test_preview_of_a_batch_is_of_its_first_picture(runtime: FakeRuntime, uploads: Path) -> None:
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(uploads / "two.png")
    hidden = np.zeros((16, 16, 3), np.uint8)
    several = json.dumps([str(uploads / name) for name in ("two.png", "one.png")])
    single = {"image": {"image": data_url(hidden), "mask": None}, "module": "none"}
    request = GenerationRequest(size=Size(64, 64))
    for more, level in (
        ({"input_mode": "batch", "batch_images": str(uploads)}, 9),
        ({"input_mode": "merge", "merge_images": several}, 200),
        ({"input_mode": "simple"}, 0),
    ):
        shown = preview(build_unit({**single, **more}), request, runtime)
        assert (shown == level).all(), more
    answer = on_run(build_unit({**single, "input_mode": "batch"}), request, runtime)
    assert answer["picture"] is None
    assert "no pictures are given" in answer["said"]


def test_unit_of_several_pictures_reads_the_uploaded_files(uploads: Path) -> None:
    sent = json.dumps([str(uploads / "one.png")] * 2)
    unit = build_unit({"input_mode": "merge", "merge_images": sent, "enabled": True})
    assert unit.input_mode is InputMode.MERGE
    assert unit.batch_images == [(uploads / "one.png").read_bytes()] * 2
    assert len(plan([parse_unit(unit)], BatchSource()).units) == 2


def test_unit_of_several_pictures_reads_no_other_file(uploads: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes((uploads / "one.png").read_bytes())
    for path in (secret, uploads / ".." / "secret.png", uploads / "gone.png"):
        unit = build_unit({"input_mode": "merge", "merge_images": json.dumps([str(path)])})
        assert unit.batch_images == [str(path)]
        unit.enabled = True
        with pytest.raises(ImageError, match="picture 1 is a file path"):
            plan([parse_unit(unit)], BatchSource(folders=True))


def test_uploads_lie_in_the_folder_of_gradio_by_default(monkeypatch: Any) -> None:
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    button = gr.UploadButton()
    folder = Path(button.DEFAULT_TEMP_DIR if HAS_DRAWING else button.GRADIO_CACHE)
    folder.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        unit = build_unit({"input_mode": "merge", "merge_images": json.dumps([file.name])})
    assert unit.batch_images == [b"x"]


def test_control_folder_box_follows_the_host_s_and_feeds_the_units(runtime: FakeRuntime) -> None:
    names = ["img2img_batch_input_dir", "img2img_batch_output_dir"]
    with gr.Blocks(analytics_enabled=False) as demo:
        for name in [*names, "img2img_batch_inpaint_mask_dir"]:
            gr.Textbox(elem_id=name)
            add_control_box(False, name)
        units = build_panel(True, "img2img", runtime)
    boxes = [block for block in demo.blocks.values() if isinstance(block, gr.Textbox)]
    assert [box.elem_id for box in boxes[:4]] == [
        *names, "img2img_batch_inpaint_mask_dir", CONTROL_BOX,
    ]  # fmt: skip
    assert (boxes[3].label, boxes[3].placeholder, boxes[3].visible) == (
        "Controlnet input directory", "Leave empty to use input directory", True,
    )  # fmt: skip
    followed = {box.elem_id for box in units[0].widgets.values()}
    assert {CONTROL_BOX, *names} <= followed
    assert CONTROL_BOX not in {w.elem_id for w in build(runtime)[1][0].widgets.values()}


def test_control_folder_box_is_hidden_where_folders_are() -> None:
    with gr.Blocks(analytics_enabled=False) as demo:
        add_control_box(True, "img2img_batch_inpaint_mask_dir")
    (box,) = [block for block in demo.blocks.values() if isinstance(block, gr.Textbox)]
    assert not box.visible


def test_movie_panel_has_three_arguments_for_every_unit(runtime: FakeRuntime) -> None:
    runtime.units = 2
    with gr.Blocks(analytics_enabled=False):
        arguments = build_movie_panel(runtime)
    kinds = [gr.Video, gr.Image, gr.Checkbox] * 2 + [gr.Slider]
    assert [type(argument) for argument in arguments] == kinds
    assert [argument.label for argument in arguments[-2:]] == ["Save preprocessed", "Duration"]


def test_uploaded_playlist_never_reaches_the_movie_field(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    """gradio has ffmpeg look at what the field is given."""
    with gr.Blocks(analytics_enabled=False) as demo:
        build_movie_panel(runtime)
    functions = demo.fns if HAS_DRAWING else demo.fns.values()
    (upload, *_) = [block.fn for block in functions if block.fn is not None]
    path = tmp_path / "clip.gif"
    path.write_bytes(b"#EXTM3U\n#EXTINF:5,\n/srv/secret.mp4\n")
    with pytest.raises(gr.Error, match=r"clip\.gif cannot be read as a movie"):
        upload(SimpleNamespace(name=str(path)))
    path.write_bytes(b"GIF89a")
    assert upload(SimpleNamespace(name=str(path))) == str(path)


def take(field: Any, path: str, uploads: Path) -> object:
    """What a request makes a field give that calls a file or an address an upload."""
    many = getattr(field, "file_count", "single") == "multiple"
    if HAS_DRAWING:
        field.DEFAULT_TEMP_DIR = str(uploads)
        value = {"name": path, "data": None, "is_file": True}
        return field.preprocess([value] if many else value)
    field.GRADIO_CACHE = str(uploads)
    value = {"path": path, "meta": {"_type": "gradio.FileData"}}
    sent: Any = [value] if many else {"video": value} if isinstance(field, gr.Video) else value
    move = processing_utils.async_move_files_to_cache
    moved = asyncio.run(move(sent, field, check_in_upload_folder=True))
    model = field.data_model
    return field.preprocess(model(root=moved) if isinstance(moved, list) else model(**moved))


@pytest.mark.parametrize("address", ["", "http://169.254.169.254/latest/meta-data/clip.mp4"])
def test_crafted_request_uploads_no_file_of_the_server(
    runtime: FakeRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """gradio takes the word of a request for what was uploaded."""
    uploads = tmp_path / "uploads"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    monkeypatch.setattr("requests.get", lambda *_args, **_options: pytest.fail("loaded"))
    secret, sent = tmp_path / "secret.png", uploads / "0" / "sent.png"
    sent.parent.mkdir(parents=True)
    for path in (secret, sent):
        Image.new("RGB", (8, 8)).save(path)
    monkeypatch.setattr(
        "gradio.processing_utils.async_save_url_to_cache",
        lambda *_args, **_options: pytest.fail("loaded"),
        raising=False,
    )
    with gr.Blocks(analytics_enabled=False) as demo:
        build_movie_panel(runtime)
        build_panel(False, "txt2img", runtime)
    kinds = (gr.Video, gr.UploadButton) if HAS_DRAWING else (gr.Video, gr.UploadButton, gr.Image)
    fields = [
        b for b in demo.blocks.values() if isinstance(b, kinds) and b.interactive is not False
    ]
    assert len(fields) > 2 * len({type(field) for field in fields})
    for field in fields:
        with pytest.raises(
            (gr.Error, ValueError), match="has not uploaded|not in the upload folder"
        ):
            take(field, address or str(secret), uploads)
        assert take(field, str(sent), uploads) is not None
    assert not list(uploads.rglob("secret*"))
