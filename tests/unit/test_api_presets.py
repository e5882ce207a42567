"""The routes of presets: list, get, put, delete, what they refuse, and who may use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_web import FakeWeb, decode, served, square
from starlette.testclient import TestClient

from lib_controlnet.api import bodies
from lib_controlnet.ui.presets import answer_page
from lib_controlnet.units.infotext import serialize
from lib_controlnet.units.unit import parse_unit

ROUTE = "/controlnet/presets"
UNIT = {"module": "canny", "model": "control_x [12345678]", "weight": 0.5, "lowvram": True}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with served(tmp_path) as (client, _):
        yield client


def test_units_go_in_and_come_back_as_requests_have_them(client: TestClient) -> None:
    assert client.get(ROUTE).json() == {"presets": [], "old": []}
    units = [{**UNIT, "image": square()}, {"enabled": False, "glow": 1}]
    put = client.put(f"{ROUTE}/my edges", json={"units": units})
    assert put.status_code == 200, put.text
    assert put.json() == {"info": "Success", "notes": ["unit 1: unknown, left out: 'glow'"]}
    (listed,) = client.get(ROUTE, params={"search": "CANNY my"}).json()["presets"]
    assert (listed["name"], listed["scope"], listed["pictures"]) == ("my edges", "all", 1)
    assert client.get(ROUTE, params={"search": "depth"}).json()["presets"] == []
    found = client.get(f"{ROUTE}/my edges").json()
    assert found["units"][0]["weight"] == 0.5
    assert found["units"][0]["low_vram"]
    assert np.array_equal(decode(found["units"][0]["image"]), decode(square()))
    assert parse_unit(found["units"][0]).model == UNIT["model"]
    assert client.put(f"{ROUTE}/again", json={"units": found["units"]}).json()["notes"] == []
    assert client.delete(f"{ROUTE}/MY EDGES").json() == {"info": "Success"}
    assert client.get(f"{ROUTE}/my edges").status_code == 404


def test_generation_parameters_go_in(client: TestClient) -> None:
    text = serialize(parse_unit(UNIT))
    assert client.put(f"{ROUTE}/old", json={"text": text}).status_code == 200
    assert client.get(f"{ROUTE}/old").json()["units"][0]["model"] == UNIT["model"]


REFUSED: dict[str, tuple[str, str, object, int, str]] = {
    "nothing": ("PUT", "x", {}, 422, "send either units"),
    "both": ("PUT", "x", {"units": [{}], "text": "a"}, 422, "send either units"),
    "no list": ("PUT", "x", {"units": "canny"}, 422, "list"),
    "no units": ("PUT", "x", {"units": []}, 422, "must be 1 to 32"),
    "value": ("PUT", "x", {"units": [{"weight": 7}]}, 422, "unit 0: weight is 7"),
    "picture": ("PUT", "x", {"units": [{"image": "AAAA"}]}, 422, "no picture"),
    "path": ("PUT", "x", {"units": [{"image": "/etc/x.png"}]}, 422, "is not there"),
    "address": ("PUT", "x", {"units": [{"image": "http://a/x"}]}, 422, "URL"),
    "text": ("PUT", "x", {"text": "hello"}, 422, "holds no unit"),
    "scope": ("PUT", "x", {"units": [{}], "scope": "some"}, 422, "is 'some', must be"),
    "taken": ("PUT", "THERE", {"units": [{}]}, 409, "there is a preset there already"),
    "name": ("PUT", "a:b", {"units": [{}]}, 422, "holds :"),
    "dots": ("PUT", "%2e%2e%2fx", {"units": [{}]}, 404, "Not Found"),
    "device": ("PUT", "nul", {"units": [{}]}, 422, "device"),
    "kept": ("PUT", "last used", {"units": [{}]}, 422, "last generation"),
    "missing": ("GET", "nothing", None, 404, "there is no preset nothing"),
    "missing too": ("DELETE", "nothing", None, 404, "there is no preset nothing"),
    "damaged": ("GET", "bad", None, 422, "the preset bad cannot be used: it is no JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    method, preset, body, status, told = REFUSED[name]
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/there.json").write_text('{"units": [{}]}')
    (tmp_path / "presets/bad.json").write_text("{")
    with served(tmp_path) as (client, _):
        answer = client.request(method, f"{ROUTE}/{preset}", json=body)
        assert answer.status_code == status, answer.text
        assert told in answer.text
        assert str(tmp_path) not in answer.text
        names = [one["name"] for one in client.get(ROUTE).json()["presets"]]
        assert names == ["bad", "there"]
        assert sorted(path.name for path in (tmp_path / "presets").iterdir()) == [
            *("bad.json", "there.json")
        ]


def test_replacing_has_to_be_asked_for(client: TestClient) -> None:
    for body in ({"units": [UNIT]}, {"units": [{"weight": 0.25}], "replace": True}):
        assert client.put(f"{ROUTE}/x", json=body).status_code == 200
    assert client.get(f"{ROUTE}/x").json()["units"][0]["weight"] == 0.25


def test_bodies_are_bounded(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies.BoundedRoute, "max_body", 1000)
    body = {"units": [{"image": "A" * 2000}]}
    assert client.put(f"{ROUTE}/x", json=body).status_code == 413
    assert client.get(ROUTE).json()["presets"] == []


def test_nobody_without_the_password_reads_or_writes(tmp_path: Path) -> None:
    calls = [("GET", ""), ("GET", "/x"), ("PUT", "/x"), ("DELETE", "/x")]
    with served(tmp_path, FakeWeb({"me": "secret"})) as (client, _):
        for method, path in calls:
            body = {"units": [{}]} if method == "PUT" else None
            assert client.request(method, f"{ROUTE}{path}", json=body).status_code == 401
        assert not (tmp_path / "presets").exists()
        answer = client.put(f"{ROUTE}/x", json={"units": [{}]}, auth=("me", "secret"))
        assert answer.status_code == 200


def test_where_everybody_gets_in_the_api_takes_what_the_page_takes(tmp_path: Path) -> None:
    with served(tmp_path, FakeWeb(shared=True)) as (client, runtime):
        asked = {"do": "save", "name": "page", "unit": 0}
        assert "fault" not in answer_page(asked, [{}], [], runtime.presets)
        assert client.put(f"{ROUTE}/api", json={"units": [{}]}).status_code == 200
        named = [one["name"] for one in client.get(ROUTE).json()["presets"]]
        assert named == ["api", "page"]
        assert client.delete(f"{ROUTE}/page").status_code == 200
