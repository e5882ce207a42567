"""Pictures that can be drawn on where a host brings a canvas of its own, without a browser."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
import numpy as np
import pytest
from panels import FakeRuntime, build, by_id, data_url
from PIL import Image
from small_canvas import SCHEME, HiddenPicture, SmallCanvas

from lib_controlnet.errors import ImageError
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.host.page.canvas import find_canvas
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.inputs import split_picture
from lib_controlnet.ui import host_tab, sketch
from lib_controlnet.ui.fallback import build_or_tell
from lib_controlnet.ui.movie import build_movie_panel
from lib_controlnet.ui.panel import build_panel
from lib_controlnet.ui.pictures import read_region, read_sketch
from lib_controlnet.ui.unit_value import PREVIEW_DEPENDS_ON, build_unit
from lib_controlnet.units.unit import parse_unit

UNIT = "txt2img_controlnet_ControlNet-0"


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """Of a host with a canvas, whichever gradio there is."""
    monkeypatch.setattr(sketch, "HAS_DRAWING", False)
    return FakeRuntime(Catalog([tmp_path]), own_canvas=SmallCanvas)


def layer(shape: tuple[int, int], rows: slice) -> np.ndarray:
    pixels = np.zeros((*shape, 4), np.uint8)
    pixels[rows] = (20, 184, 166, 255)
    return pixels


def test_canvases_stand_where_pictures_are_drawn_on(runtime: FakeRuntime) -> None:
    demo, (unit, *_rest) = build(runtime)
    found = by_id(demo)
    for name in ("input_image", "region_canvas"):
        assert isinstance(found[f"{UNIT}_{name}"], gr.HTML)
    assert {"image", "drawing", "region_drawing"} <= unit.widgets.keys()
    assert "region_canvas" not in unit.widgets, "what a region is drawn on is not sent"
    assert "drawing" in PREVIEW_DEPENDS_ON
    texts = [unit.widgets[name] for name in ("image", "drawing", "region_drawing")]
    assert all(text.do_not_save_to_config for text in texts)


def test_a_canvas_gets_the_settings_that_it_has() -> None:
    def canvas(elem_id: str, scribble_color: str, numpy: bool) -> None: ...

    settings = {"elem_id": "a", "brush_color": "#fff", "brush_radius": 20, "label": "A"}
    asked = sketch._canvas_settings(canvas, settings)
    assert asked == {"elem_id": "a", "scribble_color": "#fff", "numpy": True}


def test_picture_and_drawing_are_one_picture_of_the_unit() -> None:
    values = {"image": data_url(np.full((8, 6, 3), 7, np.uint8))}
    assert not build_unit(values).image["mask"].any()
    assert not build_unit({**values, "drawing": ""}).image["mask"].any()
    unit = build_unit({**values, "drawing": data_url(layer((8, 6), slice(0, 4)))})
    assert (unit.image["image"] == 7).all()
    assert (unit.image["mask"][:4] == 255).all()
    assert not unit.image["mask"][4:].any()
    assert build_unit({"image": "", "drawing": data_url(layer((8, 6), slice(4)))}).image is None


@pytest.mark.parametrize(
    ("density", "drawn"), [((2, 2), True), ((1.5, 1.5), True), ((2, 1), False), ((0.5, 0.5), True)]
)
def test_a_layer_may_have_the_pixels_of_the_screen(
    density: tuple[float, float], drawn: bool
) -> None:
    shape = (int(80 * density[0]), int(60 * density[1]))
    picture = data_url(np.full((80, 60, 3), 7, np.uint8))
    strokes = data_url(layer(shape, slice(0, shape[0] // 2)))
    mask = build_unit({"image": picture, "drawing": strokes}).image["mask"]
    assert mask.shape == (80, 60, 3)
    assert bool(mask[:40].all()) is drawn
    assert not mask[40:].any()


def test_pictures_that_the_host_s_canvas_only_names_are_read(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    """The server asks the component for them, as the host's own handlers do."""
    picture = np.full((8, 6, 3), 7, np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(layer((8, 6), slice(0, 4))).save(tmp_path / "layer.png")
    names = {name: f"{SCHEME}{tmp_path / name}.png" for name in ("picture", "layer")}
    _demo, (value, *_rest) = build(runtime)
    sent = {"image": names["picture"], "drawing": names["layer"]}
    unit = value.preprocess({**sent, "region": "Own mask", "region_drawing": names["layer"]})
    with gr.Blocks(analytics_enabled=False):
        movie = build_movie_panel(runtime)[1]
    both = movie.preprocess({"image": names["picture"], "mask": names["layer"]})
    for found in (unit.image, both):
        assert (found["image"] == 7).all()
        assert (found["mask"][:4].min(), found["mask"][4:].max()) == (255, 0)
    assert (unit.effective_region_mask[:4] == 255).all()
    assert not unit.effective_region_mask[4:].any()


@pytest.mark.parametrize("fault", [None, OSError("gone")], ids=["none", "raises"])
@pytest.mark.parametrize("name", ["image", "drawing", "region_drawing"])
def test_a_name_that_the_host_does_not_know_is_said(
    runtime: FakeRuntime, name: str, fault: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(_text: Any, _value: Any) -> None:
        if fault is not None:
            raise fault

    monkeypatch.setattr(HiddenPicture, "preprocess", find)
    _demo, (value, *_rest) = build(runtime)
    sent = {"image": data_url(np.full((8, 6, 3), 7, np.uint8)), "region": "Own mask"}
    unit = value.preprocess({**sent, name: f"{SCHEME}lost"})
    with pytest.raises(ImageError, match=r"small-canvas://\.\.\. names it.*put the picture in"):
        read_all(unit)


def read_all(unit: Any) -> None:
    """What the generation does with a unit's pictures."""
    asked = parse_unit(unit, 0)
    for picture in (*split_picture(asked), asked.effective_region_mask):
        if picture is not None:
            decode_image(picture, "unit 0")


def test_a_region_s_drawing_needs_no_picture() -> None:
    values = {"region": "Own mask", "region_drawing": data_url(layer((8, 6), slice(0, 4)))}
    mask = build_unit(values).effective_region_mask
    assert (mask.shape, mask[:4].min(), mask[4:].max()) == ((8, 6, 3), 255, 0)
    blank = {**values, "region_drawing": data_url(layer((8, 6), slice(0, 0)))}
    assert build_unit(blank).effective_region_mask is None


def test_a_picture_that_the_page_made_has_no_file() -> None:
    picture = np.full((8, 6, 3), 200, np.uint8)
    made = {"url": data_url(picture), "orig_name": "picture"}
    assert (read_sketch(made)["image"] == picture).all()
    assert (read_region(made, None) == picture).all()
    assert read_sketch({"url": "http://127.0.0.1/a.png"}) is None


def test_movie_script_takes_one_value_of_both(runtime: FakeRuntime) -> None:
    with gr.Blocks(analytics_enabled=False):
        arguments = build_movie_panel(runtime)
    assert len(arguments) == 3 * runtime.units + 1
    sent = {
        "image": data_url(np.zeros((8, 6, 3), np.uint8)),
        "mask": data_url(layer((8, 6), slice(4))),
    }
    assert arguments[1].value is None
    assert arguments[1].preprocess(None) is None
    assert arguments[1].preprocess(sent)["mask"][:4].all()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        pytest.param({"ForgeCanvas": SmallCanvas}, SmallCanvas, id="has-it"),
        pytest.param({}, None, id="renamed"),
        pytest.param(None, None, id="absent"),
    ],
)
def test_the_host_s_canvas_is_found_by_its_presence(
    monkeypatch: pytest.MonkeyPatch, module: dict[str, Any] | None, expected: Any
) -> None:
    if module is not None:
        for name in ("modules_forge", "modules_forge.forge_canvas"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        home = ModuleType("modules_forge.forge_canvas.canvas")
        vars(home).update(module)
        monkeypatch.setitem(sys.modules, home.__name__, home)
    assert find_canvas() is expected


def test_a_canvas_that_cannot_be_imported_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "modules_forge" / "forge_canvas"
    home.mkdir(parents=True)
    (home / "canvas.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in (
        "modules_forge",
        "modules_forge.forge_canvas",
        "modules_forge.forge_canvas.canvas",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert find_canvas() is None


# -- the img2img tab's own pictures on canvases ---------------------------------------------------


def test_host_tab_finds_both_texts_of_every_canvas() -> None:
    with gr.Blocks(analytics_enabled=False) as demo:
        made = {}
        for name in host_tab.PICTURES:
            is_canvas = not name.startswith("img_")
            made[name] = SmallCanvas(elem_id=name) if is_canvas else gr.Image(elem_id=name)
            gr.Button()
        for name in host_tab.SETTINGS:
            gr.Slider(0, 100, 0, elem_id=name)
        tab = host_tab.HostTab.find()
        assert demo
    assert tab is not None
    assert tab.has_canvases
    assert list(tab.numbers) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert list(tab.pictures[4:6]) == [
        made["img2maskimg"].background,
        made["img2maskimg"].foreground,
    ]
    assert list(tab.pictures[8:]) == [made["img_inpaint_base"], made["img_inpaint_mask"]]
    assert len(tab.inputs) == len(tab.pictures) + len(host_tab.SETTINGS)


def request_of(number: int, picture: Any, second: Any, scale: float = 0) -> Any:
    pictures: list[Any] = [None] * 10
    pictures[2 * number : 2 * number + 2] = [picture, second]
    settings = [0, 0, 0, 0, 0, 0]
    return host_tab.tab_request(64, 32, number, scale, [*pictures, *settings], has_canvases=True)


GREEN = (20, 184, 166)


@pytest.mark.parametrize(
    ("number", "is_painted", "masked"),
    [
        pytest.param(0, False, 0, id="img2img"),
        pytest.param(1, True, 0, id="sketch"),
        pytest.param(2, False, 10, id="inpaint"),
        pytest.param(3, True, 13, id="inpaint-sketch"),
    ],
)
def test_a_canvas_s_drawing_is_paint_or_mask(number: int, is_painted: bool, masked: int) -> None:
    plain = Image.new("RGBA", (200, 200), (9, 9, 9, 255))
    drawn = Image.fromarray(layer((200, 200), slice(0, 10)))
    request = request_of(number, plain, drawn)
    assert request.size == Size(64, 32)
    shown = np.asarray(request.init_image)
    assert (tuple(shown[5, 5, :3]) == GREEN) == is_painted
    assert tuple(shown[50, 50, :3]) == (9, 9, 9)
    assert (request.inpaint is not None) == bool(masked)
    if masked:
        rows = np.asarray(request.inpaint.mask.convert("L"))[:, 100]
        assert (rows == 255).sum() == masked
        assert set(np.unique(rows)) == {0, 255}


def test_uploaded_mask_of_inpaint_upload_and_the_batch() -> None:
    plain = Image.new("RGB", (100, 60), (9, 9, 9))
    mask = Image.fromarray(np.pad(np.full((10, 20), 200, np.uint8), ((0, 50), (0, 80))))
    request = request_of(4, plain, mask.convert("RGBA"))
    assert np.asarray(request.inpaint.mask.convert("L"))[:10, :20].min() == 255
    assert request_of(4, plain, None).inpaint is None
    assert host_tab.picture_of_canvas(5, [plain] * 10) == (None, None)
    assert request_of(0, None, None).init_image is None
    assert request_of(0, plain, None, scale=0.55).size == Size(48, 32)


@pytest.mark.parametrize("slots", [lambda: 3, lambda: 1 // 0], ids=["units", "nothing"])
def test_a_canvas_that_cannot_be_built_leaves_the_sentence_and_the_slots(
    runtime: FakeRuntime, slots: Any
) -> None:
    def broken(elem_id: str) -> None:
        msg = f"<no> {elem_id}"
        raise TypeError(msg)

    runtime.own_canvas = broken
    with gr.Blocks(analytics_enabled=False) as demo:
        built = build_or_tell(lambda: build_panel(True, "img2img", runtime), "ControlNet", slots)
    assert [component.value for component in built] == [None] * (3 if built else 0)
    said = [block.value for block in demo.blocks.values() if isinstance(block, gr.HTML)]
    assert any("TypeError: &lt;no&gt;" in str(text) for text in said)
    assert demo.get_config_file()
