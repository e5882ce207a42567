"""What docs/speed.md says of reuse within the U-Net: an experiment, no part of the extension.

Beside units at Fast the U-Net leaves out blocks in some evaluations, and goes on with what they
gave last: its encoder and middle block (Faster Diffusion, arXiv:2312.09608), or all but the
outermost level (DeepCache, arXiv:2312.00858).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import demo
import numpy as np
import speed_runs as runs
import torch
import torch.nn.functional as F
from adherence import edge_f1
from minildm.unet import timestep_embedding
from torch import Tensor

from lib_controlnet.engine.key_steps import PACES
from lib_controlnet.enums import Speed

STEPS: Final = 20
SAMPLER: Final = runs.SAMPLERS[0]
SCENES: Final = 4
FIRST_SCENE: Final = 200
OUTER: Final = 3
"""Blocks of the outermost level, of the encoder and of the decoder."""


def _choose_paced() -> frozenset[int]:
    """The evaluations in which a unit at Fast evaluates its network."""
    pace = PACES[Speed.FAST]
    keys = min(int(pace.share * STEPS), pace.most)
    levels = [int(keys * (i / STEPS) ** (1 / pace.crowding) + 1e-6) for i in range(STEPS)]
    return frozenset({0} | {i for i in range(1, STEPS) if levels[i] > levels[i - 1]})


PACED: Final = _choose_paced()
HALF: Final = frozenset(range(0, STEPS, 2))
EXACT, FAST, NOTHING = "Exact", "Fast", f"Nothing, {STEPS} of {STEPS}"


@dataclass(frozen=True)
class Variant:
    """What is evaluated when.

    Attributes:
        speed: of the units.
        reuses: "encoder", "inner", or nothing.
        keys: evaluations in which all of the U-Net is evaluated.
    """

    speed: str
    reuses: str = ""
    keys: frozenset[int] = frozenset(range(STEPS))


VARIANTS: Final = {
    EXACT: Variant(EXACT),
    NOTHING: Variant(FAST),
    f"Encoder, {len(PACED)} of {STEPS}": Variant(FAST, "encoder", PACED),
    f"Encoder, {len(HALF)} of {STEPS}": Variant(FAST, "encoder", HALF),
    f"Inner levels, {len(PACED)} of {STEPS}": Variant(FAST, "inner", PACED),
    f"Inner levels, {len(HALF)} of {STEPS}": Variant(FAST, "inner", HALF),
}


@dataclass(eq=False)
class Thinned:
    """The forward of a U-Net that leaves out blocks in some of its calls.

    Attributes:
        unet: the small host's.
        variant: when, and which.
        calls: how many there were.
        seconds: CPU time within them; control networks are evaluated before.
    """

    unet: Any
    variant: Variant
    calls: int = 0
    seconds: float = 0.0
    _kept: list[Tensor] = field(default_factory=list)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """See `minildm.unet.UNetModel.forward`."""
        started = time.thread_time()
        made = self._evaluate(x, timesteps, context, self.calls in self.variant.keys)
        self.seconds += time.thread_time() - started
        self.calls += 1
        return made

    def _evaluate(self, x: Tensor, timesteps: Tensor, context: Tensor, is_key: bool) -> Tensor:
        unet, reuses = self.unet, self.variant.reuses
        emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels))
        blocks = list(unet.output_blocks)
        if is_key:
            skips = self._encode(x, emb, context, len(unet.input_blocks))
            h = unet.middle_block(skips[-1], emb, context)
            if reuses == "encoder":
                self._kept = [*skips, h]
        elif reuses == "encoder":
            *skips, h = self._kept
        else:
            skips, h = self._encode(x, emb, context, OUTER), self._kept[0]
            blocks = blocks[-OUTER:]
        for number, block in enumerate(blocks, OUTER - len(blocks)):
            if number == 0 and reuses == "inner":
                self._kept = [h]
            skip = skips.pop()
            if h.shape[-2:] != skip.shape[-2:]:
                h = F.interpolate(h, skip.shape[-2:], mode="nearest")
            h = block(torch.cat([h, skip], dim=1), emb, context)
        return unet.out(h)

    def _encode(self, x: Tensor, emb: Tensor, context: Tensor, count: int) -> list[Tensor]:
        skips, h = [], x
        for block in self.unet.input_blocks[:count]:
            h = block(h, emb, context)
            skips.append(h)
        return skips


@contextmanager
def _thin_out(variant: Variant) -> Iterator[Thinned]:
    from modules import shared

    unet = shared.sd_model.model.diffusion_model
    thinned = Thinned(unet, variant)
    unet.forward = lambda x, timesteps, context, **_: thinned.forward(x, timesteps, context)
    try:
        yield thinned
    finally:
        del unet.forward


def measure(folder: Path) -> None:
    """Do the runs that the results lack; written after every one."""
    results = runs.load()
    found: dict[str, Any] = results["unet"]
    keys = [f"{scene} {units}" for scene in range(SCENES) for units in runs.UNITS]
    if all(f"{key} {name}" in found for key in keys for name in VARIANTS):
        return
    studio = demo.Studio(runs.SIZE, folder, STEPS)
    for key in keys:
        scene, units = map(int, key.split())
        exact = np.zeros(())
        for name, variant in VARIANTS.items():
            case = runs.Case(FIRST_SCENE + scene, units, SAMPLER, STEPS, variant.speed)
            with _thin_out(variant) as thinned:
                pictures, lines, _made = runs.make_pictures(studio, case)
            if thinned.calls != STEPS:
                msg = f"{thinned.calls} calls of the U-Net, {STEPS} were expected"
                raise RuntimeError(msg)
            exact = pictures if name == EXACT else exact
            found[f"{key} {name}"] = {
                "f1": [round(edge_f1(picture, lines), 4) for picture in pictures],
                "difference": round(float(np.abs(pictures.astype(float) - exact).mean()), 3),
                "seconds": round(thinned.seconds, 3),
            }
            runs.save(results)
            runs.say(f"{key} {name}: {found[f'{key} {name}']}")


HEAD: Final = """
## Why the U-Net itself is not thinned

Papers go further and reuse what the U-Net has computed: its encoder and middle block (Faster
Diffusion), or all but its outermost level (DeepCache). Tried beside units at Fast: all of the U-Net
in the evaluations that are named, what it gave kept between; {steps} steps of {sampler}, {count}
pictures. *Time* is the U-Net's CPU time as a share of the whole one's; the others as above.

| reused, all evaluated in | time | 1 unit: change of F1, diff | 3 units: change of F1, diff |
|---|---|---|---|
"""

LEFT_OUT: Final = """
So there is something to be had: on the demo's small U-Net, reuse of the inner levels costs nothing
that can be told from Fast. It is left out, since it cannot be kept right beside others:

- A U-Net's blocks are called by the host; to leave some out is to put something in the place of
  their `forward`. Whatever a neighbour does inside them then happens in some evaluations only, and
  nobody tells it. Regional Prompter finds out which call is for the negative prompt by counting
  cross attentions: behind the first shorter call it takes the prompts the wrong way round.
- A LoRA is laid into a layer's weights when the layer is called. One that another extension
  strengthens or ends in mid-sampling would be new in the blocks that are called and old in what is
  kept; the host does not say that it changed.
- Token merging and hypertile replace functions inside the blocks as well. Neighbours that bear to
  be left out and those that do not look the same from here, so it cannot be refused beside these.
- What other units do inside the blocks (IP-Adapter, reference, LLLite) would begin and end at
  another step than their windows say.

A refiner, other prompts and other rows would be no obstacle: there all is evaluated anyway. A
control network is called by nobody else, and has no neighbours inside it; there reuse is right.
"""


def section(results: dict[str, Any]) -> str:
    """What reuse within the U-Net would save and cost, and why it is left out."""
    whole = _mean_time(results, EXACT)
    lines = []
    for name in list(VARIANTS)[1:]:
        cells = [name, f"{_mean_time(results, name) / whole:.2f}"]
        for units in runs.UNITS:
            f1, exact, changed = (
                statistics.mean(values(results, units, *one))
                for one in ((name, "f1"), (EXACT, "f1"), (name, "difference"))
            )
            cells.append(f"{f1 - exact:+.3f}, {changed:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    count = SCENES * runs.SEEDS
    head = HEAD.format(steps=STEPS, sampler=SAMPLER, count=count)
    return head + "\n".join(lines) + "\n" + LEFT_OUT


def _mean_time(results: dict[str, Any], name: str) -> float:
    return statistics.mean(
        s for units in runs.UNITS for s in values(results, units, name, "seconds")
    )


def values(results: dict[str, Any], units: int, name: str, measured: str) -> list[float]:
    """A measure of one variant, of each picture or scene."""
    found: list[float] = []
    for scene in range(SCENES):
        value = results["unet"][f"{scene} {units} {name}"][measured]
        found += value if isinstance(value, list) else [value]
    return found
