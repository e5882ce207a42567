"""The matrix as a table in docs/matrix.md. Run this file to write it again."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from matrix import cases, members

PAGE = Path(__file__).resolve().parents[2] / "docs" / "matrix.md"
START, END = "<!-- matrix: generated -->", "<!-- matrix: end -->"
MEANINGS = {
    "path": "how the generation is started",
    "checkpoint": "plain; with 9 channels; editing by instruction; one that a refiner replaces",
    "sampler": "of the first pass",
    "size": "asked for, pixels",
    "batch": "one picture, batch count 2, batch size 2",
    "prompt": "short; longer than the negative prompt; two sub-prompts",
    "upscaler": "of the second pass: on latents, on pictures",
    "target": "of the second pass: by a factor; to a size that crops its height, its width",
    "hr_checkpoint": "of the second pass",
    "hr_sampler": "of the second pass",
    "hr_option": "of the unit",
    "host_resize": "img2img: just resize, crop, fill, latent upscale",
    "blur": "mask blur along x, along y",
    "invert": "inpaint not masked",
    "area": "whole picture; only masked, with padding",
    "fill": "fill, original, latent noise, latent nothing",
    "source": "the unit's own picture, or the host's",
    "module": "preprocessor",
    "resize": "the unit's resize mode",
    "crop": "whether the unit follows the host's crop",
    "mode": "control mode",
    "strength": "weight, or one per layer",
    "window": "start and end of guidance",
    "region": "where the unit acts",
    "feather": "of the region, pixels",
    "batch_option": "one unit for all pictures of a batch, or two units taking turns",
}


def table() -> str:
    """Factors, values and meanings in Markdown."""
    lines = ["| factor | values | meaning |", "|---|---|---|"]
    for factor, values in cases.FACTORS.items():
        listed = ", ".join(f"`{value}`" for value in values)
        lines.append(f"| {factor} | {listed} | {MEANINGS[factor]} |")
    found, pairs = cases.matrix()
    lines += ["", f"{len(found)} cases cover all {len(pairs)} possible pairs of values."]
    lines += ["", "On SDXL, with the other factors as above or with one of their values:", ""]
    lines += ["| factor | values |", "|---|---|"]
    for factor, values in cases.SDXL_FACTORS.items():
        if len(values) > 1 and values != cases.FACTORS[factor]:
            lines.append(f"| {factor} | {', '.join(f'`{value}`' for value in values)} |")
    found, pairs = cases.sdxl_matrix()
    lines += ["", f"{len(found)} cases cover all {len(pairs)} possible pairs of these."]
    lines += ["", "What members of the Forge family cannot do, and are not asked:", ""]
    lines += ["| member | cases | reason |", "|---|---|---|"]
    for limit in members.LIMITS:
        values = (
            f"{factor} {', '.join(f'`{v}`' for v in of)}" for factor, of in limit.values.items()
        )
        lines.append(f"| {', '.join(limit.members)} | {'; '.join(values)} | {limit.reason} |")
    return "\n".join(lines)


def written() -> str:
    """The table that the page holds."""
    return PAGE.read_text(encoding="utf-8").partition(START)[2].partition(END)[0].strip()


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
