"""A small server in the layout of the Hugging Face hub, with the faults that real ones show."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Hub:
    """What is served and what was asked.

    Attributes:
        files: path -> content.
        cuts: for each of the next answers, the bytes after which the connection is closed.
        stall: bytes after which the next answer goes on no earlier than `wait` is set.
        status: answer this instead of a file; 0 for the file.
        ranges: whether parts of files are served.
        shift: bytes that parts begin later than asked, once.
        leads: path -> address that it is redirected to.
        wait: answers are held back until this is set.
        asked: (path, Range header) of every request.
        sent: bytes of content that went out.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    stall: int = 0
    status: int = 0
    ranges: bool = True
    shift: int = 0
    leads: dict[str, str] = field(default_factory=dict)
    wait: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    def publish(self, repo: str, path: str, content: bytes, revision: str = "main") -> None:
        """Serve a file of a repository."""
        self.files[f"/{repo}/resolve/{revision}/{path}"] = content


def send_nothing(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    """An answer without content."""
    handler.send_response(status)
    for name, value in {**headers, "Content-Length": "0"}.items():
        handler.send_header(name, value)
    handler.end_headers()


def send_body(handler: BaseHTTPRequestHandler, hub: Hub, body: bytes, stall: int) -> None:
    """Content, after `stall` bytes of it silence until it may go on; 0 for none."""
    if stall:
        handler.wfile.write(body[:stall])
        hub.wait.clear()
        hub.wait.wait(60)
    with contextlib.suppress(OSError):  # nobody listens any more
        handler.wfile.write(body[stall:])


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A server on a free port, for as long as the block runs."""
    hub = Hub()
    hub.wait.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append((self.path, self.headers.get("Range", "")))
            hub.headers.append(dict(self.headers))
            stall, hub.stall = hub.stall, 0
            hub.wait.wait(60)
            content = hub.files.get(self.path)
            if self.path in hub.leads:
                send_nothing(self, 302, Location=hub.leads[self.path])
            elif hub.status or content is None:
                send_nothing(self, hub.status or 404)
            else:
                self.answer(content, stall)

        def answer(self, content: bytes, stall: int) -> None:
            tag = f'"{hashlib.md5(content).hexdigest()}"'
            start = self.first_byte(tag)
            if start:
                start, hub.shift = start + hub.shift, 0
            if start >= len(content):
                send_nothing(self, 416, **{"Content-Range": f"bytes */{len(content)}"})
                return
            self.send_response(206 if start else 200)
            if start:
                end = f"{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", f"bytes {start}-{end}")
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = hub.cuts.pop(0) if hub.cuts else len(content)
            body = content[start : start + cut]
            send_body(self, hub, body, stall)
            hub.sent += len(body)
            self.close_connection = True

        def first_byte(self, tag: str) -> int:
            asked, same = self.headers.get("Range", ""), self.headers.get("If-Range", tag)
            return int(asked[6:-1]) if hub.ranges and asked and same == tag else 0

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.wait.set()
        server.shutdown()
        server.server_close()
        thread.join()
