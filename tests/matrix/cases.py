"""What the matrix is made of: paths, settings, which go together, and the cases themselves.

A factor without an entry in a case means nothing on that path. `possible` names the combinations
that the host itself refuses or cannot do.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from matrix.pairwise import Case, Generator, Pair, pairs_of

TXT2IMG, HIRES, UPSCALE = "txt2img", "hires", "upscale-button"
IMG2IMG, SKETCH = "img2img", "sketch"
INPAINT, INPAINT_TAB = "inpaint", "inpaint-tab"
INPAINT_SKETCH, INPAINT_UPLOAD = "inpaint-sketch", "inpaint-upload"
BATCH_TAB, BATCH_MASKS = "batch-tab", "batch-tab-masks"

CFG = 4
WITH_HIRES = (HIRES, UPSCALE)
WITH_MASK = (INPAINT, INPAINT_TAB, INPAINT_SKETCH, INPAINT_UPLOAD, BATCH_MASKS)
FROM_PICTURE = (IMG2IMG, SKETCH, BATCH_TAB, *WITH_MASK)
BATCH_TABS = (BATCH_TAB, BATCH_MASKS)

FACTORS: dict[str, Sequence[str]] = {
    "path": (TXT2IMG, *WITH_HIRES, *FROM_PICTURE),
    "checkpoint": ("plain", "inpainting", "edit", "refiner", "refiner-moved", "refiner-other"),
    "sampler": ("Euler", "DPM++ 2M", "Heun", "DPM++ SDE", "DDIM", "UniPC"),
    "size": ("64x64", "72x104", "136x88", "100x76"),
    "batch": ("one", "count", "size"),
    "prompt": ("short", "long", "AND"),
    "upscaler": ("Latent", "Lanczos"),
    "target": ("scale", "wide", "tall"),
    "hr_checkpoint": ("same", "other"),
    "hr_sampler": ("same", "other"),
    "hr_option": ("Both", "Low res only", "High res only"),
    "host_resize": ("0", "1", "2", "3"),
    "blur": ("0,0", "4,4", "5,0", "0,3"),
    "invert": ("0", "1"),
    "area": ("whole", "masked+0", "masked+12"),
    "fill": ("0", "1", "2", "3"),
    "source": ("own", "host"),
    "module": ("none", "canny", "inpaint"),
    "resize": ("Just Resize", "Crop and Resize", "Resize and Fill"),
    "crop": ("yes", "no"),
    "mode": ("Balanced", "My prompt is more important", "ControlNet is more important"),
    "strength": ("1", "0.6", "layers"),
    "window": ("0-1", "0-0.5", "0.5-1", "0.25-0.75"),
    "region": ("whole", "own", "inside", "outside"),
    "feather": ("0", "24"),
    "batch_option": ("all", "turns"),
}

SDXL = ("sdxl", "sdxl-v", "sdxl-inpainting", "sdxl-refiner")
"""The checkpoints of SDXL's kind; the last is `sdxl` with a refiner of another structure."""

SDXL_FACTORS: dict[str, Sequence[str]] = {
    **FACTORS,
    "path": (TXT2IMG, HIRES, IMG2IMG, INPAINT),
    "checkpoint": SDXL,
    "sampler": ("Euler", "Heun", "DDIM"),
    "size": ("64x64", "100x76"),
    "upscaler": ("Latent", "Lanczos"),
    "target": ("scale", "wide"),
    "hr_sampler": ("same",),
    "hr_option": ("Both", "Low res only"),
    "host_resize": ("0",),
    "blur": ("0,0",),
    "invert": ("0",),
    "area": ("whole", "masked+12"),
    "fill": ("0", "1"),
    "module": ("none", "inpaint_only", "tile_colorfix", "tile_colorfix+sharp"),
    "resize": ("Crop and Resize",),
    "crop": ("yes",),
    "strength": ("0.6", "layers", "13 numbers"),
    "window": ("0-1", "0-0.5", "0.5-1"),
    "region": ("whole", "own"),
    "feather": ("0",),
}
"""What may go another way on SDXL than on SD1; what only pictures meet has one value."""

LAYER_WEIGHTS = (0.5, 0.0, 1.5, 0.25, 1.0, 0.75, 2.0)
"""One per layer of the demo model: six skips, then the middle block."""
SDXL_LAYER_WEIGHTS = (0.5, 0.0, 1.5, 0.25, 1.0, 0.75, 2.0, 0.4, 1.25, 0.6)
"""One per layer of an SDXL model: nine skips, then the middle block."""
MORE_WEIGHTS = (*SDXL_LAYER_WEIGHTS, 1.9, 0.1, 1.7)
"""As many as SD1 has layers: SDXL takes the first ten."""


def applies(factor: str, case: Case) -> bool:
    """Whether a factor means anything for the choices made before it."""
    path = case.get("path")
    if factor in ("upscaler", "target", "hr_checkpoint", "hr_sampler", "hr_option"):
        return path in WITH_HIRES
    if factor in ("host_resize", "source"):
        return path in FROM_PICTURE
    if factor in ("blur", "invert", "area", "fill"):
        return path in WITH_MASK
    if factor == "feather":
        return case["region"] != "whole"
    if factor == "batch_option":
        return case["batch"] == "size" and case.get("source", "own") == "own"
    if factor == "crop":
        return case.get("area", "whole") != "whole"
    return True


def is_possible(case: Case) -> bool:
    """Whether the host can run a case."""
    path, checkpoint = case["path"], case["checkpoint"]
    if checkpoint == "edit" and (path not in FROM_PICTURE or case["prompt"] != "short"):
        # The host feeds edit models only from a picture; it refuses AND and unequal lengths.
        return False
    if checkpoint in ("inpainting", "sdxl-inpainting") and path in WITH_HIRES:
        # The host sizes this model's own conditioning by the first pass, or before its crop.
        latent, cropped = case["upscaler"] == "Latent", case["target"] != "scale"
        if latent or cropped or case["hr_checkpoint"] == "other":
            return False
    replaced = checkpoint in ("refiner-moved", "refiner-other", "sdxl-refiner")
    if replaced and path in FROM_PICTURE and case["batch"] == "count":
        # The host keeps the first batch's sampler, and with it a model that it has given up.
        return False
    if path == UPSCALE and case["batch"] != "one":
        return False
    if case.get("host_resize") == "3" and case.get("area", "whole") == "whole":
        # The host leaves the picture in its own size, and so what it fills it by, or conditions
        # such models on, has another.
        filled, conditioned = case.get("fill", "1") != "1", checkpoint in ("inpainting", "edit")
        if filled or conditioned:
            return False
    if case["region"] in ("inside", "outside") and path not in WITH_MASK:
        return False
    if case["region"] == "own" and case.get("source") == "host" and path in BATCH_TABS:
        # A mask drawn over one picture says nothing of another of other proportions.
        return False
    # The preprocessor wants a mask: the host's, or one drawn on the unit's own picture.
    return not (wants_mask(case) and case.get("source") == "host" and path not in WITH_MASK)


def wants_mask(case: Case) -> bool:
    """Whether the preprocessor marks the masked part in its map."""
    return case["module"] in ("inpaint", "inpaint_only")


def is_sdxl(case: Case) -> bool:
    """Whether a case runs on a checkpoint of SDXL's kind."""
    return case["checkpoint"] in SDXL


NOTHING_SPECIAL: Case = {
    **{"path": IMG2IMG, "checkpoint": "plain", "sampler": "Euler", "size": "64x64"},
    **{"batch": "one", "prompt": "short", "host_resize": "0", "source": "host", "module": "none"},
    **{"resize": "Just Resize", "mode": "Balanced", "strength": "1", "window": "0-1"},
    "region": "whole",
}
FULL_HIRES: Case = {
    **{"path": HIRES, "hr_checkpoint": "same", "hr_sampler": "same", "hr_option": "Both"},
}
FULL_INPAINT: Case = {"path": INPAINT, "blur": "0,0", "invert": "0", "area": "whole"}

BEYOND_THE_HOST: dict[str, Case] = {
    "edit-from-nothing": {"checkpoint": "edit", "path": TXT2IMG},
    "edit-with-AND": {"checkpoint": "edit", "prompt": "AND"},
    "edit-with-unequal-prompts": {"checkpoint": "edit", "prompt": "long"},
    "inpainting-hires-latent": {
        **{"checkpoint": "inpainting", "upscaler": "Latent", "target": "scale"},
        **FULL_HIRES,
    },
    "inpainting-hires-cropped": {
        **{"checkpoint": "inpainting", "upscaler": "Lanczos", "target": "wide"},
        **FULL_HIRES,
    },
    "inpainting-latent-upscale": {"checkpoint": "inpainting", "host_resize": "3"},
    "edit-latent-upscale": {"checkpoint": "edit", "host_resize": "3"},
    "fill-latent-upscale": {**FULL_INPAINT, "host_resize": "3", "fill": "0"},
    "replaced-model-in-the-next-batch": {"checkpoint": "refiner-moved", "batch": "count"},
}
"""What `is_possible` leaves out because the host fails at it, even without any unit."""


def fails_by_itself(case: Case) -> str:
    """Words of the error with which a WebUI of its own fails, where the embedded host does not.

    A1111 makes new objects for every checkpoint with a YAML of its own, also for one of the same
    structure; in img2img it keeps the first batch's sampler, and with it the model it gave up.
    """
    is_kept = case["path"] in FROM_PICTURE and case["batch"] == "count"
    return "meta" if is_kept and case["checkpoint"] == "refiner" else ""


def generator() -> Generator:
    """The generator of this matrix."""
    return Generator(FACTORS, applies, is_possible, seed=3)


@functools.cache
def matrix() -> tuple[list[Case], set[Pair]]:
    """All cases, those of one checkpoint together, and the pairs they cover."""
    return _covering(generator())


@functools.cache
def sdxl_matrix() -> tuple[list[Case], set[Pair]]:
    """The same for checkpoints of SDXL's kind."""
    return _covering(Generator(SDXL_FACTORS, applies, is_possible, seed=3))


def _covering(found: Generator) -> tuple[list[Case], set[Pair]]:
    pairs = found.possible_pairs()
    cases = found.cover(pairs)
    order = found.factors["checkpoint"].index
    cases.sort(key=lambda case: order(case["checkpoint"]))
    return cases, pairs


def covered(cases: Sequence[Case]) -> set[Pair]:
    """Pairs that some cases hold."""
    return {pair for case in cases for pair in pairs_of(case)}


def label(case: Case) -> str:
    """A name for a case: its values, in the order of the factors."""
    return "/".join(case.values()).replace(" ", "_").replace("is_more_important", "first")
