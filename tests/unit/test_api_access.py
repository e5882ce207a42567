"""Who may use the routes: the host's API users, and people logged in to gradio's page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import pytest
from fake_web import FakeWeb, served
from fastapi import FastAPI
from gradio.routes import App
from starlette.testclient import TestClient

LISTS = (
    *("version", "model_list", "module_list", "control_types", "settings", "downloads"),
    "palettes",
)
WORK = ("detect", "render_openpose_json", "downloads", "downloads/stop")


def page(auth: list[tuple[str, str]] | None) -> FastAPI:
    """A gradio application, with a login or without one."""
    with gr.Blocks() as blocks:
        gr.Textbox()
    blocks.auth, blocks.auth_message, blocks.favicon_path = auth, None, None
    blocks.config = blocks.get_config_file()
    blocks.validate_queue_settings()
    blocks.is_running = True
    blocks.show_error = blocks.share = False
    return App.create_app(blocks)


@contextmanager
def routes(
    folder: Path,
    users: dict[str, str] | None = None,
    api: bool = True,
    login: list[tuple[str, str]] | None = None,
) -> Iterator[TestClient]:
    with served(folder, FakeWeb(users or {}, api), page(login)) as (client, _):
        yield client


def statuses(client: TestClient, **options: object) -> set[int]:
    """Status of every route; what is asked of those in WORK would be refused with 422."""
    found = {client.get(f"/controlnet/{name}", **options).status_code for name in LISTS}
    for name in WORK:
        found.add(client.post(f"/controlnet/{name}", json={"x": 1}, **options).status_code)
    return found


OPEN, SHUT = {200, 422}, {401}


def log_in(client: TestClient, user: str, password: str) -> None:
    answer = client.post("/login", data={"username": user, "password": password})
    assert answer.status_code == 200, answer.text


def test_open_host_has_open_routes(tmp_path: Path) -> None:
    with routes(tmp_path) as client:
        assert statuses(client) == OPEN


def test_api_users_all_have_access_and_nobody_else(tmp_path: Path) -> None:
    with routes(tmp_path, {"me": "secret", "you": "käse"}) as client:
        assert statuses(client) == SHUT
        refused = client.get("/controlnet/version")
        assert refused.headers["WWW-Authenticate"] == "Basic"
        assert refused.json()["detail"] == "Incorrect username or password"
        assert statuses(client, auth=("me", "secret")) == OPEN
        for pair in (("me", "wrong"), ("me", ""), ("", ""), ("you", "secret"), ("us", "secret")):
            assert statuses(client, auth=pair) == SHUT


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !", "Basic bWU=", "Bearer x", "Basic " + "A" * 5000, "\xff"]
)
def test_malformed_credentials_are_401(tmp_path: Path, header: str) -> None:
    with routes(tmp_path, {"me": "secret"}) as client:
        assert statuses(client, headers={"authorization": header.encode("latin-1")}) == SHUT


def test_page_login_opens_the_routes_beside_the_password(tmp_path: Path) -> None:
    with routes(tmp_path, {"me": "secret"}, login=[("admin", "pw")]) as client:
        assert statuses(client) == SHUT
        assert statuses(client, auth=("me", "secret")) == OPEN
        assert statuses(client, auth=("admin", "pw")) == SHUT, "the page's users have no API"
        log_in(client, "admin", "pw")
        assert statuses(client) == OPEN
        client.cookies.clear()
        for name in ("access-token", "access-token-unsecure"):
            assert statuses(client, cookies={name: "made up"}) == SHUT


def test_page_login_alone_leaves_the_routes_as_open_as_the_hosts_api(tmp_path: Path) -> None:
    with routes(tmp_path, api=True, login=[("admin", "pw")]) as client:
        assert statuses(client) == OPEN


def test_page_login_guards_the_routes_where_there_is_no_api(tmp_path: Path) -> None:
    with routes(tmp_path, api=False, login=[("admin", "pw")]) as client:
        assert statuses(client) == SHUT
        log_in(client, "admin", "pw")
        assert statuses(client) == OPEN


def test_without_api_and_login_the_routes_are_open(tmp_path: Path) -> None:
    with routes(tmp_path, api=False) as client:
        assert statuses(client) == OPEN


def test_guarded_routes_say_so_in_openapi(tmp_path: Path) -> None:
    app = FastAPI()
    with served(tmp_path, FakeWeb({"me": "secret"}), app) as (client, _):
        paths = client.get("/openapi.json").json()["paths"]
    assert all(
        op["security"] == [{"HTTPBasic": []}] for ops in paths.values() for op in ops.values()
    )
