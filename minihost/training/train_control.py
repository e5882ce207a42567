"""Make the demo controls with this repository's own trainer: init, run, export.

One ControlNet for each hint; for edges also one file of each other kind that can be trained, and a
Control-LoRA, which is extracted from the ControlNet. The base is locked and half of the prompts are
emptied (Zhang et al., arXiv 2302.05543).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from . import control_data, train_light
from .assets import ASSETS, CHECKPOINT, RUNS

ROOT: Final = ASSETS.parent.parent
HOME: Final = RUNS / "controls"
SIZE: Final = 128
"""Side of the scenes in pixels. Further training on scenes of 256 made nothing better, measured at
either size."""
STEPS: Final = 1500
SHORTER: Final = 675
"""Of those that begin with another's weights: one that reads lines already learns sooner."""
LORA: Final = "control_lora_demo_canny"
LIGHT: Final = "t2iadapter_demo_canny_light"
TEACHER: Final = "t2iadapter_demo_canny"
RANK: Final = 8


@dataclass(frozen=True)
class Made:
    """How a file is made.

    Attributes:
        data: what its hints show, a name of `control_data.CONTROLS` or `JOINED`.
        kind: for `init --kind`.
        start: the ControlNet it begins with.
        dtype: precision of the file.
        more: options of the run that differ from `RECIPE`.
        begin: further options of `init`.
    """

    data: str
    steps: int = STEPS
    kind: str = "controlnet"
    start: str = ""
    dtype: str = "fp16"
    more: dict[str, object] = field(default_factory=dict)
    begin: tuple[str, ...] = ()


MADE: Final = {
    "canny": Made("canny"),
    "inpaint": Made("inpaint"),
    "scribble": Made("scribble", SHORTER, start="canny"),
    "depth": Made("depth", SHORTER, start="canny"),
    "union_demo": Made("union", 250, "union", "canny", "fp8", {"--batch": 8}),
    "t2iadapter_demo_canny": Made("lines", 500, "t2i", more={"--lr": 2e-3}),
    "lllite_demo_canny": Made("lines", 300, "lllite", more={"--lr": 2e-3}, begin=("--everywhere",)),
}
KINDS: Final = (*MADE, LORA, LIGHT)
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
    """Steps of a run."""
    return max(1, round(MADE[kind].steps * effort))


def asset(kind: str) -> Path:
    """The file that comes with the repository."""
    return ASSETS / f"{kind if 'demo' in kind else f'control_demo_{kind}'}.safetensors"


def commands(kind: str, effort: float = 1.0) -> Iterator[list[str]]:
    """What makes one kind, as arguments of `python -m lib_controlnet.train`."""
    made, out = MADE[kind], run_folder(kind)
    if made.start and made.kind == "controlnet":
        control = run_folder(made.start) / "control.safetensors"
    else:
        control = HOME / f"new_{made.kind}.safetensors"
        if not control.is_file():
            start = ["--start", str(asset(made.start))] if made.start else []
            kind_of = ["--kind", made.kind, "--seed", "3"]
            yield ["init", str(CHECKPOINT), str(control), *kind_of, *start, *made.begin]
    options = {
        "--base": CHECKPOINT,
        "--control": control,
        "--data": control_data.folder_of(made.data, SIZE),
        "--out": out,
        "--cache": control_data.DATA / "cache",
        "--steps": steps_of(kind, effort),
        "--preprocessor": control_data.seen_by(made.data),
        **RECIPE,
        **made.more,
    }
    yield ["run", *(str(word) for pair in options.items() for word in pair)]
    yield ["export", str(out), str(asset(kind)), "--dtype", made.dtype, "--force"]


def call(arguments: Sequence[str], program: str = "train") -> None:
    """Run the trainer, or the tools, in a process of its own, with one thread.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"lib_controlnet.{program}", *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def train(kinds: Sequence[str] = KINDS, effort: float = 1.0, workers: int = 2) -> None:
    """Make controls, `workers` at a time with one thread each; finished runs stay.

    Args:
        effort: factor of all steps.
    """
    trained = [kind for kind in kinds if kind in MADE]
    for kind in trained:
        control_data.write(MADE[kind].data, SIZE, workers)
    first = [kind for kind in trained if not MADE[kind].start]
    for wave in (first, [kind for kind in trained if MADE[kind].start]):
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda kind: _make(kind, effort), wave))
    if LORA in kinds:
        call(extraction(), "tools")
    if LIGHT in kinds:
        data = control_data.write("lines", SIZE, workers)
        train_light.train(asset(TEACHER), data, asset(LIGHT), train_light.shorten(effort))


def extraction() -> list[str]:
    """What makes the Control-LoRA, as arguments of `python -m lib_controlnet.tools`."""
    files = [str(path) for path in (asset("canny"), CHECKPOINT, asset(LORA))]
    return ["to-lora", *files, "--rank", str(RANK), "--force"]


def _make(kind: str, effort: float) -> None:
    for arguments in commands(kind, effort):
        call(arguments)
