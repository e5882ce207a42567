"""`python dev.py bench --device cuda --budgets 8 6`: steps where the device has less memory.

A U-Net and ControlNets of published size, which torch gives no more than so many GiB of the device;
what the extension chooses there, what that takes, and how far its result is from that without a
budget. The weights are random; three files of SDXL take 7.5 GB of disk and 20 GB of main memory.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from bench_device import MEGABYTE, Device, Rig, Variant
from bench_http.tables import NOTHING, spread
from torch import Tensor

from lib_controlnet.errors import ControlNetError, is_out_of_memory

PUBLISHED: Final[Mapping[str, Mapping[str, Any]]] = {
    "SD1": {"model_channels": 320, "context_dim": 768},
    "SDXL": {
        "model_channels": 320,
        "num_head_channels": 64,
        "context_dim": 2048,
        "adm_in_channels": 2816,
        "transformer_depth": (0, 2, 10),
    },
}
"""What is wider in published U-Nets than in those of the tests."""

LATENTS: Final = {"SD1": 64, "SDXL": 128}
GIB: Final = 2**30

VARIANTS: Final = (
    Variant("no unit"),
    Variant("one unit", (0,)),
    Variant("two units, two models", (0, 1)),
    Variant("three units, three models", (0, 1, 2)),
)


@dataclass
class Found:
    """What a variant took in a budget.

    Attributes:
        seconds: of a step, one number per round.
        peaks: bytes, one number per round.
        output: of the U-Net.
        said: what the extension said, or why there is no output.
    """

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    output: Tensor | None = None
    said: str = ""


@contextmanager
def limit(device: Device, budget: float | None) -> Iterator[None]:
    """Torch takes no more than so many GiB of a CUDA device inside."""
    if budget is None:
        yield
        return
    total = torch.cuda.get_device_properties(device.name).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(budget * GIB / total, 1.0), device.name)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device.name)


def measure_variant(rig: Rig, variant: Variant, rounds: int) -> Found:
    """A step that fills the caches, then those that count."""
    found = Found()
    try:
        with rig.running(variant) as step:
            step()
            for _ in range(rounds):
                rig.device.forget_peak()
                started = rig.device.now()
                output = step()
                found.seconds.append(rig.device.now() - started)
                peak = rig.device.peak()
                found.peaks += [] if peak is None else [peak]
            found.output = output.cpu()
    except Exception as error:  # each device has its own for this
        if not isinstance(error, ControlNetError) and not is_out_of_memory(error):
            raise
        found.said = f"{type(error).__name__}: {error}".splitlines()[0]
        return found
    found.said = " ".join(rig.said).replace("ControlNet: ", "")
    return found


def table(kind: str, exact: Mapping[Variant, Found], taken: Mapping[Variant, Found]) -> str:
    """A line for each variant of a budget."""
    lines = [f"| {kind} | ms per step | / without a budget | peak MB | differs by | chosen |"]
    lines.append("|---|---|---|---|---|---|")
    for variant, found in taken.items():
        other = exact[variant]
        milliseconds = [1e3 * value for value in found.seconds]
        pairs = zip(found.seconds, other.seconds, strict=False)
        ratios = [value / whole for value, whole in pairs]
        peak = f"{statistics.median(found.peaks) / MEGABYTE:.0f}" if found.peaks else NOTHING
        differs = NOTHING
        if found.output is not None and other.output is not None:
            differs = f"{(found.output.float() - other.output.float()).abs().max():.1g}"
        cells = [spread(milliseconds, 1), spread(ratios, 2), peak, differs, found.said or "keep"]
        lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bench_budgets(name: str, budgets: Sequence[float], rounds: int) -> int:
    """Measure and print.

    Returns:
        Exit status, 1 if the device cannot be used, or be given less memory.
    """
    device = Device(name)
    lacking = device.lacks()
    if not lacking and device.kind != "cuda":
        lacking = f"--budgets needs a CUDA device; torch cannot limit the memory of {name}"
    if lacking:
        print(lacking)
        return 1
    for kind, changes in PUBLISHED.items():
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            rig = Rig(kind, 320, LATENTS[kind], device, Path(folder), changes)
            exact: dict[Variant, Found] = {}
            for budget in (None, *budgets):
                with limit(device, budget):
                    taken = {variant: measure_variant(rig, variant, rounds) for variant in VARIANTS}
                exact = exact or taken
                title = "no budget" if budget is None else f"{budget:g} GiB"
                print(f"{title}\n\n{table(kind, exact, taken)}\n", flush=True)
    return 0
