"""The look at units on their way into the host's generation routes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_web import FakeWeb, served
from fastapi import Body, Depends, FastAPI, HTTPException
from starlette.testclient import TestClient

from lib_controlnet.api.payload import MAX_DEPTH, check_units
from lib_controlnet.errors import ControlNetError


def asking(*units: Any, key: str = "ControlNet") -> dict:
    return {"prompt": "x", "alwayson_scripts": {key: {"args": list(units)}}}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


OFF = {"enabled": False}
ON = {"module": "canny"}


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {},
        {"alwayson_scripts": None},
        {"alwayson_scripts": []},
        {"alwayson_scripts": {"other": None, "Sampler": {"args": "x"}}},
        {"alwayson_scripts": {"ControlNet": {}}},
        asking(),
        asking(ON, ON, ON),
        asking(ON, ON, ON, OFF, None, {"enabled": "false"}, {"enabled": 0}, {"enabled": ""}),
        asking(None, "text", 1, key="other"),
        asking({"image": "x" * 10_000, "threshold_b": 1e300, "prompt": "ü🙂"}),
        asking({"image": nested(MAX_DEPTH - 1), "threshold_a": 2**64 - 1, "threshold_b": -(2**63)}),
        asking({"enabled": False, "weight": "x", "guidance_end": 9, "control_mode": {}}),
    ],
    ids=lambda body: repr(body)[:60],
)
def test_honest_request_passes(body: Any) -> None:
    check_units(body, 3)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            {"alwayson_scripts": {"controlnet": None}},
            'alwayson_scripts.controlnet is null; expected an object with a list "args"',
        ),
        ({"alwayson_scripts": {"ControlNet": [ON]}}, "alwayson_scripts.controlnet is a list;"),
        ({"alwayson_scripts": {"ControlNet": 5}}, "alwayson_scripts.controlnet is a number;"),
        (
            {"alwayson_scripts": {"CONTROLNET": {"args": ON}}},
            "alwayson_scripts.controlnet.args is an object; expected a list of units",
        ),
        ({"alwayson_scripts": {"ControlNet": {"args": None}}}, "args is null; expected a list"),
        ({"alwayson_scripts": {"ControlNet": {"args": True}}}, "args is true or false; expected"),
        (asking(OFF, ON, ON, ON), "unit 3: 4 units are sent, but there are 3 slots; raise"),
        (asking(*[ON] * 5000), "unit 3: 5000 units are sent, but there are 3 slots"),
        (asking(OFF, OFF, OFF, "x"), "unit 3: 4 units are sent, but there are 3 slots"),
        (asking(ON, {"weight": float("nan")}), "unit 1: weight is nan, must be a finite number"),
        (asking({"junk": [{"y": float("-inf")}]}), "unit 0: junk is -inf, must be a finite"),
        (asking({"image": "\ud800"}), "unit 0: image holds half a surrogate pair"),
        (asking({"\udfff": 1}), "unit 0: \\udfff holds half a surrogate pair"),
        (asking({"weight": 2**64}), "unit 0: weight is a whole number beyond 64 bits"),
        (asking({"weight": -(10**30)}), "unit 0: weight is a whole number beyond 64 bits"),
        (
            {"alwayson_scripts": {"ControlNet": {"\ud800": -1}}},
            "alwayson_scripts.controlnet: \\ud800 holds half a surrogate pair",
        ),
        (
            {"alwayson_scripts": {"ControlNet": {"args": [], "x": nested(50)}}},
            "alwayson_scripts.controlnet: x is nested more than 32 levels deep",
        ),
        (asking({"image": nested(10_000)}), "unit 0: image is nested more than 32 levels deep"),
        (asking([float("nan")]), "unit 0: an argument is nan, must be a finite number"),
        (asking(OFF, {"weight": 5}), "unit 1: weight is 5, must be between 0 and 2"),
        (asking("canny"), "unit 0: the argument is str, not a unit; send one object per unit"),
        (asking([ON]), "unit 0: the argument is list, not a unit; send one object per unit"),
        ({"alwayson_scripts": [["ControlNet", {"args": [ON]}]]}, "alwayson_scripts is a list;"),
        (
            {"alwayson_scripts": {"ControlNet": {"args": [ON]}, "controlnet": {"args": [ON]}}},
            "alwayson_scripts.controlnet is given twice, in different letters",
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_what_the_host_would_lose_or_fail_on_is_a_sentence(body: Any, sentence: str) -> None:
    with pytest.raises(ControlNetError) as caught:
        check_units(body, 3)
    assert str(caught.value).startswith(sentence) or sentence in str(caught.value)
    assert caught.value.status_code == 422
    str(caught.value).encode()


def test_surplus_units_are_the_hosts_to_drop_where_failing_units_are_skipped() -> None:
    check_units(asking(ON, ON, ON, ON), 3, drops_surplus=True)
    with pytest.raises(ControlNetError):
        check_units(asking(ON, {"weight": float("nan")}), 3, drops_surplus=True)


@pytest.fixture
def app() -> FastAPI:
    """An app with the host's routes: one is guarded, all echo what they got."""

    def auth(token: str = "") -> None:
        if token != "known":
            raise HTTPException(401, "who?")

    app = FastAPI()

    def generate(body: dict = Body(...)) -> dict:  # noqa: B008
        return {"got": body}

    app.add_api_route("/sdapi/v1/txt2img", generate, methods=["POST"])
    app.add_api_route("/sdapi/v1/img2img", generate, methods=["POST"], dependencies=[Depends(auth)])
    app.add_api_route("/sdapi/v1/other", generate, methods=["POST"])
    return app


@pytest.fixture
def client(tmp_path: Path, app: FastAPI) -> Iterator[TestClient]:
    with served(tmp_path, FakeWeb(), app) as (client, _):
        yield client


def test_watched_routes_answer_as_before_or_with_the_sentence(client: TestClient) -> None:
    good, bad = asking(ON), asking(ON, ON, ON, ON)
    assert client.post("/sdapi/v1/txt2img", json=good).json() == {"got": good}
    refused = client.post("/sdapi/v1/txt2img", json=bad)
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("unit 3: 4 units are sent, but there are 3 slots")
    assert client.post("/sdapi/v1/other", json=bad).json() == {"got": bad}


def test_each_tab_has_its_own_slots_behind_its_own_password(client: TestClient) -> None:
    three = asking(ON, ON, ON)
    assert client.post("/sdapi/v1/txt2img", json=three).status_code == 200
    assert client.post("/sdapi/v1/img2img", json=three).status_code == 401
    refused = client.post("/sdapi/v1/img2img?token=known", json=three)
    assert refused.json()["detail"].startswith("unit 2: 3 units are sent, but there are 2 slots")


def test_watched_routes_leave_broken_bodies_to_the_host(client: TestClient) -> None:
    for content in (b"{", b"", b"[" * 100_000):
        answer = client.post(
            "/sdapi/v1/txt2img", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422)


def test_setting_to_skip_failing_units_lets_surplus_units_be_dropped(
    tmp_path: Path, app: FastAPI
) -> None:
    with served(tmp_path, FakeWeb(), app, control_net_on_error="skip") as (client, _):
        assert client.post("/sdapi/v1/txt2img", json=asking(ON, ON, ON, ON)).status_code == 200


@pytest.mark.parametrize("junk", ["NaN", "Infinity", str(10**40), '"\\ud800"', "[" * 60 + "]" * 60])
def test_unit_that_is_off_never_stops_a_request(client: TestClient, junk: str) -> None:
    units = '[{"module": "canny"}, {"enabled": false, "image": ' + junk + "}]"
    content = '{"alwayson_scripts": {"ControlNet": {"args": ' + units + "}}}"
    headers = {"content-type": "application/json"}
    answer = client.post("/sdapi/v1/txt2img", content=content, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["got"]["alwayson_scripts"]["ControlNet"]["args"] == [ON, OFF]
