"""Measure the paper's observations on the demo model and draw them: `docs/training-observed.md`.

Two runs of up to a few thousand steps; each is continued where it was stopped, also to more steps:
`python docs/make_training.py --work FOLDER --steps 2500`.

1. Zero convolutions start harmless: the first samples are the base's own, bit for bit.
2. Sudden convergence: adherence over steps rises within a short stretch, the loss hardly falls.
3. Ablation: random instead of zero convolutions start with broken pictures.
4. Without a prompt the control alone says what is drawn, more so with "ControlNet is more
   important" (the control acts on the prompt's rows alone, so guidance enlarges it).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402

from lib_controlnet.train import control_file  # noqa: E402
from lib_controlnet.train.__main__ import main as train  # noqa: E402
from lib_controlnet.train.base import open_base  # noqa: E402
from lib_controlnet.train.cache import Cache  # noqa: E402
from lib_controlnet.train.config import Settings  # noqa: E402
from lib_controlnet.train.dataset import read_items, read_picture, write_picture  # noqa: E402
from lib_controlnet.train.record import read_rows, smooth  # noqa: E402
from lib_controlnet.train.sampling import Networks, Sampler  # noqa: E402

log = logging.getLogger("make_training")
BASE: Final = ROOT / "minihost/assets/demo.safetensors"
PICTURES: Final = ROOT / "docs/images"
PAGE: Final = ROOT / "docs/training-observed.md"
SAMPLES: Final = 16
LEARNING_RATE: Final = 3e-4
SHOWN: Final = 3
"""Pictures that the sheet of steps follows through the training."""
COLUMNS: Final = 9
STRETCH: Final = 200
"""Steps in which adherence is looked at for a sudden rise."""
ROWS: Final = 12
"""Rows of the table of steps, at most."""


@dataclass(frozen=True)
class Ablation:
    """One run: how its control starts."""

    name: str
    title: str
    gaussian: bool


RUNS: Final = (
    Ablation("zero", "zero convolutions", gaussian=False),
    Ablation("gaussian", "random convolutions", gaussian=True),
)


def settings_of(work: Path, run: Ablation, steps: int) -> Settings:
    """The same recipe for every run."""
    return Settings(
        base=str(BASE),
        control=str(work / f"{run.name}.safetensors"),
        data=str(work / "data"),
        out=str(work / run.name),
        steps=steps,
        batch=4,
        lr=LEARNING_RATE,
        warmup=20,
        timesteps="noisy",
        weighting="velocity",
        average=0.98,
        samples=SAMPLES,
        sample_steps=12,
        sample_every=100,
        save_every=100,
    )


def make(work: Path, steps: int, size: int, count: int) -> None:
    """Data, new controls and both runs; what is done already is kept."""
    from lib_controlnet.train.run import run as train_run

    train(["fill50k", str(work / "data"), "--count", str(count), "--size", str(size)])
    for run in RUNS:
        control = work / f"{run.name}.safetensors"
        if not control.is_file():
            extra = ["--gaussian"] if run.gaussian else []
            train(["init", str(BASE), str(control), *extra])
        train_run(settings_of(work, run, steps))


def drawings(work: Path, steps: int) -> dict[str, float]:
    """Sheet of what the trained control draws, by prompt and mode; adherence of each row."""
    settings = settings_of(work, RUNS[0], steps)
    base = open_base(BASE)
    items, _faults = read_items(Path(settings.data))
    cache = Cache(Path(settings.data) / ".cache", base, Path(settings.data), items)
    sampler = Sampler(cache, settings, range(len(items) - SAMPLES, len(items)), "canny")
    constants = (base.alphas(), base.scale_factor, "eps")
    unet, vae = base.unet(), base.vae()
    control = control_file.network(base, work / "zero/control.safetensors").eval()
    new = control_file.network(base, work / "zero.safetensors").eval()
    prompts = [item.prompt for item in sampler.items]
    empty = [""] * len(prompts)
    rows = {
        "base alone": (None, prompts, False),
        "new control": (new, prompts, False),
        "with prompt": (control, prompts, False),
        "without prompt": (control, empty, False),
        "without prompt, ControlNet is more important": (control, empty, True),
    }
    drawn = {
        name: sampler.pictures(Networks(unet, net, vae, *constants), texts, guided_only=guided)
        for name, (net, texts, guided) in rows.items()
    }
    same = bool(np.array_equal(drawn["base alone"], drawn["new control"]))
    log.info("a new control's pictures are the base's own: %s", same)
    shown = [sampler.hints, *drawn.values()]
    write_picture(
        PICTURES / "training-observed-sheet.png",
        np.vstack([np.hstack(list(row)[:8]) for row in shown]),
    )
    measured = {name: sampler.measure(pictures) for name, pictures in drawn.items()}
    return {"start is harmless": float(same), **measured}


def followed(work: Path, size: int) -> list[int]:
    """Sheet of some pictures at several steps of both runs: a row each; the steps shown."""
    rows = []
    for run in RUNS:
        sheets = sorted((work / run.name / "samples").glob("*.png"))
        chosen = sheets[:: -(-len(sheets) // COLUMNS)]
        control = read_picture(sheets[0])[:size, : SHOWN * size]
        # The rows of a sheet: controls, examples, drawn with prompts, drawn without.
        drawn = [read_picture(path)[2 * size : 3 * size, : SHOWN * size] for path in chosen]
        columns = [np.vstack(np.split(part, SHOWN, axis=1)) for part in (control, *drawn)]
        rows.append(np.hstack(columns))
    write_picture(PICTURES / "training-observed-steps.png", np.vstack(rows))
    return [int(path.stem) for path in chosen]


def largest_rise(work: Path, run: Ablation, steps: int) -> tuple[float, float, int]:
    """Adherence gained in all and in the best stretch of `steps`, and where that begins."""
    curve = {row[0]: row[1] for row in read_rows(work / run.name / "adherence.csv")}
    rises = {
        first: curve[first + steps] - curve[first] for first in curve if first + steps in curve
    }
    first = max(rises, key=rises.__getitem__)
    return max(curve.values()) - curve[0], rises[first], int(first)


def plot(work: Path) -> None:
    """Adherence and loss of both runs over steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True)
    for run in RUNS:
        followed = read_rows(work / run.name / "adherence.csv")
        upper.plot([row[0] for row in followed], [row[1] for row in followed], label=run.title)
        losses = read_rows(work / run.name / "loss.csv")
        smoothed = smooth([row[1] for row in losses], 0.02)
        lower.plot([row[0] for row in losses], smoothed, label=run.title)
    upper.set(ylabel="adherence (edge F1)", ylim=(0, 1))
    lower.set(ylabel="loss", xlabel="step", yscale="log")
    upper.legend()
    figure.tight_layout()
    figure.savefig(PICTURES / "training-observed-curves.png", dpi=110)


def write_page(work: Path, steps: int, shown: list[int], figures: dict[str, float]) -> None:
    """The page with curves, sheets and numbers."""
    gained, rise, first = largest_rise(work, RUNS[0], STRETCH)
    losses = [row[1] for row in read_rows(work / RUNS[0].name / "loss.csv")]
    loss_early = np.mean(losses[first : first + STRETCH // 4])
    loss_after = np.mean(losses[first + STRETCH : first + 2 * STRETCH])
    lines = [
        "# Observations of the paper on the demo model",
        "",
        f"Made by `docs/make_training.py` from runs of {steps} steps on circles",
        f"({SAMPLES} examples held out). [How to train](training.md). Adherence is edge F1 within",
        f"two pixels; means of {SAMPLES} pictures, so the second digit is uncertain.",
        f"Batches of 4, learning rate {LEARNING_RATE:g}.",
        "",
        "![Adherence and loss over steps](images/training-observed-curves.png)",
        "",
        "## When it begins to follow",
        "",
        "![Three pictures over both trainings](images/training-observed-steps.png)",
        "",
        f"*The control, then the same noise and prompt at steps {', '.join(map(str, shown))};",
        "above from zero convolutions, below from random ones.*",
        "",
        f"Of the {gained:.2f} of adherence gained, {rise:.2f} came in the {STRETCH} steps from",
        f"step {first} on, {STRETCH / steps:.0%} of the training. The mean loss of the first",
        f"{STRETCH // 4} of them was {loss_early:.3f}, of the {STRETCH} after them",
        f"{loss_after:.3f}.",
        "",
        "## Zero convolutions or random ones; with prompt or without",
        "",
        "![Controls; base alone, new control, trained with prompt, without, without and the control"
        " more important](images/training-observed-sheet.png)",
        "",
        "| drawn | adherence |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in figures.items() if name in DRAWN),
        "",
        "A new control's pictures are the base's own, bit for bit: "
        + ("yes." if figures["start is harmless"] else "no."),
        "",
        "| adherence at step | " + " | ".join(run.title for run in RUNS) + " |",
        "|---|---|---|",
    ]
    curves = [dict((row[0], row[1]) for row in read_rows(work / r.name / "adherence.csv"))
              for r in RUNS]  # fmt: skip
    common = sorted(set(curves[0]) & set(curves[1]))
    lines += [
        f"| {int(step)} | " + " | ".join(f"{curve[step]:.2f}" for curve in curves) + " |"
        for step in common[:: -(-len(common) // ROWS)]
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


DRAWN: Final = (
    "base alone",
    "with prompt",
    "without prompt",
    "without prompt, ControlNet is more important",
)


def main() -> None:
    """Command line entry."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / "minihost/training/runs/observed")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--count", type=int, default=4000)
    options = parser.parse_args()
    make(options.work, options.steps, options.size, options.count)
    shown = followed(options.work, options.size)
    figures = drawings(options.work, options.steps)
    (options.work / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    plot(options.work)
    write_page(options.work, options.steps, shown, figures)


if __name__ == "__main__":
    main()
