"""What requests may bring: bytes, values, pictures, pixels, nesting."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from fake_web import FakeRuntime, decode, encode, served, square
from PIL import Image
from starlette.testclient import TestClient

from lib_controlnet import limits
from lib_controlnet.api import bodies, detection, poses

DETECT = "/controlnet/detect"
RENDER = "/controlnet/render_openpose_json"
JSON = {"content-type": "application/json"}


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[TestClient, FakeRuntime]]:
    with served(tmp_path) as both:
        yield both


@pytest.fixture
def client(both: tuple[TestClient, FakeRuntime]) -> TestClient:
    return both[0]


def canny(client: TestClient, *images: str, **more: object) -> httpx.Response:
    body = {"controlnet_module": "canny", "controlnet_input_images": images}
    return client.post(DETECT, json={**body, "controlnet_processor_res": 64, **more})


def test_limit_fits_the_largest_picture() -> None:
    incompressible = 8192 * 8192 * 3 * 4 / 3
    assert incompressible * 1.1 < bodies.MAX_BODY


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
@pytest.mark.parametrize("route", [DETECT, RENDER])
def test_large_body_is_413_and_never_parsed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, announced: bool, route: str
) -> None:
    monkeypatch.setattr(bodies.BoundedRoute, "max_body", 1 << 20)
    monkeypatch.setattr(bodies.PoseRoute, "max_body", 1 << 20)
    body = b'{"controlnet_module": "' + b"x" * (1 << 20)  # not even JSON
    content = body if announced else iter([body[:1000], body[1000:]])
    answer = client.post(route, content=content, headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["detail"].startswith("the request is larger than 1 MB; send fewer")


def test_pose_route_has_the_smaller_limit(client: TestClient) -> None:
    body = b"[" + b" " * (bodies.MAX_POSE_BODY - 2) + b"]"
    assert client.post(RENDER, content=body, headers=JSON).status_code == 200
    assert client.post(RENDER, content=body + b" ", headers=JSON).status_code == 413


def test_endless_announced_body_is_refused_unread(client: TestClient) -> None:
    headers = {**JSON, "content-length": str(10**15)}
    answer = client.post(DETECT, content=iter([b"{}"]), headers=headers)
    assert answer.status_code == 413


def test_many_values_are_refused_before_parsing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_VALUES", 100)
    texts = ["x"] * 101
    answer = client.post(DETECT, json={"controlnet_input_images": texts})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "the request holds more than 100 values; send fewer"
    assert canny(client, square()).status_code == 200


def test_number_of_images_is_limited(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "MAX_IMAGES", 2)
    assert canny(client, square(), square()).status_code == 200
    answer = canny(client, square(), square(), square())
    assert answer.status_code == 422
    assert answer.json()["detail"] == "3 images are sent; at most 2 at a time"


def test_number_out_of_a_sliders_range_is_refused(client: TestClient) -> None:
    for field, number in (("processor_res", 63), ("threshold_a", 300), ("threshold_b", -2)):
        answer = canny(client, square(), **{f"controlnet_{field}": number})
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(f"controlnet_{field} is {number}, ")
    for number in (-1, None, 0, 0.5, 64):  # what clients send that mean the default
        assert canny(client, square(), controlnet_threshold_a=number).status_code == 200


@pytest.mark.parametrize("module", ["canny", "none", "inpaint"])
def test_pixels_of_all_pictures_together_are_limited(
    both: tuple[TestClient, FakeRuntime], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    client, runtime = both
    monkeypatch.setattr(detection.PixelBudget.__init__, "__defaults__", (2_000_000,))
    large = encode(np.zeros((1000, 900, 3), np.uint8))
    body = {"controlnet_module": module, "controlnet_masks": [square()]}
    one = canny(client, large, **body)
    assert one.status_code == 200, one.text
    runtime.calls.clear()
    body["controlnet_masks"] = [large] * 3
    answer = canny(client, large, large, large, **body)
    assert answer.status_code == 422
    assert "more than 2 million pixels; send fewer at a time" in answer.json()["detail"]
    assert len(runtime.calls) < 3


def png_of(width: int, height: int) -> str:
    """The smallest file that claims to be so large."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("width", "height", "sentence"),
    [
        (16000, 16000, "16000 x 16000 pixels; at most 16384 a side and 128 million in all"),
        (16385, 1, "16385 x 1 pixels; at most 16384 a side"),
        (14000, 13000, "too many pixels; at most 16384 a side and 128 million in all"),
    ],
)
def test_decompression_bomb_is_a_sentence(
    client: TestClient, width: int, height: int, sentence: str
) -> None:
    bomb = png_of(width, height)
    assert len(bomb) < 100_000
    for where, images, masks in (("input_images", [bomb], []), ("masks", [square()], [bomb])):
        answer = canny(
            client, *images, controlnet_module="inpaint", controlnet_masks=masks or images
        )
        assert answer.status_code == 422
        detail = answer.json()["detail"]
        assert detail.startswith(f"Invalid encoded image: controlnet_{where}[0]")
        assert sentence in detail or "has too many pixels" in detail


def test_longest_picture_at_the_highest_resolution_stays_in_bounds(client: TestClient) -> None:
    answer = canny(client, png_of(16384, 2), controlnet_processor_res=2048)
    assert answer.status_code == 200
    assert max(decode(answer.json()["images"][0]).shape) == 16384


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{", JSON),
        (b"\xff\xfe{", JSON),
        (b'{"controlnet_module": "\xc3"}', JSON),
        (b"[" * 100_000, JSON),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, JSON),
        (b'{"controlnet_module": "canny"}', {"content-type": "text/plain"}),
        (b"controlnet_module=canny", {"content-type": "application/x-www-form-urlencoded"}),
        (b"\x00" * 100, {"content-type": "application/octet-stream"}),
        (b"null", JSON),
        (b"NaN", JSON),
        (b'"text"', JSON),
        (b"[[[]]]", JSON),
        (b'{"controlnet_input_images": NaN}', JSON),
        (b'{"controlnet_input_images": [Infinity]}', JSON),
        (b'{"controlnet_input_images": [{"image": 1e999}]}', JSON),
        (b'{"controlnet_processor_res": [NaN]}', JSON),
        (b'{"controlnet_threshold_a": ' + b"9" * 400 + b"}", JSON),
        (
            b'[{"people": [{"pose_keypoints_2d": [' + b"9" * 400 + b"]}], "
            b'"canvas_width": 8, "canvas_height": 8}]',
            JSON,
        ),
        (b'[{"people": [], "canvas_width": ' + b"9" * 5000 + b', "canvas_height": 8}]', JSON),
        (b'{"low_vram": {"x": "\\ud800"}}', JSON),
        (b'{"controlnet_input_images": {"\\ud800": 1}}', JSON),
        (b'{"controlnet_module": "\\ud800"}', JSON),
        (b'{"controlnet_input_images": ["\\ud800"]}', JSON),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_no_malformed_body_is_a_server_error(
    client: TestClient, content: bytes, headers: dict[str, str]
) -> None:
    for route in (DETECT, RENDER):
        answer = client.post(route, content=content, headers=headers)
        empty = route == RENDER and content == b"null"
        assert answer.status_code in ((200,) if empty else (400, 422)), (route, answer.text)
        json.loads(answer.text)


def test_validation_error_does_not_repeat_the_input(client: TestClient) -> None:
    answer = client.post(DETECT, json={"controlnet_input_images": {"secret": "x" * 10_000}})
    assert answer.status_code == 422
    (told,) = answer.json()["detail"]
    assert set(told) == {"loc", "msg", "type"}
    assert told["loc"] == ["body", "controlnet_input_images"]
    assert "list" in told["msg"]
    assert len(answer.text) < 500


def test_broken_json_is_of_the_known_kind(client: TestClient) -> None:
    (told,) = client.post(DETECT, content=b"{", headers=JSON).json()["detail"]
    assert told["loc"] == ["body", 1]
    assert told["type"] in ("value_error.jsondecode", "json_invalid")


@pytest.mark.parametrize("size", [(16384, 7800), (4097, 4096), (20_000, 10)], ids=str)
def test_large_canvases_of_poses_are_refused_undrawn(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(poses.drawing, "draw_pose", None)
    person = {"pose_keypoints_2d": [0.5, 0.5, 1] * 18}
    pose = {"people": [person], "canvas_width": size[0], "canvas_height": size[1]}
    answer = client.post(RENDER, json=[pose])
    assert answer.status_code == 422
    assert f"{size[0]} x {size[1]} pixels; at most 16" in answer.json()["detail"]


def test_detections_work_some_at_a_time(both: tuple[TestClient, FakeRuntime]) -> None:
    client, runtime = both
    at_work, most, all_sent = [0], [0], threading.Event()
    detect = runtime.detect

    def counted(*arguments: object) -> object:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        all_sent.wait(0.2)  # time for the others to come in, if nothing held them back
        made = detect(*arguments)
        at_work[0] -= 1
        return made

    runtime.detect = counted
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: canny(client, square()), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert most[0] == limits.MAX_TURNS


def test_poses_are_limited_in_number_size_and_figures(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poses, "MAX_IMAGES", 2)
    monkeypatch.setattr(poses, "MAX_TOGETHER", 1_000_000)
    monkeypatch.setattr(poses, "MAX_FIGURES", 3)
    person = {"pose_keypoints_2d": [0.5, 0.5, 1] * 18}
    one = {"people": [person, person], "canvas_width": 600, "canvas_height": 800}

    def told(*sent: dict) -> str:
        answer = client.post(RENDER, json=sent)
        assert answer.status_code == 422
        return answer.json()["detail"]

    assert client.post(RENDER, json=[one]).status_code == 200
    assert told(one, one, one) == "3 poses are sent; at most 2 at a time"
    assert told(one, one).startswith("the poses hold more than 3 people and animals")
    large = {**one, "people": [person], "canvas_width": 900}
    assert told(large, large).startswith("the canvases have more than 1 million pixels")
