"""The commands of docs/training.md, run as they stand there, at a few steps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from lib_controlnet.families import identify
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.train.__main__ import main, parser
from lib_controlnet.train.record import read_rows

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/training.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


PYTHON = """#!/bin/bash
printf '%q ' "$@"
echo
read -r status
exit "$status"
"""
"""Says what it was asked for, and ends as it is told."""


def carry_out(words: list[str]) -> int:
    """Do what a command of the page asks of Python, in this process: it has imported torch."""
    assert words[:2] == ["-m", "lib_controlnet.train"], words
    AcceleratorState._reset_state(reset_partial_state=True)
    return main(words[2:])


def test_commands_of_the_page_train_and_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    work = tmp_path / "work"
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        **{"COUNT": "12", "STEPS": "2", "SIZE": "64", "WORK": str(work)},
    }
    script = "set -e\n" + "\n".join(blocks("bash"))
    monkeypatch.chdir(ROOT)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(["bash", "-c", script], env=environment, **pipes) as shell:
        for line in shell.stdout:
            shell.stdin.write(f"{carry_out(shlex.split(line))}\n")
    assert shell.returncode == 0, line
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
