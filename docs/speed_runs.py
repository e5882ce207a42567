"""What docs/speed.md measures: pictures of unseen scenes at each speed, and the time of a step.

The results lie in `docs/images/speed.json`; runs that are there already are not repeated.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import bench
import demo
import numpy as np
import sessions
import torch
from adherence import edge_f1

from lib_controlnet.engine.key_steps import PACES
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.window import Schedule
from lib_controlnet.enums import ControlMode, Speed

RESULTS: Final = Path(__file__).resolve().parent / "images" / "speed.json"
SAMPLERS: Final = ("DPM++ 2M", "Euler a", "Heun", "DDIM")
STEPS: Final = (10, 20, 50)
UNITS: Final = (1, 3)
SETTINGS: Final = tuple(
    sorted(
        product(UNITS, SAMPLERS, STEPS),
        key=lambda one: (one[2] * (2 + one[0]), SAMPLERS.index(one[1])),
    )
)
"""Units, sampler and steps; what takes least comes first."""
SEEDS: Final = 2
"""Pictures of a batch, of one scene."""
EXACT: Final = str(Speed.EXACT)
SPEEDS: Final = (EXACT, *map(str, PACES))
FIRST_SCENE: Final = demo.FIRST_UNSEEN + 300
SIZE: Final = 128
PARTS: Final = ("runs", "seconds", "unet", "compiled")
"""Of the results: pictures at each speed, times, and what `speed_unet`, `speed_compile` measure."""
WIDTH, LATENT, TIMED_STEPS = 64, 32, 20
ROUNDS: Final = 3


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Case:
    """One picture of the grid."""

    scene: int
    units: int
    sampler: str
    steps: int
    speed: str

    @property
    def key(self) -> str:
        """Its name in the results."""
        return f"{self.scene} {self.units} {self.sampler} {self.steps} {self.speed}"


def cases(repeats: int) -> list[Case]:
    """The grid, each setting on as many scenes of its own; the exact one comes first."""
    found = []
    for repeat, (number, setting) in product(range(repeats), enumerate(SETTINGS)):
        scene = number + len(SETTINGS) * repeat
        found += [Case(scene, *setting, speed) for speed in SPEEDS]
    return found


def load(path: Path = RESULTS) -> dict[str, Any]:
    """The results so far."""
    found: dict[str, Any] = {part: {} for part in PARTS}
    return found | (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})


def save(results: dict[str, Any], path: Path = RESULTS) -> None:
    """Write the results, a line for each run."""
    parts = [
        f' "{part}": {{\n'
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in results[part].items())
        + "\n }"
        for part in PARTS
    ]
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8", newline="\n")


def generate(folder: Path, repeats: int, path: Path = RESULTS) -> dict[str, Any]:
    """Do the runs that the results lack.

    Args:
        folder: where pictures go; those of exact runs are compared with.
        repeats: scenes of each setting.
        path: the results' file, written after every run.
    """
    results = load(path)
    todo = [case for case in cases(repeats) if case.key not in results["runs"]]
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        studio = demo.Studio(SIZE, folder, STEPS[0])
        for number, case in enumerate(todo, 1):
            results["runs"][case.key] = _run(studio, case, folder)
            save(results, path)
            say(f"{number} of {len(todo)}: {case.key} {results['runs'][case.key]}")
    return results


def _run(studio: demo.Studio, case: Case, folder: Path) -> dict[str, Any]:
    """Edge F1 of each picture, mean difference to the exact ones, evaluations of a network."""
    pictures, lines, made = make_pictures(studio, case)
    place = folder / f"{replace(case, speed=EXACT).key.replace(' ', '-')}.npy"
    if case.speed == EXACT:
        np.save(place, pictures)
    exact = (
        np.load(place) if place.is_file() else make_pictures(studio, replace(case, speed=EXACT))[0]
    )
    return {
        "f1": [round(edge_f1(picture, lines), 4) for picture in pictures],
        "difference": round(float(np.abs(pictures.astype(float) - exact).mean()), 3),
        "evaluated": made,
    }


def make_pictures(studio: demo.Studio, case: Case) -> tuple[np.ndarray, np.ndarray, int]:
    """Pictures (n, H, W, 3), edges (H, W, 3), and evaluations of the network of the first unit."""
    scene = demo.shapes_scene(FIRST_SCENE + case.scene, SIZE)
    units = [
        studio.unit("canny", scene.picture, "canny", speed=case.speed),
        studio.unit("depth", demo.grey(scene.depth), speed=case.speed),
        studio.unit("scribble", scene.picture, "scribble_xdog", speed=case.speed),
    ]
    body = {
        **demo.COMMON,
        "prompt": scene.caption,
        "seed": 1,
        "batch_size": SEEDS,
        "steps": case.steps,
        "sampler_name": case.sampler,
        "width": SIZE,
        "height": SIZE,
        "alwayson_scripts": {"controlnet": {"args": units[: case.units]}},
    }
    answer = studio.host.post("/sdapi/v1/txt2img", body).json()
    shown = [demo.decode(text) for text in answer["images"]]
    info = json.loads(answer["info"])
    first = info["index_of_first_image"]  # behind the sheet of all, which is not asked for
    pictures, lines = np.stack(shown[first : first + SEEDS]), shown[first + SEEDS]
    found = re.search(r"Evaluated: (\d+) of", info["infotexts"][0])
    return pictures, lines, int(found[1]) if found else evaluations(case.sampler, case.steps)


def evaluations(sampler: str, steps: int) -> int:
    """Evaluations of a sampler that the grid has."""
    return 2 * steps - 1 if sampler == "Heun" else steps


def values(results: dict[str, Any], name: str, *asked: Any) -> list[float]:
    """A measure of (units, sampler, steps, speed), of each picture or scene with all speeds."""
    *setting, speed = asked
    found: list[float] = []
    for scene in sorted({int(key.split(" ", 1)[0]) for key in results["runs"]}):
        runs = [results["runs"].get(Case(scene, *setting, each).key) for each in SPEEDS]
        if all(runs):
            value = runs[SPEEDS.index(speed)][name]
            found += value if isinstance(value, list) else [value]
    return found


VARIANTS: Final[dict[str, tuple[int, Speed, ControlMode]]] = {
    "1 Exact": (1, Speed.EXACT, ControlMode.BALANCED),
    "1 Fast": (1, Speed.FAST, ControlMode.BALANCED),
    "3 Exact": (3, Speed.EXACT, ControlMode.BALANCED),
    "3 Fast": (3, Speed.FAST, ControlMode.BALANCED),
    "3 Fastest": (3, Speed.FASTEST, ControlMode.BALANCED),
    "1 Exact, more important": (1, Speed.EXACT, ControlMode.CONTROL),
    "1 Fast, more important": (1, Speed.FAST, ControlMode.CONTROL),
}
"""Units, each with a network of its own, of which the time is measured."""


def time_steps(folder: Path) -> dict[str, float]:
    """CPU seconds that each of `VARIANTS` takes beside the U-Net in a run of the sampler.

    Medians of several in turn, on ControlNets of SD1.5's structure with random weights.
    """
    rig = bench.Rig(WIDTH, LATENT, folder)
    networks = [bench.load_network(rig.file, rig.base, torch.float32, "cpu") for _ in range(3)]
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with torch.no_grad():
        for _ in range(ROUNDS):
            for name, (units, speed, mode) in VARIANTS.items():
                shown = {"speed": speed, "control_mode": mode}
                taken = _sample(rig, _prepare(rig, networks[:units], shown))
                found[name].append(taken)
                say(f"{name}: {taken:.2f} s")
    return {name: round(statistics.median(taken), 3) for name, taken in found.items()}


def _prepare(rig: bench.Rig, networks: Sequence[Any], shown: dict[str, Any]) -> list[Any]:
    """A unit for each network, with a picture of its own."""
    made = []
    for number, network in enumerate(networks):
        unit = sessions.ControlUnit(enabled=True, index=number, model="timed", **shown)
        model = SimpleNamespace(network=lambda _base, one=network: one)
        picture = np.roll(rig.picture, number, 0)
        made.append(sessions.PreparedUnit(unit, sessions.ResizeMode.RESIZE, picture, model))
    return made


class _SeenError(Exception):
    """The units are through with a call; what the U-Net does then is not timed."""


def _sample(rig: bench.Rig, prepared: list[Any]) -> float:
    """CPU seconds from the begin of the U-Net's calls to its first block, over a run's steps."""
    session = ControlSession(sessions.FakeHost(), prepared)
    session.begin_pass(bench.PassInfo(rig.geometry, rig.base))
    session.set_schedule(Schedule(TIMED_STEPS))
    taken = 0.0

    def end(*_call: Any) -> None:
        nonlocal taken
        taken += time.thread_time() - started
        raise _SeenError

    with session.sampling(rig.unet):
        handle = rig.unet.register_forward_pre_hook(end)  # behind the session's
        for step, (x, timesteps) in enumerate(_latents(rig.x)):
            session.begin_evaluation(rig.layout, step / TIMED_STEPS)
            started = time.thread_time()
            with suppress(_SeenError):
                rig.unet(x, timesteps, context=rig.context)
        handle.remove()
    return taken


def _latents(noise: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Latents and timesteps of a run that goes from noise to a picture."""
    picture = torch.randn(noise.shape, generator=torch.Generator().manual_seed(5))
    for step in range(TIMED_STEPS):
        done = torch.tensor(step / TIMED_STEPS)
        x = picture * (done * torch.pi / 2).sin() + noise * (done * torch.pi / 2).cos()
        yield x, torch.full((len(noise),), 999.0 * (1 - float(done)))
