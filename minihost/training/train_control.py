"""Make the demo ControlNets with this repository's own trainer: init, run, export.

The base is locked and half of the prompts are emptied (Zhang et al., arXiv 2302.05543).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from . import control_data
from .assets import ASSETS, CHECKPOINT, RUNS

ROOT: Final = ASSETS.parent.parent
HOME: Final = RUNS / "controls"
KINDS: Final = ("canny", "inpaint", "scribble", "depth")
START_FROM: Final = {"scribble": "canny", "depth": "canny"}
"""One that reads lines already learns another hint in fewer steps."""
SHORTER: Final = 0.45
SIZE: Final = 128
"""Side of the scenes in pixels. Further training on scenes of 256 made nothing better, measured at
either size."""
STEPS: Final = 1500
RECIPE: Final = {
    "--batch": 16,
    "--lr": 1e-3,
    "--warmup": 50,
    "--decay": 0.5,
    "--weight-decay": 1e-3,
    "--timesteps": "noisy",
    "--weighting": "velocity",
    "--average": 0.996,
    "--samples": 8,
    "--sample-steps": 15,
    "--cfg": 3.5,
    "--sample-every": 300,
    "--save-every": 100,
    "--keep": 1,
    "--seed": 3,
}


def run_folder(kind: str) -> Path:
    """Where a run of the trainer keeps its curves, samples and weights."""
    return HOME / kind


def steps_of(kind: str, effort: float = 1.0) -> int:
    """Steps of a run; those that begin with another kind's weights need fewer."""
    return max(1, round(STEPS * (SHORTER if kind in START_FROM else 1.0) * effort))


def commands(kind: str, effort: float = 1.0) -> Iterator[list[str]]:
    """What makes one kind, as arguments of `python -m lib_controlnet.train`."""
    control = HOME / "new.safetensors"
    if kind in START_FROM:
        control = run_folder(START_FROM[kind]) / "control.safetensors"
    out = run_folder(kind)
    options = {
        "--base": CHECKPOINT,
        "--control": control,
        "--data": control_data.folder_of(kind, SIZE),
        "--out": out,
        "--cache": control_data.DATA / "cache",
        "--steps": steps_of(kind, effort),
        "--preprocessor": control_data.CONTROLS[kind].seen_by,
        **RECIPE,
    }
    yield ["run", *(str(word) for pair in options.items() for word in pair)]
    file = ASSETS / f"control_demo_{kind}.safetensors"
    yield ["export", str(out), str(file), "--dtype", "fp16", "--force"]


def call(arguments: Sequence[str]) -> None:
    """Run the trainer in a process of its own, with one thread.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lib_controlnet.train", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def train(kinds: Sequence[str] = KINDS, effort: float = 1.0, workers: int = 2) -> None:
    """Make ControlNets, `workers` at a time with one thread each; finished runs stay.

    Args:
        effort: factor of all steps.
    """
    new = HOME / "new.safetensors"
    if not new.is_file():
        call(["init", str(CHECKPOINT), str(new), "--seed", "3"])
    for kind in kinds:
        control_data.write(kind, SIZE, workers)
    first = [kind for kind in kinds if kind not in START_FROM]
    for wave in (first, [kind for kind in kinds if kind in START_FROM]):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda kind: _make(kind, effort), wave))


def _make(kind: str, effort: float) -> None:
    for arguments in commands(kind, effort):
        call(arguments)
