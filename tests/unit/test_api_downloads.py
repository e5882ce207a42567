"""The routes of downloads: only what is in the lists, only for whom it is open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_web import FakeRuntime, FakeWeb, served
from hub_server import Hub, local_hub
from published_rows import CONTENT, REPOSITORY, published_rows, row, wait_for
from starlette.testclient import TestClient
from weights import weights_folder

from annotator.weights import Options
from lib_controlnet.files.downloads import Downloads

CANNY, DEPTH, XL = "a_canny.safetensors", "b_depth.safetensors", "c_canny.safetensors"
ROWS = (
    row(CANNY, CONTENT, note="for tests"),
    row(DEPTH, CONTENT[:-1], types=["Depth"]),
    row(XL, base="SDXL", about="2.50 GB"),
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "models").mkdir()
    with local_hub() as server, published_rows(tmp_path, *ROWS):
        server.publish(REPOSITORY, CANNY, CONTENT)
        yield server


@pytest.fixture
def both(hub: Hub, tmp_path: Path) -> Iterator[tuple[TestClient, FakeRuntime]]:
    with served(tmp_path / "models") as (client, runtime):
        runtime.downloads = Downloads(
            lambda: Options(hub=hub.url, pause=0.01),
            lambda _name: None,
            lambda _order: runtime.refresh_models(),
        )
        yield client, runtime
        runtime.downloads.close()


def test_the_list_tells_what_fits_and_what_is_there(
    both: tuple[TestClient, FakeRuntime], tmp_path: Path
) -> None:
    client, runtime = both
    (tmp_path / "models" / "below").mkdir()
    (tmp_path / "models" / "below" / DEPTH.upper()).write_bytes(b"x")
    (tmp_path / "models" / "another.safetensors").write_bytes(CONTENT)
    runtime.refresh_models()
    answer = client.get("/controlnet/published_models").json()
    assert answer["base"] == "SD1"
    first, second, third = answer["models"]
    assert first == {
        "name": CANNY,
        "control_types": ["Canny"],
        "family": "ControlNet",
        "base": "SD1",
        "size": 300_000,
        "size_text": "300 kB",
        "licence": "MIT",
        "repository": REPOSITORY,
        "page": f"https://huggingface.co/{REPOSITORY}",
        "sha256": ROWS[0]["sha256"],
        "note": "for tests",
        "present": False,  # of its size there are others
        "unfit": None,
    }
    assert (second["name"], second["present"]) == (DEPTH, True), "in any folder and letter case"
    assert third["unfit"] == "SDXL, your checkpoint is SD1"
    assert (third["size_text"], third["sha256"]) == ("about 2.5 GB", None)
    canny = client.get("/controlnet/published_models?control_type=canny").json()["models"]
    assert [one["name"] for one in canny] == [CANNY, XL]


def test_a_model_is_ordered_followed_and_listed(
    both: tuple[TestClient, FakeRuntime], hub: Hub
) -> None:
    client, _runtime = both
    hub.wait.clear()
    answer = client.post("/controlnet/downloads", json={"model": CANNY}).json()
    assert answer["started"] == [f"model/{CANNY}"]
    assert [item["name"] for item in answer["downloads"]] == [CANNY]
    hub.wait.set()

    def state() -> dict[str, Any]:
        return client.get("/controlnet/downloads").json()["downloads"][0]

    wait_for(lambda: state()["state"] == "done", state)
    assert state() == {
        "id": f"model/{CANNY}",
        "name": CANNY,
        "state": "done",
        "done": 300_000,
        "size": 300_000,
        "rate": 0,
        "message": "",
    }
    assert client.get("/controlnet/published_models").json()["models"][0]["present"]
    listed = client.get("/controlnet/model_list?update=false").json()["model_list"]
    assert [name.partition(" [")[0] for name in listed] == ["a_canny"]
    stopped = client.post("/controlnet/downloads/stop", json={"id": f"model/{CANNY}"})
    assert stopped.json()["downloads"][0]["state"] == "done"


BAD = {
    "nothing": ("downloads", {}, 422, "name a published model"),
    "both": ("downloads", {"model": CANNY, "module": "hed"}, 422, "only one"),
    "unknown": ("downloads", {"model": "x"}, 404, "none of the published"),
    "a path": ("downloads", {"model": f"../{CANNY}"}, 404, "none of the published"),
    "an address": ("downloads", {"model": "http://127.0.0.1:9/x"}, 404, "none of the"),
    "long": ("downloads", {"model": "x" * 100_000}, 404, "none of the published"),
    "no text": ("downloads", {"model": {"name": CANNY}}, 422, ""),
    "no module": ("downloads", {"module": "no_such"}, 422, "is no preprocessor here"),
    "stop nothing": ("downloads/stop", {}, 422, ""),
    "stop unknown": ("downloads/stop", {"id": "model/x"}, 404, "that could be stopped"),
    "stop no text": ("downloads/stop", {"id": 1.5}, (404, 422), ""),
    "type": ("published_models?control_type=x", None, 422, "is no control type"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_in_no_list_is_refused(
    both: tuple[TestClient, FakeRuntime], hub: Hub, case: str
) -> None:
    client, runtime = both
    route, body, status, said = BAD[case]
    address = f"/controlnet/{route}"
    answer = client.get(address) if body is None else client.post(address, json=body)
    assert answer.status_code in (status if isinstance(status, tuple) else (status,))
    assert said in str(answer.json()["detail"])
    assert len(answer.text) < 2000
    assert runtime.downloads.describe() == []
    assert hub.asked == []


def test_downloads_that_are_switched_off_are_refused(hub: Hub, tmp_path: Path) -> None:
    with served(tmp_path / "models") as (client, _runtime):
        answer = client.post("/controlnet/downloads", json={"model": CANNY})
        assert answer.status_code == 422
        assert "downloads are switched off" in answer.json()["detail"]
        assert "switched off" in client.get("/controlnet/downloads").json()["refused"]


@pytest.mark.parametrize(
    ("shared", "users", "status"),
    [(True, {}, 403), (True, {"me": "pw"}, 422), (False, {}, 422)],
)
def test_a_host_open_to_others_takes_orders_of_models_by_password_alone(
    hub: Hub, tmp_path: Path, shared: bool, users: dict[str, str], status: int
) -> None:
    """422: downloads are switched off here, which is asked after that."""
    with (
        weights_folder(tmp_path / "weights"),
        served(tmp_path / "models", FakeWeb(users, shared=shared)) as (client, _),
    ):
        auth = {"auth": ("me", "pw")} if users else {}
        answer = client.post("/controlnet/downloads", json={"model": CANNY}, **auth)
        assert answer.status_code == status
        weights = client.post("/controlnet/downloads", json={"module": "hed"}, **auth)
        assert weights.status_code == 422, "whoever runs it has them fetched"
        assert client.get("/controlnet/downloads", **auth).json()["refused"]
