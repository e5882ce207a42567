"""Downloads of weight files: resumed, checked, moved into place, once for all who wait for them.

The hub's own library answers for its cache, for commits in it and for the user's token. The bytes
are fetched here, by one piece for the hub, its mirrors and other sites, because neither library
function can do it (measured against a server that cuts connections):

- `huggingface_hub.hf_hub_download`, 0.16 to 2.4, loses up to 10 MB with every break, so that on a
  line that breaks more often it never ends. 0.36 takes a download up in its next call only, 0.20
  never. Neither can be stopped or asked how far it is. An error of the server costs 23 seconds
  and comes out as files that cannot be found in the cache. No SHA-256 is compared.
- `torch.hub.download_url_to_file` takes the beginning of a file for the file where a connection
  ends early and no SHA-256 was published, and continues nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

from .weights import HUB, Options, WeightFile, WeightsError

log = logging.getLogger(__name__)

STEP: Final = 1 << 15
"""Bytes that are written at a time, and at most those that a broken connection loses."""
TIMEOUT: Final = (15, 60)
"""Seconds for the connection, and for the next bytes."""
REPORT_SECONDS: Final = 0.5
AHEAD: Final = 8
"""Pieces of `STEP` bytes that are read before they are written."""
_OK, _PARTIAL, _UNSATISFIABLE = 200, 206, 416
_TERMS: Final = "accept its terms on its page, and set HF_TOKEN to a token of yours"
_REFUSALS: Final = {
    404: "does not have it (404)",
    429: "answers 429, as it does where too much is asked for; try again later",
    **{status: f"does not give it to everybody ({status}): {_TERMS}" for status in (401, 403)},
}
_FULL: Final = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class BrokenOffError(Exception):
    """The connection ended before the file did; what is there can be continued."""


@dataclass(frozen=True)
class Part:
    """A file that is being downloaded: its bytes so far, and which version they belong to."""

    path: Path

    @property
    def tag_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def tag(self) -> str:
        return self.tag_path.read_text(encoding="utf-8") if self.tag_path.exists() else ""

    def start(self, tag: str) -> None:
        """Begin with no bytes of a version that the server calls `tag`."""
        self.path.write_bytes(b"")
        self.tag_path.write_text(tag, encoding="utf-8")

    def remove(self) -> None:
        """Leave nothing behind."""
        for path in (self.path, self.tag_path):
            path.unlink(missing_ok=True)


def obtain(weight: WeightFile, target: Path, options: Options) -> Path:
    """Download a file, unless the hub's own cache has it.

    Args:
        weight: what to download.
        target: where it shall lie.
        options: how it may be had.

    Raises:
        WeightsError: it cannot be had; the message says what to put where.
    """
    cached = None if weight.replaced else _in_hub_cache(weight)
    return cached or bring(weight, target, options)


def bring(
    weight: WeightFile,
    target: Path,
    options: Options,
    find_fault: Callable[[Path], str] = lambda _path: "",
) -> Path:
    """Download a file to where it shall lie.

    Args:
        weight: what to download.
        target: where it shall lie.
        options: how it may be had.
        find_fault: says what else is wrong with a complete download; "" where nothing is.

    Raises:
        WeightsError: it cannot be had; the message says what to put where.
    """
    if options.is_offline:
        raise WeightsError(_describe_missing(weight, target, "downloads are switched off"))
    if not weight.address(HUB).startswith(("https://", "http://")):
        raise WeightsError(_describe_missing(weight, target, "its address is none of the web"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(weight, target, options):
            if not target.is_file():  # else another one has brought it meanwhile
                _download(weight, target, options, find_fault)
    except OSError as error:
        why = "the disk is full" if error.errno in _FULL else f"writing it failed ({error})"
        raise WeightsError(_describe_missing(weight, target, why)) from error
    finally:
        options.report(None)
    return target


def _describe_missing(weight: WeightFile, target: Path, why: str) -> str:
    """The sentence for people whose file is not there."""
    return (
        f"the file {weight.name} ({weight.size_text}) is missing and cannot be downloaded: {why}; "
        f"get it from {weight.address()} and put it into {target.parent}"
    )


def _in_hub_cache(weight: WeightFile) -> Path | None:
    """The file in the cache that other programs share, where the user has that."""
    if not weight.repo or weight.url:
        return None
    from huggingface_hub import try_to_load_from_cache

    is_space = weight.repo.startswith("spaces/")
    kind, repo = ("space", weight.repo[len("spaces/") :]) if is_space else (None, weight.repo)
    path = weight.path or weight.name
    for revision in dict.fromkeys((weight.commit, weight.revision)):
        found = try_to_load_from_cache(repo, path, revision=revision, repo_type=kind)
        if isinstance(found, str):
            return Path(found)
    return None


@contextmanager
def _alone(weight: WeightFile, target: Path, options: Options) -> Iterator[None]:
    """Hold the file's lock; threads and processes that want the same file wait for it."""
    import filelock

    path = target.with_name(f".{target.name}.lock")
    lock: Any = filelock.FileLock(path, thread_local=False)
    waiting = False
    while True:
        try:
            lock.acquire(timeout=REPORT_SECONDS)
            break
        except filelock.Timeout:
            if not waiting:
                options.report(f"Waiting for another download of {weight.name}")
            waiting = True
            _check_interrupt(weight, options)
        except NotImplementedError:  # some network drives
            lock = filelock.SoftFileLock(path, thread_local=False)
    try:
        yield
    finally:
        lock.release()
        if target.is_file():  # nobody needs the lock any more; whoever waits sees the file
            with contextlib.suppress(OSError):
                path.unlink()


def _check_interrupt(weight: WeightFile, options: Options) -> None:
    if options.interrupted():
        msg = f"the download of {weight.name} was interrupted; the next one continues it"
        raise WeightsError(msg)


def _download(
    weight: WeightFile, target: Path, options: Options, find_fault: Callable[[Path], str]
) -> None:
    """Bring the file into place, taking up the connection again where it breaks."""
    address = weight.address(options.endpoint)
    mark = hashlib.sha256(f"{weight.sha256}{weight.address()}".encode()).hexdigest()[:8]
    part = Part(target.with_name(f"{target.name}.{mark}.part"))
    log.info("downloading %s (%s) from %s to %s", weight.name, weight.size_text, address, target)
    failures = 0
    while True:
        _check_interrupt(weight, options)
        before = part.size
        try:
            _receive(weight, part, address, options, target)
            break
        except BrokenOffError as error:
            failures = 1 if part.size > before else failures + 1
            log.warning("download of %s: %s", weight.name, error)
            if failures >= options.attempts:
                raise WeightsError(_describe_missing(weight, target, str(error))) from error
            _rest(weight, options, options.pause * 2 ** (failures - 1))
    _check(weight, part, target, options, find_fault)
    part.path.replace(target)
    part.remove()
    log.info("%s is complete", target)


def _rest(weight: WeightFile, options: Options, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        _check_interrupt(weight, options)
        time.sleep(min(left, REPORT_SECONDS))


def _receive(weight: WeightFile, part: Part, address: str, options: Options, target: Path) -> None:
    """Fetch what is not there yet.

    Raises:
        BrokenOffError: the connection failed or ended early.
        WeightsError: the server refuses, or there is no room.
    """
    import requests

    headers = {**_headers(weight, options), "Accept-Encoding": "identity", **_range(part)}
    hooks = {"response": partial(_check_redirect, weight, target)}
    asked: dict[str, Any] = {"headers": headers, "stream": True, "timeout": TIMEOUT}
    ask = partial(requests.get, address, hooks=hooks, **asked)
    try:
        with contextlib.closing(_hear(ask, partial(_check_interrupt, weight, options))) as heard:
            answer = next(heard)
            if answer.status_code == _UNSATISFIABLE and _total(answer) == part.size:
                return  # all of it was there
            _check_answer(answer, weight, target)
            _begin(answer, part)
            _check_room(weight, part, _total(answer), target)
            _write(answer, heard, weight, part, options)
    except requests.RequestException as error:
        msg = f"no connection to {_site(address)} ({type(error).__name__})"
        raise BrokenOffError(msg) from error


def _hear(ask: Callable[[], Any], check: Callable[[], None]) -> Generator[Any, None, None]:
    """A server's answer, then its bytes in pieces.

    A thread reads them, because nothing else lets go of a server that is silent: it may be waiting
    for one long after nobody wants the file, and writes nothing.

    Args:
        ask: gives the answer; what it raises is raised here.
        check: is called while nothing comes; what it raises ends the hearing.
    """
    heard: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(AHEAD)
    is_over = threading.Event()

    def tell(item: Any, error: BaseException | None = None) -> None:
        while not is_over.is_set():
            with contextlib.suppress(queue.Full):
                heard.put((item, error), timeout=REPORT_SECONDS)
                return

    def listen() -> None:
        try:
            with ask() as answer:
                tell(answer)
                for piece in answer.iter_content(STEP):
                    if is_over.is_set():
                        return
                    tell(piece)
        except BaseException as error:  # boundary: it is raised where the pieces are taken
            tell(None, error)
        else:
            tell(None)

    threading.Thread(target=listen, name="ControlNet download", daemon=True).start()
    try:
        while True:
            try:
                item, error = heard.get(timeout=REPORT_SECONDS)
            except queue.Empty:
                check()
                continue
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        is_over.set()


def _check_redirect(weight: WeightFile, target: Path, answer: Any, **_options: Any) -> None:
    """Go where a site leads, as the hub leads to its stores, but not out of HTTPS.

    What comes is compared with what was published, and requests takes the token out.

    Raises:
        WeightsError: the way leads out of it.
    """
    if not (answer.is_redirect and answer.url.startswith("https://")):
        return
    led = urljoin(answer.url, answer.headers["location"])
    if not led.startswith("https://"):
        why = f"{_site(answer.url)} leads to {_site(led)}, which is no HTTPS"
        raise WeightsError(_describe_missing(weight, target, why))


def _range(part: Part) -> dict[str, str]:
    """Headers that ask for what is not there yet, if the server still has the same version."""
    if not part.size:
        return {}
    strong = part.tag and not part.tag.startswith("W/")
    return {"Range": f"bytes={part.size}-", **({"If-Range": part.tag} if strong else {})}


def _begin(answer: Any, part: Part) -> None:
    """Make the bytes so far those that the answer goes on from.

    Raises:
        BrokenOffError: it goes on elsewhere.
    """
    if answer.status_code == _OK:
        part.start(answer.headers.get("ETag", ""))
    elif not answer.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
        part.remove()
        msg = f"{_site(answer.url)} has another file than the one that was begun"
        raise BrokenOffError(msg)


def _headers(weight: WeightFile, options: Options) -> dict[str, str]:
    """The hub's own headers, with the user's token, for the hub alone."""
    if weight.replaced or weight.url or options.endpoint.rstrip("/") != HUB:
        return {}
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers())


def _check_answer(answer: Any, weight: WeightFile, target: Path) -> None:
    """Raise for an answer that brings no bytes.

    Raises:
        BrokenOffError: another attempt may bring them.
        WeightsError: none will.
    """
    status = answer.status_code
    if status in (_OK, _PARTIAL, _UNSATISFIABLE):
        return
    why = f"{_site(answer.url)} {_REFUSALS.get(status, f'answers {status}')}"
    if status >= 500 or status == 429:
        raise BrokenOffError(why)
    raise WeightsError(_describe_missing(weight, target, why))


def _check_room(weight: WeightFile, part: Part, total: int | None, target: Path) -> None:
    needed = (total or weight.size) - part.size
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        why = f"the disk has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are needed"
        raise WeightsError(_describe_missing(weight, target, why))


def _write(
    answer: Any, pieces: Iterator[bytes], weight: WeightFile, part: Part, options: Options
) -> None:
    """Append what comes, telling console and host how far it is."""
    import requests
    from tqdm import tqdm

    total, complete = _total(answer), False
    # disable=None: no bar where the output is no terminal, a log would be full of it
    shown = {"unit": "B", "unit_scale": True, "desc": weight.name, "leave": False, "disable": None}
    bar = tqdm(total=total, initial=part.size, **shown)
    told = 0.0
    with part.path.open("ab") as file, bar, contextlib.suppress(requests.RequestException):
        for chunk in pieces:
            file.write(chunk)
            bar.update(len(chunk))
            if time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                options.count(file.tell(), total or weight.size)
                options.report(_progress(weight, file.tell(), total))
                _check_interrupt(weight, options)
        complete = True
    if not complete or total not in (None, part.size):
        whole = total or weight.size
        msg = f"the connection to {_site(answer.url)} ended after {part.size} of {whole} bytes"
        raise BrokenOffError(msg)


def _progress(weight: WeightFile, done: int, total: int | None) -> str:
    whole = total or weight.size
    return f"Downloading {weight.name}: {done / 1e6:.0f} of {whole / 1e6:.0f} MB"


def _total(answer: Any) -> int | None:
    """Bytes of the whole file, where the server tells."""
    whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
    if whole.isdecimal():
        return int(whole)
    length = answer.headers.get("Content-Length", "")
    known = answer.status_code == _OK and length.isdecimal()
    return int(length) if known and not answer.headers.get("Content-Encoding") else None


def _site(address: str) -> str:
    return "/".join(address.split("/")[:3])


def _check(
    weight: WeightFile,
    part: Part,
    target: Path,
    options: Options,
    find_fault: Callable[[Path], str],
) -> None:
    """Compare a complete download with what was published.

    Raises:
        WeightsError: it is something else; nothing of it is kept.
    """
    if weight.replaced:  # a file of the user's choice
        return
    fault = ""
    if weight.exact and part.size != weight.size:
        fault = f"it has {part.size} bytes instead of {weight.size}"
    elif weight.sha256 and (found := _digest(weight, part, options)) != weight.sha256:
        fault = f"its SHA-256 is {found} instead of {weight.sha256}"
    else:
        fault = find_fault(part.path)
    if fault:
        part.remove()
        raise WeightsError(_describe_missing(weight, target, f"what came is another file, {fault}"))


def _digest(weight: WeightFile, part: Part, options: Options) -> str:
    """SHA-256 of what lies on the disk, which parts of several days may be."""
    digest, told = hashlib.sha256(), 0.0
    with part.path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                options.report(f"Checking {weight.name}")
                _check_interrupt(weight, options)
    return digest.hexdigest()
