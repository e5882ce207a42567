"""The text of docs/recipe.md; every number in it comes from the results or from the requests."""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any, Final

import recipe_scene as scene
from recipe_runs import (
    BLUR,
    CONTROLS,
    ENDS,
    FEATHERS,
    GRID,
    PROMPT,
    RECIPE,
    SEEDS,
    WEIGHTS,
    Case,
    grid_case,
    mean,
    request,
    values,
)

Results = dict[str, Any]
MODELS: Final = {"canny": "control_demo_canny", "depth": "control_demo_depth", "inpaint": ""}

HEAD = """# Recipe: keep the scene, replace the figure

A photograph stays as it is; one thing in it is replaced by another of a given shape. The mask says
where. A unit with **edges** says what shape, and acts **inside the mask** only. A unit with
**depth** holds the scene together and acts **outside the mask** only, so that the old figure, which
the depth map still holds, has no say.

![What goes in; results without and with regions, by weight, end, feather and mask blur]({sheet})

*Made with the small demo models of this repository on a CPU. They know coloured shapes in ink, no
teapots and no wood: the teapot comes from its edges alone, and the ground around it is the flat red
of the prompt "{prompt}". [Seam and adherence](#what-was-measured) are explained below.*

"""

PANEL = """## In the panel

In **img2img → Inpaint**:

1. Put the photograph in and paint generously over what has to go: the new figure needs room.
2. *Mask blur* {blur} (8 hides the border better, see below), *Masked content* original, *Inpaint
   area* Whole picture, *Denoising strength* {denoise}. The prompt names the new figure and the
   ground it stands on.
3. **ControlNet Unit 0**: tick *Enable* and *Upload independent control image*; give it a picture
   that shows the new figure where it has to stand. *Control Type* Canny, *Control Weight*
   {weight:g}, *Ending Control Step* {end:g}, *Region* **Inside the inpaint mask**, *Feather (px)*
   {feather}.
4. **ControlNet Unit 1**: tick *Enable* and *Upload independent control image*; give it a depth map
   of the whole photograph. *Control Type* Depth, *Preprocessor* none, *Control Weight*
   {depth_weight:g}, *Region* **Outside the inpaint mask**, *Feather (px)* {feather}.
5. Generate.

## As a request

What was sent to `/sdapi/v1/img2img` for the sheet, with `<...>` in place of pictures as base64. For
another checkpoint take its own models, and a prompt in words that it knows.

"""

MEASURED = """
## What was measured

`docs/make_recipe.py` makes {count} pictures of {width} x {height} pixels in {steps} steps: {seeds}
seeds for each of {cases} settings. The results are kept in
[images/recipe.json](images/recipe.json).

- **Adherence**: F1 within 2 pixels between the edges of the result and those of the new figure,
  inside the mask; 0 to 1.
- **Seam**: how much more the picture changes from pixel to pixel across the mask's border than
  beside it, in grey levels per pixel, less the same measure of the untouched photograph
  ({photograph:.1f}). At 0 the border shows no more than before.
- **Outside**: the largest change of a pixel beyond the mask and its blur was {outside} of 255. That
  is the host's doing, not the units': it pastes the photograph back.

![Seam by feather and by mask blur, adherence by weight and by feather]({plot})

*Points are means over all seeds and over the settings that a chart does not name; bars are standard
errors. Mask blur: edge weight {weight:g}, end {end:g}, feather {feather}.*

Other ways to do it, at edge weight {weight:g}, end {end:g}, depth weight {depth_weight:g}, feather
{feather}, mask blur {blur} unless said otherwise; mean and, in brackets, smallest and largest of
{seeds} seeds:

"""

ADVICE = """
## What follows

- **Give a unit a region if its map holds what has to go.** The depth map holds the old cup. Acting
  everywhere it lowered adherence from {edges_alone:.2f} (edges alone) to {both_everywhere:.2f};
  outside the mask only, {recipe:.2f} was left. A map that is empty around the figure needs no
  region: edges everywhere {edges_alone:.2f}, edges inside {edges_inside:.2f}.
- **Edges: weight 1 at least, and to the end.** At end 1, weights {weights} gave an adherence of
  {by_weight}: most of it comes by 1, little or nothing beyond 1.5. At weight {weight:g}, ends
  {ends} gave {by_end}.
  A high weight does not make up for an early end: weight 2 with end 0.3 gave {early:.2f}, weight 1
  with end 0.6 {later:.2f}.
- **Hide the border by mask blur, not by feather.** From feather 0 to 48 the mean seam changed by
  {feather_seam:.2f} at most, and adherence fell by up to {feather_cost:.2f}. Mask blur {blurs} gave
  {by_blur}: 8 was better than 4 with each seed, 16 no better than 8 on average. The feather decides
  where a unit fades out; keep it narrower than the room between figure and border.
- **Control itself makes the border less visible**: {free_seam:.1f} without, {recipe_seam:.1f} with
  both units.
- **Depth outside gained nothing here**: seam {recipe_seam:.1f} with it, {alone_seam:.1f} without,
  less than between seeds; adherence {recipe:.2f} with it, {edges_inside:.2f} without.
  The host puts the photograph back outside the mask at every step, so such a unit speaks only
  through what the network sees beyond the border.

## What the demo models cannot show

They cannot paint a table: the ground inside the mask has the one colour of the prompt, so a seam
remains at every setting. A full checkpoint can carry the ground on. For the same reason nothing
here tells whether depth outside helps light and perspective, whether the inpaint unit helps (here
adherence {inpaint:.2f}, seam {inpaint_seam:.1f}, hardly another result), or what a weight of 2
costs in beauty. It is one photograph, one figure, one size, one sampler and {seeds} seeds.

`python docs/make_recipe.py` repeats it: it takes up where it stopped, keeps every picture in
`demo-output/recipe/`, and needs five to ten minutes of one core. With `--redraw` it only draws the
charts and writes this page again.
"""


def page(results: Results) -> str:
    """The whole page."""
    edge, depth = RECIPE.edge, RECIPE.depth
    common = {
        "weight": edge.weight,
        "end": edge.end,
        "feather": edge.feather,
        "depth_weight": depth.weight,
        "blur": BLUR,
    }
    setup = results["setup"]
    parts = (
        flow(HEAD.format(prompt=PROMPT, sheet="images/recipe-sheet.jpg")),
        flow(PANEL.format(denoise=setup["denoising_strength"], **common)),
        f"```json\n{json.dumps(shown_request(), indent=2)}\n```\n\n",
        measured(results, common),
        ways_table(results),
        grid_tables(results),
        "\n",
        flow(advice(results)),
    )
    return "".join(parts).rstrip("\n") + "\n"


def measured(results: Results, common: dict[str, Any]) -> str:
    """What the measures are, with the charts."""
    setup = results["setup"]
    return flow(
        MEASURED.format(
            count=len(results["runs"]),
            cases=len(CONTROLS) + len(GRID),
            seeds=len(SEEDS),
            photograph=results["photograph"]["seam"],
            outside=max(run["outside"] for run in results["runs"].values()),
            width=setup["width"],
            height=setup["height"],
            steps=setup["steps"],
            plot="images/recipe-plot.png",
            **common,
        )
    )


def flow(text: str) -> str:
    """Fill the lines of paragraphs and list items anew; headlines and pictures stay."""
    blocks = []
    for block in text.strip("\n").split("\n\n"):
        items = re.split(r"\n(?=- |\d\. )", block)
        for number, item in enumerate(items):
            words = " ".join(item.split())
            if words[:1] not in ("#", "!"):
                mark = re.match(r"- |\d\. |", words)[0]
                indent = " " * len(mark)
                words = textwrap.fill(words, 100, subsequent_indent=indent, break_on_hyphens=False)
            items[number] = words
        blocks.append("\n".join(items))
    return "\n\n".join(blocks) + "\n\n"


def shown_request() -> dict[str, Any]:
    """The recipe's request with names in place of the pictures."""
    body = request(RECIPE, scene.make_parts(), MODELS)
    body["init_images"] = ["<photograph>"]
    body["mask"] = "<mask: white is drawn anew>"
    units = body["alwayson_scripts"]["controlnet"]["args"]
    for unit, picture in zip(units, ("<the new figure>", "<depth map>"), strict=True):
        unit["image"] = picture
    return body


def ways_table(results: Results) -> str:
    """Adherence and seam of the recipe and of the other ways."""
    lines = ["| | adherence | seam |", "|---|---|---|"]
    for case in (CONTROLS[0], RECIPE, *CONTROLS[1:]):
        name = "**edges inside, depth outside**" if case is RECIPE else case.name
        cells = (
            spread(values(results, case, "adherence"), 2),
            spread(values(results, case, "seam"), 1),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(found: Sequence[float], digits: int) -> str:
    """Mean and range."""
    shown = (f"{value:.{digits}f}" for value in (statistics.mean(found), min(found), max(found)))
    return "{} ({} to {})".format(*shown)


def grid_tables(results: Results) -> str:
    """Adherence by weight and end, and both measures by weight and feather."""
    by_end = table(
        "adherence: edge weight",
        [f"end {end:g}" for end in ENDS],
        [
            [mean(results, [grid_case(w, e, f) for f in FEATHERS], "adherence") for e in ENDS]
            for w in WEIGHTS
        ],
        2,
    )
    heads = [f"feather {feather}" for feather in FEATHERS]
    others = [
        table(f"{measure}: edge weight", heads, by_feather(results, measure), digits)
        for measure, digits in (("adherence", 2), ("seam", 1))
    ]
    sentence = "The grid, both units in their regions; means over what a table does not name:\n"
    return "\n" + "\n".join([sentence, by_end, *others])


def table(corner: str, heads: list[str], rows: list[list[float]], digits: int) -> str:
    """A table with a row for each of `WEIGHTS`."""
    lines = [f"| {corner} | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for weight, row in zip(WEIGHTS, rows, strict=True):
        cells = " | ".join(f"{value:.{digits}f}" for value in row)
        lines.append(f"| {weight:g} | {cells} |")
    return "\n".join(lines) + "\n"


def advice(results: Results) -> str:
    """What the numbers say; a unit test holds every comparison against the results."""
    named = {case.name: [case] for case in CONTROLS} | {"recipe": [RECIPE]}

    def adherence(cases: Sequence[Case]) -> float:
        return mean(results, cases, "adherence")

    def seam(name: str) -> float:
        return mean(results, named[name], "seam")

    edge = RECIPE.edge
    by_weight = [adherence([grid_case(w, 1.0, f) for f in FEATHERS]) for w in WEIGHTS]
    by_end = [adherence([grid_case(edge.weight, e, f) for f in FEATHERS]) for e in ENDS]
    by_blur = [seam(name) for name in ("mask blur 0", "recipe", "mask blur 8", "mask blur 16")]
    return ADVICE.format(
        edges_alone=adherence(named["edges everywhere"]),
        edges_inside=adherence(named["edges inside"]),
        both_everywhere=adherence(named["edges and depth everywhere"]),
        recipe=adherence([RECIPE]),
        inpaint=adherence(named["with the inpaint unit"]),
        weight=edge.weight,
        weights=listed(WEIGHTS, "g"),
        by_weight=listed(by_weight, ".2f"),
        ends=listed(ENDS, "g"),
        by_end=listed(by_end, ".2f"),
        early=adherence([grid_case(2.0, 0.3, f) for f in FEATHERS]),
        later=adherence([grid_case(1.0, 0.6, f) for f in FEATHERS]),
        feather_seam=max(max(row) - min(row) for row in by_feather(results, "seam")),
        feather_cost=max(row[0] - row[-1] for row in by_feather(results, "adherence")),
        blurs=listed((0, BLUR, 8, 16), "d"),
        by_blur=listed(by_blur, ".1f"),
        free_seam=seam("no control"),
        recipe_seam=seam("recipe"),
        alone_seam=seam("edges inside"),
        inpaint_seam=seam("with the inpaint unit"),
        seeds=len(SEEDS),
    )


def by_feather(results: Results, measure: str) -> list[list[float]]:
    """Means over ends and seeds: a row for each weight, a column for each feather."""
    return [
        [mean(results, [grid_case(w, e, f) for e in ENDS], measure) for f in FEATHERS]
        for w in WEIGHTS
    ]


def listed(numbers: Sequence[float], form: str) -> str:
    """Numbers as words of a sentence: `1, 2 and 3`."""
    *first, last = (format(number, form) for number in numbers)
    return f"{', '.join(first)} and {last}"
