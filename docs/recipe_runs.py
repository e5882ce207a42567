"""What the recipe generates: the requests of its grid and of its controls, and their measures.

The results lie in `docs/images/recipe.json`; runs that are there already are not repeated.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import demo
import numpy as np
import recipe_scene as scene
import torch
from PIL import Image
from recipe_measures import adherence_inside, change_outside, seam

RESULTS: Final = Path(__file__).resolve().parent / "images" / "recipe.json"
WEIGHTS: Final = (0.5, 1.0, 1.5, 2.0)
ENDS: Final = (0.3, 0.6, 1.0)
FEATHERS: Final = (0, 16, 32, 48)
SEEDS: Final = (1, 2, 3, 4)
INSIDE: Final = "Inside the inpaint mask"
OUTSIDE: Final = "Outside the inpaint mask"
WHOLE: Final = "Whole picture"
BLUR: Final = 4
MARGIN: Final = 4  # pixels inside the border in which no edges count
PROMPT: Final = "a green circle on a red background"
REQUEST: Final = {
    "prompt": PROMPT,
    "steps": 14,
    "cfg_scale": 4.0,
    "sampler_name": "DPM++ 2M",
    "width": scene.WIDTH,
    "height": scene.HEIGHT,
    "denoising_strength": 0.9,
    "inpainting_fill": 1,  # the original
    "inpaint_full_res": False,  # whole picture
}
MEASURES: Final = ("seam", "adherence")


@dataclass(frozen=True)
class Edge:
    """The unit that draws the new figure."""

    weight: float = 1.5
    end: float = 1.0
    feather: int = 16
    region: str = INSIDE


@dataclass(frozen=True)
class Depth:
    """The unit that holds the scene around it."""

    weight: float = 1.0
    end: float = 1.0
    feather: int = 16
    region: str = OUTSIDE


@dataclass(frozen=True)
class Case:
    """One way to do it, repeated for each of `SEEDS`."""

    name: str
    edge: Edge | None = None
    depth: Depth | None = None
    inpaint: bool = False
    blur: int = BLUR


def grid_case(weight: float, end: float, feather: int) -> Case:
    """A point of the grid: both units in their regions."""
    name = f"weight {weight:g} end {end:g} feather {feather}"
    return Case(name, Edge(weight, end, feather), Depth(feather=feather))


RECIPE: Final = grid_case(1.5, 1.0, 16)
GRID: Final = tuple(grid_case(w, e, f) for w in WEIGHTS for e in ENDS for f in FEATHERS)
CONTROLS: Final = (
    Case("no control"),
    Case("edges everywhere", Edge(region=WHOLE)),
    Case("edges and depth everywhere", Edge(region=WHOLE), Depth(region=WHOLE)),
    Case("edges inside", Edge()),
    Case("depth weight 0.5 end 0.5", Edge(), Depth(weight=0.5, end=0.5)),
    Case("depth weight 1.5 end 1", Edge(), Depth(weight=1.5)),
    Case("with the inpaint unit", Edge(), Depth(), inpaint=True),
    Case("mask blur 0", Edge(), Depth(), blur=0),
    Case("mask blur 8", Edge(), Depth(), blur=8),
    Case("mask blur 16", Edge(), Depth(), blur=16),
)


class Studio(demo.Studio):
    """The demo's host; files are named after the case instead of numbered."""

    def save(self, label: str, picture: np.ndarray) -> None:
        """Write one picture, named by what follows the colon."""
        Image.fromarray(picture).save(self.output / file_name(label.split(": ")[1]))


def file_name(key: str) -> str:
    return f"{key.replace(' ', '-')}.png"


def request(case: Case, parts: scene.SceneParts, models: dict[str, str]) -> dict[str, Any]:
    """The img2img request of a case, without a seed.

    Args:
        case: what to ask for.
        parts: the pictures.
        models: names of the control models by kind: canny, depth, inpaint.
    """
    units = []
    if case.edge:
        units.append(_unit(models["canny"], "canny", parts.figure, case.edge))
    if case.depth:
        units.append(_unit(models["depth"], "none", parts.depth, case.depth))
    if case.inpaint:
        # Without a picture of its own a unit takes that of img2img, with the mask.
        units.append({"module": "inpaint_only", "model": models["inpaint"], "pixel_perfect": True})
    return {
        **REQUEST,
        "mask_blur": case.blur,
        "init_images": [demo.encode(parts.photograph)],
        "mask": demo.encode(parts.mask),
        "alwayson_scripts": {"controlnet": {"args": units}},
    }


def _unit(model: str, module: str, picture: np.ndarray, asked: Edge | Depth) -> dict[str, Any]:
    unit = {
        "image": demo.encode(picture),
        "module": module,
        "model": model,
        "pixel_perfect": True,
        "weight": asked.weight,
        "guidance_end": asked.end,
        "region": asked.region,
    }
    return unit if asked.region == WHOLE else {**unit, "region_feather": asked.feather}


def setup() -> dict[str, Any]:
    """What all results depend on; results of another setup are dropped."""
    names = ("prompt", "steps", "cfg_scale", "sampler_name", "width", "height")
    depth = Depth()
    return {
        **{name: REQUEST[name] for name in names},
        "denoising_strength": REQUEST["denoising_strength"],
        "mask_blur": BLUR,
        "depth_weight": depth.weight,
        "depth_end": depth.end,
        "seeds": list(SEEDS),
    }


def load(path: Path = RESULTS) -> dict[str, Any]:
    """The results so far; none if there are no such or they belong to another setup."""
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["setup"] == setup():
            return found
    return {"setup": setup(), "photograph": {}, "runs": {}}


def save(results: dict[str, Any], path: Path = RESULTS) -> None:
    """Write the results, a line for each run, in the order of their names."""
    runs = ",\n".join(
        f"  {json.dumps(key)}: {json.dumps(value)}"
        for key, value in sorted(results["runs"].items())
    )
    head = ",\n".join(f' "{name}": {json.dumps(results[name])}' for name in ("setup", "photograph"))
    path.write_text(f'{{\n{head},\n "runs": {{\n{runs}\n }}\n}}\n', encoding="utf-8", newline="\n")


def key(case: Case, seed: int) -> str:
    """Name of one run in the results and, as a file, in the folder of pictures."""
    return f"{case.name} seed {seed}"


def generate(folder: Path, shown: Iterable[str] = (), path: Path = RESULTS) -> dict[str, Any]:
    """Do the runs that the results lack, and return all results.

    Args:
        folder: where every picture goes.
        shown: keys of runs that are needed as pictures: repeated if their file is gone.
        path: the results' file, written after every run.
    """
    results = load(path)
    parts = scene.make_parts()
    results["photograph"] = {"seam": round(seam(parts.photograph, parts.mask), 3)}
    wanted = set(shown)
    todo = [
        (case, seed)
        for case in (*CONTROLS, *GRID)
        for seed in SEEDS
        if key(case, seed) not in results["runs"]
        or (key(case, seed) in wanted and not (folder / file_name(key(case, seed))).is_file())
    ]
    if todo:
        folder.mkdir(parents=True, exist_ok=True)
        studio = Studio(scene.HEIGHT, folder, REQUEST["steps"])
        lines = control_lines(studio, parts)
        for number, (case, seed) in enumerate(todo, 1):
            name = key(case, seed)
            body = request(case, parts, studio.models)
            # No maps in the answers: they are the same each time.
            for unit in body["alwayson_scripts"]["controlnet"]["args"]:
                unit["save_detected_map"] = False
            # The host encodes the photograph with noise of the global generator, which goes on from
            # the generation before: seeded, a run is the same wherever the script takes up.
            torch.manual_seed(seed)
            picture = studio.generate(f"{number} of {len(todo)}: {name}", seed=seed, **body)[0]
            results["runs"][name] = measure(picture, lines, parts, case.blur)
            save(results, path)
    save(results, path)
    return results


def control_lines(studio: Studio, parts: scene.SceneParts) -> np.ndarray:
    """The edges that the extension's own preprocessor finds in the figure, uint8 (H, W, 3)."""
    body = {"controlnet_module": "canny", "controlnet_input_images": [demo.encode(parts.figure)]}
    body["controlnet_processor_res"] = scene.HEIGHT
    answer = studio.host.post("/controlnet/detect", body)
    return demo.decode(answer.json()["images"][0])


def measure(
    picture: np.ndarray, lines: np.ndarray, parts: scene.SceneParts, blur: int
) -> dict[str, float]:
    """The measures of one result, rounded to what is worth keeping."""
    # The host blurs masks with square kernels that reach 2.5 times the setting.
    reach = int(2.5 * blur + 0.5)
    return {
        "seam": round(seam(picture, parts.mask), 3),
        "adherence": round(adherence_inside(picture, lines, parts.mask, MARGIN), 3),
        "outside": change_outside(picture, parts.photograph, parts.mask, reach),
    }


def values(results: dict[str, Any], case: Case, measure_name: str) -> list[float]:
    """A measure of a case for each seed; a seam is that beyond the untouched photograph's."""
    base = results["photograph"]["seam"] if measure_name == "seam" else 0.0
    runs = results["runs"]
    return [runs[key(case, seed)][measure_name] - base for seed in SEEDS]


def mean(results: dict[str, Any], cases: Iterable[Case], measure_name: str) -> float:
    """Mean of a measure over cases and seeds."""
    return statistics.mean(v for case in cases for v in values(results, case, measure_name))
