"""What must happen in a case, stated from the definitions and from what is known of the host.

Nothing here asks the controls. Steps and rows come from the host's samplers, whose evaluation
counts are: one per step, but two per step and one in the last for second-order samplers; DDIM one
less than it has timesteps, UniPC as many as it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from matrix.cases import (
    FROM_PICTURE,
    LAYER_WEIGHTS,
    MORE_WEIGHTS,
    SDXL_LAYER_WEIGHTS,
    WITH_HIRES,
    is_sdxl,
)
from matrix.orders import HIRES_STEPS, STEPS, STRENGTH, hires_sampler
from matrix.pairwise import Case

LAYERS = 7
"""Of the demo model: six skips and the middle block."""
SDXL_LAYERS = 10
"""Nine skips and the middle block."""
SD1_LAYERS = 13
"""Of the published models, from whose curve SDXL takes the first ten."""
FALL_OFF = 0.825
SECOND_ORDER = ("Heun", "DPM++ SDE", "DPM2")
SOFT_IN_HIRES = ("canny",)
CONTROL_FIRST = "ControlNet is more important"
BALANCED = "Balanced"


@dataclass(frozen=True)
class PassStatement:
    """What must happen in one run of the sampler.

    Attributes:
        is_hires: second pass of a hires fix.
        sampler: its name.
        active: per evaluation of the denoiser, whether the unit acts.
        conds, total: rows of each evaluation: those with the prompt come first.
        units: per row, in the same order, the unit that acts on it; None for no unit.
        factors: per layer, shallowest skip first, the number the network's output is multiplied by.
    """

    is_hires: bool
    sampler: str
    active: tuple[bool, ...]
    conds: int
    total: int
    units: tuple[int | None, ...]
    factors: tuple[float, ...]


def passes(case: Case) -> list[PassStatement]:
    """All runs of the sampler in one generation, in their order."""
    one: list[PassStatement] = []
    if case["path"] != "upscale-button":
        one.append(_statement(case, is_hires=False))
    if case["path"] in WITH_HIRES:
        one.append(_statement(case, is_hires=True))
    return one * (2 if case["batch"] == "count" else 1)


def _statement(case: Case, is_hires: bool) -> PassStatement:
    sampler = hires_sampler(case) if is_hires else case["sampler"]
    steps = step_of_each_evaluation(case, sampler, is_hires)
    acts = acts_in_pass(case, is_hires)
    conds, total = rows(case)
    return PassStatement(
        is_hires,
        sampler,
        tuple(acts and in_window(case["window"], step, max(steps) + 1) for step in steps),
        conds,
        total,
        tuple(unit_of_row(case, row, conds) for row in range(total)),
        factors(case, is_hires),
    )


def step_of_each_evaluation(case: Case, sampler: str, is_hires: bool) -> list[int]:
    """The number of the sampling step that each evaluation belongs to."""
    if is_hires:
        part, timesteps = HIRES_STEPS, HIRES_STEPS - 1
    elif case["path"] in FROM_PICTURE:
        part, timesteps = int(STRENGTH * STEPS) + 1, int(STRENGTH * STEPS)
    else:
        part, timesteps = STEPS, len(range(0, 1000, 1000 // STEPS))
    if sampler == "DDIM":
        return list(range(timesteps - 1))
    if sampler == "UniPC":
        return list(range(timesteps))
    if sampler in SECOND_ORDER:
        return [evaluation // 2 for evaluation in range(2 * part - 1)]
    return list(range(part))


def in_window(window: str, step: int, steps: int) -> bool:
    """Whether a unit acts in step number `step` of `steps`."""
    start, end = (float(text) for text in window.split("-"))
    return start <= step / steps and (end == 1 or step / steps < end)


def acts_in_pass(case: Case, is_hires: bool) -> bool:
    """Whether the hires option lets the unit act."""
    option = case.get("hr_option", "Both")
    return option == "Both" or is_hires == (option == "High res only")


def rows(case: Case) -> tuple[int, int]:
    """Rows with the prompt, and all rows, of one evaluation."""
    pictures = 2 if case["batch"] == "size" else 1
    prompts = 2 if case["prompt"] == "AND" else 1
    without = 2 if case["checkpoint"] == "edit" else 1
    return pictures * prompts, pictures * (prompts + without)


def unit_of_row(case: Case, row: int, conds: int) -> int | None:
    """The unit that acts on a row.

    The host puts each picture's prompts first, picture by picture, then all pictures once for each
    kind of row without the prompt.
    """
    if row >= conds and case["mode"] == CONTROL_FIRST:
        return None
    if case.get("batch_option") != "turns":
        return 0
    pictures = 2
    return row * pictures // conds if row < conds else (row - conds) % pictures


def factors(case: Case, is_hires: bool) -> tuple[float, ...]:
    """Strength of each layer."""
    layers = SDXL_LAYERS if is_sdxl(case) else LAYERS
    if case["strength"] == "layers":
        return SDXL_LAYER_WEIGHTS if is_sdxl(case) else LAYER_WEIGHTS
    if case["strength"] == "13 numbers":
        return MORE_WEIGHTS[:layers]
    weight = float(case["strength"])
    flat = case["mode"] == BALANCED
    if flat and not (is_hires and case["module"] in SOFT_IN_HIRES):
        return (weight,) * layers
    deepest = (SD1_LAYERS if is_sdxl(case) else layers) - 1
    return tuple(weight * FALL_OFF ** (deepest - layer) for layer in range(layers))
