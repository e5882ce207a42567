"""Starting the embedded host in a process of its own, and talking to a WebUI over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 240
READY_ROUTE = "/sdapi/v1/options"
READY_WORDS = "Startup time:"  # extensions add their routes after the first ones answer


@dataclass
class Server:
    """A WebUI, whether these tests started it or were given its address.

    Attributes:
        url: its address.
        log_file: what it writes; None for one that was running before.
    """

    url: str
    log_file: Path | None = None
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=600, trust_env=False)

    def get(self, path: str) -> Any:
        """The JSON answer of a GET, failing with the server's words."""
        return _answer(self.client.get(path))

    def post(self, path: str, payload: dict[str, Any]) -> Any:
        """The JSON answer of a POST, failing with the server's words."""
        return _answer(self.client.post(path, json=payload))

    def log(self) -> str:
        """Everything that it wrote; empty for one that was running before."""
        if self.log_file is None:
            return ""
        return self.log_file.read_text(encoding="utf-8", errors="replace")


def _answer(response: httpx.Response) -> Any:
    text = response.text[-3000:]
    assert response.status_code == httpx.codes.OK, f"{response.status_code}: {text}"
    return response.json()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def embedded_host(data: Path, *flags: str) -> Iterator[Server]:
    """The embedded host over a data folder, with this repository as an extension."""
    port, log = free_port(), data / "server.log"
    command = [sys.executable, str(ROOT / "minihost" / "launch.py"), "--api", "--skip-install"]
    command += ["--port", str(port), "--data-dir", str(data), *flags]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    server = Server(f"http://127.0.0.1:{port}", log)
    try:
        _wait(server, process)
        yield server
    finally:
        server.client.close()
        _stop(process)


def _wait(server: Server, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            msg = f"the embedded host ended with {process.returncode}:\n{server.log()[-6000:]}"
            raise RuntimeError(msg)
        try:
            answers = server.client.get(READY_ROUTE).status_code == httpx.codes.OK
            if answers and READY_WORDS in server.log():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    msg = f"the embedded host did not answer within {START_SECONDS} s:\n{server.log()[-6000:]}"
    raise RuntimeError(msg)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
