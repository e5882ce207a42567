"""The commands of docs/tools.md, run as they are printed; what they say is what the page shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools_page import BLOCK, PAGE, commands, cut, prepare, run

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"^\d+\.\d+(e-\d+)?$")


def same_word(shown: str, printed: str) -> bool:
    """Equal, or fractions that differ as those of two linear algebra libraries may."""
    if NUMBER.match(shown) and NUMBER.match(printed):
        return float(printed) == pytest.approx(float(shown), rel=0.01, abs=0.0011)
    return shown == printed


def test_commands_of_the_page_print_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    count = 0
    for block in BLOCK.findall(text):
        for command, shown in commands(block):
            printed = cut(run(command))
            one, two = shown.split(), printed.split()
            assert len(one) == len(two), printed
            wrong = [pair for pair in zip(one, two, strict=True) if not same_word(*pair)]
            assert not wrong, command
            count += 1
    told = re.findall(r"^\| `(\S+)", text, flags=re.M)
    assert count >= len(told) == 8
    for name in told:
        assert f"$ python -m lib_controlnet.tools {name} " in text, f"no example of {name}"


def test_program_runs_from_the_extensions_folder() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "lib_controlnet.tools", "check",
         "minihost/assets/control_demo_canny.safetensors"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "control_demo_canny.safetensors: a ControlNet, 170 tensors, sound\n"
