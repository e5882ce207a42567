"""Scripts that build, change and nest generations with ControlNet, and companions of it."""

from __future__ import annotations

import copy
import importlib
import re
from typing import Any

import numpy as np
import pytest
from controls import MODEL, SIZE, encoded, first, picture, request, unet_hooks, unit
from neighbours import Detailer, Tiles, controlnet_script, denoiser_replaced
from neighbours import process as run
from neighbours import processing_of as asked
from PIL import Image

EXTERNAL_CODE = "extensions.sd-webui-controlnet.scripts.external_code"


@pytest.fixture
def external_code(webui):
    return importlib.import_module(EXTERNAL_CODE, "external_code")


@pytest.fixture
def allowed(webui, monkeypatch):
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "control_net_allow_script_control", True)


# ---- ADetailer ----


@pytest.mark.parametrize("kind", ["controlled", "muted"])
def test_row_08_adetailer_inside_a_run_leaves_the_outer_run_as_it_is(
    webui, external_code, allowed, monkeypatch, kind
):
    from modules import scripts

    inner_units = [
        external_code.ControlNetUnit(
            enabled=True,
            model=MODEL,
            weight=0.7,
            control_mode=external_code.ControlMode.BALANCED,
            module=None,
            guidance_start=0.0,
            guidance_end=1.0,
            pixel_perfect=True,
        )
    ]
    undisturbed = run(asked(unit(), n_iter=2)).images
    hooks = unet_hooks()
    detailer = Detailer(external_code, inner_units if kind == "controlled" else None)
    runner = scripts.scripts_txt2img
    monkeypatch.setattr(runner, "postprocess_image", detailer.postprocess_image)
    p = asked(unit(), n_iter=2)
    views: list[bool] = []

    def make(_sampler, forward):
        network = controlnet_script().latest_network
        views.append(network is not None and bool(network.control_params))
        return forward

    with denoiser_replaced(make):
        disturbed = run(p).images
    assert views.count(True) == (4 if kind == "controlled" else 2)
    for left, right in zip(undisturbed, disturbed, strict=True):
        assert np.array_equal(np.array(left), np.array(right))
    assert len(detailer.inner) == 2
    assert unet_hooks() == hooks
    assert controlnet_script().latest_network is None
    assert [len(inner.images) for inner in detailer.inner] == [1, 1], "it counts its pictures"
    free = Detailer(external_code, [])
    monkeypatch.setattr(runner, "postprocess_image", free.postprocess_image)
    run(asked(unit(), n_iter=2))
    same = np.array_equal(*(np.array(d.inner[0].images[0]) for d in (detailer, free)))
    assert same == (kind == "muted")


def test_row_08_adetailer_finds_controlnet_by_its_folder(webui, host):
    """The name is built of the last two parts of the extension's path."""
    from pathlib import Path

    from modules import extensions

    folder = next(
        Path(extension.path)
        for extension in extensions.active()
        if "sd-webui-controlnet" in extension.name
    )
    route = ".".join(folder.parts[-2:]) + ".scripts.external_code"
    found = importlib.import_module(route, "external_code")
    assert found is importlib.import_module("scripts.external_code")
    assert f"{MODEL} [" in str(found.get_models(update=True))
    with pytest.raises(ImportError):
        importlib.import_module("lib_controlnet.global_state")


def test_row_01_script_is_known_by_file_title_and_module(webui):
    script = controlnet_script()
    assert script.title() == "ControlNet"
    assert script.__class__.__module__ == "controlnet.py"
    assert script.filename.replace("\\", "/").endswith("scripts/controlnet.py")
    disabled = copy.copy(script)
    assert disabled.args_to - disabled.args_from == 3


# ---- Deforum ----


def deforum_processing(units: list[Any], external_code: Any) -> Any:
    """A runner reduced to ControlNet alone, and arguments of nothing."""
    from modules import processing, scripts

    fields = {k: v for k, v in request().items() if k != "alwayson_scripts"}
    p = processing.StableDiffusionProcessingTxt2Img(
        **fields, do_not_save_samples=True, do_not_save_grid=True
    )
    runner = copy.copy(scripts.scripts_txt2img)
    own = external_code.find_cn_script(runner)
    runner.alwayson_scripts, runner.scripts, runner.callback_map = [own], [own], {}
    p.scripts = runner
    p.script_args = [None] * own.args_to
    external_code.update_cn_script_in_processing(p, units, is_img2img=False, is_ui=False)
    return p


@pytest.mark.parametrize("form", ["array", "dict", "dict with mask"])
def test_row_09_deforum_units_of_a_frame(webui, external_code, form):
    image: Any = picture()
    if form != "array":
        image = {"image": image, "mask": None}
    if form == "dict with mask":
        image["mask"] = np.zeros((SIZE, SIZE), np.uint8)
    schedule = {
        "enabled": True,
        "module": "none",
        "model": MODEL,
        "weight": 1.0,
        "image": image,
        "resize_mode": "Inner Fit (Scale to Fit)",
        "low_vram": False,
        "processor_res": 64,
        "threshold_a": 64,
        "threshold_b": 64,
        "guidance_start": 0.0,
        "guidance_end": 1.0,
        "pixel_perfect": True,
        "control_mode": "Balanced",
    }
    units = [external_code.ControlNetUnit(**schedule), external_code.ControlNetUnit(enabled=False)]
    p = deforum_processing(units, external_code)
    assert isinstance(p.script_args, list)
    found = np.array(run(p).images[0])
    assert np.array_equal(found, first(webui.txt2img(**request(unit()))))


def test_row_09_deforum_without_picture_or_with_an_excessive_weight(webui, external_code):
    absent = external_code.ControlNetUnit(enabled=False, image=None, some_new_key=1)
    p = deforum_processing([absent], external_code)
    run(p)
    heavy = external_code.ControlNetUnit(enabled=True, model=MODEL, image=picture(), weight=3.0)
    found = np.array(run(deforum_processing([heavy], external_code)).images[0])
    assert np.array_equal(found, first(webui.txt2img(**request(unit(weight=2.0)))))


def test_row_09_deforum_slider_lists(webui, external_code):
    detail = external_code.get_modules_detail()
    assert set(detail) == set(external_code.get_modules())
    assert all(isinstance(entry["sliders"], list) for entry in detail.values())
    assert external_code.get_models(True) == external_code.get_models()


def test_more_units_than_slots_run_and_no_script_moves(webui, external_code):
    from modules import scripts

    runner = scripts.scripts_txt2img
    places = [(script.args_from, script.args_to) for script in runner.scripts]
    units = [unit(weight=0.2, image=encoded(picture(seed=n))) for n in range(5)]
    p = asked()
    external_code.update_cn_script_in_processing(p, units)
    run(p)
    assert (
        len([key for key in p.extra_generation_params if re.fullmatch(r"ControlNet \d", key)]) == 5
    )
    assert [(script.args_from, script.args_to) for script in runner.scripts] == places


def test_processing_without_arguments_has_no_units(webui, external_code):
    from modules import processing, scripts

    p = processing.StableDiffusionProcessingTxt2Img()
    p.scripts = scripts.scripts_txt2img
    assert p.script_args == {}
    assert external_code.get_all_units_in_processing(p) == []
    external_code.update_cn_script_in_processing(p, [unit()])
    assert p.script_args == {}


def test_units_of_a_request_in_an_older_form_are_reported_once(webui, caplog):
    from lib_controlnet.interop import unit as unit_object

    unit_object._notice.cache_clear()
    with caplog.at_level("WARNING", logger="lib_controlnet.interop.unit"):
        for _ in range(2):
            webui.txt2img(**request(unit(lowvram=False, guidance=0.0, no_such_field=1)))
    ours = [record for record in caplog.records if record.name == unit_object.__name__]
    texts = sorted(record.getMessage() for record in ours)
    assert [text.split("'")[1] for text in texts] == ["no_such_field", "guidance", "lowvram"]


# ---- Replacer ----


def test_row_13_replacer_builds_the_panel_again_in_its_own_tab(webui, external_code):
    import gradio as gr
    from scripts.controlnet_ui.controlnet_ui_group import ControlNetUiGroup, UiControlNetUnit

    assert UiControlNetUnit is external_code.ControlNetUnit
    kept = copy.copy(ControlNetUiGroup.a1111_context)
    script = copy.copy(controlnet_script("img2img"))
    groups = len(ControlNetUiGroup.all_ui_groups)
    with gr.Blocks() as page:
        ControlNetUiGroup.a1111_context.img2img_submit_button = gr.Button(visible=False)
        inputs = list(script.ui(True))
        for group in ControlNetUiGroup.all_ui_groups[groups:]:
            group.register_run_annotator()
    ControlNetUiGroup.a1111_context = kept
    ControlNetUiGroup.all_ui_groups = []
    assert len(inputs) == script.args_to - script.args_from
    assert "controlnet" in {getattr(block, "elem_id", None) for block in page.blocks.values()}
    defaults = [external_code.to_processing_unit(item.value) for item in inputs]
    assert not any(default.enabled for default in defaults)


def test_row_13_replacer_hands_over_picture_and_mask(webui, external_code):
    from scripts.enums import InputMode

    from annotator.util import HWC3

    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (16, 16, 48, 48))
    made = copy.copy(external_code.to_processing_unit(unit(module="inpaint_only", image=None)))
    made.image = {"image": HWC3(picture()), "mask": HWC3(np.asarray(mask))}
    made.inpaint_crop_input_image = False
    made.resize_mode = external_code.ResizeMode.OUTER_FIT
    assert made.input_mode is InputMode.SIMPLE
    by_object = run(asked(made)).images
    by_dict = webui.txt2img(
        **request(unit(module="inpaint_only", mask=encoded(np.asarray(mask)), resize_mode=2))
    )
    assert np.array_equal(np.array(by_object[0]), first(by_dict))


# ---- companions with preprocessors ----


@pytest.fixture
def companion(webui):
    from internal_controlnet.external_code import Preprocessor, PreprocessorParameter
    from scripts.utils import resize_image_with_pad

    from lib_controlnet.interop import plugins

    class Posterised(Preprocessor):
        def __init__(self):
            super().__init__(name="depth_posterised")
            self.tags = ["Depth", "Posters"]
            self.slider_resolution = PreprocessorParameter(
                label="Resolution", minimum=16, maximum=2048, value=64, step=8, visible=True
            )
            self.slider_1 = PreprocessorParameter(
                label="Levels", minimum=1, maximum=50, value=20, step=1, visible=True
            )
            self.sorting_priority = 100

        def __call__(self, input_image, resolution, slider_1=None, **kwargs):
            image, remove_pad = resize_image_with_pad(input_image, resolution)
            return remove_pad((image // int(slider_1) * int(slider_1)).astype(np.uint8))

    Preprocessor.add_supported_preprocessor(Posterised())
    yield Posterised
    plugins.forget_plugins()


def test_row_14_companion_is_in_the_routes_and_a_generation(webui, companion):
    listed = webui.get("/controlnet/module_list").json()
    assert "depth_posterised" in listed["module_list"]
    sliders = listed["module_detail"]["depth_posterised"]["sliders"]
    assert [slider["name"] for slider in sliders] == ["Resolution", "Levels"]
    types = webui.get("/controlnet/control_types").json()["control_types"]
    assert "depth_posterised" in types["Depth"]["module_list"]
    assert types["Posters"]["default_option"] == "depth_posterised"
    body = {
        "controlnet_module": "depth_posterised",
        "controlnet_input_images": [encoded(picture())],
        "controlnet_threshold_a": 40,
    }
    answer = webui.post("/controlnet/detect", body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["images"]) == 1
    made = (picture() // 40 * 40).astype(np.uint8)
    fields = {"module": "depth_posterised", "threshold_a": 40, "processor_res": SIZE}
    found = webui.txt2img(**request(unit(**fields)))
    expected = webui.txt2img(**request(unit(image=encoded(made))))
    assert np.array_equal(first(found), first(expected))
    assert np.array_equal(np.array(found.images[-1].convert("RGB")), made)
    assert "Module: depth_posterised" in found.info["infotexts"][0]


def test_row_14_companion_is_in_the_panel(webui, companion):
    import gradio as gr

    from lib_controlnet.host.runtime import runtime
    from lib_controlnet.ui.panel import build_panel

    with gr.Blocks() as page:
        build_panel(False, "txt2img", runtime())
    offered = {
        str(choice)
        for block in page.blocks.values()
        for choice in getattr(block, "choices", None) or []
    }
    assert any("depth_posterised" in choice for choice in offered)
    assert any("Posters" in choice for choice in offered)


def test_reload_ui_keeps_classes_and_forgets_plugins(webui, companion, external_code):
    before = {
        route: importlib.import_module(route).ControlNetUnit
        for route in (EXTERNAL_CODE, "scripts.external_code", "internal_controlnet.external_code")
    }
    picture_before = first(webui.txt2img(**request(unit())))
    webui.reload_ui()
    for route, kind in before.items():
        assert importlib.import_module(route).ControlNetUnit is kind is external_code.ControlNetUnit
    assert "depth_posterised" not in external_code.get_modules()
    assert importlib.import_module("scripts.controlnet").Script is type(controlnet_script())
    assert np.array_equal(first(webui.txt2img(**request(unit()))), picture_before)
    tiles = Tiles([(0, 0, 8, 8)])
    with denoiser_replaced(tiles.attach):
        webui.txt2img(**request(unit()))
    assert len(tiles.params) == 1
