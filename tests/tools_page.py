"""The examples of docs/tools.md: their files, their commands, and what these say.

`python tests/tools_page.py` runs them all and writes their output into the page.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tools.md"
PROGRAM = ["python", "-m", "lib_controlnet.tools"]
BLOCK = re.compile(r"```console\n(.*?)```", flags=re.S)
SHOWN_LINES = 12
"""Longer output is cut in its middle."""


def prepare(folder: Path) -> None:
    """Put the files there that the page speaks of."""
    assets = folder / "minihost" / "assets"
    assets.mkdir(parents=True)
    names = ("control_demo_canny", "control_demo_depth", "demo")
    for name in names:
        source = ROOT / "minihost" / "assets" / f"{name}.safetensors"
        (assets / source.name).write_bytes(source.read_bytes())
    (folder / "models").mkdir()
    (folder / "models" / "control_v11p_sd15_canny_fp16.safetensors").write_bytes(b"x")
    canny, _depth, demo = (load_file(assets / f"{name}.safetensors") for name in names)
    inside = {f"control_model.{name}": value for name, value in canny.items()}
    save_file({**demo, **inside}, folder / "joint.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name, value in demo.items():
        if name.startswith("model.diffusion_model."):
            value += torch.randn(value.shape, generator=generator).half() * value.std() * 0.1
    save_file(demo, folder / "finetune.safetensors")
    canny["middle_block.1.proj_in.weight"][0, 0] = float("nan")
    del canny["zero_convs.2.0.weight"]
    save_file(canny, folder / "broken.safetensors")


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Commands of a block, each with the output printed below it."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def run(command: str) -> str:
    """What a command shows in a terminal; the current folder has the files."""
    from lib_controlnet.tools.__main__ import main

    words = shlex.split(command)
    assert words[:3] == PROGRAM, command
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    log = logging.getLogger("lib_controlnet")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(shown):
            main(words[3:])
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return shown.getvalue()


def cut(output: str) -> str:
    """Output with `...` for its middle where it is long."""
    lines = output.splitlines()
    if len(lines) > 2 * SHOWN_LINES:
        lines = [*lines[:SHOWN_LINES], "...", *lines[-3:]]
    return "".join(f"{line}\n" for line in lines)


def _fill(block: re.Match) -> str:
    filled = (f"$ {command}\n{cut(run(command))}" for command, _output in commands(block[1]))
    return f"```console\n{''.join(filled)}```"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place))
        os.chdir(place)
        PAGE.write_text(BLOCK.sub(_fill, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        os.chdir(ROOT)
