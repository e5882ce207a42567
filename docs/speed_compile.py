"""What docs/speed.md says of `torch.compile`: an experiment, no part of the extension."""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import bench
import speed_runs as runs
import torch
from torch import Tensor, nn

LATENT: Final = 32
WIDTHS: Final = (64, 320)
ROUNDS: Final = 5
NOISE: Final = 0.02
"""Share of a time by which two measurements of one thing differ."""

TEXT: Final = """
## `torch.compile`

Not offered. The blocks of a ControlNet of SD1.5's structure, compiled for one size on the CPU by
torch {version}, one thread, latent {latent} x {latent}, cond and uncond:

| channels | to compile, CPU s | an evaluation | compiled | share | has paid after evaluations |
|---|---|---|---|---|---|
{rows}

Convolutions and products are the same libraries' either way, and take most of the time; what is
fused between them is little, as maps and tokens share a layout already. For that each network would
be compiled anew for every size and number of rows, on machines that have a C++ compiler. On
graphics cards it could not be measured here, and nothing is offered whose gain is unknown.
"""


def measure() -> None:
    """Do what the results lack: minutes of compiling for each width."""
    results = runs.load()
    for width in WIDTHS:
        if str(width) not in results["compiled"]:
            results["compiled"][str(width)] = _measure(width)
            runs.save(results)
            runs.say(f"compiled, {width} channels: {results['compiled'][str(width)]}")


@torch.no_grad()
def _measure(width: int) -> dict[str, Any]:
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # whose time is counted
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        rig = bench.Rig(width, LATENT, Path(folder))
        plain: Any = rig.network.module
        compiled = copy.deepcopy(plain)
        for block in (*compiled.input_blocks, compiled.middle_block):
            block.forward = torch.compile(block.forward, dynamic=False)
        rig.x = rig.x[:1].expand(bench.ROWS, -1, -1, -1)
        hint = plain.encode_hint(torch.rand(1, 3, 8 * LATENT, 8 * LATENT))
        expected, started = _evaluate(rig, plain, hint), _used()
        made = _evaluate(rig, compiled, hint)
        compiling = _used() - started
        for one, other in zip(expected, made, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        taken: tuple[list[float], ...] = ([], [])
        for _ in range(ROUNDS):
            for network, found in zip((plain, compiled), taken, strict=True):
                began = time.thread_time()
                _evaluate(rig, network, hint)
                found.append(time.thread_time() - began)
    seconds = [round(statistics.median(found), 4) for found in taken]
    return {
        "compiling": round(compiling, 1),
        "plain": seconds[0],
        "compiled": seconds[1],
        "torch": torch.__version__.split("+")[0],
    }


def _evaluate(rig: bench.Rig, network: nn.Module, hint: Tensor) -> list[Tensor]:
    return network(rig.x, rig.timesteps, rig.context, None, hint, [True] * 13)


def _used() -> float:
    """CPU seconds of this process and of the compilers that it called."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def section(results: dict[str, Any]) -> str:
    """What compiling would save, and why it is left out."""
    rows = []
    for width in WIDTHS:
        found = results["compiled"][str(width)]
        saved = found["plain"] - found["compiled"]
        is_told = saved > NOISE * found["plain"]
        paid = f"{found['compiling'] / saved:,.0f}" if is_told else "no gain to be told"
        cells = (str(width), f"{found['compiling']:.0f}", f"{found['plain']:.2f}")
        more = (f"{found['compiled']:.2f}", f"{found['compiled'] / found['plain']:.2f}", paid)
        rows.append(f"| {' | '.join((*cells, *more))} |")
    version = results["compiled"][str(WIDTHS[0])]["torch"]
    return TEXT.format(version=version, latent=LATENT, rows="\n".join(rows))
