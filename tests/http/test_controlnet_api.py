"""The routes and the units over real HTTP, as a client program uses them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

MODEL = "control_demo_canny"
SMALL = {"prompt": "a red circle", "steps": 2, "width": 128, "height": 128, "seed": 7}
UNIT_FIELDS = (
    "is_ui input_mode batch_images output_dir loopback enabled module model weight image "
    "resize_mode low_vram processor_res threshold_a threshold_b guidance_start guidance_end "
    "pixel_perfect control_mode inpaint_crop_input_image hr_option save_detected_map "
    "advanced_weighting effective_region_mask pulid_mode union_control_type ipadapter_input mask "
    "batch_mask_dir animatediff_batch batch_modifiers batch_image_files batch_keyframe_idx"
)
OWN_FIELDS = (
    "region region_feather batch_option style_align "  # behind those that clients know
    "union_apart speed region_colour region_map weight_curve"
)


@pytest.fixture(scope="module")
def picture(codec: Any) -> str:
    """A 192 x 128 picture of two shapes."""
    array = np.full((128, 192, 3), 220, np.uint8)
    array[30:90, 20:80] = (200, 30, 30)
    array[60:110, 110:170] = (20, 60, 200)
    return codec.encode(array)


def generate(webui: Any, route: str = "txt2img", units: list | None = None, **more: Any) -> Any:
    scripts = {"ControlNet": {"args": units or []}}
    return webui.post(f"/sdapi/v1/{route}", {**SMALL, "alwayson_scripts": scripts, **more})


def test_version_settings_and_lists(webui: Any) -> None:
    assert webui.get("/controlnet/version").json() == {"version": 3}
    count = webui.get("/controlnet/settings").json()["control_net_unit_count"]
    assert count >= 1
    models = webui.get("/controlnet/model_list").json()["model_list"]
    assert any(name.startswith(f"{MODEL} [") for name in models)
    modules = webui.get("/controlnet/module_list").json()
    assert modules["module_list"][0] == "none"
    assert {"canny", "invert", "inpaint_only"} <= set(modules["module_list"])
    labels = webui.get("/controlnet/module_list?alias_names=true").json()["module_list"]
    assert "invert (from white bg & black line)" in labels
    types = webui.get("/controlnet/control_types").json()["control_types"]
    assert types["Canny"]["default_option"] == "canny"
    assert types["Canny"]["default_model"].startswith("control_")


def test_script_info_shows_the_default_unit(webui: Any) -> None:
    scripts = webui.get("/sdapi/v1/scripts").json()
    assert "controlnet" in scripts["txt2img"]
    assert "controlnet" in scripts["img2img"]
    infos = [s for s in webui.get("/sdapi/v1/script-info").json() if s["name"] == "controlnet"]
    assert sorted(info["is_img2img"] for info in infos) == [False, True]
    for info in infos:
        assert info["is_alwayson"]
        for argument in info["args"]:
            assert list(argument["value"]) == [*UNIT_FIELDS.split(), *OWN_FIELDS.split()]
            assert argument["value"]["enabled"] is False


def test_detect_canny_gives_lines_at_the_asked_size(webui: Any, codec: Any, picture: str) -> None:
    answer = webui.post(
        "/controlnet/detect",
        {
            "controlnet_module": "canny",
            "controlnet_input_images": [picture],
            "controlnet_processor_res": 256,
        },
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["info"] == "Success"
    lines = codec.decode(body["images"][0])
    assert lines.shape == (256, 384, 3)
    assert set(np.unique(lines)) == {0, 255}
    assert 0.002 < (lines > 0).mean() < 0.1


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        pytest.param({"controlnet_module": "nonsense"}, "Module not available", id="module"),
        pytest.param({"controlnet_module": "canny"}, "No image selected", id="no-image"),
        pytest.param(
            {"controlnet_module": "inpaint_only", "controlnet_input_images": ["PICTURE"]},
            "Preprocessor inpaint_only requires `controlnet_masks` param.",
            id="mask",
        ),
        pytest.param(
            {"controlnet_module": "canny", "controlnet_input_images": ["AAAA"]},
            "controlnet_input_images[0] cannot be decoded",
            id="undecodable",
        ),
    ],
)
def test_detect_refuses_in_the_hosts_error_shape(
    webui: Any, picture: str, body: dict, detail: str
) -> None:
    if body.get("controlnet_input_images") == ["PICTURE"]:
        body = {**body, "controlnet_input_images": [picture]}
    answer = webui.post("/controlnet/detect", body)
    assert answer.status_code == 422
    assert detail in answer.json()["detail"]


def test_generate_appends_the_map_and_writes_the_infotext(
    webui: Any, codec: Any, picture: str
) -> None:
    unit = {"module": "canny", "model": MODEL, "image": picture, "weight": 0.9}
    answer = generate(webui, units=[unit])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    made, shown = map(codec.decode, body["images"])
    assert made.shape == shown.shape == (128, 128, 3)
    assert set(np.unique(shown)) == {0, 255}
    infotexts = json.loads(body["info"])["infotexts"]
    assert (
        f'ControlNet 0: "Module: canny, Model: {MODEL}, Weight: 0.9, Resize Mode: Crop and '
        "Resize, Processor Res: 512, Threshold A: 100, Threshold B: 200, Guidance Start: 0.0, "
        'Guidance End: 1.0, Pixel Perfect: False, Control Mode: Balanced"'
    ) in infotexts[0]


def test_generate_by_a_picture_alone_in_an_aligned_batch(webui: Any, picture: str) -> None:
    """Reference units need no model; style_align needs no unit that is on."""
    unit = {"module": "reference_adain+attn", "image": picture, "threshold_a": 0.25}
    align = {"enabled": False, "style_align": True}
    plain = webui.generate("txt2img", **SMALL, batch_size=2)
    made = []
    for units in ([unit], [align], [unit, align]):
        answer = generate(webui, units=units, batch_size=2)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        text = json.loads(body["info"])["infotexts"][0]
        assert ("Module: reference_adain+attn" in text) == (unit in units)
        assert ("ControlNet StyleAlign: True" in text) == (align in units)
        made.append(body["images"][0])
    assert len({*made, plain["images"][0]}) == 4
    assert webui.generate("txt2img", **SMALL, batch_size=2)["images"] == plain["images"]


@pytest.mark.parametrize("units", [[], [{"enabled": False, "module": ""}]], ids=["none", "off"])
def test_generate_without_enabled_units_is_plain(webui: Any, units: list) -> None:
    body = generate(webui, units=units).json()
    plain = webui.generate("txt2img", **SMALL)
    assert body["images"] == plain["images"]
    assert "ControlNet" not in json.loads(body["info"])["infotexts"][0]


@pytest.mark.parametrize(
    ("unit", "status", "sentence"),
    [
        pytest.param(
            {"module": "canny", "model": MODEL},
            422,
            "unit 0: controlnet is enabled but no input image is given",
            id="no-image",
        ),
        pytest.param(
            {"model": "absent"}, 404, "unit 0: control model 'absent' is not found", id="model"
        ),
        pytest.param(
            {"model": "None"}, 422, "You have not selected any ControlNet Model", id="none"
        ),
        pytest.param({"module": "cany"}, 422, "did you mean canny", id="module"),
        pytest.param({"image": "AAAA"}, 422, "unit 0: image cannot be decoded", id="undecodable"),
        pytest.param(
            {"image": {"image": "PICTURE", "mask": "AAAA"}, "module": "inpaint_only"},
            422,
            "unit 0: mask cannot be decoded",
            id="mask",
        ),
        pytest.param({"guidance_start": 2}, 422, "unit 0: guidance_start is 2", id="range"),
        pytest.param({"resize_mode": "Sideways"}, 422, "must be one of", id="choice"),
        pytest.param({"weight": "heavy"}, 422, "unit 0: weight is 'heavy'", id="number"),
        pytest.param({"weight": 5}, 422, "unit 0: weight is 5, must be between", id="weight"),
        pytest.param({"threshold_a": 300}, 422, "unit 0: threshold_a is 300, Low", id="slider"),
        pytest.param({"image": "/etc/hostname"}, 422, "unit 0: image is a file path", id="path"),
    ],
)
def test_generate_refuses_before_sampling(
    webui: Any, picture: str, unit: dict, status: int, sentence: str
) -> None:
    base = {"module": "canny", "model": MODEL, "image": picture}
    if unit == {"module": "canny", "model": MODEL}:
        base = {}
    asked = json.loads(json.dumps({**base, **unit}).replace("PICTURE", picture))
    answer = generate(webui, units=[asked])
    assert answer.status_code == status, answer.text[:500]
    assert sentence in answer.json()["detail"]


def test_generate_says_in_the_answer_what_had_no_effect(webui: Any, picture: str) -> None:
    unit = {"module": "canny", "model": MODEL, "image": picture, "threshold_b": 0}
    late = {**unit, "guidance_start": 0.8, "guidance_end": 0.2, "Resize-Mode": 1, "frob": 1}
    info = json.loads(generate(webui, units=[unit, late]).json()["info"])
    notes = info["extra_generation_params"]["ControlNet notes"].split("\n")
    assert [note.partition(",")[0].partition(":")[0] for note in notes] == [
        "ControlNet unit 0",
        "ControlNet unit 1",
        "ControlNet unit 1",
        "ControlNet unit 1 was never active",
    ]
    assert "threshold_b is 0, High Threshold of canny goes between 1 and 255" in notes[0]
    assert "unknown keys ignored: frob" in notes[1]
    assert "threshold_b is 0" in notes[2]
    assert "guidance_start 0.8 lies after guidance_end 0.2" in notes[3]
    ran, idle = info["extra_generation_params"]["ControlNet report"]["units"]
    assert (ran["preprocessor"], ran["family"], ran["passes"][0]["steps"]) == (
        "canny",
        "ControlNet",
        2,
    )
    assert "guidance_start 0.8 lies after guidance_end 0.2" in idle["skipped"]
    assert "report" not in info["infotexts"][0]
    assert "ControlNet 0" in info["infotexts"][0]
    assert "ControlNet 1" not in info["infotexts"][0]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda unit: {"alwayson_scripts": {"controlnet": unit}},
        lambda unit: {"alwayson_scripts": {"ControlNet": {"Args": [unit]}}},
        lambda unit: {"controlnet_units": [unit]},
        lambda unit: {f"controlnet_{name}": value for name, value in unit.items()},
    ],
    ids=["instead of args", "Args", "at the top", "flat"],
)
def test_generate_refuses_units_where_the_host_does_not_look(
    webui: Any, picture: str, request_of: Any
) -> None:
    body = request_of({"module": "canny", "model": MODEL, "image": picture})
    answer = webui.client.post("/sdapi/v1/txt2img", json={**SMALL, **body})
    assert answer.status_code == 422
    assert "holds a ControlNet unit, which is not looked for there" in answer.json()["detail"]


def test_generate_is_never_stopped_by_a_unit_that_is_off(webui: Any, picture: str) -> None:
    unit = {"module": "canny", "model": MODEL, "image": picture}
    alone = generate(webui, units=[unit]).json()["images"]
    for junk in ('"weight": NaN', '"image": "!!"', '"guidance_end": 9, "control_mode": [[]]'):
        off = '{"enabled": false, "module": "absent", ' + junk + "}"
        body = json.dumps({**SMALL, "alwayson_scripts": {"ControlNet": {"args": [unit, "OFF"]}}})
        answer = webui.client.post(
            "/sdapi/v1/txt2img",
            content=body.replace('"OFF"', off),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 200, answer.text[:300]
        assert answer.json()["images"] == alone


def test_generate_after_a_refusal_is_what_it_was(webui: Any, picture: str) -> None:
    unit = {"module": "canny", "model": MODEL, "image": picture}
    before = generate(webui, units=[unit]).json()["images"]
    assert generate(webui, units=[{**unit, "model": "absent"}]).status_code == 404
    assert generate(webui, units=[unit]).json()["images"] == before


def test_generate_second_unit_is_named_in_the_error(webui: Any, picture: str) -> None:
    good = {"module": "canny", "model": MODEL, "image": picture}
    answer = generate(webui, units=[good, {**good, "image": None}])
    assert answer.status_code == 422
    assert "unit 1: controlnet is enabled but no input image" in answer.json()["detail"]


def test_img2img_unit_without_image_takes_the_init_image(
    webui: Any, codec: Any, picture: str
) -> None:
    answer = generate(
        webui,
        "img2img",
        [{"module": "canny", "model": MODEL, "image": "", "mask": None}],
        init_images=[picture],
        denoising_strength=0.6,
        resize_mode=1,
    )
    assert answer.status_code == 200, answer.text[:500]
    _made, shown = map(codec.decode, answer.json()["images"])
    assert set(np.unique(shown)) == {0, 255}
    assert (shown > 0).any()


def test_png_info_of_a_controlled_picture_names_the_unit(webui: Any, picture: str) -> None:
    unit = {"module": "canny", "model": MODEL, "image": picture}
    made = generate(webui, units=[unit]).json()["images"][0]
    info = webui.post("/sdapi/v1/png-info", {"image": f"data:image/png;base64,{made}"}).json()
    assert info["parameters"]["ControlNet 0"].startswith(f"Module: canny, Model: {MODEL},")


@pytest.mark.parametrize("form", ["jpg", "webp", "png"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_detect_answers_in_the_users_format_or_one_that_can_hold_it(
    webui: Any, codec: Any, form: str, mode: str
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (16, 16, len(mode)), np.uint8)
    sent = codec.encode(array[:, :, 0] if mode == "L" else array)
    options = webui.get("/sdapi/v1/options").json()
    webui.post("/sdapi/v1/options", {"samples_format": form})
    try:
        answer = webui.post("/controlnet/detect", {"controlnet_input_images": [sent]})
    finally:
        webui.post("/sdapi/v1/options", {"samples_format": options["samples_format"]})
    assert answer.status_code == 200, answer.text[:500]
    assert codec.decode(answer.json()["images"][0]).shape == (16, 16, 3)


def test_a_weight_curve_is_windows_of_both_passes(webui: Any, codec: Any, picture: str) -> None:
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
    unit = {"module": "canny", "model": MODEL, "image": picture}
    curve = "1@0, 1@0.5, 0@0.5 | 0.5@0"
    windows = (
        {**unit, "guidance_end": 0.5, "hr_option": "Low res only"},
        {**unit, "weight": 0.5, "hr_option": "High res only"},
    )
    found, expected = (
        generate(webui, units=list(units), width=64, height=64, **hires)
        for units in (({**unit, "weight_curve": curve},), windows)
    )
    assert found.status_code == expected.status_code == 200, (found.text, expected.text)
    one, other = (codec.decode(answer.json()["images"][0]) for answer in (found, expected))
    assert (one == other).all()
    (text, *_) = json.loads(found.json()["info"])["infotexts"]
    assert f'Weight Curve: \\"{curve}\\""' in text
