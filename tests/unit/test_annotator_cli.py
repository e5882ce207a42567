"""`python -m annotator`: what it lists, what it downloads, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, local_hub

from annotator import __main__ as cli
from annotator.registry import REGISTRY, Detector, Requirement, discover
from annotator.store import STORE
from annotator.weights import WeightFile, all_files

ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"weights" * 1000
FILE = WeightFile(
    *("Marks.pth", "marks", len(CONTENT), "CC-BY-4.0"),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    repo="someone/Marks",
)
LARGE = WeightFile("Marks_large.pth", "marks", 3, "MIT", repo="someone/Marks")


class Marks(Detector):
    name = "marks"
    label = "Marks (fine)"
    weights = (FILE,)
    larger = (LARGE,)


class Absent(Detector):
    name = "absent"
    requires = (Requirement("no_such_package", "no-such-package==1"),)


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    discover()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    before = STORE.roots, STORE.options
    with local_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.publish(FILE.repo, FILE.name, CONTENT)
        REGISTRY.add(Marks())
        REGISTRY.add(Absent())
        yield server
    REGISTRY.remove("marks")
    REGISTRY.remove("absent")
    STORE.roots, STORE.options = before


def run(folder: Path, *arguments: str) -> int:
    return cli.main([*arguments, "--folder", str(folder)])


def test_list_names_every_file_its_place_licence_and_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE.name).write_bytes(b"mine")
    assert run(tmp_path, "list") == cli.DONE
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert {file.name for file in all_files(REGISTRY.all())} <= set(lines)
    assert lines[FILE.name].split() == [
        *(FILE.name, "7", "kB", str(tmp_path / FILE.name), "CC-BY-4.0", "marks"),
    ]
    assert "missing" in lines[LARGE.name]
    assert f"downloads go to {tmp_path}" in text
    assert "absent cannot run here: it needs the Python package no_such_package; `pip" in text
    assert "hed" in lines["ControlNetHED.pth"]


@pytest.mark.parametrize("name", ["marks", "Marks (fine)", "MARKS", "Marks.pth", "marks.PTH"])
def test_download_takes_names_labels_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(tmp_path, "download", name) == cli.DONE
    path = tmp_path / "marks" / "Marks.pth"
    assert path.read_bytes() == CONTENT
    assert capsys.readouterr().out == f"Marks.pth: {path} (downloaded)\n"
    assert run(tmp_path, "download", name) == cli.DONE
    assert capsys.readouterr().out == f"Marks.pth: {path} (was there)\n"


def test_file_of_two_names_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "download", "marks", "Marks.pth") == cli.DONE
    assert capsys.readouterr().out.count("Marks.pth: ") == 1


def test_larger_files_come_only_by_their_own_name(tmp_path: Path, hub: Hub) -> None:
    hub.publish(LARGE.repo, LARGE.name, b"abc")
    run(tmp_path, "download", "marks")
    assert not (tmp_path / "marks" / LARGE.name).exists()
    assert run(tmp_path, "download", LARGE.name) == cli.DONE
    assert (tmp_path / "marks" / LARGE.name).read_bytes() == b"abc"


def test_failed_download_is_one_and_the_others_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "download", LARGE.name, "marks") == cli.FAILED
    captured = capsys.readouterr()
    assert "Marks_large.pth (3 bytes) is missing and cannot be downloaded" in captured.err
    assert f"put it into {tmp_path / 'marks'}" in captured.err
    assert (tmp_path / "marks" / "Marks.pth").exists()


def test_unknown_name_downloads_nothing_and_names_similar_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hub: Hub
) -> None:
    assert run(tmp_path, "download", "marks", "markz") == cli.MISUSED
    assert "'markz' is no preprocessor and no file; did you mean marks" in capsys.readouterr().out
    assert hub.asked == []


def test_preprocessor_without_files_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "download", "canny") == cli.DONE
    assert capsys.readouterr().out == "canny needs no files\n"


def test_all_means_every_file_once_without_the_larger_ones() -> None:
    found = cli.select("all", REGISTRY)
    assert FILE in found
    assert LARGE not in found
    assert all(set(detector.weights) <= set(found) for detector in REGISTRY.all())


def test_mirror_of_the_command_line_wins(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run(tmp_path, "download", "marks", "--mirror", hub.url) == cli.DONE


def test_mirror_and_offline_of_the_webui_round_it_count(
    tmp_path: Path,
    hub: Hub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    webui = tmp_path / "webui"
    monkeypatch.setattr(cli, "EXTENSION", webui / "extensions" / "ours")
    (webui / "extensions" / "ours").mkdir(parents=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    def save(**settings: object) -> None:
        (webui / "config.json").write_text(json.dumps(settings))

    save(controlnet_hub_mirror=f" {hub.url} ", controlnet_offline=True)
    assert run(tmp_path, "download", "marks") == cli.FAILED
    assert "downloads are switched off" in capsys.readouterr().err
    assert hub.asked == []
    save(controlnet_hub_mirror="http://127.0.0.1:9", controlnet_offline=False)
    assert cli.read_options().hub == "http://127.0.0.1:9"
    assert cli.read_options(hub.url).hub == hub.url
    save(controlnet_hub_mirror=f" {hub.url} ", controlnet_offline="no")
    assert run(tmp_path, "download", "marks") == cli.DONE
    for damaged in ("[" * 9999, "[]", "null"):
        (webui / "config.json").write_text(damaged)
        assert cli.read_options().hub == ""


def test_ctrl_c_says_that_it_can_be_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(STORE), "fetch", stop)
    assert run(tmp_path, "download", "marks") == cli.STOPPED
    assert "the same command continues" in capsys.readouterr().err


def test_wrong_arguments_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["download"], ["upload"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == cli.MISUSED
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    assert "exit codes" in capsys.readouterr().out


def test_folder_is_that_of_the_webui_round_the_extension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webui = tmp_path / "webui"
    (webui / "extensions" / "ours").mkdir(parents=True)
    (webui / "extensions" / "old" / "annotator" / "downloads").mkdir(parents=True)
    (webui / "models" / "ControlNetPreprocessor").mkdir(parents=True)
    monkeypatch.setattr(cli, "EXTENSION", webui / "extensions" / "ours")
    default = cli.roots("")
    assert default[0] == ROOT / "annotator" / "downloads"
    assert webui / "models" / "ControlNetPreprocessor" in default
    assert webui / "extensions" / "old" / "annotator" / "downloads" in default
    config = {"control_net_modules_path": "shared/annotators"}
    (webui / "config.json").write_text(json.dumps(config))
    assert cli.roots("")[0] == webui / "shared/annotators"
    assert cli.roots(str(tmp_path / "chosen"))[0] == tmp_path / "chosen"
    chosen = cli.roots(str(webui / "extensions" / "old" / "annotator" / "downloads"))
    assert chosen[0] == webui / "extensions" / "old" / "annotator" / "downloads"
    assert webui / "models" / "ControlNetPreprocessor" in chosen[1:]
    assert len(chosen) == len({path.resolve() for path in chosen})
    (webui / "config.json").write_text("broken")
    assert cli.roots("") == default


def test_it_runs_from_the_extensions_folder_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "annotator", "list", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (cli.DONE, "")
    assert "ControlNetHED.pth" in done.stdout
    assert f"downloads go to {tmp_path}" in done.stdout
