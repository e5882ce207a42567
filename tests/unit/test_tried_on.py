"""The cases that are tried in WebUIs tell a sound one from others, on servers made up here."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tried_on
from bench_http.server import Server, ServerError
from trials import trial
from trials.cases import TITLES
from trials.trial import FAILS, read_picture, write_picture

SIZE = 128


class MadeUpServer(Server):
    """A WebUI whose pictures are noise that follows from the request, with one fault or none."""

    fault = ""

    def get(self, path: str) -> Any:
        if path == "/controlnet/model_list":
            return {"model_list": ["depth [0123]", "some_canny [4567]"]}
        if path == "/internal/sysinfo":
            return {"Version": "v1", "Commit": "0123456789", "Packages": ["torch==2.1|0"]}
        msg = f"{self.url} answered 404 to {path}: Not Found"
        raise ServerError(msg)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        units = body.get("alwayson_scripts", {}).get("controlnet", {}).get("args", [])
        if any(unit["model"] == trial.NO_MODEL for unit in units) and self.fault != "takes all":
            told = "" if self.fault == "is silent" else trial.NO_MODEL
            msg = f"{self.url} answered 422 to {path}: {told} is not there"
            raise ServerError(msg)
        if self.fault == "breaks" and body.get("enable_hr"):
            msg = f"{self.url} answered 500 to {path}: TypeError"
            raise ServerError(msg)
        units = [] if self.fault == "ignores units" else units
        told = {name: body[name] for name in ("cfg_scale", "enable_hr") if name in body}
        told["model"] = [unit["model"] for unit in units]
        if self.fault != "ignores modes":
            told["mode"] = [unit.get("control_mode") for unit in units]
        if self.fault == "remembers":
            self.count = getattr(self, "count", 0) + 1
            told["count"] = self.count
        return {"images": [self._draw(body, told, n) for n in range(body.get("batch_size", 1))]}

    def _draw(self, body: dict[str, Any], told: dict[str, Any], number: int) -> str:
        seed = zlib.crc32(json.dumps(told).encode()) + (0 if self.fault == "repeats" else number)
        scale = body.get("hr_scale", 1) if self.fault != "stays small" else 1
        side = int(SIZE * scale)
        drawn = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
        if "mask" in body and self.fault != "repaints all":
            mask = read_picture(body["mask"]) > 0
            drawn = np.where(mask, drawn, read_picture(body["init_images"][0])).astype(np.uint8)
        return write_picture(drawn)


FAULTS = {
    "": {},
    "ignores units": {"one unit": "no effect"},
    "ignores modes": {"ControlNet is more important": "the same picture as Balanced"},
    "repaints all": {"inpaint": "outside of the mask"},
    "stays small": {"hires": f"is {SIZE} x {SIZE}"},
    "repeats": {"batch of 2": "one picture twice"},
    "takes all": {"a model that is missing": "gives a picture"},
    "is silent": {"a model that is missing": "answered 422"},
    "remembers": {"no unit, again": "another picture"},
    "breaks": {"hires": "answered 500"},
}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tried_on, "Server", MadeUpServer)
    monkeypatch.setattr(tried_on, "PAGE", tmp_path / "page.md")
    tried_on.PAGE.write_text(f"before\n{tried_on.START}\nold\n{tried_on.END}\nafter\n")
    return tried_on.PAGE


WORDS = ["--size", f"{SIZE}x{SIZE}", "--webui-url"]


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_a_webui_is_told(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, fault: str
) -> None:
    monkeypatch.setattr(MadeUpServer, "fault", fault)
    status = tried_on.main([*WORDS, "mine=http://a:1"])
    lines = capsys.readouterr().out.splitlines()
    found = {title: line for title in TITLES for line in lines if line.startswith(f"| {title} |")}
    assert list(found) == list(TITLES)
    for title, problem in FAULTS[fault].items():
        assert FAILS in found[title]
        assert problem in found[title]
    assert status == bool(fault)
    assert fault or FAILS not in " ".join(lines)


def test_runs_add_up_to_one_table(page: Path, tmp_path: Path) -> None:
    kept = ["--file", str(tmp_path / "kept.json"), "--write"]
    for name in ("one", "two", "one"):
        assert tried_on.main([*WORDS, f"{name}=http://a:1", *kept]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "old" not in text
    assert "|  | one | two |" in text
    assert "| version | v1 (01234567) | v1 (01234567) |" in text
    assert "| torch | 2.1/0 | 2.1/0 |" in text
    assert len(re.findall(r"[0-9-]{10}, commit \w+", text)) == 2
    row = next(line for line in text.splitlines() if line.startswith("| one unit |"))
    assert row.count("acts (") == 2
    assert row.endswith("; 0 / 0 |")


def test_too_small_a_picture_is_refused(page: Path) -> None:
    with pytest.raises(SystemExit):
        tried_on.main(["--size", "64x64", "--webui-url", "http://a:1"])


def test_page_has_every_case() -> None:
    text = tried_on.PAGE.read_text(encoding="utf-8")
    table = text.split(tried_on.START)[1].split(tried_on.END)[0]
    assert not [title for title in TITLES if f"\n| {title} |" not in table]
