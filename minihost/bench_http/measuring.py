"""Generations on several servers, in turn: which models act there, then the rounds."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from bench_http.meters import Meter
from bench_http.server import BenchError, ServerError
from bench_http.variants import (
    KEYS,
    MODES,
    MOST_MODELS,
    NONE,
    ONE,
    THREE,
    Scenery,
    Variant,
    distance,
    pixels,
    variants_for,
)

TYPES: Final = (
    ("Canny", "Depth", "Scribble", "Lineart", "SoftEdge", "OpenPose", "NormalMap")
    + ("Segmentation", "MLSD", "Tile", "Inpaint")
)  # fmt: skip
"""Control types whose models are tried, in this order."""
OTHER_FAMILIES: Final = ("lora", "lllite", "adapter", "t2i", "union", "sparse", "instant")
"""Models with such names are tried last: they are not what a ControlNet costs."""
MOST_TRIES: Final = 12
BATCHES: Final = (NONE, ONE, THREE)
"""Variants whose batches are measured."""
NEW, AGAIN, LONG, BATCH, FIRST, SWITCHED = "new", "again", "long", "batch", "first", "switched"
"""Kinds of picture: of a new drawing after other models, the same again, the same with more steps,
several in a batch, the first with a model, and with another model each time."""


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    Attributes:
        few: steps of the short pictures.
        many: steps of the long ones.
        batch: pictures in a batch; 1 leaves batches out.
        rounds: turns of every variant on every server.
        deadline: `time.monotonic()` after which no further turn begins.
        keys: of the variants that are measured.
    """

    few: int
    many: int
    batch: int
    rounds: int
    deadline: float
    keys: tuple[str, ...] = KEYS


@dataclass
class Site:
    """A server in the measurement of one checkpoint.

    Attributes:
        meter: measures it.
        scenery: with the checkpoint as it spells it.
        models: those chosen, as it spells them.
        plain: its picture without units, uint8 (H, W, 3).
        noise: how far the same picture differed from it.
        seconds: by variant and kind of picture, one number per round.
        peaks: highest bytes by variant and place, one number per round.
        pictures: made so far.
    """

    meter: Meter
    scenery: Scenery
    models: list[str] = field(default_factory=list)
    plain: np.ndarray = field(default_factory=lambda: np.zeros((1, 1, 3), np.uint8))
    noise: float = 0.0
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    pictures: int = 0

    @property
    def name(self) -> str:
        """Heads its columns."""
        return self.meter.server.name

    def generate(
        self, models: Sequence[str], mode: str, shown: int, steps: int, count: int = 1
    ) -> tuple[float, np.ndarray]:
        """Make pictures.

        Returns:
            Seconds, and the first picture, uint8 (H, W, 3).

        Raises:
            ServerError: the server refuses, or answers without a picture.
        """
        body = self.scenery.body(models, mode, shown, steps, count)
        started = self.meter.now()
        answer = self.meter.server.post("/sdapi/v1/txt2img", body)
        seconds = self.meter.now() - started
        try:
            picture = pixels(answer)
        except (ValueError, AttributeError) as error:
            msg = f"{self.meter.server.url} answered /sdapi/v1/txt2img without a picture"
            raise ServerError(msg) from error
        self.pictures += count
        return seconds, picture

    def keep_peaks(self, key: str) -> None:
        """Note the memory of what was watched last."""
        for place, size in self.meter.peaks.items():
            self.peaks[key, place].append(size)

    def check_acts(self, picture: np.ndarray, what: str) -> None:
        """Refuse to time units that change nothing.

        Raises:
            ServerError: the picture is the one without units, as far as that one repeats.
        """
        if distance(picture, self.plain) <= 2 * self.noise:
            msg = (
                f"{self.meter.server.url} made the same picture with {what} as without: the unit "
                "did nothing (does its model fit the checkpoint? the server's log may tell)"
            )
            raise ServerError(msg)


def choose_models(
    sites: Sequence[Site], wanted: Sequence[str], plan: Plan, say: Callable[[str], None]
) -> list[str]:
    """Find up to three control models that act on every server, and time their first pictures.

    Args:
        sites: of one checkpoint.
        wanted: names without hash; empty to choose from what all of them have.
        plan: for the steps.
        say: is told what was left out, and why.

    Returns:
        Names without hash.

    Raises:
        BenchError: none acts.
    """
    for site in sites:
        _, site.plain = site.generate((), MODES[0], 0, plan.few)
        _, other = site.generate((), MODES[0], 0, plan.few)
        site.noise = distance(site.plain, other)
    offered = [site.meter.server.control_models() for site in sites]
    chosen: list[str] = []
    reasons: list[str] = []
    for name in (wanted or candidates(sites, offered))[:MOST_TRIES]:
        if len(chosen) == MOST_MODELS or time.monotonic() > plan.deadline:
            break
        try:
            firsts = [
                first_picture(site, models, name, plan)
                for site, models in zip(sites, offered, strict=True)
            ]
        except ServerError as error:
            reasons.append(str(error))
            say(f"left out: {error}")
            continue
        chosen.append(name)
        for site, models, seconds in zip(sites, offered, firsts, strict=True):
            site.models.append(models[name])
            site.seconds[ONE, FIRST].append(seconds)
            site.keep_peaks(FIRST)
    if not chosen:
        msg = "no control model acts with this checkpoint" + (
            f": {reasons[0]}" if reasons else "; name one with --control"
        )
        raise BenchError(msg)
    return chosen


def first_picture(site: Site, models: Mapping[str, str], name: str, plan: Plan) -> float:
    """Seconds of a picture with a model that this server was not asked for before.

    Raises:
        ServerError: it has no such model, refuses it, or the model does nothing.
    """
    if name not in models:
        msg = f"{site.meter.server.url} has no control model {name}"
        raise ServerError(msg)
    with site.meter.watching():
        seconds, picture = site.generate((models[name],), MODES[0], 0, plan.few)
    site.check_acts(picture, name)
    return seconds


def candidates(sites: Sequence[Site], offered: Sequence[dict[str, str]]) -> list[str]:
    """Names that every server offers, plain ControlNets of the usual types first."""
    types = sites[0].meter.server.models_by_type()
    names = [name for kind in TYPES for name in types.get(kind, ())] + list(offered[0])
    common = [name for name in dict.fromkeys(names) if all(name in models for models in offered)]
    return sorted(common, key=lambda name: any(word in name.lower() for word in OTHER_FAMILIES))


def run_rounds(
    sites: Sequence[Site], plan: Plan, say: Callable[[str], None]
) -> tuple[int, dict[str, str]]:
    """Time every variant on every server, in turn.

    The order of variants and of servers changes from round to round.

    Returns:
        Rounds that were finished before the time was up (what began after them counts too), and
        variants that a server refused, with its reason.

    Raises:
        ServerError: a server makes no picture without units any more.
    """
    variants = variants_for(len(sites[0].models), plan.keys)
    refused: dict[str, str] = {}
    for number in range(plan.rounds):
        place = number % len(variants)
        order = [one for one in variants[place:] + variants[:place] if one.key not in refused]
        for index, variant in enumerate(order):
            if time.monotonic() > plan.deadline:
                say("the time is up: what was measured so far counts")
                return number, refused
            turns = sites if (number + index) % 2 == 0 else sites[::-1]
            try:
                for site in turns:
                    take_turn(site, variant, plan, 1000 * (number + 1) + 10 * index)
            except ServerError as error:
                if not variant.models:
                    raise
                refused[variant.key] = str(error)
                say(f"left out: {error}")
            say(f"round {number + 1} of {plan.rounds}: {variant.title}")
        if len(sites[0].models) > 1:
            for site in sites:
                switch(site, plan)
    for site in sites:
        for key, kind in list(site.seconds):
            if key in refused and kind != FIRST:
                del site.seconds[key, kind]
    return plan.rounds, refused


def take_turn(site: Site, variant: Variant, plan: Plan, shown: int) -> None:
    """Pictures of one variant on one server: of new drawings, again, longer, in a batch."""
    models = [site.models[index] for index in variant.models]
    kinds = [(NEW, plan.few, 1), (AGAIN, plan.few, 1), (LONG, plan.many, 1)]
    if plan.batch > 1 and variant.key in BATCHES:
        kinds.append((BATCH, plan.few, plan.batch))
    with site.meter.watching():
        for kind, steps, count in kinds:
            seconds, picture = site.generate(models, variant.mode, shown, steps, count)
            site.seconds[variant.key, kind].append(seconds)
            if models and kind == AGAIN:
                site.check_acts(picture, variant.title)
    site.keep_peaks(variant.key)


def switch(site: Site, plan: Plan) -> None:
    """One unit with another model each time, over one drawing; the mean of a picture."""
    taken = [site.generate((name,), MODES[0], 0, plan.few)[0] for name in site.models]
    site.seconds[ONE, SWITCHED].append(sum(taken) / len(taken))


def with_checkpoint(meter: Meter, scenery: Scenery, checkpoint: str) -> Site:
    """A server with a checkpoint of it.

    Raises:
        BenchError: it has none of this name.
    """
    if not checkpoint:
        return Site(meter, scenery)
    known = meter.server.checkpoints()
    if checkpoint not in known:
        names = ", ".join(sorted(set(known.values()))[:10])
        msg = f"{meter.server.url} has no checkpoint {checkpoint}; it has: {names}"
        raise BenchError(msg)
    return Site(meter, replace(scenery, checkpoint=known[checkpoint]))
