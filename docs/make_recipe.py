"""Makes docs/recipe.md: runs what is missing, then draws the sheet, the charts and the page.

python docs/make_recipe.py            everything; about ten minutes on one core, resumable
python docs/make_recipe.py --redraw   charts and page from the results on file, no generation
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent / "minihost"), str(DOCS.parent)]

import recipe_page  # noqa: E402
import recipe_runs as runs  # noqa: E402
import recipe_scene as scene  # noqa: E402
from contact_sheet import Row, Tile  # noqa: E402
from recipe_drawing import Chart, Series, charts, sheet  # noqa: E402
from recipe_runs import RECIPE, Case, grid_case  # noqa: E402

PAGE = DOCS / "recipe.md"
SHEET = DOCS / "images" / "recipe-sheet.jpg"
PLOT = DOCS / "images" / "recipe-plot.png"
PICTURES = DOCS.parent / "demo-output" / "recipe"
SHOWN_SEED = 1
QUALITY = 85

Results = dict[str, Any]


def main() -> None:
    """Command line entry."""
    reader = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    reader.add_argument("--redraw", action="store_true", help="charts and page only")
    reader.add_argument("--pictures", type=Path, default=PICTURES, help="folder of all pictures")
    options = reader.parse_args()
    if options.redraw:
        results = runs.load()
    else:
        shown = [
            runs.key(case, SHOWN_SEED) for _row, cases in sheet_rows() for case, _name in cases
        ]
        results = runs.generate(options.pictures, shown)
        draw_sheet(results, options.pictures).save(SHEET, quality=QUALITY, optimize=True)
    # 64 colours are enough for charts and a quarter of the size.
    charts(all_charts(results)).quantize(64).save(PLOT, optimize=True)
    PAGE.write_text(recipe_page.page(results), encoding="utf-8", newline="\n")


def sheet_rows() -> tuple[tuple[str, tuple[tuple[Case, str], ...]], ...]:
    """Headlines of the sheet's rows of results, their cases and how they are called there."""
    named = {case.name: case for case in runs.CONTROLS}
    regions = (
        (named["no control"], "no control"),
        (named["edges everywhere"], "edges, no region"),
        (named["edges and depth everywhere"], "edges and depth, no regions"),
        (RECIPE, "edges inside, depth outside"),
        (named["with the inpaint unit"], "and the inpaint unit"),
    )
    strength = (
        (grid_case(0.5, 1.0, 16), "edge weight 0.5"),
        (grid_case(1.0, 1.0, 16), "edge weight 1"),
        (grid_case(2.0, 1.0, 16), "edge weight 2"),
        (grid_case(1.5, 0.3, 16), "edge weight 1.5, end 0.3"),
        (grid_case(1.5, 0.6, 16), "edge weight 1.5, end 0.6"),
    )
    border = (
        (grid_case(1.5, 1.0, 0), "feather 0"),
        (grid_case(1.5, 1.0, 48), "feather 48"),
        (named["mask blur 0"], "feather 16, mask blur 0"),
        (named["mask blur 8"], "feather 16, mask blur 8"),
        (named["mask blur 16"], "feather 16, mask blur 16"),
    )
    depth = runs.Depth()
    return (
        (f"Regions: edge weight 1.5, depth weight {depth.weight:g}, feather 16", regions),
        ("Weight and end of the edge unit, both units in their regions", strength),
        ("The border: feather of the regions, blur of the mask (4 elsewhere)", border),
    )


def draw_sheet(results: Results, folder: Path) -> Image.Image:
    """The sheet: what goes in, then the rows of results with their measures."""
    rows = [inputs_row(scene.make_parts())]
    base = results["photograph"]["seam"]
    for headline, cases in sheet_rows():
        tiles = []
        for case, name in cases:
            key = runs.key(case, SHOWN_SEED)
            picture = np.asarray(Image.open(folder / runs.file_name(key)).convert("RGB"))
            found = results["runs"][key]
            note = f"adherence {found['adherence']:.2f}, seam {found['seam'] - base:.1f}"
            tiles.append(Tile(picture, name, note))
        rows.append(Row(headline, tuple(tiles)))
    subtitle = f"\u201c{runs.PROMPT}\u201d, demo models, seed {SHOWN_SEED} everywhere"
    return sheet("A cup becomes a teapot, the table stays", subtitle, rows)


def inputs_row(parts: scene.SceneParts) -> Row:
    """Photograph, mask and control pictures."""
    marked = parts.photograph.copy()
    marked[parts.mask > 0] = marked[parts.mask > 0] // 2 + np.array([20, 90, 84], np.uint8)
    lines = np.repeat(cv2.Canny(parts.figure, 100, 200)[..., None], 3, axis=2)
    return Row(
        "What goes in",
        (
            Tile(parts.photograph, "photograph", "cup of coffee, CC0"),
            Tile(marked, "inpaint mask", "what is drawn anew"),
            Tile(parts.figure, "the new figure", "drawn by hand, picture of unit 0"),
            Tile(lines, "its edges", "by the preprocessor canny; act inside the mask"),
            Tile(parts.depth, "depth of the scene", "picture of unit 1; acts outside the mask"),
        ),
    )


def all_charts(results: Results) -> list[list[Chart]]:
    """The four charts."""
    free = Case("no control")
    calm = (("no control", runs.mean(results, [free], "seam")),)
    calm_at_four = ((f"no control, blur {runs.BLUR}", calm[0][1]),)
    loose = (("no control", runs.mean(results, [free], "adherence")),)

    def by_weight(measure: str) -> tuple[Series, ...]:
        return tuple(
            line(
                results,
                f"weight {w:g}",
                [(f, [grid_case(w, e, f) for e in runs.ENDS]) for f in runs.FEATHERS],
                measure,
            )
            for w in runs.WEIGHTS
        )

    by_end = tuple(
        line(
            results,
            f"end {e:g}",
            [(w, [grid_case(w, e, f) for f in runs.FEATHERS]) for w in runs.WEIGHTS],
            "adherence",
        )
        for e in runs.ENDS
    )
    blurs = [(b, [blur_case(b)]) for b in (0, runs.BLUR, 8, 16)]
    blurred = (line(results, "weight 1.5", blurs, "seam"),)
    feather, blur = "feather of the regions, pixels", "blur of the mask, pixels"
    edge = "weight of the edge unit"
    return [
        [
            Chart("Seam by feather", feather, by_weight("seam"), 5, 1, calm),
            Chart("Seam by mask blur", blur, blurred, 5, 1, calm_at_four),
        ],
        [
            Chart("Adherence by weight", edge, by_end, 1, 0.2, loose),
            Chart("Adherence by feather", feather, by_weight("adherence"), 1, 0.2, loose),
        ],
    ]


def blur_case(blur: int) -> Case:
    """The recipe with another blur of the host's mask."""
    return RECIPE if blur == runs.BLUR else Case(f"mask blur {blur}")


def line(
    results: Results, name: str, points: Sequence[tuple[float, list[Case]]], measure: str
) -> Series:
    """Means over cases and seeds, with standard errors as bars."""
    means, errors = [], []
    for x, cases in points:
        found = [v for case in cases for v in runs.values(results, case, measure)]
        means.append((x, statistics.mean(found)))
        errors.append(statistics.stdev(found) / len(found) ** 0.5)
    return Series(name, tuple(means), tuple(errors))


if __name__ == "__main__":
    main()
