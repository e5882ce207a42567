"""A server process with exactly the flags that a test names, and nothing assumed of its answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from servers import READY_WORDS, ROOT, START_SECONDS, free_port


@dataclass
class PlainServer:
    """The embedded host in a process of its own.

    Attributes:
        client: for its address, without credentials.
        process: the process.
    """

    client: httpx.Client
    process: subprocess.Popen

    def memory(self) -> int:
        """Resident memory in bytes; 0 where the system does not tell."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return 0
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def is_ready(log: Path) -> bool:
    """Whether a server has written that it is up."""
    return READY_WORDS in log.read_text(encoding="utf-8", errors="replace")


def listens(port: int) -> bool:
    """Whether something takes connections at a port of this machine."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


@contextmanager
def plain_server(data: Path, *flags: str) -> Iterator[PlainServer]:
    """Start the embedded host over a data folder, wait for it, end it."""
    port, log = free_port(), data / "server.log"
    command = [sys.executable, str(ROOT / "minihost" / "launch.py"), "--skip-install"]
    command += ["--port", str(port), "--data-dir", str(data), *flags]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (is_ready(log) and listens(port)):  # an API alone says so before it listens
            told = log.read_text(encoding="utf-8", errors="replace")[-4000:]
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.25)
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=address, timeout=300, trust_env=False) as client:
            yield PlainServer(client, process)
    finally:
        process.kill()
        process.wait()
