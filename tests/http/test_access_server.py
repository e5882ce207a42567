"""Passwords and logins on whole servers, started with the flags that people use."""

from __future__ import annotations

from pathlib import Path

import httpx
from plain_server import plain_server

LISTS = ("version", "model_list", "module_list", "control_types", "settings", "downloads")
WORK = ("detect", "render_openpose_json", "downloads", "downloads/stop")


def statuses(client: httpx.Client, **options: object) -> set[int]:
    """Status of every route; what is asked of those in WORK would be refused with 422."""
    found = {client.get(f"/controlnet/{name}", **options).status_code for name in LISTS}
    for name in WORK:
        found.add(client.post(f"/controlnet/{name}", json={"x": 1}, **options).status_code)
    return found


OPEN, SHUT = {200, 422}, {401}


def test_row_26_every_api_user_has_access_and_nobody_else(tmp_path: Path) -> None:
    flags = ("--api", "--nowebui", "--api-auth", "me:secret,you:other")
    with plain_server(tmp_path, *flags) as server:
        client = server.client
        for pair in (("me", "secret"), ("you", "other")):
            assert client.get("/sdapi/v1/options", auth=pair).status_code == 200
            assert statuses(client, auth=pair) == OPEN
        for pair in (None, ("me", "other"), ("us", "secret"), ("me", "")):
            options = {} if pair is None else {"auth": pair}
            assert client.get("/sdapi/v1/options", **options).status_code == 401
            assert statuses(client, **options) == SHUT
        bad = {"alwayson_scripts": {"ControlNet": {"args": None}}}
        assert client.post("/sdapi/v1/txt2img", json=bad).status_code == 401
        told = client.post("/sdapi/v1/txt2img", json=bad, auth=("me", "secret"))
        assert told.status_code == 422


def test_page_login_opens_the_routes_where_there_is_no_api(tmp_path: Path) -> None:
    with plain_server(tmp_path, "--gradio-auth", "admin:pw") as server:
        client = server.client
        assert client.get("/sdapi/v1/options").status_code == 404
        assert statuses(client) == SHUT
        wrong = client.post("/login", data={"username": "admin", "password": "no"})
        assert wrong.status_code == 400
        assert statuses(client) == SHUT
        client.post("/login", data={"username": "admin", "password": "pw"})
        assert statuses(client) == OPEN
        refused = client.post("/controlnet/detect", json={"controlnet_module": "xx"})
        assert refused.json() == {"detail": "Module not available"}, "FastAPI's own shape"
