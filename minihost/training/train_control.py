"""Make the demo ControlNets with this repository's own trainer: init, run, export.

Each kind learns on small scenes first and then, from there, on larger ones; the base is locked
and half of the prompts are emptied (Zhang et al., arXiv 2302.05543).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Stage:
    """A run of the trainer: side of the scenes in pixels, examples a step, steps, rate."""

    size: int
    batch: int
    steps: int
    rate: float


STAGES: Final = (Stage(128, 16, 1500, 1e-3), Stage(256, 4, 600, 5e-4))
RECIPE: Final = {
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


def run_folder(kind: str, stage: Stage) -> Path:
    """Where a run of the trainer keeps its curves, samples and weights."""
    return HOME / f"{kind}_{stage.size}"


def steps_of(kind: str, stage: Stage, effort: float = 1.0) -> int:
    """Steps of a run; those that begin with another kind's weights need fewer."""
    share = SHORTER if kind in START_FROM else 1.0
    return max(1, round(stage.steps * share * effort))


def commands(kind: str, effort: float = 1.0) -> Iterator[list[str]]:
    """What makes one kind, as arguments of `python -m lib_controlnet.train`."""
    control = HOME / "new.safetensors"
    if kind in START_FROM:
        control = run_folder(START_FROM[kind], STAGES[-1]) / "control.safetensors"
    about = control_data.CONTROLS[kind]
    for stage in STAGES:
        out = run_folder(kind, stage)
        places = {
            "--base": CHECKPOINT,
            "--control": control,
            "--data": control_data.DATA / f"{kind}_{stage.size}",
            "--out": out,
            "--cache": control_data.DATA / "cache",
        }
        numbers = {
            "--steps": steps_of(kind, stage, effort),
            "--batch": stage.batch,
            "--lr": stage.rate,
            "--preprocessor": about.seen_by,
        }
        options = {**places, **numbers, **RECIPE}
        yield ["run", *(str(word) for pair in options.items() for word in pair)]
        control = out / "control.safetensors"
    told = ["--control-type", about.control_type, "--preprocessor", about.preprocessor]
    file = ASSETS / f"control_demo_{kind}.safetensors"
    yield ["export", str(out), str(file), "--dtype", "fp16", *told, "--force"]


def call(arguments: Sequence[str], threads: int = 1) -> None:
    """Run the trainer in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
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
        for stage in STAGES:
            control_data.write(kind, stage.size, workers)
    first = [kind for kind in kinds if kind not in START_FROM]
    for wave in (first, [kind for kind in kinds if kind in START_FROM]):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda kind: _make(kind, effort), wave))


def _make(kind: str, effort: float) -> None:
    for arguments in commands(kind, effort):
        call(arguments)
