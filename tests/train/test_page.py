"""The commands of docs/training.md, run as they stand there, at a few steps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from lib_controlnet.families import identify
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.train.__main__ import parser
from lib_controlnet.train.record import read_rows

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/training.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_commands_of_the_page_train_and_export(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    work = tmp_path / "work"
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        **{"COUNT": "12", "STEPS": "2", "SIZE": "64", "WORK": str(work)},
    }
    script = "set -e\n" + "\n".join(blocks("bash"))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    cells = re.findall(r"^\| (`[^|]+) \|", PAGE, flags=re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([\w./]+)`", cell)]
    assert len(names) == 7
    missing = [name for name in names if not (work / "run" / name).exists()]
    assert missing in ([], ["board/"]), "only TensorBoard's files may be missing"
    assert [row[0] for row in read_rows(work / "run/loss.csv")] == [1, 2]
    exported = open_checkpoint(work / "circles.safetensors")
    assert identify(exported).name == "ControlNet"
    assert exported.kind.key == "controlnet"
    assert exported.metadata["control_type"] == "Canny"
    assert (work / "circles-diffusers/config.json").is_file()
    assert len((work / "edges/prompt.json").read_text().splitlines()) == 12


def test_options_that_the_page_names_exist() -> None:
    known = {option for action in commands() for option in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert named - known <= {"--num_processes"} | {"--num"}, sorted(named - known)


def commands() -> list:
    (choices,) = [action.choices for action in parser()._actions if action.choices]
    return [action for command in choices.values() for action in command._actions]
