"""The HTTP routes in an app of their own: shapes, errors, and the host's credentials."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from lib_controlnet import api, preprocess
from lib_controlnet.catalog import Catalog
from lib_controlnet.preprocess import Detection

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


@dataclass
class FakeRuntime:
    """The runtime interface over real catalog and preprocessors."""

    catalog: Catalog
    calls: list[tuple] = field(default_factory=list)

    def unit_count(self) -> int:
        return 3

    def refresh_models(self) -> None:
        self.catalog.refresh()

    def detect(
        self, module: str, image: np.ndarray, resolution: float, a: float, b: float
    ) -> Detection:
        self.calls.append((module, image.shape, resolution, a, b))
        return preprocess.run_preprocessor(module, image, resolution, (a, b))


@dataclass
class FakeWeb:
    """A host without a network, whose API is open or guarded."""

    users: dict[str, str] = field(default_factory=dict)

    def credentials(self) -> dict[str, str]:
        return self.users

    def encode(self, image: Image.Image) -> str:
        return encode(np.asarray(image))

    def fetch(self, url: str) -> Image.Image:
        msg = "Requests not allowed"
        raise OSError(msg)


def encode(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    for name in MODELS:
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    return FakeRuntime(Catalog([tmp_path]))


@pytest.fixture
def client(runtime: FakeRuntime) -> Iterator[TestClient]:
    app = FastAPI()
    api.mount(app, runtime, FakeWeb())
    with TestClient(app) as client:
        yield client


@pytest.fixture
def picture() -> str:
    """A 96 x 64 picture of a white square on black."""
    array = np.zeros((64, 96, 3), np.uint8)
    array[16:48, 24:72] = 255
    return encode(array)


def detect(client: TestClient, **body: Any) -> httpx.Response:
    return client.post("/controlnet/detect", json=body)


def test_version_is_three(client: TestClient) -> None:
    assert client.get("/controlnet/version").json() == {"version": 3}


def test_settings_give_the_unit_count(client: TestClient) -> None:
    assert client.get("/controlnet/settings").json() == {"control_net_unit_count": 3}


def test_model_list_scans_again_unless_told_not_to(client: TestClient, tmp_path: Path) -> None:
    def names(query: str = "") -> list[str]:
        return client.get(f"/controlnet/model_list{query}").json()["model_list"]

    assert names() == [f"{name} [e3b0c442]" for name in sorted(MODELS)]
    (tmp_path / "new.pth").write_bytes(b"")
    assert "new [e3b0c442]" not in names("?update=false")
    assert "new [e3b0c442]" in names()


def test_model_list_junk_query_is_422(client: TestClient) -> None:
    assert client.get("/controlnet/model_list?update=perhaps").status_code == 422


def test_model_list_two_files_of_one_stem_appear_once(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "control_depth.safetensors").write_bytes(b"\1" * ((1 << 20) + 8))
    listed = client.get("/controlnet/model_list").json()["model_list"]
    assert sum(name.startswith("control_depth [") for name in listed) == 1


@pytest.mark.parametrize("alias", [False, True])
def test_module_list_shapes_follow_the_spelling(client: TestClient, alias: bool) -> None:
    body = client.get(f"/controlnet/module_list?alias_names={alias}").json()
    assert body["module_list"][0] == "none"
    assert list(body["module_detail"]) == body["module_list"]
    assert ("invert" in body["module_list"]) is not alias
    for detail in body["module_detail"].values():
        assert set(detail) == {"model_free", "sliders"}
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
    ],
)
def test_detect_refuses_with_a_sentence(
    client: TestClient, picture: str, body: dict, status: int, sentence: str
) -> None:
    if "controlnet_input_images" in body:
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


def test_credentials_of_the_host_guard_every_route(runtime: FakeRuntime, picture: str) -> None:
    app = FastAPI()
    api.mount(app, runtime, FakeWeb({"me": "secret"}))
    with TestClient(app) as client:
        for path in ("version", "model_list", "module_list", "control_types", "settings"):
            refused = client.get(f"/controlnet/{path}")
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"] == "Basic"
            assert client.get(f"/controlnet/{path}", auth=("me", "secret")).status_code == 200
        assert client.get("/controlnet/version", auth=("me", "wrong")).status_code == 401
        assert client.get("/controlnet/version", auth=("you", "secret")).status_code == 401
        assert detect(client, controlnet_input_images=[picture]).status_code == 401
    assert runtime.calls == []
