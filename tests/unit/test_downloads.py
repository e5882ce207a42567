"""The queue of downloads, against a server with real faults."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_server import Hub, local_hub
from published_rows import CONTENT, REPOSITORY, published_rows, row, sum_of, wait_for

from annotator import download
from annotator.weights import Options, WeightsError
from lib_controlnet.detect.downloadable import find_order, order_published, order_weights
from lib_controlnet.files import downloads
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.files.downloads import LEFT, MOST_WAITING, DownloadError, Downloads, Order

NAMES = tuple(f"control_v11p_sd15_canny_{letter}.safetensors" for letter in "abc")
SLOW = Options(pause=60)
"""A connection that breaks is not taken up again before the test is over."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A server that has the files of three rows."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    rows = [row(name, CONTENT) for name in NAMES]
    with local_hub() as server, published_rows(tmp_path, *rows):
        for name in NAMES:
            server.publish(REPOSITORY, name, CONTENT)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


class Queue:
    """A queue over a folder of models, and what it told."""

    def __init__(self, folder: Path, options: Options, file: Path | None = None) -> None:
        self.folder, self.told = folder, []
        folder.mkdir(exist_ok=True)
        self.downloads = Downloads(
            lambda: options, lambda name: find_order(name, [folder]), self.told.append, file
        )

    def start(self, *names: str) -> None:
        for name in names:
            self.downloads.start(order_published(name, [self.folder]))

    def stop(self, name: str) -> None:
        self.downloads.stop(f"model/{name}")

    def states(self) -> list[str]:
        return [item["state"] for item in self.downloads.describe()]

    def wait(self, *states: str) -> None:
        """Wait until the orders are in these states."""
        wait_for(lambda: self.states() == list(states), self.downloads.describe)

    def files(self) -> list[str]:
        """What lies in the folder, locks left out."""
        names = (path.name for path in self.folder.iterdir())
        return sorted(name for name in names if not name.endswith(".lock"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Queue]]:
    """Makes queues that end with the test."""
    made: list[Queue] = []

    def make_one(options: Options = Options(pause=0.01), file: Path | None = None) -> Queue:  # noqa: B008
        made.append(Queue(tmp_path / "models", options, file))
        return made[-1]

    yield make_one
    for queue in made:
        queue.downloads.close()


def test_orders_are_carried_out_one_after_the_other_and_each_once(hub: Hub, make: Any) -> None:
    queue = make()
    hub.wait.clear()
    queue.start(*NAMES, NAMES[0], NAMES[1])
    queue.wait("running", "waiting", "waiting")
    assert queue.files() == []
    hub.wait.set()
    queue.wait("done", "done", "done")
    assert [Path(path).name for path, _ in hub.asked] == list(NAMES)
    assert [order.target.name for order in queue.told] == list(NAMES)
    assert queue.files() == list(NAMES)
    assert (queue.folder / NAMES[2]).read_bytes() == CONTENT
    last = queue.downloads.describe()[-1]
    assert (last["done"], last["size"], last["message"]) == (300_000, 300_000, "")
    queue.start(NAMES[1])
    queue.wait("done", "done", "done")
    assert len(hub.asked) == 3, "what is there is not fetched again"


def test_a_stopped_download_keeps_its_bytes_and_is_continued(hub: Hub, make: Any) -> None:
    queue = make(SLOW)
    hub.cuts = [100_000]
    queue.start(*NAMES[:2])
    wait_for(lambda: any(name.endswith(".part") for name in queue.files()))
    assert Catalog([queue.folder]).names() == [], "a part is no model"
    assert queue.states() == ["running", "waiting"]
    queue.stop(NAMES[1])
    queue.stop(NAMES[0])
    queue.wait("stopped", "stopped")
    assert "was interrupted; the next one continues it" in queue.downloads.describe()[0]["message"]
    assert not queue.told
    queue.start(NAMES[0])
    queue.wait("stopped", "done")
    found = re.fullmatch(r"bytes=(\d{5})-", hub.asked[1][1])
    assert hub.sent == 100_000 + len(CONTENT) - int(found[1])
    with pytest.raises(DownloadError, match="there is no download 'model/x'") as caught:
        queue.stop("x")
    assert caught.value.status_code == 404


def test_a_silent_server_keeps_nobody_who_stops(hub: Hub, make: Any) -> None:
    queue = make()
    hub.wait.clear()  # no answer at all
    queue.start(NAMES[0])
    wait_for(lambda: hub.asked)
    queue.stop(NAMES[0])
    queue.wait("stopped")
    assert not hub.wait.is_set(), "the server has said nothing yet"
    hub.wait.set()
    hub.stall = 150_000  # silence in the middle of the file
    queue.start(NAMES[0])
    wait_for(lambda: not hub.wait.is_set())
    queue.stop(NAMES[0])
    queue.wait("stopped")
    assert not hub.wait.is_set()
    assert "was interrupted; the next one continues it" in queue.downloads.describe()[0]["message"]
    hub.wait.set()
    queue.start(NAMES[0])
    queue.wait("done")
    assert (queue.folder / NAMES[0]).read_bytes() == CONTENT
    assert hub.asked[-1][1].startswith("bytes="), "what came before the silence was kept"


def test_a_connection_that_breaks_is_taken_up(hub: Hub, make: Any) -> None:
    queue = make()
    hub.cuts = [100_000, 50_000]
    queue.start(NAMES[0])
    queue.wait("done")
    assert len(hub.asked) == 3
    assert (queue.folder / NAMES[0]).read_bytes() == CONTENT


PAGE = b"<!doctype html>" + b" " * 100
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], Options, str]] = {
    "not there": ({}, {"status": 404}, Options(), "does not have it (404)"),
    "login": ({}, {"status": 401}, Options(), "set HF_TOKEN"),
    "terms": ({}, {"status": 403}, Options(), "accept its terms on its page"),
    "too often": ({}, {"status": 429}, Options(attempts=1), "try again later"),
    "trouble": ({}, {"status": 500}, Options(attempts=1), "answers 500"),
    "cut off": ({}, {"cuts": [100_000]}, Options(attempts=1), "ended after"),
    "sum": ({"sha256": sum_of(b"x")}, {}, Options(), "its SHA-256 is"),
    "size": ({"size": 300_001}, {}, Options(), "it has 300000 bytes instead of 300001"),
    "about": (
        {"size": None, "sha256": "", "about": "722.6 MB"},
        {},
        Options(),
        "it has 300,000 bytes instead of 722.6 MB",
    ),
    "web page": (
        {"size": None, "sha256": ""},
        {"content": PAGE},
        Options(),
        "it is no file of tensors",
    ),
    "offline": ({}, {}, Options(offline=True), "downloads are switched off"),
    "no server": ({}, {}, Options(hub="http://127.0.0.1:9", attempts=1), "no connection to"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_had_is_a_sentence_and_no_file(
    hub: Hub, make: Any, tmp_path: Path, fault: str
) -> None:
    changes, serves, options, said = FAULTS[fault]
    hub.publish(REPOSITORY, NAMES[0], serves.get("content", CONTENT))
    hub.status, hub.cuts = serves.get("status", 0), list(serves.get("cuts", ()))
    with published_rows(tmp_path, row(NAMES[0], CONTENT, **changes)):
        queue = make(options)
        queue.start(NAMES[0])
        queue.wait("failed")
    message = queue.downloads.describe()[0]["message"]
    assert said in message
    assert f"put it into {queue.folder}" in message
    assert not (queue.folder / NAMES[0]).exists()
    assert not queue.told
    assert len(queue.files()) == (2 if fault == "cut off" else 0), "bytes and tag of what can go on"
    if fault == "offline":
        assert hub.asked == []


def test_a_full_disk_is_told_before_anything_is_written(
    hub: Hub, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    queue = make()
    queue.start(NAMES[0])
    queue.wait("failed")
    assert "the disk has 0 MB free" in queue.downloads.describe()[0]["message"]
    assert hub.asked


def test_a_mirror_of_the_settings_is_asked(
    hub: Hub, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    queue = make(Options(hub=hub.url))
    queue.start(NAMES[0])
    queue.wait("done")


def test_the_way_may_lead_to_another_site_but_not_out_of_https(hub: Hub, make: Any) -> None:
    with local_hub() as store:
        store.files["/stored"] = CONTENT
        hub.leads[f"/{REPOSITORY}/resolve/main/{NAMES[0]}"] = f"{store.url}/stored"
        queue = make()
        queue.start(NAMES[0])
        queue.wait("done")
        assert store.asked
    order = order_published(NAMES[0], [queue.folder])

    def lead(begin: str, to: str) -> None:
        answer = SimpleNamespace(is_redirect=True, url=begin, headers={"location": to})
        download._check_redirect(order.weight, order.target, answer)

    lead("https://huggingface.co/a", "https://store.example/b")
    lead("https://huggingface.co/a", "/b")
    lead("http://mirror.example/a", "http://store.example/b")
    with pytest.raises(WeightsError, match=r"leads to http://store\.example, which is no HTTPS"):
        lead("https://huggingface.co/a", "http://store.example/b")
    with pytest.raises(WeightsError, match="which is no HTTPS"):
        lead("https://huggingface.co/a", "file:///etc/passwd")


def test_only_so_many_wait(make: Any, hub: Hub) -> None:
    queue = make()
    hub.wait.clear()
    weight = order_published(NAMES[0], [queue.folder]).weight
    for number in range(MOST_WAITING):
        queue.downloads.start(Order(str(number), weight, queue.folder / str(number)))
    with pytest.raises(DownloadError, match="wait already") as caught:
        queue.start(NAMES[0])
    assert caught.value.status_code == 429
    hub.wait.set()


def test_a_page_that_is_built_anew_goes_on_and_another_process_asks(
    hub: Hub, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "cache" / "downloads.json"
    first = make(SLOW, kept)
    hub.cuts = [100_000]
    first.start(*NAMES[:2])
    wait_for(lambda: any(name.endswith(".part") for name in first.files()))
    first.downloads.close()
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "PROCESS", "another")
        later = make(file=kept)
        assert later.states() == ["stopped", "stopped"]
        assert later.downloads.describe()[0]["message"] == LEFT
        assert len(hub.asked) == 1, "nothing is fetched unasked"
        later.downloads.close()
    second = make(file=kept)
    second.wait("done", "done")
    assert second.files() == list(NAMES[:2])
    assert re.fullmatch(r"bytes=\d{5}-", hub.asked[1][1])
    wait_for(lambda: not kept.exists())


@pytest.mark.parametrize(
    "content",
    ["", "[", "[]", "null", '{"process": 1}', '{"process": [], "orders": {"a": 1}}', "[" * 9999],
)
def test_a_damaged_list_of_orders_is_none(make: Any, tmp_path: Path, content: str) -> None:
    kept = tmp_path / "downloads.json"
    kept.write_text(content, encoding="utf-8")
    assert make(file=kept).states() == []
    orders = [1, None, "model/gone", "model/../../x", "weights/../x", "x" * 5000]
    kept.write_text(json.dumps({"process": downloads.PROCESS, "orders": orders}))
    assert make(file=kept).states() == []


def test_weights_of_a_preprocessor_are_ordered_by_its_name(tmp_path: Path) -> None:
    from weights import weights_folder

    with weights_folder(tmp_path / "weights") as folder:
        (order,) = order_weights("hed")
        assert order.target == folder / "hed" / "ControlNetHED.pth"
        found = find_order(order.id, [])
        assert found is not None
        assert (found.target, found.weight) == (order.target, order.weight)
        order.target.parent.mkdir()
        order.target.write_bytes(b"x")
        assert order_weights("hed") == []
