"""The embedded host inside the calling process, for tests and scripts.

Put the folder `minihost` first on `sys.path`, then::

    import embedded

    host = embedded.start(tmp_path, ["--ckpt", "demo.safetensors"])
    answer = host.txt2img(prompt="a red circle", steps=4, width=128, height=128)
    answer.images[0]  # PIL pictures, decoded from the API's base64
    answer.info["infotexts"]  # the API's `info`, parsed
    host.reload_ui()  # what the button `Reload UI` does
    url = host.serve()  # the same routes over HTTP, until host.stop()

`start` loads the extensions and scripts, builds the page without serving it, and makes the same
API object that the server uses, so scripts meet the true order of events: `ui()` is called three
times, callbacks are registered while script files run, `on_app_started` gets an application.

The host's state lives in its modules, so a process has one host: a second `start` with the same
arguments returns it, one with other arguments raises.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

_HERE = str(Path(__file__).resolve().parent)
_SERVER_SECONDS = 60


@dataclass
class Answer:
    """A successful answer of the API.

    Attributes:
        images: pictures, decoded.
        info: the parsed `info`: seeds, infotexts, index_of_first_image and so on.
        parameters: the request as the API echoes it.
        raw: the whole answer as JSON data.
    """

    images: list[Image.Image]
    info: dict[str, Any]
    parameters: dict[str, Any]
    raw: dict[str, Any]


class ApiError(RuntimeError):
    """The API answered with an error status."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"status {status}: {body}")
        self.status = status
        self.body = body


class Host:
    """The running host; use `start` to get it."""

    def __init__(self, args: tuple[str, ...]) -> None:
        self.args = args
        self.app: Any = None
        self.api: Any = None
        self._client: Any = None
        self._server: Any = None

    def build(self) -> None:
        """Build page and application from the loaded scripts."""
        import webui

        self.app, self.api = webui.build_api_app()
        self._client = None

    @property
    def client(self) -> Any:
        """Client that calls the routes in this process, without a network."""
        if self._client is None:
            from starlette.testclient import TestClient

            self._client = TestClient(self.app, raise_server_exceptions=False)
        return self._client

    def get(self, path: str, **options: Any) -> Any:
        """GET a route and return the response."""
        return self.client.get(path, **options)

    def post(self, path: str, payload: dict | None = None, **options: Any) -> Any:
        """POST JSON to a route and return the response."""
        return self.client.post(path, json=payload or {}, **options)

    def txt2img(self, **fields: Any) -> Answer:
        """Generate from text; raises ApiError if the API answers with an error."""
        return self._generate("txt2img", fields)

    def img2img(self, **fields: Any) -> Answer:
        """Generate from a picture; `init_images` and `mask` may be PIL pictures."""
        from modules.api.api import encode_pil_to_base64

        def encoded(picture: Any) -> Any:
            if isinstance(picture, Image.Image):
                return encode_pil_to_base64(picture).decode("ascii")
            return picture

        fields["init_images"] = [encoded(x) for x in fields.get("init_images") or []] or None
        if fields.get("mask") is not None:
            fields["mask"] = encoded(fields["mask"])
        return self._generate("img2img", fields)

    def _generate(self, route: str, fields: dict[str, Any]) -> Answer:
        from modules.api.api import decode_base64_to_image

        response = self.post(f"/sdapi/v1/{route}", fields)
        body = response.json()
        if response.status_code != 200:
            raise ApiError(response.status_code, body)
        return Answer(
            images=[decode_base64_to_image(x) for x in body["images"]],
            info=json.loads(body["info"]),
            parameters=body["parameters"],
            raw=body,
        )

    def reload_ui(self) -> None:
        """Rebuild as the button does: callbacks cleared, scripts executed again."""
        import webui

        webui.reload_ui()
        self.build()

    def serve(self, port: int = 0) -> str:
        """Serve the routes on 127.0.0.1 and return the address; without a page."""
        import uvicorn

        config = uvicorn.Config(self.app, host="127.0.0.1", port=port, log_level="warning")
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None
        threading.Thread(target=self._server.run, daemon=True).start()
        deadline = time.monotonic() + _SERVER_SECONDS
        while not self._server.started:
            if time.monotonic() > deadline:
                msg = f"the server did not start within {_SERVER_SECONDS} s"
                raise RuntimeError(msg)
            time.sleep(0.02)
        bound = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{bound}"

    def stop(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.should_exit = True
            self._server = None


_running: list[Host] = []


def start(data_dir: str | os.PathLike, args: Sequence[str] = ()) -> Host:
    """Load the host into this process, once.

    Args:
        data_dir: folder of settings, models, extensions and outputs.
        args: further flags, as on the command line; `--api --skip-install` are added.

    Raises:
        RuntimeError: a host with other arguments runs in this process.
    """
    wanted = ("--data-dir", os.fspath(data_dir), "--api", "--skip-install", *args)
    if _running:
        if _running[0].args != wanted:
            msg = f"this process already runs a host with {_running[0].args}, asked for {wanted}"
            raise RuntimeError(msg)
        return _running[0]
    if "modules.paths_internal" in sys.modules:
        msg = "`modules` was imported before embedded.start(); its folders are fixed already"
        raise RuntimeError(msg)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    sys.path[:] = [_HERE, *(x for x in sys.path if x != _HERE)]
    kept, sys.argv = sys.argv, ["launch.py", *wanted]
    try:
        from modules import initialize

        initialize.imports()
        initialize.initialize()
    finally:
        sys.argv = kept
    host = Host(wanted)
    host.build()
    _running.append(host)
    return host
