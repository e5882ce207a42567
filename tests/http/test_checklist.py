"""What programs in the wild ask of the interface, one test or more per row of the checklist.

A name says the row, `test_row_03_webuiapi_...`. What cannot be asked over HTTP is tested beside
its subject.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webuiapi
from api_names import ROUTES, SCHEMAS, read_routes
from checklist import DETECT, FEW, MODEL, ask, pictures, shapes
from PIL import Image

RENDER = "/controlnet/render_openpose_json"
AXES = (
    *("Enabled", "Model", "Weight", "Guidance Start", "Guidance End", "Resize Mode"),
    *("Preprocessor", "Pre Resolution", "Pre Threshold A", "Pre Threshold B", "Control Mode"),
)


@pytest.fixture(scope="module")
def picture(codec: Any) -> str:
    return codec.encode(shapes())


@pytest.fixture(scope="module")
def unit(picture: str) -> dict[str, Any]:
    """A working unit."""
    return {"module": "canny", "model": MODEL, "image": picture}


def acts(webui: Any, *units: Any, **more: Any) -> bool:
    """Whether units change the picture."""
    return pictures(webui, *units, **more)[0] != pictures(webui, **more)[0]


def is_lines(codec: Any, text: str) -> bool:
    """Whether a picture is white lines on black."""
    array = codec.decode(text)
    return set(np.unique(array)) == {0, 255} and 0 < (array > 0).mean() < 0.2


def test_row_01_host_lists_the_script_in_both_tabs_always_on(webui: Any) -> None:
    scripts = webui.get("/sdapi/v1/scripts").json()
    for tab in ("txt2img", "img2img"):
        assert {"controlnet", "controlnet m2m"} <= set(scripts[tab])
    infos = [x for x in webui.get("/sdapi/v1/script-info").json() if x["name"] == "controlnet"]
    assert [(x["is_alwayson"], len(x["args"])) for x in infos] == [
        (True, len(infos[0]["args"]))
    ] * 2
    count = webui.get("/controlnet/settings").json()["control_net_unit_count"]
    assert len(infos[0]["args"]) == count


def test_row_01_no_unit_costs_nothing(webui: Any) -> None:
    plain = webui.generate("txt2img", **FEW)["images"]
    assert pictures(webui) == plain
    assert pictures(webui, {"enabled": False, "module": ""}) == plain


@pytest.fixture(scope="module")
def client(webui: Any) -> webuiapi.WebUIApi:
    """The client program of row 3."""
    client = webuiapi.WebUIApi(baseurl=f"{webui.url}/sdapi/v1")
    client.session.trust_env = False
    return client


def as_unit(**fields: Any) -> webuiapi.ControlNetUnit:
    return webuiapi.ControlNetUnit(**{"module": "canny", "model": MODEL, **fields})


CLIENT = {"sampler_name": "Euler", "steps": 2, "seed": 7, "cfg_scale": 4, "width": 64, "height": 64}


def test_row_03_webuiapi_lists(client: webuiapi.WebUIApi, webui: Any) -> None:
    assert client.controlnet_version() == 3
    models = webui.get("/controlnet/model_list").json()["model_list"]
    assert client.controlnet_model_list() == models
    assert "canny" in client.controlnet_module_list()
    interface = webuiapi.ControlNetInterface(client)
    assert interface.model_list() == models


def test_row_03_webuiapi_detect(client: webuiapi.WebUIApi, codec: Any) -> None:
    image = Image.fromarray(shapes())
    answer = client.controlnet_detect([image], module="canny", threshold_a=100, threshold_b=200)
    assert (len(answer.images), answer.info) == (1, "Success")
    assert answer.image.size == (512, 512)
    assert set(np.unique(np.asarray(answer.image.convert("L")))) == {0, 255}


def test_row_03_webuiapi_txt2img_with_units(client: webuiapi.WebUIApi) -> None:
    image = Image.fromarray(shapes())
    plain = client.txt2img(prompt="a red circle", **CLIENT)
    made = client.txt2img(
        prompt="a red circle", controlnet_units=[as_unit(image=image, control_mode=2)], **CLIENT
    )
    assert (len(plain.images), len(made.images)) == (1, 2)
    assert np.asarray(plain.image).tobytes() != np.asarray(made.image).tobytes()
    assert "Control Mode: ControlNet is more important" in made.info["infotexts"][0]


def test_row_03_webuiapi_img2img_unit_without_image_takes_the_init_image(
    client: webuiapi.WebUIApi,
) -> None:
    image = Image.fromarray(shapes())
    unit = as_unit()
    assert unit.to_dict()["image"] == ""
    assert unit.to_dict()["mask"] is None
    made = client.img2img(
        images=[image], prompt="x", denoising_strength=0.9, controlnet_units=[unit], **CLIENT
    )
    lines = np.asarray(made.images[1])
    assert (lines > 0).any()
    assert set(np.unique(lines)) == {0, 255}


def test_row_03_webuiapi_empty_args_are_a_no_op(
    client: webuiapi.WebUIApi, webui: Any, codec: Any
) -> None:
    assert client.has_controlnet, "it then sends units with every request"
    made = client.txt2img(prompt="a red circle", controlnet_units=[], **CLIENT)
    assert made.parameters["alwayson_scripts"]["ControlNet"] == {"args": []}
    plain = webui.generate("txt2img", prompt="a red circle", **CLIENT)
    assert np.array_equal(np.asarray(made.image), codec.decode(plain["images"][0]))


def test_row_03_webuiapi_removed_routes_are_404(webui: Any) -> None:
    for name in ("txt2img", "img2img"):
        assert webui.post(f"/controlnet/{name}").status_code == 404


def test_row_04_photoshop_reads_lists_and_settings(webui: Any) -> None:
    assert webui.get("/controlnet/version").json()["version"] > 1
    body = webui.get("/controlnet/module_list?alias_names=true").json()
    detail = body["module_detail"]["canny"]
    resolution, low, high = detail["sliders"][:3]
    assert (resolution["value"], low["value"], high["value"]) == (512, 100, 200)
    assert detail["model_free"] is False
    assert set(body["module_list"]) == set(body["module_detail"])
    assert webui.get("/controlnet/settings").json()["control_net_unit_count"] >= 1


def test_row_04_photoshop_units(webui: Any, picture: str) -> None:
    off = {
        **{"enabled": False, "module": "", "model": "", "input_image": "", "mask": ""},
        **{"lowvram": False, "threshold_a": 0, "threshold_b": 0, "processor_res": 512},
        **{"weight": 1, "guidance_start": 0, "guidance_end": 1, "resize_mode": 1},
    }
    on = {**off, "enabled": True, "module": "canny", "model": MODEL, "input_image": picture}
    assert acts(webui, on, off, controlnet_units=[], subseed=-1)
    assert not acts(webui, off, off, off)


def test_row_04_photoshop_detect(webui: Any, picture: str) -> None:
    body = {
        **{"controlnet_module": "canny", "controlnet_input_images": [picture]},
        **{"controlnet_processor_res": 512, "controlnet_threshold_a": 64},
        **{"controlnet_threshold_b": 64, "controlnet_mask": ""},
    }
    assert webui.post(DETECT, body).json()["images"]


def test_row_05_ai_render_unit_without_enabled_and_image_acts(
    webui: Any, codec: Any, picture: str
) -> None:
    models = webui.get("/controlnet/model_list").json()["model_list"]
    assert models
    assert all(isinstance(name, str) for name in models)
    modules = webui.get("/controlnet/module_list").json()["module_list"]
    assert sorted(modules)
    assert {"canny", "scribble_xdog"} <= set(modules)
    more = {"route": "img2img", "init_images": [picture], "denoising_strength": 0.9}
    sent = {"weight": 1, "module": "canny", "model": MODEL}
    made = pictures(webui, sent, **more)
    assert is_lines(codec, made[1])
    assert made[0] != pictures(webui, **more)[0]


@pytest.mark.parametrize("resize_mode", ["Scale to Fit (Inner Fit)", "Envelope (Outer Fit)"])
def test_row_06_blender_controlnet_unit(webui: Any, picture: str, resize_mode: str) -> None:
    sent = {
        **{"input_image": picture, "mask": "", "module": "canny", "model": MODEL, "weight": 1},
        **{"resize_mode": resize_mode, "lowvram": False, "processor_res": 64},
        **{"threshold_a": 64, "threshold_b": 64, "guidance": 1, "guidance_start": 0},
        **{"guidance_end": 1, "guessmode": False},
    }
    assert acts(webui, sent)


def test_row_07_stability_matrix_models_through_links(webui: Any, tmp_path: Path) -> None:
    if not webui.is_ours:  # its folder of models is not ours to write to
        return
    store = tmp_path / "Models" / "ControlNet"
    store.mkdir(parents=True)
    (store / "shared_net.safetensors").write_bytes(b"x")
    folder = webui.log_file.parent / "models" / "controlnet"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "ControlNet"
    link.symlink_to(store, target_is_directory=True)
    try:
        assert "shared_net [e3b0c442]" in webui.get("/controlnet/model_list").json()["model_list"]
    finally:
        link.unlink()
    assert "shared_net [e3b0c442]" not in webui.get("/controlnet/model_list").json()["model_list"]


def test_row_09_deforum_module_details_and_units(webui: Any, unit: dict) -> None:
    details = webui.get("/controlnet/module_list").json()["module_detail"]
    assert all(isinstance(s, dict) for d in details.values() for s in d["sliders"])
    scheduled = pictures(webui, {**unit, "weight": 2.0, "some_schedule": "0:(1)"})
    assert scheduled == pictures(webui, {**unit, "weight": 2.0})


def test_row_11_animatediff_frames_over_http_are_one_batch(webui: Any, codec: Any) -> None:
    frames = [codec.encode(np.roll(shapes(), 40 * number, axis=1)) for number in range(2)]
    asked = {"module": "canny", "model": MODEL}
    several = {"input_mode": "batch", "animatediff_batch": True, "batch_images": frames}
    made = pictures(webui, {**asked, **several}, batch_size=2)
    assert len(made) in (2, 3), "no maps; A1111 may put a grid in front"
    for number, (picture, frame) in enumerate(zip(made[-2:], frames, strict=True)):
        (alone, *_) = pictures(webui, {**asked, "image": frame}, seed=FEW["seed"] + number)
        apart = codec.decode(picture).astype(int) - codec.decode(alone)
        assert abs(apart).max() <= 1, f"frame {number}"
    assert made[-1] != made[-2]


def test_row_12_upscaler_map_is_the_hosts_crop(webui: Any, codec: Any) -> None:
    array = shapes(256, 256)
    mask = np.zeros((256, 256), np.uint8)
    mask[64:128, 96:160] = 255
    more = {
        **{"route": "img2img", "init_images": [codec.encode(array)], "mask": codec.encode(mask)},
        **{"inpaint_full_res": True, "inpaint_full_res_padding": 0, "mask_blur": 0},
        **{"denoising_strength": 0.5, "inpainting_fill": 1},
    }
    shown = pictures(webui, {"module": "none", "model": MODEL}, **more)[1]
    crop = np.asarray(Image.fromarray(array).crop((96, 64, 160, 128)))
    assert len(np.unique(crop.reshape(-1, 3), axis=0)) > 1
    assert np.array_equal(codec.decode(shown), crop)


def test_row_12_upscale_script_gets_no_maps(webui: Any, unit: dict, picture: str) -> None:
    if "sd upscale" not in webui.get("/sdapi/v1/scripts").json()["img2img"]:
        return  # the embedded host has no such script; tests/host asks with its key
    made = pictures(
        webui, {"module": "canny", "model": MODEL}, route="img2img", init_images=[picture],
        denoising_strength=0.3, script_name="SD upscale", script_args=["", 16, "Lanczos", 2],
    )  # fmt: skip
    assert len(made) == 1
    assert unit


POSE = {
    "people": [{"pose_keypoints_2d": [x for i in range(18) for x in (0.1 + i / 20, 0.5, 1.0)]}],
    "animals": [[x for i in range(17) for x in (10 + 5 * i, 20, 1.0)]],
    "canvas_width": 120,
    "canvas_height": 80,
}


def test_row_15_openpose_editor_renders_people_and_animals(webui: Any, codec: Any) -> None:
    def rendered(pose: dict) -> np.ndarray:
        answer = webui.post(RENDER, [pose])
        assert (answer.status_code, answer.json()["info"]) == (200, "Success")
        return codec.decode(answer.json()["images"][0])

    both = rendered(POSE)
    assert both.shape == (80, 120, 3)
    assert both[40].any()
    assert both[20].any()
    assert not rendered({**POSE, "animals": []})[20].any()
    assert not rendered({**POSE, "people": []})[40].any()
    assert np.array_equal(rendered(json.loads(json.dumps(POSE))), both)


def test_row_16_script_control_is_off_until_allowed(webui: Any) -> None:
    assert webui.get("/sdapi/v1/options").json()["control_net_allow_script_control"] is False


def test_row_17_xyz_axes_are_offered(webui: Any) -> None:
    grids = [x for x in webui.get("/sdapi/v1/script-info").json() if x["name"] == "x/y/z plot"]
    assert len(grids) == 2, "one in each tab"
    for grid in grids:
        offered = {choice for arg in grid["args"] for choice in arg.get("choices") or []}
        assert {f"[ControlNet] {title}" for title in AXES} <= offered


LINE = (
    f'ControlNet 0: "Module: canny, Model: {MODEL}, Weight: 0.5, Resize Mode: Resize and Fill, '
    "Processor Res: 128, Threshold A: 50.0, Threshold B: 200, Guidance Start: 0.0, Guidance End: "
    '0.9, Pixel Perfect: False, Control Mode: My prompt is more important"'
)


def test_row_18_infotext_is_exact_and_comes_back(webui: Any, unit: dict) -> None:
    sent = {
        **{**unit, "weight": 0.5, "resize_mode": 2, "processor_res": 128, "threshold_a": 50},
        **{"guidance_end": 0.9, "control_mode": 1},
    }
    body = ask(webui, {"enabled": False}, sent).json()
    text = json.loads(body["info"])["infotexts"][0]
    assert LINE in text, "units are counted over the enabled ones"
    assert "ControlNet 1" not in text
    parsed = webui.post("/sdapi/v1/png-info", {"image": body["images"][0]}).json()["parameters"]
    assert parsed["ControlNet 0"] == LINE.partition(": ")[2].strip('"')


def test_row_18_infotext_of_a_request_does_not_make_units(webui: Any) -> None:
    """It has no pictures: the request is refused, unless a unit says that it is meant so."""
    request = {**FEW, "infotext": f"x\nSteps: 2, Seed: 7, {LINE}"}
    answer = webui.post("/sdapi/v1/txt2img", request)
    assert answer.status_code == 422
    assert "holds no picture" in answer.text
    off = {"controlnet": {"args": [{"enabled": False}]}}
    body = webui.generate("txt2img", **request, alwayson_scripts=off)
    assert "ControlNet" not in json.loads(body["info"])["infotexts"][0]


PICTURE = "PICTURE"
REFUSALS = {
    "unknown module": ({"controlnet_module": "xx"}, "Module not available"),
    "unsupported module": ({"controlnet_module": "revision_clipvision"}, "Module not supported"),
    "no images": ({"controlnet_module": "canny"}, "No image selected"),
    "empty body": ({}, "No image selected"),
    "masks": (
        {"controlnet_module": "inpaint_only", "controlnet_input_images": [PICTURE]},
        "Preprocessor inpaint_only requires `controlnet_masks` param.",
    ),
    "bad base64": ({"controlnet_input_images": ["?"]}, "Invalid encoded image"),
    "empty image": ({"controlnet_input_images": [""]}, "Invalid encoded image"),
    "local address": (
        {"controlnet_input_images": ["http://127.0.0.1/a.png"]},
        "Request to local resource not allowed",
    ),
}


@pytest.mark.parametrize("row", REFUSALS)
def test_row_19_detect_refusal(webui: Any, picture: str, row: str) -> None:
    body, text = REFUSALS[row]
    answer = webui.post(DETECT, json.loads(json.dumps(body).replace(PICTURE, picture)))
    assert answer.status_code == 422
    asked = {"alwayson_scripts": {"nobody": {"args": []}}}
    refused = webui.post("/sdapi/v1/txt2img", asked)  # at once, by the host itself
    assert refused.status_code == 422
    assert set(answer.json()) == set(refused.json()), "the host's shape"
    assert text in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"controlnet_input_images": "x"}, "list"),
        ({"controlnet_input_images": [None]}, ""),
        ({"controlnet_processor_res": "tall"}, "valid"),
    ],
    ids=["list", "null", "number"],
)
def test_row_19_detect_validation(webui: Any, body: dict, text: str) -> None:
    answer = webui.post(DETECT, body)
    assert answer.status_code == 422
    (told,) = answer.json()["detail"]
    assert set(told) == {"loc", "msg", "type"}
    assert text in told["msg"]


def test_row_19_broken_json_wrong_method_and_junk_query(webui: Any) -> None:
    headers = {"content-type": "application/json"}
    for route in (DETECT, RENDER):
        broken = webui.client.post(route, content=b"{", headers=headers)
        assert (broken.status_code, broken.json()["detail"][0]["loc"]) == (422, ["body", 1])
        assert webui.get(route).status_code == 405
    assert webui.get("/controlnet/module_list?alias_names=perhaps").status_code == 422
    for word in ("true", "1", "on", "yes", "false", "0", "off", "no"):
        assert webui.get(f"/controlnet/module_list?alias_names={word}").status_code == 200


def test_row_19_large_request_is_413(webui: Any) -> None:
    body = b"[" + b" " * (5 << 20) + b"]"
    answer = webui.client.post(RENDER, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "larger than 4 MB" in answer.json()["detail"]


def test_row_19_render_refusal(webui: Any) -> None:
    pose = {**POSE, "people": [{"pose_keypoints_2d": [0.5] * 50}]}
    answer = webui.post(RENDER, [pose])
    assert answer.status_code == 422
    assert "poses[0].people[0].pose_keypoints_2d has 50 numbers" in answer.json()["detail"]
    assert webui.client.post(RENDER, json=[]).json() == {"info": "No pose data detected."}


@pytest.mark.parametrize(
    ("unit_change", "status", "text"),
    [
        ({"module": "xx"}, 422, "unit 1: Module not available: 'xx'"),
        ({"image": None}, 422, "unit 1: controlnet is enabled but no input image is given"),
        ({"model": "None"}, 422, "unit 1: You have not selected any ControlNet Model."),
        ({"model": "absent_net"}, 404, "unit 1: control model 'absent_net' is not found"),
        ({"guidance_start": 2}, 422, "unit 1: guidance_start is 2, must be between 0 and 1"),
        ({"weight": "heavy"}, 422, "unit 1: weight is 'heavy', must be a number"),
        ({"resize_mode": 9}, 422, "unit 1: resize_mode is 9, must be one of"),
        ({"image": "?"}, 422, "unit 1: image cannot be decoded"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_row_19_one_bad_unit_names_its_index_and_field(
    webui: Any, unit: dict, unit_change: dict, status: int, text: str
) -> None:
    answer = ask(webui, unit, {**unit, **unit_change})
    assert answer.status_code == status, answer.text[:500]
    assert answer.json()["detail"].startswith(text)


def test_row_19_unknown_always_on_script(webui: Any) -> None:
    answer = webui.post("/sdapi/v1/txt2img", {**FEW, "alwayson_scripts": {"foo": {"args": []}}})
    assert (answer.status_code, answer.json()["detail"]) == (422, "Script 'foo' not found")
    listed = {"alwayson_scripts": {"controlnet m2m": {"args": []}}}
    answer = webui.post("/sdapi/v1/txt2img", {**FEW, **listed})
    told = "Cannot have a selectable script in the always on scripts params"
    assert (answer.status_code, answer.json()["detail"]) == (422, told)


def test_row_20_more_units_than_slots_are_named(webui: Any, unit: dict) -> None:
    slots = webui.get("/controlnet/settings").json()["control_net_unit_count"]
    answer = ask(webui, *[unit] * (slots + 1))
    assert answer.status_code == 422
    told = answer.json()["detail"]
    assert told.startswith(f"unit {slots}: {slots + 1} units are sent, but there are {slots} slots")
    assert acts(webui, *[unit] * slots, {"enabled": False}), "one that is off is no loss"


def test_row_22_generated_clients_find_their_names(webui: Any) -> None:
    schema = webui.get("/openapi.json").json()
    assert read_routes(schema) == ROUTES
    assert set(schema["components"]["schemas"]) >= SCHEMAS


@pytest.mark.parametrize(
    "change",
    [
        {"resize_mode": 2, "control_mode": 1, "hr_option": 0},
        {"resize_mode": "ResizeMode.INNER_FIT", "hr_option": "HiResFixOption.BOTH"},
        {"control_mode": "ControlMode.CONTROL"},
        {"use_preview_as_input": False, "generated_image": None, "batch_input_gallery": None},
        {"batch_image_dir": "", "batch_mask_dir": "", "batch_mask_gallery": None},
        {"image_fg": None, "mask_image_fg": None},
    ],
    ids=" ".join,
)
def test_row_23_forge_payload(webui: Any, unit: dict, change: dict) -> None:
    assert acts(webui, {**unit, "mask_image": None, **change})


def test_row_23_forge_module_none_takes_the_picture_as_it_is(
    webui: Any, codec: Any, unit: dict
) -> None:
    plain = pictures(webui, {**unit, "module": "none"})
    for spelling in ("None", None, "", "NONE"):
        assert pictures(webui, {**unit, "module": spelling}) == plain
    assert not is_lines(codec, plain[1])


def test_row_23_forge_scribble_layer_is_the_mask(webui: Any, codec: Any, unit: dict) -> None:
    layer = np.zeros((128, 128, 4), np.uint8)
    layer[32:96, 32:96] = 255
    sent = {**unit, "module": "inpaint", "model": "control_demo_inpaint"}
    drawn = pictures(webui, {**sent, "image_fg": codec.encode(layer)})
    mask = pictures(webui, {**sent, "mask_image": codec.encode(layer[:, :, 3])})
    assert drawn == mask
    assert drawn != pictures(webui, sent)


def test_row_24_pictures_then_maps(webui: Any, codec: Any, unit: dict) -> None:
    more = {"batch_size": 2, "n_iter": 2}
    made = pictures(webui, unit, {**unit, "module": "none"}, **more)
    assert len(made) == 2 * 2 + 2
    assert is_lines(codec, made[4])
    assert not is_lines(codec, made[5])
    assert not any(is_lines(codec, text) for text in made[:4])
    assert len(pictures(webui, {**unit, "save_detected_map": False}, **more)) == 4


def test_row_24_hires_shows_two_maps_the_large_one_first(
    webui: Any, codec: Any, unit: dict
) -> None:
    more = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7}
    sizes = [codec.decode(text).shape[0] for text in pictures(webui, unit, **more)]
    assert sizes == [128, 128, 64]


def test_row_24_setting_hides_all_maps(webui: Any, unit: dict) -> None:
    hidden = {"override_settings": {"control_net_no_detectmap": True}}
    assert len(pictures(webui, unit, **hidden)) == 1
    assert len(pictures(webui, unit)) == 2
