"""What a step with one unit of each control family costs: time, operations and memory.

The rows are made of the families themselves, with the tiny network that each of them offers; a new
file in `lib_controlnet/families/` has its rows without a word here. What else of a family is
measured, and what it may cost, stands in two tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Final

import sessions
import support
from measures import MemoryTrace, flops
from sessions import FakeHost
from torch import Tensor

from lib_controlnet.engine.network import ControlNetwork, GuideKind
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.prepared import PreparedUnit
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.families import discover
from lib_controlnet.families.base import ControlFamily
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry

KINDS: Final = ("SD1", "SDXL")

TYPES: Final = (
    ControlNetUnionControlType.DEPTH,
    ControlNetUnionControlType.HARD_EDGE,
    ControlNetUnionControlType.OPENPOSE,
)
"""What the pictures of units show, where a network asks."""

PLAIN: Final = "ControlNet"
"""The family whose network reads the tokens of another one."""

STYLE_ALIGN: Final = "StyleAlign"


@dataclass(frozen=True)
class Variant:
    """Units of a family whose cost is measured together.

    Attributes:
        preprocessor: of a family without files.
        units: how many, each with another picture.
        pictures: of each unit, where it reads embeddings.
        seed: of the tiny network, which may tell its kind.
        lends: a ControlNet beside them reads their tokens in the place of the text.
        label: what tells the row from others of its family.
    """

    preprocessor: str = ""
    units: int = 1
    pictures: int = 1
    seed: int = 0
    lends: bool = False
    label: str = ""

    @property
    def network(self) -> tuple[str, int]:
        """Equal for variants on the same network."""
        return self.preprocessor, self.seed

    def name(self, family: str) -> str:
        """What the table calls it."""
        return " ".join(filter(None, (self.preprocessor or family, self.label)))


FURTHER: Final = {
    "ControlNet Union": (Variant(units=2, label="x 2"), Variant(units=3, label="x 3")),
    "IP-Adapter": (Variant(pictures=4, label="with 4 pictures"),),
    "InstantID": (Variant(lends=True, label="with its network"),),
    "Reference": (
        Variant("reference_adain", units=2, label="x 2"),
        Variant("reference_only", units=2, label="x 2"),
    ),
    "SparseCtrl": (Variant(seed=1, label="(rgb)"),),
}
"""What is measured of a family beside one unit of each of its preprocessors."""


@dataclass(frozen=True)
class Limit:
    """What a row may cost in a step, as shares of the U-Net's own.

    Attributes:
        work: operations in a step after the first one of a pass.
        time: CPU time of such a step.
        memory: the most that is held beside the weights in a pass, beyond the U-Net's own.
    """

    work: float = 0.5
    time: float = 0.6
    memory: float = 1.0


PROMPT: Final = Limit(0.01, 0.1, 0.1)
SEES: Final = Limit(2.5, 3.5, 1.0)

LIMITS: Final = {
    "ControlNet": Limit(0.45, 0.55, 0.5),
    "Control-LoRA": Limit(0.45, 0.55, 0.5),
    "ControlNet Union": Limit(0.45, 0.55, 0.5),
    "SparseCtrl": Limit(0.5, 0.7, 0.5),
    "T2I-Adapter": Limit(0.0, 0.03, 0.2),
    "T2I-Adapter (style)": PROMPT,
    "ControlNet-LLLite": Limit(0.01, 0.1, 0.2),
    "IP-Adapter": PROMPT,
    "InstantID": PROMPT,
    "InstantID with its network": Limit(0.46, 0.65, 0.6),
    "IP-Adapter-FaceID": Limit(0.02, 0.2, 0.1),
    "PuLID": Limit(0.02, 0.2, 0.2),  # keys of 18 tokens at its smallest, and not of 4
    "reference_adain": Limit(0.7, 0.9, 0.2),
    "reference_adain x 2": Limit(1.4, 1.8, 1.0),
    "Reference": SEES,
    "reference_only x 2": Limit(4.5, 6.0, 2.5),
    "Fooocus inpaint": Limit(0.01, 0.1, 7.0),
    "Revision": Limit(0.0, 0.03, 0.02),
    "StyleAlign": Limit(0.5, 0.6, 0.6),
}
"""By the name of a row, or else of its family; one without an entry may cost half of the U-Net's.

A ControlNet is a copy of the encoder, and holds as many residuals as the U-Net holds skips; units
of one Union are one evaluation. A T2I-Adapter is evaluated once for a picture: a step costs
additions. Image prompts have their keys and values made once in a pass. Reference units look at
their pictures in one more call, as far as the last layer that is read, and keep what its layers
make until the next call; with style fidelity their attention over twice the tokens stands beside
the plain one. Fooocus' patch, here of a third of the tensors, is summed with the U-Net's weights
once in a pass: what it holds are these weights once more."""


class Rig:
    """A U-Net and one call of it.

    Args:
        kind: of the base.
        width: its model_channels.
        latent: edge of the latent.
        images: pictures of the batch, each with a cond and an uncond row.
    """

    def __init__(self, kind: str, width: int, latent: int, images: int = 1) -> None:
        unet = support.empty_unet(kind, model_channels=width).to_empty(device="cpu")
        self.kind, self.latent = kind, latent
        self.base = BaseUNet(support.randomise(unet, 1), describe_unet(unet), "bench", "bench")
        self.layout = build_layout([1] * images, images, 2 * images)
        self.info = PassInfo(
            PassGeometry.of_latent(Size(latent, latent)),
            self.base,
            images=images,
            seeds=tuple(range(images)),
            alphas=FakeHost.alphas,
        )
        given = support.inputs(kind, rows=2 * images, size=(latent, latent))
        self.call: Callable[[], Tensor] = partial(unet, **given)
        self.weights = sum(parameter.nbytes for parameter in unet.parameters())

    @cached_property
    def work(self) -> int:
        """Operations of a call."""
        return flops(self.call)

    @cached_property
    def peak(self) -> int:
        """The most bytes that a call holds at a time, beside the weights."""
        return MemoryTrace().peak(self.call)

    def step(self, session: ControlSession) -> None:
        """One call that the units of a session act in."""
        session.begin_evaluation(self.layout, 0.5)
        self.call()


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: what the table calls it.
        family: of its units; of none for what belongs to the generation.
        rig: the U-Net.
        units: what acts.
        aligns: the pictures of the batch share their style.
    """

    name: str
    family: str
    rig: Rig
    units: tuple[PreparedUnit, ...]
    aligns: bool = False

    @property
    def limit(self) -> Limit:
        """What it may cost."""
        return LIMITS.get(self.name) or LIMITS.get(self.family) or Limit()

    def session(self) -> ControlSession:
        """A session that is not yet bound."""
        return ControlSession(FakeHost(), self.units, aligns=self.aligns)


def find_cases(rig: Rig) -> Iterator[Case]:
    """A row for each family, preprocessor and further variant that there is for a base."""
    for family in discover():
        yield from cases_of(family, rig)


def cases_of(family: ControlFamily, rig: Rig) -> Iterator[Case]:
    """The rows of one family; none where it has no network for the base."""
    if rig.base.shape.kind not in family.bases:
        return
    made: dict[tuple[str, int], ControlNetwork] = {}
    names = family.preprocessors or ("",)
    for variant in (*map(Variant, names), *FURTHER.get(family.name, ())):
        if variant.network not in made:
            name, seed = variant.network
            made[variant.network] = (
                family.make(rig.base, name) if name else family.tiny(rig.base, seed)
            )
        network = made[variant.network]
        units = [make_unit(network, number, variant.pictures) for number in range(variant.units)]
        if variant.lends:
            units.append(make_reader(family, rig.base))
        yield Case(variant.name(family.name), family.name, rig, tuple(units))


def make_reader(lender: ControlFamily, base: BaseUNet) -> PreparedUnit:
    """A unit with a ControlNet that reads another family's tokens in the place of the text."""
    network = next(one for one in discover() if one.name == PLAIN).tiny(base)
    unit = make_unit(network, 0)
    unit.partner = lender.name
    return unit


def make_unit(network: ControlNetwork, number: int, pictures: int = 1) -> PreparedUnit:
    """A unit with a picture of its own, or with several that it reads embeddings of."""
    unit = sessions.prepared(network, number, union_control_type=TYPES[number])
    if network.wants.kind is GuideKind.EMBEDDING:
        seeds = range(number, number + pictures)
        unit.embeddings = (tuple(sessions.embedding(network, seed) for seed in seeds),)
    return unit


@dataclass(frozen=True)
class Cost:
    """What a row costs.

    Attributes:
        time: CPU time of a step after the first one of a pass, as a share of the U-Net's.
        work: operations of such a step, as a share of the U-Net's.
        memory: the most bytes that a step holds at a time, the first one included, beyond the
            U-Net's own and beside weights.
        stays: bytes between steps.
        weights: bytes of the networks.
    """

    time: float
    work: float
    memory: int
    stays: int
    weights: int

    def row(self, case: Case) -> str:
        """A line of the table."""
        limit, rig = case.limit, case.rig
        memory = self.memory / rig.peak
        holds = self.time <= limit.time and self.work <= limit.work and memory <= limit.memory
        cells = (
            *(case.name, f"{self.time:.1%}", f"{self.work:.2%}"),
            *(f"{self.memory / 1e6:.1f}", f"{memory:.0%}", f"{self.stays / 1e6:.1f}"),
            f"{self.weights / rig.weights:.1%}",
            f"{limit.time:.0%}, {limit.work:.1%}, {limit.memory:.0%}",
            "yes" if holds else "NO",
        )
        return f"| {' | '.join(cells)} |"


def measure(case: Case, rounds: int) -> Cost:
    """Operations and memory, which are the same in every run, and time in turns with the U-Net's.

    Args:
        case: the row.
        rounds: how often it is timed.
    """
    rig, session, trace = case.rig, case.session(), MemoryTrace()
    step = partial(rig.step, session)
    trace.peak(lambda: session.begin_pass(rig.info))
    with session.sampling(rig.base.module):
        most = max(trace.peak(step) for _ in range(2))
        stays = trace.held
        work = flops(step)
    networks = {id(control.network): control.network for control in session.active}
    return Cost(
        time_step(rig, session, rounds),
        work / rig.work - 1,
        max(most - rig.peak, 0),
        stays,
        sum(network.nbytes for network in networks.values()),
    )


def time_step(rig: Rig, session: ControlSession, rounds: int) -> float:
    """What a step takes beyond the U-Net's call, as a share of that: of each the least of a few.

    They take turns; other work on the machine only ever adds to a time. Hooks stay on the U-Net as
    long as a session samples, so each turn makes one step that fills the caches before the one that
    counts.
    """
    alone, steps = [], []
    for _ in range(rounds):
        alone.append(clock(rig.call))
        with session.sampling(rig.base.module):
            rig.step(session)
            steps.append(clock(partial(rig.step, session)))
    return min(steps) / min(alone) - 1


def clock(call: Callable[[], object]) -> float:
    """CPU time of a call, in seconds."""
    started = time.thread_time()
    call()
    return time.thread_time() - started


HEADS: Final = (
    *("CPU time", "operations", "MB", "memory", "MB that stay", "weights"),
    *("at most (time, operations, memory)", "holds"),
)


def print_table(width: int, latent: int, rounds: int) -> bool:
    """Measure and print all rows, base by base.

    Returns:
        Whether all targets hold.
    """
    holds = True
    for kind in KINDS:
        rig, batch = Rig(kind, width, latent), Rig(kind, width, latent, images=2)
        print(f"\n{kind}; the U-Net takes {rig.peak / 1e6:.1f} MB beside its weights\n")
        print(f"| | {' | '.join(HEADS)} |\n|{'---|' * (len(HEADS) + 1)}")
        for case in (*find_cases(rig), Case(STYLE_ALIGN, "", batch, (), aligns=True)):
            row = measure(case, rounds).row(case)
            holds = holds and "NO" not in row
            print(row, flush=True)
    return holds
