"""Makes docs/memory.md: what passes of published sizes take, and what is chosen on small cards.

python docs/make_memory.py           seconds, on any machine: nothing is allocated
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "minihost"), str(ROOT)]

import torch  # noqa: E402
from bench_budgets import PUBLISHED  # noqa: E402
from support import controlnet_shapes, empty_unet, golden  # noqa: E402

from lib_controlnet.engine.memory import Between  # noqa: E402
from lib_controlnet.engine.memory_plan import (  # noqa: E402
    DECODER_BYTES,
    MARGIN,
    SLACK,
    UNET_NUMBERS,
    Demand,
    MemoryPlan,
    forecast,
)
from lib_controlnet.engine.network import Terms  # noqa: E402
from lib_controlnet.engine.pass_info import PassInfo  # noqa: E402
from lib_controlnet.engine.rehearsal import META  # noqa: E402
from lib_controlnet.engine.residency import Residency  # noqa: E402
from lib_controlnet.engine.unet import BaseUNet, describe_unet  # noqa: E402
from lib_controlnet.engine.window import Window  # noqa: E402
from lib_controlnet.families.controlnet import ControlNetNetwork  # noqa: E402
from lib_controlnet.families.residual import ResidualControl  # noqa: E402
from lib_controlnet.nets.cldm import ControlNet, read_params  # noqa: E402
from lib_controlnet.pictures.maps import Size  # noqa: E402
from lib_controlnet.pictures.placement import PassGeometry  # noqa: E402

PAGE: Final = DOCS / "memory.md"
GPU: Final = torch.device("cuda", 0)
HINT_WIDTHS: Final = (3, 16, 16, 32, 32, 96, 96, 256)
REST: Final = {"SD1": 0.33e9, "SDXL": 1.8e9}
"""Bytes of a checkpoint beside the U-Net, in half precision: text encoders and autoencoder."""

TAKEN: Final = 0.6e9
"""Bytes of a card that its driver and the desktop keep."""

STREAMED: Final = 0.3e9
"""Bytes of the U-Net's weights that lie on a card at a time with --lowvram."""

OPTIONS: Final = {"": Between.NEVER, "--medvram": Between.PASS, "--lowvram": Between.EVALUATION}


@dataclass(frozen=True)
class Case:
    """Units on a card.

    Attributes:
        card: its memory in GiB.
        option: with which the WebUI is started.
        kind: of the base.
        edge: of the picture.
        windows: of the units, each with a model of its own.
    """

    card: int
    option: str
    kind: str
    edge: int
    windows: tuple[tuple[float, float], ...]

    @property
    def title(self) -> str:
        """What the table calls it."""
        spans = "" if len(set(self.windows)) == 1 else " (0 to 0.5, 0.5 to 1)"
        return f"{self.kind}, {self.edge} x {self.edge}, {len(self.windows)}{spans}"

    @property
    def room(self) -> int:
        """Bytes that are free for control networks and steps."""
        unet = bytes_of(base_of(self.kind).module)
        lying = STREAMED if self.option == "--lowvram" else unet
        lying += 0 if self.option else REST[self.kind]
        return int(self.card * 2**30 - TAKEN - lying)


WHOLE: Final = (0.0, 1.0)
HALVES: Final = ((0.0, 0.5), (0.5, 1.0))
CASES: Final = (
    *(Case(24, "", "SDXL", 1024, (WHOLE,) * count) for count in (1, 2, 3)),
    *(Case(12, "", "SDXL", 1024, (WHOLE,) * count) for count in (1, 2, 3)),
    *(Case(8, "--medvram", "SDXL", 1024, (WHOLE,) * count) for count in (1, 2, 3)),
    Case(8, "--medvram", "SDXL", 1024, HALVES),
    Case(8, "--medvram", "SDXL", 1536, (WHOLE,)),
    *(Case(6, "--medvram", "SDXL", 1024, (WHOLE,) * count) for count in (1, 3)),
    *(Case(6, "--lowvram", "SDXL", 1024, (WHOLE,) * count) for count in (1, 2, 3)),
    *(Case(4, "--lowvram", "SDXL", 1024, (WHOLE,) * count) for count in (1, 3)),
    *(Case(4, "", "SD1", 512, (WHOLE,) * count) for count in (1, 2, 3)),
    Case(4, "--medvram", "SD1", 1024, (WHOLE,) * 3),
)
SIZES: Final = (("SD1", 512), ("SD1", 1024), ("SDXL", 1024), ("SDXL", 1536), ("SDXL", 2048))

HEAD: Final = """# Memory

Before a pass is sampled it is counted what control networks and the steps will take of the
graphics card at the worst moment, and compared with what is free there. If everything fits,
nothing changes and nothing is said. Else the first of these that fits is chosen, and said under
the picture and in the log:

1. Networks leave the card after each pass, so that the decoder has their room. Costs one copy a
   pass.
2. They are there between their start and end alone.
3. Where *Store control models in 8 bits* (Settings, ControlNet) is *When memory is short*: they
   are stored in 8 bits. This alone changes the picture, slightly; the parameters say `Stored: 8
   bit`. With *Never*, the default, it is not done.
4. They come layer by layer: of a model of 2.5 GB some 0.3 GB lie there at a time, and as much
   of the rest stays as there is room for. Costs a copy of what does not, in each evaluation.

Within each of these units and rows are evaluated together if they fit, else in halves down to
one row at a time, and hints are encoded in 8 strips. `--medvram` begins the
list at 1; with `--lowvram` or *Low VRAM* each network comes for its evaluation (turns), or else
layer by layer. The picture is the same in every way but 3; pieces of a batch may
differ by rounding.

What is counted beside weights: the very network is run on tensors that have shapes and no
memory (torch's meta device), once for each structure, size and precision; tests compare that
with torch's own account of an evaluation on the CPU, and it is within 4%. What the U-Net holds
is estimated from its width ({numbers} numbers for each cell, row and channel of its first
block, 1.1 to 1.8 times what the small WebUI's U-Net holds), and what the decoder needs
({decoder} KB a cell). To all of that a quarter is added, and {margin} MB. On devices whose
attention holds a matrix of all tokens by all tokens, that matrix counts.

What is free is asked of the driver once in a pass, and of torch, a share that
`torch.cuda.set_per_process_memory_fraction` has set included. Networks that lie on the card
already count as free, and so does what `--medvram` takes off it for the U-Net. On the CPU, and
on devices that do not tell (Apple's), nothing is counted.

If memory runs out in spite of it, because something else took it, an evaluation is made again
in halves, then layer by layer, and the rest of the pass goes on so, which is said once;
networks outside their start and end give way before any other. When nothing is left, the
generation stops with a sentence that says so. What runs out in the U-Net's own layers or in the
decoder is the WebUI's to handle.

Not counted: what the U-Net holds more where `reference_only` or StyleAlign act in it, Fooocus'
sums (which ask for themselves), and what other extensions take.

## What a pass takes

In half precision, MB, for a cond and an uncond row; by counting, see above.

"""

PLANS: Final = """
## What is chosen on small cards

**No graphics card has run this: the tables are what the code would choose, by its own count.**
Each unit has a ControlNet of its own (SDXL: 2.5 GB, SD 1.5: 0.7 GB); {taken:.1f} GB of a card
are its driver's and the desktop's; without an option the whole checkpoint lies there, with
`--medvram` the U-Net, with `--lowvram` parts of it. *Free* is what that leaves, *all* what
keeping everything would need, *needs* what the choice needs, in GB. `python dev.py bench
--device cuda --budgets` measures time and peak where there is a card.

| card, option | units | free | all | chosen | needs | where 8 bits are allowed | needs |
|---|---|---|---|---|---|---|---|
"""

TAIL: Final = """
`docs/make_memory.py` makes this page.
"""


def bytes_of(module: torch.nn.Module) -> int:
    """Bytes of a module's weights."""
    return sum(one.numel() * one.element_size() for one in module.parameters())


@lru_cache
def base_of(kind: str) -> BaseUNet:
    """A U-Net of published size, without memory."""
    unet = empty_unet(kind, **PUBLISHED[kind]).half()
    return BaseUNet(unet, describe_unet(unet), kind, kind)


@lru_cache
def network_of(kind: str, number: int) -> ControlNetNetwork:
    """A ControlNet of published size for it, without memory."""
    base = base_of(kind)
    shapes: Any = controlnet_shapes(base.module, HINT_WIDTHS)
    if kind == "SDXL":
        shapes = golden("sdxl_full_original")
    with META:
        module = ControlNet(read_params(shapes, lambda block, _width: base.shape.heads[block]))
    return ControlNetNetwork(f"{kind} {number}", module.half(), base.shape)


RESIDENCY: Final = Residency(1, 0)


def demand_of(
    kind: str, edge: int, windows: Sequence[tuple[float, float]], may_shrink: bool = False
) -> Demand:
    """What units ask for, each with a network of its own."""
    controls = []
    for number, window in enumerate(windows):
        network = network_of(kind, number)
        network.may_shrink = may_shrink
        terms = Terms(f"unit {number}", (1.0,) * network.layers, Window(*window))
        controls.append(ResidualControl(network, terms, torch.empty(0)))
    host: Any = SimpleNamespace(device=GPU, residency=RESIDENCY, network_dtype=torch.float16)
    geometry = PassGeometry.of_latent(Size(edge // 8, edge // 8))
    return forecast(controls, PassInfo(geometry, base_of(kind)), host)


def sizes() -> Iterator[str]:
    """The lines of the first table."""
    yield (
        "| picture | network's weights | its evaluation | of that residuals | its hint, whole | "
        "in 8 strips | U-Net's weights | its call | decoder |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for kind, edge in SIZES:
        demand = demand_of(kind, edge, [WHOLE])
        (load,) = demand.loads
        whole, strips = load.footprint(1), load.footprint(8)
        unet = bytes_of(base_of(kind).module)
        numbers = (
            *(load.weights, load.rows * whole.evaluation, load.rows * whole.residuals),
            *(whole.hint, strips.hint, unet, demand.unet, demand.after),
        )
        cells = [f"{number / 1e6:.0f}" for number in numbers]
        yield f"| {kind}, {edge} x {edge} | {' | '.join(cells)} |"


SHORT: Final = {
    Between.NEVER: "keep",
    Between.PASS: "leave after the pass",
    Between.WINDOW: "there from start to end",
    Between.EVALUATION: "take turns",
    Between.LAYER: "layer by layer",
}


def describe(plan: MemoryPlan) -> str:
    """A plan in few words."""
    said = ["8 bits"] if plan.shrinks else []
    said.append(SHORT[plan.between])
    if plan.staying:
        said.append(f"up to {plan.staying / 1e9:.1f} GB of each stay")
    if plan.pieces.batch:
        said.append(f"{plan.pieces.batch} row at a time")
    elif plan.pieces.strips > 1:
        said.append("hints in strips")
    return ", ".join(said)


def row_of(case: Case) -> str:
    """A line of the second table."""
    exact = demand_of(case.kind, case.edge, case.windows)
    small = demand_of(case.kind, case.edge, case.windows, may_shrink=True)
    first = OPTIONS[case.option]
    cells = [f"{case.room / 1e9:.1f}", f"{exact.need(MemoryPlan(Between.NEVER)) / 1e9:.1f}"]
    for demand in (exact, small):
        plan = demand.find_plan(case.room, first)
        need = demand.need(plan)
        cells += [describe(plan), f"{need / 1e9:.1f}" + " (does not fit)" * (need > case.room)]
    card = f"{case.card} GB {case.option}".strip()
    return f"| {card} | {case.title} | {' | '.join(cells)} |"


def head() -> str:
    """What the page says before its tables."""
    assert SLACK == 1.25, "the page says a quarter"
    decoder, margin = round(DECODER_BYTES / 1000), round(MARGIN / 1e6)
    return HEAD.format(numbers=UNET_NUMBERS, decoder=decoder, margin=margin)


def plans_head() -> str:
    """What it says before the second one."""
    return PLANS.format(taken=TAKEN / 1e9)


def page() -> str:
    """The whole page."""
    parts = [head(), *(f"{line}\n" for line in sizes()), plans_head()]
    return "".join([*parts, *(f"{row_of(case)}\n" for case in CASES), TAIL])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
