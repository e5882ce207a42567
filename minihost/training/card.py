"""Write the model card from the measured figures and the training logs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Final

from lib_controlnet.train.record import smooth

from . import control_data, train_control
from .assets import ASSETS, RUNS
from .data import COUNTS
from .evaluate import CFG, FIGURES, STEPS
from .vocabulary import COLOURS, SHAPES

LOGS: Final = ASSETS / "logs"
ROWS: Final = 200
BASE_DATA: Final = {
    "vae": "64-pixel crops x 16",
    "base": "latents x 32",
    "vae_decoder": "64-pixel crops x 16",
}
MEANINGS: Final = {
    "edge_f1_2px": "edge F1 within 2 px",
    "edge_f1_4px": "edge F1 within 4 px",
    "border_recall_2px": "region borders found within 2 px",
    "kept_error": "error of kept pixels, 0-255 (lower is better)",
    "seam_error": "difference from the original just inside the mask, 0-255 (lower is better)",
}
INTRODUCTION: Final = """# Demo models

A tiny Stable Diffusion 1.x checkpoint and ControlNets for it, trained from nothing on procedural
"ink cartoon" scenes. They exist so that this extension can be tried and tested without
downloading anything: they draw {shapes} in {colours}, on plain, graded, striped and checkered
backgrounds, and mosaics of organic regions. They know no other words and no photographs.

The files have the layout of SD1.x: `demo.safetensors` with `demo.yaml` beside it and the text
encoder's folder `demo-clip/`. In the WebUI, put all three into `models/Stable-diffusion/` and the
`control_demo_*.safetensors` into `models/ControlNet/`. Pictures of 128 to 256 pixels a side,
guidance scale 3 to 4. Licence: that of the repository; all data is procedural.

![sheet](sheet.jpg)

Rows: prompts alone; then for each ControlNet its control pictures and the results.
"""
CAPTIONS: Final = """## Captions

One thing on a plain background, {count} seeds, share of pictures in which it is right. The chance
level is 1/6 for the shape and 1/8 for each colour.

| size | shape | colour | background |
|---|---|---|---|
{rows}
"""
ADVICE: Final = """## Photographs

A photograph reduced to Canny edges (100, 200) becomes a recognisable ink drawing at 256 pixels
with weight 1.5 and one or two light colours: "an ink drawing in white", "a pattern of white and
yellow". On the two photographs of `python dev.py demo` the edge F1 within 2 px is 0.85 to 0.91 with
such prompts, 0.29 to 0.34 without control.
"""
LIMITS: Final = """## What falls short

- Without a control the base draws blobs in the right colours: shapes named in the caption are at
  chance. Form comes from the ControlNets; more training of the base would change that.
- With several things in a caption their colours may swap or spread.
- Fine patterns (stripes and dots inside shapes, lines closer than about 6 pixels) are lost,
  mostly in the autoencoder.
- Inpaint keeps the colours and the layout of what is not masked, not every pixel, and keeps less
  of it with an empty prompt. Paste the original back outside the mask.
- A prompt that contradicts the control strongly (one thing on a plain background against the
  edges of a photograph) wins; mosaic and ink drawing prompts suit photographs.
"""
METHOD: Final = """## How they were made

`python dev.py train-assets` does all of it again, resumable, with seeds. Times are wall clock on
2 CPU cores (no GPU) that were shared with other work.

| part | data | steps | minutes | last loss |
|---|---|---|---|---|
{rows}

- Data: {counts}; a scene follows from its seed, and the measures use seeds that no training saw.
- Autoencoder: 64 to 128 channels, factor 8; L1 + 2 MSE + 3e-4 KL and at first a term that ties
  three latent channels to the shrunk picture; the scale is folded into the 1x1 convolutions so
  that the stock factor 0.18215 fits.
- U-Net and text encoder together: epsilon prediction, stock noise schedule, loss weighted as
  velocity prediction up to 20, AdamW 1e-3, 10% empty captions, averaged weights; the last part on
  mixed sizes of 128, 192 and 256 pixels.
- ControlNets (arXiv 2302.05543): made by `python -m lib_controlnet.train`, init, run and export,
  from data sets of {controls} scenes of 128 pixels: locked base, trainable copy of encoder and
  middle, zero convolutions, half of the prompts emptied, AdamW 1e-3 falling to zero over the last
  half, the base's loss, more of the noisy timesteps, averaged weights. Scribble and depth begin
  with canny's weights, which already read lines, and take fewer steps.
- Before them the decoder alone is trained on, with a little noise on the latents.
- Every normalised width is at least 64, because the WebUI's modules use 32 groups.
"""


def write_card() -> None:
    """Write MODEL_CARD.md and the shortened logs."""
    figures = json.loads(FIGURES.read_text("utf-8"))
    count = figures["seeds"]
    shapes = ", ".join(f"{s}s" for s in SHAPES)
    parts = [INTRODUCTION.format(shapes=shapes, colours=", ".join(COLOURS))]
    parts.append(
        f"## Figures\n\nMeasured on {count} unseen seeds each, DDIM, {STEPS} steps, guidance scale "
        f"{CFG}, fp16 files run in fp32; at 256 pixels, with empty prompts and with other scenes' "
        f"hints half as many.\n\nVAE reconstruction: {figures['vae_psnr_db']} dB PSNR.\n"
    )
    rows = [
        f"| {size} | {f['shape']:.0%} | {f['colour']:.0%} | {f['background']:.0%} |"
        for size in (128, 256)
        if (f := figures.get(f"captions_{size}"))
    ]
    parts.append(CAPTIONS.format(count=count, rows="\n".join(rows)))
    for name, runs in figures.items():
        if name.startswith("control_"):
            parts.append(_control_table(name.removeprefix("control_"), runs))
    parts += [ADVICE, LIMITS]
    counts = ", ".join(f"{n} scenes of {s} pixels" for s, n in COUNTS.items())
    for old in LOGS.glob("*.csv"):
        old.unlink()
    base = [path for path in sorted((RUNS / "logs").glob("*.csv")) if path.stem in BASE_DATA]
    table = [_log_row(path, path.stem, BASE_DATA[path.stem]) for path in base]
    for kind in train_control.KINDS:
        path = train_control.run_folder(kind) / "loss.csv"
        data = f"scenes and hints x {train_control.RECIPE['--batch']}"
        table.append(_log_row(path, f"control_{kind}", data, smoothing=0.02))
    parts.append(METHOD.format(rows="\n".join(table), counts=counts, controls=control_data.COUNT))
    (ASSETS / "MODEL_CARD.md").write_text("\n".join(parts), encoding="utf-8")


def _control_table(kind: str, runs: dict[str, dict[str, float]]) -> str:
    measures = list(next(iter(runs.values())))
    head = " | ".join(MEANINGS[m] for m in measures)
    lines = [f"### {kind}", "", f"| 128 pixels | {head} |", "|---|" + "---|" * len(measures)]
    for name, scores in runs.items():
        lines.append(f"| {name} | " + " | ".join(f"{scores[m]:.2f}" for m in measures) + " |")
    return "\n".join([*lines, ""])


def _log_row(path: Path, name: str, data: str, smoothing: float = 1.0) -> str:
    """One table row of a training log, which is also copied in short.

    Args:
        smoothing: share of a new loss in the moving average; 1 for logs that are smooth already.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = smooth([float(row["loss"]) for row in rows], smoothing)
    stride = max(1, len(rows) // ROWS)
    kept = sorted({*range(0, len(rows), stride), len(rows) - 1})
    LOGS.mkdir(parents=True, exist_ok=True)
    lines = [f"{rows[i]['step']},{losses[i]:.5f},{float(rows[i]['seconds']):.0f}" for i in kept]
    (LOGS / f"{name}.csv").write_text("\n".join(["step,loss,seconds", *lines]) + "\n", "utf-8")
    minutes = float(rows[-1]["seconds"]) / 60
    words = name.replace("_", " ")
    return f"| {words} | {data} | {rows[-1]['step']} | {minutes:.0f} | {losses[-1]:.3f} |"
