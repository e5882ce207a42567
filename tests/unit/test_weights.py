"""Weight files: where they are looked for, and downloads from a server with real faults."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, local_hub

from annotator import download
from annotator.download import STEP
from annotator.store import Store
from annotator.weights import HUB, PINS, Options, WeightFile, WeightsError

ROOT = Path(__file__).resolve().parents[2]
CONTENT = np.random.default_rng(0).bytes(300_000)
FILE = WeightFile(
    name="Edges.pth",
    folder="edges",
    size=len(CONTENT),
    licence="MIT",
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    repo="someone/Annotators",
    path="sub folder/Edges.pth",
    variable="CONTROLNET_EDGES_URL",
    others=("old/edges_v1.pth",),
)
WRONG = np.random.default_rng(1).bytes(len(CONTENT))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A server that HF_ENDPOINT names, and no cache of the hub's library."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    with local_hub() as server:
        server.publish(FILE.repo, "sub%20folder/Edges.pth", CONTENT)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store((tmp_path / "weights",), lambda: Options(pause=0.01))


def leftovers(store: Store) -> list[str]:
    """Names of everything in the folder of downloads, locks left out."""
    folder = Path(store.roots[0]) / FILE.folder
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# --- where files are looked for ------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    ["edges/Edges.pth", "Edges/edges.PTH", "old/edges_v1.pth", "Edges.pth", "OLD/Edges_v1.pth"],
)
def test_file_is_found_in_any_of_its_places(tmp_path: Path, place: str) -> None:
    path = tmp_path / "second" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    store = Store((tmp_path / "first", tmp_path / "second"))
    assert store.locate(FILE).samefile(path)
    # Files of the user's are used as they are, whatever their size.
    assert store.fetch(FILE).samefile(path)


def test_first_folder_and_first_place_win(tmp_path: Path) -> None:
    for place in ("a/Edges.pth", "b/edges/Edges.pth", "b/Edges.pth"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"x")
    assert Store((tmp_path / "a", tmp_path / "b")).locate(FILE) == tmp_path / "a/Edges.pth"
    assert Store((tmp_path / "b", tmp_path / "a")).locate(FILE) == tmp_path / "b/edges/Edges.pth"


def test_empty_files_and_folders_of_that_name_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "edges" / "Edges.pth").mkdir(parents=True)
    (tmp_path / "Edges.pth").touch()
    assert Store((tmp_path, tmp_path / "missing")).locate(FILE) is None


# --- downloads -----------------------------------------------------------------------------


def test_download_lands_in_its_folder_with_nothing_beside_it(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = store.fetch(FILE)
    assert path == store.roots[0] / "edges" / "Edges.pth"
    assert path.read_bytes() == CONTENT
    assert leftovers(store) == ["Edges.pth"]
    assert store.fetch(FILE) == path
    assert len(hub.asked) == 1, "the second call downloaded again"
    assert "hf_secret" not in str(hub.headers), "the user's token went to a mirror"


def test_pinned_commit_stands_for_the_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = replace(FILE, repo="lllyasviel/Annotators")
    address = f"{HUB}/lllyasviel/Annotators/resolve/{PINS[pinned.repo]}/sub%20folder/Edges.pth"
    assert pinned.address() == address
    assert "/resolve/v2/" in replace(pinned, revision="v2").address()
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in PINS.values())


def test_broken_connection_is_taken_up_where_it_ended(hub: Hub, store: Store) -> None:
    hub.cuts = [100_000, 50_000]
    assert store.fetch(FILE).read_bytes() == CONTENT
    ranges = [asked for _, asked in hub.asked]
    assert ranges[0] == ""
    first, second = (int(asked.removeprefix("bytes=")[:-1]) for asked in ranges[1:])
    assert 100_000 - STEP < first <= 100_000
    assert first + 50_000 - STEP < second <= first + 50_000
    assert hub.sent < len(CONTENT) + 2 * STEP, "bytes were sent twice"


def test_download_that_failed_is_continued_by_the_next(hub: Hub, tmp_path: Path) -> None:
    store = Store((tmp_path,), lambda: Options(attempts=1))
    hub.cuts = [100_000]
    with pytest.raises(WeightsError, match=r"ended after 9\d+ of 300000 bytes; get it from"):
        store.fetch(FILE)
    assert store.locate(FILE) is None
    assert store.fetch(FILE).read_bytes() == CONTENT
    assert re.fullmatch(r"bytes=9\d+-", hub.asked[1][1])
    assert hub.sent < len(CONTENT) + STEP
    assert leftovers(store) == ["Edges.pth"]


def test_another_version_on_the_server_is_not_mixed_in(hub: Hub, tmp_path: Path) -> None:
    """The file has no checksum, so nothing but the server's tag tells."""
    unchecked = replace(FILE, sha256="", exact=False)
    store = Store((tmp_path,), lambda: Options(attempts=1))
    hub.cuts = [100_000]
    with pytest.raises(WeightsError):
        store.fetch(unchecked)
    hub.publish(FILE.repo, "sub%20folder/Edges.pth", WRONG)
    assert store.fetch(unchecked).read_bytes() == WRONG


def test_part_that_begins_elsewhere_is_not_appended(hub: Hub, store: Store) -> None:
    unchecked = replace(FILE, sha256="", exact=False)
    hub.cuts, hub.shift = [100_000], 7
    assert store.fetch(unchecked).read_bytes() == CONTENT
    assert len(hub.asked) == 3


def test_server_without_ranges_sends_it_all_again(hub: Hub, store: Store) -> None:
    hub.ranges, hub.cuts = False, [100_000]
    assert store.fetch(FILE).read_bytes() == CONTENT
    assert hub.sent == len(CONTENT) + 100_000


def test_part_that_is_complete_already_is_only_checked(hub: Hub, store: Store) -> None:
    hub.cuts = [100_000]
    with pytest.raises(WeightsError):
        Store(store.roots, lambda: Options(attempts=1)).fetch(FILE)
    (part,) = (store.roots[0] / "edges").glob("*.part")
    part.write_bytes(CONTENT)
    assert store.fetch(FILE).read_bytes() == CONTENT
    assert hub.sent == 100_000


@pytest.mark.parametrize("junk", [b"", b"x" * 400_000], ids=["empty", "longer than the file"])
def test_part_that_cannot_be_continued_is_begun_anew(hub: Hub, store: Store, junk: bytes) -> None:
    hub.cuts = [100_000]
    with pytest.raises(WeightsError):
        Store(store.roots, lambda: Options(attempts=1)).fetch(FILE)
    (part,) = (store.roots[0] / "edges").glob("*.part")
    part.write_bytes(junk)
    assert store.fetch(FILE).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "fault"),
    [(WRONG, "its SHA-256 is"), (CONTENT[:-1], "it has 299999 bytes instead of 300000")],
    ids=["checksum", "size"],
)
def test_another_file_than_published_is_refused_and_not_kept(
    hub: Hub, store: Store, content: bytes, fault: str
) -> None:
    hub.publish(FILE.repo, "sub%20folder/Edges.pth", content)
    with pytest.raises(WeightsError, match=fault):
        store.fetch(FILE)
    assert leftovers(store) == []
    assert len(hub.asked) == 1, "a wrong file does not become right by asking again"


def test_threads_that_want_one_file_download_it_once(hub: Hub, store: Store) -> None:
    hub.wait.clear()
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(store.fetch(FILE).read_bytes()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    threads[0].join(0.3)
    hub.wait.set()
    for thread in threads:
        thread.join(60)
    assert found == [CONTENT] * 4
    assert len(hub.asked) == 1
    assert [path.name for path in (store.roots[0] / "edges").iterdir()] == ["Edges.pth"]


FETCH = """
import sys
from pathlib import Path
from tests_file import FILE
from annotator.store import Store
print("ready", flush=True)
sys.stdin.readline()
print(len(Store((Path(sys.argv[1]),)).fetch(FILE).read_bytes()))
"""


def test_processes_that_want_one_file_download_it_once(
    hub: Hub, store: Store, tmp_path: Path
) -> None:
    declaration = f"from annotator.weights import WeightFile\nFILE = {FILE!r}\n"
    (tmp_path / "tests_file.py").write_text(declaration)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    command = [sys.executable, "-c", FETCH, str(store.roots[0])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    hub.wait.clear()
    workers = [
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes) for _ in range(2)
    ]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 2
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        threading.Event().wait(1.5)
        hub.wait.set()
        assert [worker.communicate(timeout=120)[0] for worker in workers] == ["300000\n"] * 2
    finally:
        for worker in workers:
            worker.kill()
    assert len(hub.asked) == 1


# --- what goes wrong -----------------------------------------------------------------------


def test_message_names_file_size_source_and_folder(hub: Hub, store: Store) -> None:
    hub.files.clear()
    with pytest.raises(WeightsError) as caught:
        store.fetch(FILE)
    assert str(caught.value) == (
        f"the file Edges.pth (300 kB) is missing and cannot be downloaded: {hub.url} does not have "
        "it (404); get it from https://huggingface.co/someone/Annotators/resolve/main/"
        f"sub%20folder/Edges.pth and put it into {store.roots[0] / 'edges'}"
    )
    assert len(hub.asked) == 1


@pytest.mark.parametrize(
    ("status", "requests", "why"),
    [(403, 1, "does not give it to everybody"), (500, 4, "answers 500"), (429, 4, "answers 429")],
)
def test_refusals_are_final_and_troubles_are_tried_again(
    hub: Hub, store: Store, status: int, requests: int, why: str
) -> None:
    hub.status = status
    with pytest.raises(WeightsError, match=why):
        store.fetch(FILE)
    assert len(hub.asked) == requests


def test_no_network_says_what_to_put_where(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"no connection to http://127\.0\.0\.1:9 .*put it into"):
        store.fetch(FILE)


@pytest.mark.parametrize("how", ["variable", "setting"])
def test_offline_asks_nobody_but_uses_what_is_there(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    store = Store((tmp_path,), lambda: Options(offline=how == "setting"))
    with pytest.raises(WeightsError, match=r"downloads are switched off.*put it into"):
        store.fetch(FILE)
    assert hub.asked == []
    (tmp_path / "Edges.pth").write_bytes(b"mine")
    assert store.fetch(FILE).read_bytes() == b"mine"


def test_full_disk_is_noticed_before_and_while_writing(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(ROOT)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(download.shutil, "disk_usage", lambda _path: usage)
        with pytest.raises(WeightsError, match="the disk has 0 MB free"):
            store.fetch(FILE)
    assert hub.sent <= len(CONTENT)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_write", full)
        with pytest.raises(WeightsError, match="the disk is full; get it from"):
            store.fetch(FILE)
    assert store.fetch(FILE).read_bytes() == CONTENT


def test_folder_that_cannot_be_made_is_a_sentence(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="writing it failed"):
        Store((tmp_path / "file",)).fetch(FILE)


def test_user_can_stop_a_download_and_the_next_continues(hub: Hub, tmp_path: Path) -> None:
    said: list[str | None] = []
    options = Options(report=said.append, interrupted=lambda: bool(said))
    with pytest.raises(WeightsError, match="was interrupted; the next one continues it"):
        Store((tmp_path,), lambda: options).fetch(FILE)
    assert said[0].startswith("Downloading Edges.pth: ")
    assert said[-1] is None, "the line beside the progress bar stayed"
    assert Store((tmp_path,)).fetch(FILE).read_bytes() == CONTENT


def test_line_beside_the_progress_bar_tells_how_far_it_is(hub: Hub, tmp_path: Path) -> None:
    said: list[str | None] = []
    Store((tmp_path,), lambda: Options(report=said.append)).fetch(FILE)
    assert re.fullmatch(r"Downloading Edges\.pth: \d of 0 MB", said[0])
    assert said[-1] is None


# --- other sources -------------------------------------------------------------------------


def test_mirror_of_the_settings_wins_over_the_environment(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    mirrored = Store((tmp_path,), lambda: Options(hub=f"{hub.url}/"))
    assert mirrored.fetch(FILE).read_bytes() == CONTENT


def test_plain_address_needs_no_hub(hub: Hub, store: Store) -> None:
    hub.files["/releases/Edges.pth"] = CONTENT
    plain = replace(FILE, repo="", path="", url=f"{hub.url}/releases/Edges.pth")
    assert store.fetch(plain).read_bytes() == CONTENT
    assert hub.asked == [("/releases/Edges.pth", "")]


def test_address_in_the_environment_replaces_the_published_one(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["/mine/other.pth"] = WRONG[:1000]
    monkeypatch.setenv(FILE.variable, f"{hub.url}/mine/other.pth")
    path = store.fetch(FILE)
    assert path.name == "Edges.pth"
    assert path.read_bytes() == WRONG[:1000]


def test_address_that_is_none_of_the_web_is_refused(
    hub: Hub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FILE.variable, (ROOT / "README.md").as_uri())
    with pytest.raises(WeightsError, match="its address is none of the web"):
        store.fetch(FILE)


def test_cache_that_other_programs_share_is_used_offline_too(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, commit = tmp_path / "cache" / "models--someone--Annotators", "0" * 40
    path = cache / "snapshots" / commit / "sub folder" / "Edges.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert Store((tmp_path / "weights",)).fetch(FILE) == path


@pytest.mark.parametrize(
    ("size", "exact", "text"),
    [
        (29_444_406, True, "29.4 MB"),
        (318_000_000, False, "about 318 MB"),
        (58_910, True, "58.9 kB"),
        (0, False, "size unknown"),
    ],
)
def test_size_is_told_in_a_unit_that_fits(size: int, exact: bool, text: str) -> None:
    assert replace(FILE, size=size, exact=exact).size_text == text
