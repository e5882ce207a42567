"""Time and memory of servers: their processes' own where they run here, else from outside."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench_http.server import BenchError, Server, ServerError

PROC: Final = Path("/proc")
LISTENING: Final = "0A"
NEAR: Final = 0.02
"""Seconds between two looks at a process of this machine."""
FAR: Final = 0.25
"""Seconds between two questions to a server for its memory."""


@dataclass
class Meter:
    """Clock and memory of one server.

    Attributes:
        server: whose.
        pid: of the process that listens; None where it cannot be found, or runs elsewhere.
        has_gpu: whether the server tells of memory on a GPU.
        tells_memory: whether the server tells its memory at all.
        is_cpu: count the process's CPU time, not the time that passes.
        peaks: highest bytes seen in the last `watching`, by place ("RAM", "GPU").
    """

    server: Server
    pid: int | None
    has_gpu: bool = False
    tells_memory: bool = False
    is_cpu: bool = False
    peaks: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, server: Server) -> Meter:
        """Find out what can be measured of a server."""
        pid = listening_process(server.port) if is_here(server.host) else None
        told = memory(server)
        return cls(server, pid, "GPU" in told, bool(told))

    def now(self) -> float:
        """Seconds on the chosen clock; only differences mean something."""
        if self.is_cpu and self.pid is not None:
            return cpu_seconds(self.pid)
        return time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the highest memory that is seen meanwhile."""
        self.peaks = {}
        done = threading.Event()
        watchers = []
        if self.pid is not None:
            watchers.append(threading.Thread(target=self._watch_process, args=(self.pid, done)))
        if self.has_gpu or (self.pid is None and self.tells_memory):
            watchers.append(threading.Thread(target=self._watch_server, args=(done,)))
        for thread in watchers:
            thread.start()
        try:
            yield
        finally:
            done.set()
            for thread in watchers:
                thread.join()

    def _saw(self, place: str, size: int) -> None:
        self.peaks[place] = max(self.peaks.get(place, 0), size)

    def _watch_process(self, pid: int, done: threading.Event) -> None:
        while True:
            with suppress(OSError, StopIteration, ValueError):
                self._saw("RAM", resident_bytes(pid))
            if done.wait(NEAR):
                return

    def _watch_server(self, done: threading.Event) -> None:
        while True:
            for place, size in memory(self.server).items():
                if place == "GPU" or self.pid is None:
                    self._saw(place, size)
            if done.wait(FAR):
                return


def choose_clock(meters: Sequence[Meter], wanted: str) -> str:
    """Set the same clock on all meters.

    Args:
        meters: of the servers that are compared.
        wanted: "cpu", "wall", or "auto": CPU time where every server computes on the CPU of this
            machine. Other work on the machine does not blur that; of a GPU it would see nothing.

    Returns:
        What is measured, and why, in words.

    Raises:
        BenchError: CPU time was asked for, of a process that is not to be seen here.
    """
    hidden = next((meter for meter in meters if meter.pid is None), None)
    if wanted == "cpu" and hidden is not None:
        msg = (
            f"--clock cpu: no Python process of this user was found to listen at "
            f"{hidden.server.url} on this machine; leave --clock out for the time that passes"
        )
        raise BenchError(msg)
    has_gpu = any(meter.has_gpu for meter in meters)
    is_cpu = wanted == "cpu" or (wanted == "auto" and hidden is None and not has_gpu)
    for meter in meters:
        meter.is_cpu = is_cpu
    if is_cpu:
        return "CPU time of the servers' processes (user and system, all threads)"
    why = "as asked" if wanted == "wall" else ""
    if not why:
        why = "a GPU computes" if has_gpu else "not every server is a process of this machine"
    return f"time that passes ({why})"


def memory(server: Server) -> dict[str, int]:
    """Bytes that a server tells of itself now, by place; empty where it does not tell."""
    found: dict[str, int] = {}
    with suppress(ServerError):
        told: Any = server.get("/sdapi/v1/memory")
        places = (("RAM", "ram", ("used",)), ("GPU", "cuda", ("allocated", "current")))
        for place, key, path in places:
            with suppress(KeyError, TypeError, ValueError):
                value = told[key]
                for step in path:
                    value = value[step]
                found[place] = int(value)
    return found


def is_here(host: str) -> bool:
    """Whether a name stands for this machine itself."""
    try:
        places = {row[4][0] for row in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(place).partition("%")[0]).is_loopback for place in places)


def listening_process(port: int) -> int | None:
    """The one Python process of this machine that listens at a port (Linux), None otherwise.

    Only a Python process is a WebUI: a tunnel or a proxy listens for one that computes elsewhere.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening_sockets(port)}
    if not sockets:
        return None
    found = []
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            if any(_target(link) in sockets for link in (folder / "fd").iterdir()):
                command = (folder / "cmdline").read_bytes().split(b"\0")[0]
                found += [int(folder.name)] if b"python" in command.lower() else []
    return found[0] if len(found) == 1 else None


def _listening_sockets(port: int) -> set[str]:
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(words[9])
    return inodes


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile
        return ""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads.

    Raises:
        BenchError: it has ended.
    """
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        msg = f"the server's process {pid} has ended in mid-measurement; see its log"
        raise BenchError(msg) from error
    words = text.rpartition(")")[2].split()  # the name before may hold blanks
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process, mapped files included (Linux)."""
    lines = (PROC / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024
