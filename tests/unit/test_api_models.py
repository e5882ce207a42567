"""The HTTP routes in an app of their own: shapes, texts and OpenAPI names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fake_web import FakeRuntime, decode, encode, served, square
from starlette.testclient import TestClient

from annotator.registry import Detected, Detector
from lib_controlnet.api.routes import API_VERSION
from lib_controlnet.detect import preprocess
from lib_controlnet.interop import api as python_api

MODELS = ("control_canny", "control_v11p_sd15_canny", "control_depth", "union_pro", "t2iadapter_x")
TYPES = [
    "All",
    "Canny",
    "Depth",
    "IP-Adapter",
    "Inpaint",
    "Instant-ID",
    "InstructP2P",
    "Lineart",
    "MLSD",
    "NormalMap",
    "OpenPose",
    "Recolor",
    "Reference",
    "Revision",
    "Scribble",
    "Segmentation",
    "Shuffle",
    "SoftEdge",
    "SparseCtrl",
    "T2I-Adapter",
    "Tile",
]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[TestClient, FakeRuntime]]:
    for name in MODELS:
        (tmp_path / f"{name}.safetensors").write_bytes(b"x")
    with served(tmp_path) as both:
        yield both


@pytest.fixture
def client(both: tuple[TestClient, FakeRuntime]) -> TestClient:
    return both[0]


@pytest.fixture
def runtime(both: tuple[TestClient, FakeRuntime]) -> FakeRuntime:
    return both[1]


@pytest.fixture
def picture() -> str:
    return square()


def detect(client: TestClient, **body: Any) -> httpx.Response:
    return client.post("/controlnet/detect", json=body)


def test_version_is_three(client: TestClient) -> None:
    assert client.get("/controlnet/version").json() == {"version": 3}
    assert python_api.API_VERSION == API_VERSION


def test_settings_give_the_unit_count(client: TestClient) -> None:
    assert client.get("/controlnet/settings").json() == {"control_net_unit_count": 3}


def test_model_list_scans_again_unless_told_not_to(client: TestClient, tmp_path: Path) -> None:
    def names(query: str = "") -> list[str]:
        return client.get(f"/controlnet/model_list{query}").json()["model_list"]

    assert names() == [f"{name} [e3b0c442]" for name in sorted(MODELS)]
    (tmp_path / "new.pth").write_bytes(b"x")
    assert "new [e3b0c442]" not in names("?update=false")
    assert "new [e3b0c442]" in names()


def test_model_list_junk_query_is_422(client: TestClient) -> None:
    assert client.get("/controlnet/model_list?update=perhaps").status_code == 422


def test_model_list_two_files_of_one_stem_appear_once(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "control_depth.safetensors").write_bytes(b"\1" * ((1 << 20) + 8))
    listed = client.get("/controlnet/model_list").json()["model_list"]
    depth = [name for name in listed if name.startswith("control_depth [")]
    assert len(depth) == 1
    assert depth[0] != "control_depth [e3b0c442]", "the one that was scanned later"
    full = client.get("/controlnet/control_types").json()["control_types"]["Depth"]["model_list"]
    assert {depth[0], "control_depth [e3b0c442]"} < set(full)


@pytest.mark.parametrize("alias", [False, True])
def test_module_list_shapes_follow_the_spelling(client: TestClient, alias: bool) -> None:
    body = client.get(f"/controlnet/module_list?alias_names={alias}").json()
    assert body["module_list"][0] == "none"
    assert list(body["module_detail"]) == body["module_list"]
    assert ("invert" in body["module_list"]) is not alias
    for detail in body["module_detail"].values():
        assert set(detail) - {"unavailable"} == {"model_free", "sliders"}
        assert all(list(s) == ["name", "value", "min", "max", "step"] for s in detail["sliders"])
    canny = body["module_detail"]["canny"]["sliders"]
    assert canny[0] == {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8}


def test_control_types_keys_and_canny_entry(client: TestClient) -> None:
    types = client.get("/controlnet/control_types").json()["control_types"]
    assert list(types) == TYPES
    assert types["Canny"] == {
        "module_list": ["none", "canny", "invert (from white bg & black line)"],
        "model_list": [
            "None",
            "control_canny [e3b0c442]",
            "control_v11p_sd15_canny [e3b0c442]",
            "union_pro [e3b0c442]",
        ],
        "default_option": "canny",
        "default_model": "control_v11p_sd15_canny [e3b0c442]",
    }
    assert (types["All"]["default_option"], types["All"]["default_model"]) == ("none", "None")
    assert len(types["All"]["model_list"]) == len(MODELS) + 1
    assert types["InstructP2P"]["default_option"] == "none"
    assert types["Depth"]["default_model"] == "control_depth [e3b0c442]"


def test_detect_returns_maps_in_order_at_the_asked_resolution(
    client: TestClient, picture: str
) -> None:
    blank = encode(np.zeros((64, 64, 3), np.uint8))
    answer = detect(
        client,
        controlnet_module="canny",
        controlnet_input_images=[picture, f"data:image/png;base64,{blank}"],
        controlnet_processor_res=128,
        unknown_key=1,
    )
    body = answer.json()
    assert (answer.status_code, body["info"], set(body)) == (200, "Success", {"info", "images"})
    first, second = map(decode, body["images"])
    assert first.shape == (128, 192, 3)
    assert first.max() == 255
    assert second.max() == 0


def test_detect_accepts_the_older_key_and_null(
    client: TestClient, runtime: FakeRuntime, picture: str
) -> None:
    answer = detect(
        client,
        controlnet_module="canny",
        controlnet_images=[picture],
        controlnet_processor_res=None,
        controlnet_threshold_a=None,
        low_vram=True,
    )
    assert answer.status_code == 200, answer.text
    assert runtime.calls == [("canny", (64, 96, 3), -1, -1, -1)]
    assert decode(answer.json()["images"][0]).shape == (512, 768, 3)


def test_detect_fractional_resolution_is_truncated(
    client: TestClient, runtime: FakeRuntime, picture: str
) -> None:
    detect(
        client,
        controlnet_module="canny",
        controlnet_input_images=[picture],
        controlnet_processor_res=512.5,
    )
    assert runtime.calls[0][2] == 512


def test_detect_none_returns_the_input_with_its_transparency(client: TestClient) -> None:
    array = np.zeros((8, 8, 4), np.uint8)
    array[2:, :, 3] = 200
    body = detect(client, controlnet_input_images=[encode(array)]).json()
    assert (decode(body["images"][0]) == array).all()


@pytest.mark.parametrize("channels", [0, 3], ids=["grey-mask", "rgb-mask"])
def test_detect_inpaint_shows_the_mask_as_transparency(
    client: TestClient, picture: str, channels: int
) -> None:
    mask = np.zeros((32, 48), np.uint8)
    mask[:16] = 255
    sent = np.repeat(mask[..., None], channels, axis=2) if channels else mask
    body = detect(
        client,
        controlnet_module="inpaint_only",
        controlnet_input_images=[picture],
        controlnet_masks=[encode(sent)],
    ).json()
    shown = decode(body["images"][0])
    assert shown.shape == (64, 96, 4)
    assert (shown[:32, :, 3] == 128).all()
    assert (shown[32:, :, 3] == 255).all()


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        pytest.param({"controlnet_module": "xx"}, 422, "Module not available", id="module"),
        pytest.param({"controlnet_module": "canny"}, 422, "No image selected", id="no-image"),
        pytest.param({}, 422, "No image selected", id="empty-body"),
        pytest.param(
            {"controlnet_module": "inpaint_only", "controlnet_input_images": ["PICTURE"]},
            422,
            "Preprocessor inpaint_only requires `controlnet_masks` param.",
            id="mask-count",
        ),
        pytest.param(
            {
                "controlnet_module": "canny",
                "controlnet_input_images": ["PICTURE", "bm8gcGljdHVyZQ=="],
            },
            422,
            "controlnet_input_images[1]",
            id="undecodable",
        ),
        pytest.param(
            {"controlnet_module": "canny", "controlnet_input_images": [""]},
            422,
            "controlnet_input_images[0] cannot be decoded",
            id="empty-text",
        ),
        pytest.param(
            {"controlnet_module": "canny", "controlnet_input_images": ["http://127.0.0.1/a.png"]},
            422,
            "Requests not allowed",
            id="url",
        ),
        pytest.param(
            {"controlnet_module": "canny", "controlnet_input_images": ["/etc/hostname"]},
            422,
            "controlnet_input_images[0]",
            id="path",
        ),
        pytest.param({"controlnet_module": "clip_vision"}, 422, "Module not supported", id="clip"),
        pytest.param(
            {"controlnet_module": "IP-Adapter-Auto"}, 422, "Module not supported", id="auto"
        ),
        pytest.param({"controlnet_input_images": None}, 422, "No image selected", id="null-list"),
        pytest.param(
            {"controlnet_module": "canny", "controlnet_input_images": ["data:image/png,xx"]},
            422,
            "Invalid encoded image: controlnet_input_images[0] cannot be decoded: the data URL",
            id="data-url",
        ),
        pytest.param(
            {
                "controlnet_module": "inpaint_only",
                "controlnet_input_images": ["PICTURE"],
                "controlnet_masks": ["AAAA"],
            },
            422,
            "Invalid encoded image: controlnet_masks[0] cannot be decoded",
            id="bad-mask",
        ),
    ],
)
def test_detect_refuses_with_a_sentence(
    client: TestClient, picture: str, body: dict, status: int, sentence: str
) -> None:
    if body.get("controlnet_input_images"):
        body = {
            **body,
            "controlnet_input_images": [
                picture if text == "PICTURE" else text for text in body["controlnet_input_images"]
            ],
        }
    answer = detect(client, **body)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["detail"]


def test_detect_absurd_size_is_refused(client: TestClient) -> None:
    huge = encode(np.zeros((1, 20000), np.uint8))
    answer = detect(client, controlnet_module="canny", controlnet_input_images=[huge])
    assert answer.status_code == 422
    assert "20000 x 1 pixels" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"controlnet_input_images": "not a list"},
        {"controlnet_input_images": [None]},
        {"controlnet_processor_res": "tall"},
    ],
)
def test_detect_wrong_types_are_validation_errors(client: TestClient, body: dict) -> None:
    answer = detect(client, **body)
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], list)


def test_detect_broken_json_and_no_body(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    broken = client.post("/controlnet/detect", content=b"{", headers=headers)
    assert broken.status_code == 422
    assert client.post("/controlnet/detect").json()["detail"] == "No image selected"


def test_wrong_method_and_removed_routes(client: TestClient) -> None:
    assert client.get("/controlnet/detect").status_code == 405
    assert client.post("/controlnet/txt2img", json={}).status_code == 404


def test_schema_names_are_those_of_generated_clients(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    stems = {path: next(iter(ops.values()))["operationId"] for path, ops in schema["paths"].items()}
    assert stems["/controlnet/detect"] == "detect_controlnet_detect_post"
    assert stems["/controlnet/version"] == "version_controlnet_version_get"
    body = schema["components"]["schemas"]["Body_detect_controlnet_detect_post"]["properties"]
    assert set(body) == {
        "controlnet_module",
        "controlnet_input_images",
        "controlnet_processor_res",
        "controlnet_threshold_a",
        "controlnet_threshold_b",
        "controlnet_masks",
        "controlnet_images",
        "low_vram",
    }


EVERY = preprocess.all_detectors()
READY = [d for d in EVERY if not (d.unavailable or d.weights or d.requires)]
"""Those that run without downloads."""


@pytest.mark.parametrize("detector", READY, ids=lambda d: d.name)
def test_detect_every_preprocessor_by_name_and_label(
    client: TestClient, runtime: FakeRuntime, picture: str, detector: Any
) -> None:
    shapes = []
    for spelling in (detector.name, detector.title, detector.name.upper()):
        answer = detect(
            client,
            controlnet_module=spelling,
            controlnet_input_images=[picture, picture],
            controlnet_processor_res=128,
            controlnet_masks=[picture, picture],
        )
        assert answer.status_code == 200, answer.text
        maps = [decode(text) for text in answer.json()["images"]]
        assert len(maps) == 2
        assert (maps[0] == maps[1]).all()
        shapes.append(maps[0].shape)
    side = 128 if detector.resolution else detector.fixed_resolution
    if detector.identity or detector.frame.value == "as given":
        side = 64
    assert {shape[:2] for shape in shapes} == {(side, side * 3 // 2)}
    assert {call[0] for call in runtime.calls} <= {detector.name}


@pytest.mark.parametrize("detector", [d for d in EVERY if d.unavailable], ids=lambda d: d.name)
def test_detect_unavailable_one_is_422_with_a_reason(
    client: TestClient, picture: str, detector: Any
) -> None:
    for spelling in (detector.name, detector.title):
        answer = detect(
            client,
            controlnet_module=spelling,
            controlnet_input_images=[picture],
            controlnet_masks=[picture],
        )
        assert answer.status_code == 422
        refused = f"preprocessor {detector.name} cannot run: {detector.unavailable}"
        assert answer.json()["detail"] in (refused, "Module not supported")


class Posed(Detector):
    """Finds a figure as wide as the picture."""

    name = "posed"

    def detect(self, image: np.ndarray) -> Detected:
        return Detected(image, {"people": [], "canvas_width": image.shape[1]})


def test_detect_gives_poses_in_the_order_of_the_pictures_where_there_are_any(
    client: TestClient, picture: str
) -> None:
    wide = encode(np.zeros((64, 192, 3), np.uint8))
    preprocess.registry.add(Posed())
    try:
        answer = detect(
            client,
            controlnet_module="posed",
            controlnet_input_images=[wide, picture],
            controlnet_processor_res=64,
        ).json()
    finally:
        preprocess.registry.remove("posed")
    assert answer["poses"] == [
        {"people": [], "canvas_width": 192},
        {"people": [], "canvas_width": 128},
    ]
    assert len(answer["images"]) == 2
    assert "poses" not in detect(client, controlnet_input_images=[picture]).json()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_detect_none_keeps_the_mode_of_the_picture(client: TestClient, mode: str) -> None:
    array = np.random.default_rng(0).integers(0, 250, (8, 6, len(mode)), np.uint8)
    array = array[:, :, 0] if mode == "L" else array
    (text,) = detect(client, controlnet_input_images=[encode(array)]).json()["images"]
    assert (decode(text) == array).all()


def test_detect_mask_where_none_is_used_is_ignored_and_logged(
    client: TestClient, picture: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"controlnet_module": "canny", "controlnet_input_images": [picture]}
    plain = detect(client, **body).json()
    assert not caplog.messages
    assert detect(client, **body, controlnet_masks=["not even a picture"]).json() == plain
    assert caplog.messages == ["canny uses no mask, those sent are ignored"]


@pytest.mark.parametrize("junk", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_detect_what_is_no_number_is_the_default(
    client: TestClient, picture: str, junk: str
) -> None:
    body = (
        f'{{"controlnet_module": "canny", "controlnet_input_images": ["{picture}"], '
        f'"controlnet_processor_res": {junk}, "controlnet_threshold_a": {junk}}}'
    )
    headers = {"content-type": "application/json"}
    answer = client.post("/controlnet/detect", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert decode(answer.json()["images"][0]).shape == (512, 768, 3)


NAMES = {
    **{"All": "x", "Canny": "my_CANNY_x", "Depth": "zoedepth", "IP-Adapter": "ip_adapter_a"},
    **{"Inpaint": "fooocus_inpaint", "Instant-ID": "instantid_net", "InstructP2P": "v11e_ip2p"},
    **{"Lineart": "anime_lineart", "MLSD": "v11p_mlsd", "NormalMap": "v11p_normalbae"},
    **{"OpenPose": "densepose_a", "Recolor": "ioclab_recolor", "Reference": "reference_x"},
    **{"Revision": "revision_x", "Scribble": "t2i_sketch", "Segmentation": "v11p_seg"},
    **{"Shuffle": "v11e_shuffle", "SoftEdge": "v11p_softedge", "SparseCtrl": "sparsectrl_rgb"},
    **{"T2I-Adapter": "t2iadapter_q", "Tile": "tl_blur"},
}
"""A model name that each control type finds."""
UNION = {
    *("OpenPose", "Depth", "SoftEdge", "Scribble", "Canny", "Lineart", "MLSD", "NormalMap"),
    *("Segmentation", "Inpaint", "Tile"),
}


def test_control_types_match_models_by_word(tmp_path: Path) -> None:
    for name in (*NAMES.values(), "union_promax"):
        (tmp_path / f"{name}.pth").write_bytes(b"x")
    with served(tmp_path) as (client, _):
        types = client.get("/controlnet/control_types").json()["control_types"]
    assert list(types) == list(NAMES) == TYPES
    everything = types.pop("All")
    assert len(everything["model_list"]) == len(NAMES) + 2
    for kind, described in types.items():
        stems = [name.removesuffix(" [e3b0c442]") for name in described["model_list"]]
        assert stems[0] == "None"
        wanted = {NAMES[kind]} | ({"union_promax"} if kind in UNION else set())
        assert set(stems[1:]) == wanted, kind
        newest = next((stem for stem in stems if "11" in stem), stems[1])
        assert described["default_model"] == f"{newest} [e3b0c442]"
        assert described["module_list"][0] == "none"
        default = described["default_option"]
        assert default in described["module_list"]
        found = [preprocess.get(label) for label in described["module_list"][1:]]
        assert (default == "none") is all(detector.unavailable for detector in found), kind


BODY = [0.5, 0.5, 1.0] * 18
ONE = {"people": [{"pose_keypoints_2d": BODY}], "canvas_width": 64, "canvas_height": 48}


def render(client: TestClient, body: Any) -> httpx.Response:
    return client.post("/controlnet/render_openpose_json", json=body)


def test_render_gives_one_picture_per_pose_of_its_canvas(client: TestClient) -> None:
    animals = {"animals": [[10, 10, 1] * 17], "canvas_width": 30, "canvas_height": 20}
    nobody = {"people": [], "canvas_width": 10, "canvas_height": 12}
    answer = render(client, [ONE, nobody, animals])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (set(body), body["info"]) == ({"images", "info"}, "Success")
    person, black, animal = map(decode, body["images"])
    assert (person.shape, black.shape, animal.shape) == ((48, 64, 3), (12, 10, 3), (20, 30, 3))
    assert person[24, 32].any()
    assert not black.any()
    assert animal[10, 10].any()


def test_render_takes_points_as_lists_and_measured_confidences(client: TestClient) -> None:
    rows = [[x, y, 0.5 if sure else 0] for x, y, sure in zip(*[iter(BODY)] * 3, strict=True)]
    other = {**ONE, "people": [{"pose_keypoints_2d": [*rows, *[[40, 40, 0.3]] * 5, None]}]}
    first, second = map(decode, render(client, [ONE, other]).json()["images"])
    assert first.any()
    assert np.array_equal(first, second)


def test_render_of_nothing_that_is_seen_is_said(client: TestClient) -> None:
    unsure = {**ONE, "people": [{"pose_keypoints_2d": [30, 30, 0] * 18}]}
    outside = {**ONE, "people": [{"pose_keypoints_2d": [900, 30, 1] * 18}]}
    answer = render(client, [ONE, unsure, {**ONE, "people": []}, outside])
    assert answer.status_code == 200
    assert answer.json()["info"].startswith("Success; nothing of poses[1], poses[3] is seen")


def test_render_nothing_says_so(client: TestClient) -> None:
    for answer in (render(client, []), client.post("/controlnet/render_openpose_json")):
        assert (answer.status_code, answer.json()) == (200, {"info": "No pose data detected."})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ([{**ONE, "people": [{"pose_keypoints_2d": BODY[:-1]}]}], "has 53 numbers; expected x, y"),
        ([{**ONE, "people": [{"pose_keypoints_2d": BODY[:51]}]}], "poses[0].people[0].pose_key"),
        ([{**ONE, "people": [{"pose_keypoints_2d": []}]}], "has 0 numbers; expected"),
        ([ONE, {**ONE, "animals": [[1.0]]}], "poses[1].animals[0] has 1 numbers"),
        ([{"canvas_width": 8, "canvas_height": 8}], "poses[0] has neither people nor animals"),
        ([{**ONE, "canvas_width": 10**5}], "the canvas is 100000 x 48 pixels; at most"),
        ([{**ONE, "canvas_width": 10**7}], "is 10000000; expected a whole number of pixels up to"),
        ([{**ONE, "canvas_width": -1}], "it is empty (-1 x 48 pixels)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_render_malformed_pose_is_a_sentence(client: TestClient, body: list, sentence: str) -> None:
    answer = render(client, body)
    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        ONE,
        "text",
        [None],
        [{"people": []}],
        [{**ONE, "people": [{}]}],
        [{**ONE, "people": [{"pose_keypoints_2d": "x"}]}],
        [{**ONE, "people": [{"pose_keypoints_2d": [[1]]}]}],
        [{**ONE, "canvas_width": "wide"}],
    ],
    ids=str,
)
def test_render_wrong_shapes_are_validation_errors(client: TestClient, body: Any) -> None:
    answer = render(client, body)
    assert answer.status_code == 422
    assert [set(item) for item in answer.json()["detail"]] >= [{"loc", "msg", "type"}]
