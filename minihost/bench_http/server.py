"""A WebUI over HTTP: what a client can see of it, and one sentence where it refuses."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

LARGEST_ANSWER: Final = 1 << 30
CHUNK: Final = 1 << 20
LONGEST_REASON: Final = 300
NOT_FOUND: Final = 404


class BenchError(Exception):
    """What keeps the measurement from being made, in one sentence."""


class ServerError(BenchError):
    """A server did not give what was asked of it."""


class Server:
    """One WebUI.

    Attributes:
        name: heads its columns.
        url: without credentials.
        host: its name or address.
        port: it listens there.
    """

    def __init__(self, address: str, name: str, seconds: float) -> None:
        """Read an address; nothing is asked of the server yet.

        Args:
            address: `http://host:port`, with `user:password@` before the host for --api-auth,
                and `name=` before all of it for the name.
            name: if the address has none.
            seconds: within which each request has to be answered.
        """
        given, found, rest = address.partition("=")
        if found and "://" not in given:
            name, address = given, rest
        self.name, self.seconds = name, seconds
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            msg = f"--webui-url {address}: give an address such as http://127.0.0.1:7860"
            raise BenchError(msg)
        self.host, self.port = parts.hostname, port or (443 if parts.scheme == "https" else 80)
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode('ascii')}"
        self._opener = build_opener(ProxyHandler({}))

    def get(self, path: str) -> Any:
        """The JSON answer of a GET.

        Raises:
            ServerError: as of `post`.
        """
        return self._ask(Request(self.url + path, headers=self._headers), path)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer of a POST.

        Raises:
            ServerError: the server cannot be reached, refuses, is too slow or answers no JSON.
        """
        data = json.dumps(body).encode()
        return self._ask(Request(self.url + path, data, self._headers), path)

    def _ask(self, request: Request, path: str) -> Any:
        deadline = time.monotonic() + self.seconds
        try:
            with self._opener.open(request, timeout=self.seconds) as answer:
                text = self._read(answer, path, deadline)
        except HTTPError as error:
            with error:
                said = self._read(error, path, deadline)
            msg = f"{self.url} answered {error.code} to {path}: {reason(said)}"
            raise ServerError(msg) from error
        except TimeoutError as error:
            raise self._slow(path) from error
        except (URLError, OSError) as error:
            why = getattr(error, "reason", error)
            if isinstance(why, TimeoutError):
                raise self._slow(path) from error
            msg = f"{self.url} cannot be reached ({why}); is it running with --api?"
            raise ServerError(msg) from error
        try:
            return json.loads(text)
        except ValueError as error:
            msg = f"{self.url} answered no JSON to {path}; is it a WebUI with --api?"
            raise ServerError(msg) from error

    def _slow(self, path: str) -> ServerError:
        return ServerError(
            f"{self.url} did not answer {path} within {self.seconds:g} s; give --timeout more, "
            "or --size and --steps less"
        )

    def _read(self, answer: Any, path: str, deadline: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := answer.read(CHUNK):
            parts.append(part)
            size += len(part)
            if size > LARGEST_ANSWER:
                msg = f"{self.url} answered {path} with more than {LARGEST_ANSWER >> 20} MB"
                raise ServerError(msg)
            if time.monotonic() > deadline:
                raise TimeoutError
        return b"".join(parts)

    def control_models(self) -> dict[str, str]:
        """The control models that it offers: name without hash, and as it wants it written.

        Raises:
            ServerError: it has no ControlNet, or none of its models.
        """
        try:
            named = self.get("/controlnet/model_list")["model_list"]
        except (ServerError, KeyError, TypeError) as error:
            msg = f"{self.url} has no ControlNet: /controlnet/model_list did not answer ({error})"
            raise ServerError(msg) from error
        models = {plain(name): name for name in named if name != "None"}
        if not models:
            msg = f"{self.url} has no control models; put some into its folder models/ControlNet"
            raise ServerError(msg)
        return models

    def models_by_type(self) -> dict[str, list[str]]:
        """Names without hash of each control type, its default first; empty in old versions."""
        try:
            types = self.get("/controlnet/control_types")["control_types"]
            return {
                kind: [plain(name) for name in (row["default_model"], *row["model_list"])]
                for kind, row in types.items()
            }
        except (ServerError, KeyError, TypeError, AttributeError):
            return {}

    def checkpoints(self) -> dict[str, str]:
        """Every spelling of its checkpoints, and the title of each."""
        known = {}
        for row in self.get("/sdapi/v1/sd-models"):
            title = row["title"]
            for spelling in (title, row["model_name"], plain(title)):
                known[spelling] = title
        return known

    def present_checkpoint(self) -> str:
        """Title of the checkpoint that it has chosen."""
        return str(self.get("/sdapi/v1/options").get("sd_model_checkpoint") or "")


def plain(name: str) -> str:
    """A model's name without the hash in brackets behind it."""
    return re.sub(r" \[[^\[\]]*\]$", "", name)


def reason(said: bytes) -> str:
    """What a server says of its refusal, as one line.

    A1111 answers `error`, `detail`, `body` and `errors`; others only `detail`, or no JSON at all.
    """
    text = said[: 4 * LONGEST_REASON].decode("utf-8", "replace")
    try:
        answer = json.loads(said)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        words = (answer.get(key) for key in ("detail", "errors", "error"))
        found = next((word for word in words if word), text)
        text = found if isinstance(found, str) else json.dumps(found)
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"
