"""Makes docs/speed.md: runs what is missing, then draws the charts and the page.

python docs/make_speed.py            everything; hours on one core, resumable
python docs/make_speed.py --redraw   charts and page from the results on file, no generation
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "minihost"), str(DOCS.parent)]

import speed_compile  # noqa: E402
import speed_runs as runs  # noqa: E402
import speed_unet  # noqa: E402
from recipe_drawing import Chart, Series, charts  # noqa: E402
from speed_runs import EXACT, SAMPLERS, SPEEDS  # noqa: E402

from lib_controlnet.engine.key_steps import PACES  # noqa: E402
from lib_controlnet.enums import Speed  # noqa: E402

PAGE = DOCS / "speed.md"
PLOT = DOCS / "images" / "speed-plot.png"
PICTURES = DOCS.parent / "demo-output" / "speed"
REUSING = SPEEDS[1:]
FULL = 255
MOST_LOST, MOST_TIME, MOST_COND = 0.02, 1.15, 0.3
"""What was aimed at: edge F1 lost; extra time of three fast units, and of a fast one whose control
mode is "ControlNet is more important", as shares of that of one exact unit."""

Results = dict[str, Any]

HEAD = """# Speed

A unit's *Speed* (`speed` in requests, *Speed* in the X/Y/Z grid and in the parameters) says how
often a ControlNet is evaluated while the picture is sampled. What it gave is reused between.

| Speed | evaluates |
|---|---|
| Default | what the setting *Speed of units that choose none* says: Exact, unless it was changed |
| Exact | in each evaluation of the sampler, bit for bit as if there were no choice |
| Fast | {fast:.0%} of them, at most {fast_most} in a pass, early ones closer together |
| Fastest | {fastest:.0%} of them, at most {fastest_most} in a pass, in the same way |
| Adaptive | where the latent has changed by {drift:.0%} since the last time, whatever the step |

It holds for what costs an evaluation: ControlNet, Control-LoRA, Union, SparseCtrl and InstantID's
network. T2I-Adapters are evaluated once in a pass anyway; a line says of these and of all other
models that the field has no effect. Each unit has a speed of its own; one for all units of a
generation is the setting: `"override_settings": {{"controlnet_speed": "Fast"}}` in a request, or
`controlnet_speed` among the host's quick settings. One value on the X/Y/Z axis is for all, too.

Whatever the speed, a network is evaluated as soon as anything but the noise is another one: the
first time in a pass (hires too) and in the unit's window; after a change of the prompt
(`[a:b:0.5]`), of the rows, of the model's conditions, or of a hint that another extension replaces;
where noise is added again; and where an extension calls the U-Net with pieces of a picture.
Strength, region and layer weights are applied to what is reused.

Nothing of this is silent: the parameters say `Speed: Fast, Evaluated: 7 of 20`, a line under the
picture says the same, and so where nothing could be reused.

The residuals of one evaluation stay on the device meanwhile, in half precision 13 MB a row for SD
1.5 at 512 x 512, 54 MB for SDXL at 1024 x 1024, two rows a picture; they are let go of when memory
runs out. The network itself may leave the device between its evaluations.

"""

MEASURED = """## What it does to pictures

![Edge F1 and difference to the exact picture by steps](images/speed-plot.png)

Made with the demo models of this repository (edges; with three units depth and scribble too), at
{size} pixels, {count} pictures for each setting, whose scenes training never saw. *F1* is that of
the picture's edges with those asked for, within 2 pixels, and its change; *diff* is the mean
difference of a pixel to the exact picture, of {full}; *evaluated* is how often each network was.

"""

REMARKS = """
An ancestral sampler (Euler a) changes the latent by fresh noise in each step, so Adaptive evaluates
most of them. What three units hold tightly shows more of a reuse than what one does. Where
*diff* is large and F1 is not lower, the edges are held and what lies between them is another. No
perceptual distance (LPIPS) is given, as its network's weights are not part of this repository.
"""

TIMES = """
## What it saves

CPU time that units take beside the U-Net in {steps} steps, as shares of what one exact unit takes:
ControlNets of SD1.5's structure with {width} channels, latent {latent} x {latent}, a model of its
own for each unit. "More important" is the control mode "ControlNet is more important".

| Units | extra time | aim | |
|---|---|---|---|
"""

AT_FULL_WIDTH = """
[At SD1.5's own width](benchmarks.md#key-steps-at-sd15s-own-width) it is 1.09 for three units at
Fast and 0.20 for one at Fast that is "more important".
"""

FOOT = """
## How it was measured

`docs/make_speed.py` makes this page; the results are kept in
[images/speed.json](images/speed.json). Each setting has scenes of its own, and all speeds of a
setting have the same. The demo models are small and know drawings only: for photographs look for
yourself, with the X/Y/Z grid over *Speed*.
"""


def main() -> None:
    """Command line entry."""
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    reader.add_argument("--redraw", action="store_true", help="charts and page only")
    reader.add_argument("--scenes", type=int, default=2, help="of each setting")
    options = reader.parse_args()
    results = runs.load()
    if not options.redraw:
        if not results["seconds"]:
            with tempfile.TemporaryDirectory() as folder:
                results["seconds"] = runs.time_steps(Path(folder))
            runs.save(results)
        runs.generate(PICTURES, options.scenes)
        speed_unet.measure(PICTURES)
        speed_compile.measure()
        results = runs.load()
    charts(all_charts(results)).quantize(64).save(PLOT, optimize=True)
    PAGE.write_text(page(results), encoding="utf-8", newline="\n")


def all_charts(results: Results) -> list[list[Chart]]:
    """For one unit and for three: what is kept of the adherence, and what changes."""
    rows = []
    for units in runs.UNITS:
        named = f"{'one unit' if units == 1 else f'{units} units'}, {SAMPLERS[0]}"
        kept = lines(results, units, lambda setting, speed: _kept(results, setting, speed))
        changed = lines(
            results,
            units,
            lambda setting, speed: statistics.mean(
                runs.values(results, "difference", *setting, speed)
            ),
        )
        rows.append(
            [
                Chart(f"Edge F1 as a share of Exact's, {named}", "steps", kept, 1.2, 0.2),
                Chart(f"Difference to Exact, of {FULL}, {named}", "steps", changed, 8, 2),
            ]
        )
    return rows


def lines(
    results: Results, units: int, measure: Callable[[tuple[int, str, int], str], float]
) -> tuple[Series, ...]:
    """A line for each speed over the steps, of the first sampler."""
    asked = [one for one in settings(results) if one[:2] == (units, SAMPLERS[0])]
    return tuple(
        Series(speed, tuple((float(one[2]), measure(one, speed)) for one in asked))
        for speed in REUSING
    )


def _kept(results: Results, setting: tuple[int, str, int], speed: str) -> float:
    now, was = (statistics.mean(runs.values(results, "f1", *setting, s)) for s in (speed, EXACT))
    return now / was


def page(results: Results) -> str:
    """The text of the page; every number in it comes from the results or from the code."""
    fast, fastest = PACES[Speed.FAST], PACES[Speed.FASTEST]
    head = HEAD.format(
        fast=fast.share,
        fast_most=fast.most,
        fastest=fastest.share,
        fastest_most=fastest.most,
        drift=PACES[Speed.ADAPTIVE].drift,
    )
    counts = {len(runs.values(results, "f1", *one, EXACT)) for one in settings(results)}
    count = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    measured = MEASURED.format(size=runs.SIZE, count=count, full=FULL)
    shown = (table(results), verdicts(results), times(results))
    tried = (speed_unet.section(results), speed_compile.section(results))
    return "".join([head, measured, *shown, *tried, FOOT])


def settings(results: Results) -> list[tuple[int, str, int]]:
    """Units, sampler and steps of which all speeds have been run."""
    every = [one for one in runs.SETTINGS if _is_whole(results, one)]
    return sorted(every, key=lambda one: (one[0], SAMPLERS.index(one[1]), one[2]))


def _is_whole(results: Results, asked: tuple[int, str, int]) -> bool:
    counts = {len(runs.values(results, "f1", *asked, speed)) for speed in SPEEDS}
    return len(counts) == 1 and counts != {0}


def table(results: Results) -> str:
    """A row for each setting."""
    lines = [
        "| units | sampler | steps | Exact: F1 | "
        + " | ".join(f"{speed}: F1, diff, evaluated" for speed in REUSING)
        + " |",
        "|" + "---|" * (4 + len(REUSING)),
    ]
    for units, sampler, steps in settings(results):
        exact = statistics.mean(runs.values(results, "f1", units, sampler, steps, EXACT))
        cells = [str(units), sampler, str(steps), f"{exact:.3f}"]
        for speed in REUSING:
            f1, difference, made = (
                statistics.mean(runs.values(results, name, units, sampler, steps, speed))
                for name in ("f1", "difference", "evaluated")
            )
            of = runs.evaluations(sampler, steps)
            cells.append(f"{f1:.3f} ({f1 - exact:+.3f}), {difference:.1f}, {made:.0f} of {of}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def changes(results: Results, speed: str) -> list[list[float]]:
    """Change of F1 of each picture, by settings."""
    return [
        [
            now - was
            for now, was in zip(
                runs.values(results, "f1", *one, speed),
                runs.values(results, "f1", *one, EXACT),
                strict=True,
            )
        ]
        for one in settings(results)
    ]


def lost(results: Results, speed: str) -> tuple[float, float, int]:
    """Mean change of F1 over all pictures, its standard error, and their number."""
    found = sum(changes(results, speed), [])
    return statistics.mean(found), statistics.stdev(found) / len(found) ** 0.5, len(found)


def verdicts(results: Results) -> str:
    """What is lost in all, against what was aimed at."""
    lines = ["", "| Over all settings | change of F1 | worst setting | aim | |", "|" + "---|" * 5]
    for speed in REUSING:
        change, error, count = lost(results, speed)
        worst = min(map(statistics.mean, changes(results, speed)))
        said = f"{change:+.3f} \N{PLUS-MINUS SIGN} {error:.3f} | {worst:+.3f}"
        aim = f"at most {MOST_LOST:g} lost | {_word(-change <= MOST_LOST)}"
        lines.append(f"| {speed}, {count} pictures | {said} | {aim} |")
    return "\n".join(lines) + "\n" + REMARKS


def times(results: Results) -> str:
    """What units add to the time of a picture."""
    taken = results["seconds"]
    if not taken:
        return ""
    aims = {"3 Fast": MOST_TIME, "1 Fast, more important": MOST_COND}
    lines = []
    for name in runs.VARIANTS:
        share = taken[name] / taken["1 Exact"]
        aim = aims.get(name)
        said = (f"at most {aim:g}", _word(share <= aim)) if aim else ("", "")
        lines.append(f"| {name} | {share:.2f} | {said[0]} | {said[1]} |")
    head = TIMES.format(steps=runs.TIMED_STEPS, width=runs.WIDTH, latent=runs.LATENT)
    return head + "\n".join(lines) + "\n" + AT_FULL_WIDTH


def _word(holds: bool) -> str:
    return "yes" if holds else "NO"


if __name__ == "__main__":
    main()
