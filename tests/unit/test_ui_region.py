"""The panel's regions, batch option, layer weights and img2img preview, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from panels import CANNY, FakeRuntime, build, by_id, data_url
from PIL import Image

from lib_controlnet.enums import ActingRegion, BatchOption, HiResOption
from lib_controlnet.errors import UnitError
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.pictures.maps import Size
from lib_controlnet.ui import host_tab, preview
from lib_controlnet.ui.gradios import HAS_DRAWING
from lib_controlnet.ui.panel import paste_fields
from lib_controlnet.ui.pictures import read_region
from lib_controlnet.ui.unit_value import build_unit, read_weights
from lib_controlnet.units.unit import parse_unit

UNIT = "txt2img_controlnet_ControlNet-1_controlnet_"
REGIONS = [choice.value for choice in ActingRegion]


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    (tmp_path / "control_demo_canny.safetensors").write_bytes(b"x")
    return FakeRuntime(Catalog([tmp_path]))


def layer(shape: tuple[int, int], rows: slice) -> str:
    """A drawing layer with some rows painted over."""
    pixels = np.zeros((*shape, 4), np.uint8)
    pixels[rows] = (20, 184, 166, 255)
    return data_url(pixels)


def canvas(shape: tuple[int, int], rows: slice) -> dict[str, str]:
    """The value of a region canvas: its backdrop and some rows painted."""
    return {"image": data_url(np.full((*shape, 3), 90, np.uint8)), "mask": layer(shape, rows)}


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
@pytest.mark.parametrize("count", [1, 3])
def test_new_widgets_have_their_ids_choices_and_defaults(
    runtime: FakeRuntime, tab: str, count: int
) -> None:
    runtime.units = count
    found = by_id(build(runtime, tab)[0])
    panel = f"{tab}_controlnet"
    assert {"controlnet_batch_options", f"{panel}_timeline"} <= set(found)
    batch = found[f"{panel}_controlnet_batch_option_radio"]
    assert (batch.label, batch.value) == ("Batch Option", BatchOption.DEFAULT.value)
    assert [value for _label, value in batch.choices] == [option.value for option in BatchOption]
    align = found[f"{panel}_controlnet_style_align_checkbox"]
    assert (align.label, align.value) == ("[StyleAlign] Align image style in the batch.", False)
    for index in range(count):
        unit = f"{panel}_ControlNet-{index}" if count > 1 else f"{panel}_ControlNet"
        region = found[f"{unit}_controlnet_region_radio"]
        assert (region.label, region.value) == ("Region", "Whole picture")
        assert [value for _label, value in region.choices] == REGIONS
        feather = found[f"{unit}_controlnet_region_feather_slider"]
        assert (feather.minimum, feather.maximum, feather.step, feather.value) == (0, 256, 1, 0)
        assert not feather.visible
        assert not HAS_DRAWING or found[f"{unit}_region_canvas"].tool == "sketch"


def test_region_checkbox_keeps_no_default_of_its_own(runtime: FakeRuntime) -> None:
    found = by_id(build(runtime)[0])
    assert found[f"{UNIT}mask_upload_checkbox"].do_not_save_to_config
    assert not hasattr(found[f"{UNIT}region_radio"], "do_not_save_to_config")


@pytest.mark.parametrize("region", REGIONS)
def test_build_unit_region_and_feather_reach_the_unit(region: str) -> None:
    unit = build_unit({"region": region, "region_feather": 12})
    assert unit.region is ActingRegion(region)
    assert unit.region_feather == (0 if unit.region is ActingRegion.WHOLE else 12)


def test_build_unit_mask_counts_for_its_own_region_only() -> None:
    values = {
        "effective_region_mask": data_url(np.full((8, 8, 3), 255, np.uint8)),
        "region_canvas": canvas((8, 8), slice(0, 4)),
    }
    masks = {name: build_unit({**values, "region": name}).effective_region_mask for name in REGIONS}
    assert masks.pop("Own mask").min() == 255
    assert all(mask is None for mask in masks.values())
    assert all(
        parse_unit(build_unit({**values, "region": name})).acting_region == name for name in REGIONS
    )


def test_read_region_drawing_alone() -> None:
    mask = read_region(None, canvas((8, 6), slice(0, 4)))
    assert mask.shape == (8, 6, 3)
    assert (mask[:4] == 255).all()
    assert (mask[4:] == 0).all()


def test_read_region_file_alone_keeps_its_size() -> None:
    file = np.zeros((32, 64, 3), np.uint8)
    file[:, 32:] = 200
    mask = read_region(data_url(file), canvas((8, 6), slice(0, 0)))
    assert (mask == file).all()


def test_read_region_file_with_transparency_is_its_strokes() -> None:
    layer = np.full((4, 6, 4), 255, np.uint8)
    layer[:, 3:, 3] = 0
    mask = read_region(data_url(layer), canvas((8, 6), slice(0, 0)))
    assert np.array_equal(mask, np.repeat(layer[..., 3:], 3, axis=2))


def test_read_region_file_and_drawing_are_joined_in_the_canvas() -> None:
    file = np.zeros((32, 64, 3), np.uint8)
    file[:, 32:] = 200
    mask = read_region(data_url(file), canvas((8, 6), slice(0, 2)))
    assert mask.shape == (8, 6, 3)
    assert (mask[:2] == 255).all()
    assert (mask[2:, :3] == 0).all()
    assert (mask[2:, 3:] == 200).all()


@pytest.mark.parametrize("drawn", [None, canvas((8, 6), slice(0, 0))])
def test_read_region_nothing_is_none(drawn: object) -> None:
    assert read_region(None, drawn) is None


def test_read_region_undecodable_file_stays_text_for_the_later_error() -> None:
    text = "data:image/png;base64,AAAA"
    assert read_region(text, None) == text
    assert read_region(text, canvas((8, 6), slice(0, 2))) == text


@pytest.mark.parametrize("option", list(BatchOption))
def test_batch_option_goes_into_every_unit(runtime: FakeRuntime, option: BatchOption) -> None:
    _demo, units = build(runtime)
    assert len(units) == 3
    made = [unit.preprocess({"batch_option": option.value}) for unit in units]
    assert [unit.batch_option for unit in made] == [option] * 3
    assert [unit.style_align for unit in made] == [False] * 3


def test_style_align_goes_into_every_unit_and_comes_back_from_parameters(
    runtime: FakeRuntime,
) -> None:
    _demo, units = build(runtime)
    assert all(unit.preprocess({"style_align": True}).style_align for unit in units)
    read = dict(paste_fields(units, runtime))[units[0].widgets["style_align"]]
    pasted = [{"ControlNet StyleAlign": "True"}, {"ControlNet 0": "Module: canny"}, {}]
    assert [read(params) for params in pasted] == [True, False, None]


def test_batch_option_saved_default_counts_before_any_edit(runtime: FakeRuntime) -> None:
    demo, units = build(runtime)
    by_id(demo)[
        "txt2img_controlnet_controlnet_batch_option_radio"
    ].value = BatchOption.SEPARATE.value
    assert [unit.preprocess(None).batch_option for unit in units] == [BatchOption.SEPARATE] * 3


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("", None),
        ("  ", None),
        ("1 0.5", [1.0, 0.5]),
        ("[1, 0.5, .25]", [1.0, 0.5, 0.25]),
        ("1,0.5 , 2", [1.0, 0.5, 2.0]),
        ("half", "half"),
    ],
)
def test_read_weights(text: str, weights: object) -> None:
    assert read_weights(text) == weights
    assert build_unit({"advanced_weighting": text}).advanced_weighting == weights


def test_weights_that_are_no_numbers_are_reported_with_the_unit() -> None:
    with pytest.raises(UnitError, match="unit 2: advanced_weighting is 'half'"):
        parse_unit(build_unit({"enabled": True, "advanced_weighting": "half"}), 2)


def pasted(runtime: FakeRuntime, text: str) -> dict[str, Any]:
    """What pasting writes into the widgets of unit 1, by the end of their element id."""
    _demo, units = build(runtime)
    values = {
        component.elem_id: read({"ControlNet 1": text})
        for component, read in paste_fields(units, runtime)
        if component.elem_id
        and not component.elem_id.endswith(("enable_checkbox", "style_align_checkbox"))
    }
    others = [value for name, value in values.items() if not name.startswith(UNIT)]
    assert others
    assert all(value is None for value in others)
    return {name.removeprefix(UNIT): value for name, value in values.items()}


def test_paste_region_hires_option_and_layer_weights(runtime: FakeRuntime) -> None:
    values = pasted(
        runtime,
        "Module: canny, Hr Option: High res only, Region: Inside the inpaint mask, "
        "Region Feather: 24.0, Advanced Weighting: 1.0 0.5",
    )
    assert values["hr_option_radio"] == HiResOption.HIGH_RES_ONLY.value
    assert values["region_radio"] == ActingRegion.INSIDE.value
    assert values["region_feather_slider"] == 24
    assert values["advanced_weighting_textbox"] == "1 0.5"
    assert values["region_status"] == gr.update(value="", visible=False)


def test_paste_without_them_goes_back_to_their_defaults(runtime: FakeRuntime) -> None:
    values = pasted(runtime, "Module: canny")
    assert values["hr_option_radio"] == HiResOption.BOTH.value
    assert values["region_radio"] == ActingRegion.WHOLE.value
    assert values["region_feather_slider"] == 0
    assert values["advanced_weighting_textbox"] == ""
    assert values["control_weight_slider"] is None


def test_paste_own_mask_says_that_the_mask_is_missing(runtime: FakeRuntime) -> None:
    values = pasted(runtime, "Module: canny, Region: Own mask")
    assert values["region_radio"] == ActingRegion.OWN.value
    assert values["region_status"]["visible"]
    assert "draw the mask again" in values["region_status"]["value"]


def test_paste_reads_what_a_unit_writes(runtime: FakeRuntime) -> None:
    unit = ControlNetUnit(
        module="canny",
        region="Outside the inpaint mask",
        region_feather=7.0,
        hr_option="Low res only",
        advanced_weighting=[0.25, 1.0],
    )
    values = pasted(runtime, unit.serialize())
    assert values["region_radio"] == "Outside the inpaint mask"
    assert values["region_feather_slider"] == 7
    assert values["hr_option_radio"] == "Low res only"
    assert values["advanced_weighting_textbox"] == "0.25 1"


# -- the img2img tab's own picture ---------------------------------------------------------------


def host_widgets() -> gr.State:
    """Widgets with the host's ids, as its img2img tab has them; the state is Inpaint sketch's."""
    for name in host_tab.PICTURES:
        sketch = {"img2maskimg": "sketch"}.get(name)
        gr.Image(type="pil", tool=sketch, elem_id=name)
    for name in host_tab.SETTINGS:
        gr.Slider(0, 100, 0, elem_id=name)
    return gr.State(None)


@pytest.mark.skipif(not HAS_DRAWING, reason="the host's tab has pictures on gradio 3 alone")
def test_host_tab_finds_pictures_settings_and_the_sketch_s_original() -> None:
    with gr.Blocks(analytics_enabled=False) as demo:
        state = host_widgets()
        found = by_id(demo)
        other = gr.State(None)
        sketch = found["inpaint_sketch"]
        found["img2img_image"].change(lambda x: x, found["img2img_image"], other)
        sketch.change(lambda a, b: a, [sketch, state], state)
        tab = host_tab.HostTab.find()
    assert tab is not None
    names = [component.elem_id for component in tab.inputs[:-1]]
    assert names == [*host_tab.PICTURES, *host_tab.SETTINGS]
    assert tab.inputs[-1] is state


def test_host_tab_absent_where_other_things_have_the_names_of_its_pictures() -> None:
    with gr.Blocks(analytics_enabled=False):
        for name in host_tab.PICTURES:
            gr.HTML(elem_id=name)
        for name in host_tab.SETTINGS:
            gr.Slider(0, 100, 0, elem_id=name)
        assert host_tab.HostTab.find() is None


def test_host_tab_absent_where_the_host_has_not_built_it(runtime: FakeRuntime) -> None:
    with gr.Blocks(analytics_enabled=False):
        assert host_tab.HostTab.find() is None


def shapes(size: tuple[int, int] = (96, 48)) -> Image.Image:
    array = np.zeros((size[1], size[0], 3), np.uint8)
    array[12:36, 24:72] = 255
    return Image.fromarray(array)


def tab_values(tab: int, *own: Any, **settings: Any) -> list[Any]:
    """Values of `HostTab.inputs` with the pictures of one tab."""
    rest = list(own)
    pictures = [
        rest.pop(0) if number == tab and rest else None for number in host_tab.PICTURES.values()
    ]
    values = {
        "img2img_mask_blur": 0,
        "img2img_mask_alpha": 0,
        "img2img_mask_mode": 0,
        "img2img_inpaint_full_res": 0,
        "img2img_inpaint_full_res_padding": 0,
        "resize_mode": 0,
    } | settings
    return [*pictures, *values.values(), *rest]


MASK = Image.fromarray(np.pad(np.full((10, 20), 255, np.uint8), ((0, 38), (0, 76))))


@pytest.mark.parametrize(
    ("tab", "own", "has_mask"),
    [
        pytest.param(0, [shapes()], False, id="img2img"),
        pytest.param(1, [shapes()], False, id="sketch"),
        pytest.param(2, [{"image": shapes(), "mask": MASK}], True, id="inpaint"),
        pytest.param(4, [shapes(), MASK], True, id="inpaint-upload"),
        pytest.param(4, [shapes()], False, id="inpaint-upload-without-mask"),
    ],
)
def test_tab_request_takes_picture_and_mask_of_the_chosen_tab(
    tab: int, own: list[Any], has_mask: bool
) -> None:
    request = host_tab.tab_request(640, 320, tab, 0, tab_values(tab, *own))
    assert request.size == Size(640, 320)
    assert (np.array(request.init_image) == np.array(shapes())).all()
    assert (request.inpaint is not None) == has_mask
    if has_mask:
        assert (np.array(request.inpaint.mask) == np.array(MASK)).all()


def test_tab_request_of_the_batch_has_no_picture() -> None:
    request = host_tab.tab_request(640, 320, 5, 2, tab_values(5))
    assert (request.init_image, request.size) == (None, Size(640, 320))


def test_tab_request_scale_counts_from_the_picture() -> None:
    request = host_tab.tab_request(640, 320, 0, 1.5, tab_values(0, shapes()))
    assert request.size == Size(144, 72)


def test_tab_request_copies_the_inpaint_settings() -> None:
    values = tab_values(
        4,
        shapes(),
        MASK,
        img2img_mask_blur=3,
        img2img_mask_mode=1,
        img2img_inpaint_full_res=1,
        img2img_inpaint_full_res_padding=16,
        resize_mode=2,
    )
    request = host_tab.tab_request(64, 64, 4, 0, values)
    rules = request.inpaint
    assert (rules.blur_x, rules.blur_y, rules.invert, rules.only_masked, rules.padding) == (
        *(3, 3, True, True),
        16,
    )
    assert request.resize_mode == 2


def test_tab_request_inpaint_sketch_masks_what_was_painted() -> None:
    plain, painted = shapes(), shapes()
    painted.paste((200, 10, 10), (0, 0, 8, 8))
    values = [*tab_values(3, painted), plain]
    request = host_tab.tab_request(64, 64, 3, 0, values)
    mask = np.array(request.inpaint.mask)
    assert (mask[:8, :8] == 255).all()
    assert mask.sum() == 64 * 255
    assert request.init_image.getpixel((2, 2)) == (200, 10, 10)


def test_tab_request_inpaint_sketch_blur_softens_the_strokes_too() -> None:
    plain = Image.new("RGB", (60, 60), (0, 0, 90))
    painted = Image.new("RGB", (60, 60), (255, 255, 255))
    painted.paste((0, 0, 0), (0, 0, 30, 60))
    values = [*tab_values(3, painted, img2img_mask_blur=3), plain]
    request = host_tab.tab_request(64, 64, 3, 0, values)
    red = [request.init_image.getpixel((x, 30))[0] for x in (15, 29, 30, 45)]
    assert red[0] < 5
    assert 50 < red[1] < 130 < red[2] < 210
    assert red[3] > 250


def test_tab_request_lays_transparent_pictures_on_the_host_s_colour(runtime: FakeRuntime) -> None:
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    request = host_tab.tab_request(32, 32, 0, 0, tab_values(0, clear), "#ff0000")
    assert (preview.preview(edges(module="none"), request, runtime) == (255, 0, 0)).all()


def edges(**fields: Any) -> ControlNetUnit:
    return ControlNetUnit(
        **{"enabled": True, "module": "canny", "model": CANNY, "processor_res": 96, **fields}
    )


def test_preview_of_the_tab_s_picture(runtime: FakeRuntime) -> None:
    request = host_tab.tab_request(96, 48, 0, 0, tab_values(0, shapes()))
    shown = preview.preview(edges(), request, runtime)
    assert (shown.shape, shown.max()) == ((96, 192, 3), 255)


def test_preview_of_an_inpaint_tab_shows_the_mask(runtime: FakeRuntime) -> None:
    request = host_tab.tab_request(96, 48, 4, 0, tab_values(4, shapes(), MASK))
    shown = preview.preview(edges(module="inpaint_only"), request, runtime)
    assert shown[2, 2, 3] == 128
    assert shown[40, 80, 3] == 255


def test_preview_only_masked_shows_the_crop_that_is_painted(runtime: FakeRuntime) -> None:
    def made(only_masked: int) -> np.ndarray:
        corner = Image.fromarray(np.pad(np.full((24, 24), 255, np.uint8), ((0, 24), (0, 72))))
        values = tab_values(4, shapes(), corner, img2img_inpaint_full_res=only_masked)
        request = host_tab.tab_request(64, 64, 4, 0, values)
        return preview.preview(edges(module="none"), request, runtime)

    # The shape lies in the middle of the picture, and only touches the masked upper left corner.
    assert made(0)[24:40, 24:40].min() == 255
    assert made(1)[:, :48].max() < 128


def test_preview_pixel_perfect_follows_the_tab_s_resize_mode(runtime: FakeRuntime) -> None:
    def width(resize_mode: int) -> int:
        values = tab_values(0, shapes(), resize_mode=resize_mode)
        request = host_tab.tab_request(200, 200, 0, 0, values)
        return preview.preview(edges(pixel_perfect=True), request, runtime).shape[0]

    assert (width(1), width(2)) == (200, 100)
