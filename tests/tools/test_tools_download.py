"""`python -m lib_controlnet.tools download`: the list, downloads, settings, what goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, local_hub
from published_rows import REPOSITORY, published_rows, row

from lib_controlnet.tools import obtain
from lib_controlnet.tools.__main__ import DONE, FAILED, main

CONTENT = np.random.default_rng(0).bytes(50_000)
CANNY, DEPTH = "a_canny.safetensors", "b_depth.safetensors"
ROWS = (row(CANNY, CONTENT), row(DEPTH, CONTENT[1:], types=["Depth"], base="SDXL"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with local_hub() as server, published_rows(tmp_path, *ROWS):
        server.publish(REPOSITORY, CANNY, CONTENT)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A WebUI round this extension."""
    monkeypatch.setattr(obtain, "EXTENSION", tmp_path / "extensions" / "ours")
    return tmp_path


def test_the_list_and_a_download(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    assert main(["download", "--type", "canny", "--folder", str(folder)]) == DONE
    listed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in listed[:2]] == [
        ["file", "list", "base", "size", "licence", "there"],
        [CANNY, "Canny", "SD1", "50", "kB", "MIT", "-"],
    ]
    assert listed[-1] == f"downloads go to {folder}"
    asked = ["download", "A_Canny", "--folder", str(folder)]
    assert main(asked) == DONE
    assert capsys.readouterr().out == f"{CANNY}: {folder / CANNY} (downloaded)\n"
    assert (folder / CANNY).read_bytes() == CONTENT
    assert main(asked) == DONE
    assert capsys.readouterr().out == f"{CANNY}: {folder / CANNY} (was there)\n"
    main(["download", "--base", "SD1", "--folder", str(folder)])
    assert capsys.readouterr().out.splitlines()[1].endswith("yes")
    main(["download", "--base", "SDXL", "--folder", str(folder)])
    assert capsys.readouterr().out.splitlines()[1].startswith(DEPTH)
    assert len(hub.asked) == 1


def test_a_webui_says_where_and_how(hub: Hub, webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    config = webui / "config.json"
    config.write_text(json.dumps({"controlnet_hub_mirror": hub.url, "controlnet_offline": True}))
    assert main(["download", CANNY]) == FAILED
    assert hub.asked == []
    config.write_text(json.dumps({"controlnet_hub_mirror": hub.url}))
    assert main(["download", CANNY]) == DONE
    assert (webui / "models" / "ControlNet" / CANNY).read_bytes() == CONTENT
    config.write_text("[")
    assert main(["download", CANNY, "--mirror", hub.url]) == DONE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such"], "'no_such' is no published control model"),
        (["a_cany.safetensors"], f"did you mean {CANNY}"),
        (["--type", "x"], "'x' is no control type; there are All, Canny"),
        ([DEPTH, CANNY], "does not have it (404)"),
    ],
)
def test_what_goes_wrong_is_a_sentence(
    hub: Hub, webui: Path, arguments: list[str], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert main(["download", *arguments]) == FAILED
    assert said in caplog.text
    came = (webui / "models" / "ControlNet" / CANNY).exists()
    assert came is (CANNY in arguments), "the next one comes all the same"
