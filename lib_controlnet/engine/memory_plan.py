"""Before a pass: does everything fit on the device, and if not, what is done about it.

What control networks hold beside their weights is counted on their own layers, see
`engine.rehearsal`; what the U-Net and the decoder take is estimated, generously. Of the ways of
computing that fit the cheapest is taken. All of them give the same picture, but storing weights in
8 bits, which is done only where the settings allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from lib_controlnet.engine.memory import STRIPS, Between, Pieces, measure_allowed
from lib_controlnet.engine.rehearsal import Asked, Footprint
from lib_controlnet.engine.residency import Place
from lib_controlnet.engine.resident import measure_layers
from lib_controlnet.enums import Speed
from lib_controlnet.nets.eight_bit import measure_saving

if TYPE_CHECKING:
    from lib_controlnet.engine.network import ActiveControl, ControlNetwork
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.window import Window

UNET_NUMBERS: Final = 30
"""That a U-Net holds at a time for each cell, row and channel of its first block: 28 in SD1, 17 in
SDXL; where attention holds a matrix of all tokens it is more."""

DECODER_BYTES: Final = 115_000
"""That the decoder holds for each cell of a picture, in half precision."""

AT_MOST: Final = 2**16
"""Bytes for a cell and a row that no control network exceeds: where so much is free nothing has to
be counted."""

SLACK: Final = 1.25
"""What is held beside weights may be more: kernels take memory for themselves."""

MARGIN: Final = 2**27
"""Bytes that are lost between tensors."""

ON_THE_WAY: Final = (Between.NEVER, Between.PASS, Between.WINDOW)
"""Ways that bring each network once in a pass, and not in each evaluation."""


@dataclass(frozen=True, eq=False)
class Load:
    """One network in a pass.

    Attributes:
        weights: bytes.
        by_layer: bytes of them that lie there at a time, layer by layer.
        windows: when it is evaluated.
        rows: in one U-Net call, those of all its units together.
        hints: pictures that are encoded.
        together: the most of them that are encoded at once.
        footprint: what else it holds, by the number of strips.
        rows_are_apart: see `ControlNetwork`.
        keeps: residuals are kept between evaluations.
        stays: its weights are on the device during the U-Net's own layers.
    """

    weights: int
    by_layer: int
    windows: tuple[Window, ...]
    rows: int
    hints: int
    footprint: Callable[[int], Footprint]
    together: int = 1
    rows_are_apart: bool = True
    keeps: bool = False
    stays: bool = False

    def is_open(self, progress: float) -> bool:
        """Whether a unit acts by it."""
        return any(window.is_open(progress) for window in self.windows)


@dataclass(frozen=True)
class MemoryPlan:
    """How a pass uses the device.

    Attributes:
        between: when networks leave it.
        pieces: in which they are evaluated.
        shrinks: networks that may be are stored in 8 bits.
        staying: bytes of each network that stay where they come layer by layer.
    """

    between: Between
    pieces: Pieces = Pieces()
    shrinks: bool = False
    staying: int = 0

    @property
    def words(self) -> str:
        """What is said of it where it was not asked for."""
        said = [self.between.words] if self.between is not Between.NEVER else []
        if self.staying:
            said.append(f"up to {self.staying / 1e9:.1f} GB of each stay")
        said += [f"rows are evaluated {self.pieces.words}"] if self.pieces.batch else []
        if self.pieces.strips > 1 and not self.pieces.batch:
            said.append(f"hints are encoded in {self.pieces.strips} strips")
        if self.shrinks:
            said.append("control models are stored in 8 bits, which changes the picture slightly")
        else:
            said.append("the picture is the same" + " but for rounding" * (self.pieces != Pieces()))
        return "; ".join(said)


@dataclass(frozen=True, eq=False)
class Demand:
    """What a pass asks of the device.

    Attributes:
        loads: its networks.
        unet: bytes that the U-Net holds in a call, beside its weights.
        after: bytes that the host needs when the pass is over.
        small: the networks, if those that may be are stored in 8 bits; () where none may.
    """

    loads: Sequence[Load]
    unet: int = 0
    after: int = 0
    small: Sequence[Load] = ()

    def need(self, plan: MemoryPlan) -> int:
        """Bytes that control networks and the steps take, at the worst moment of a pass."""
        loads = self._loads(plan)
        prints = [load.footprint(plan.pieces.strips) for load in loads]
        pairs = list(zip(loads, prints, strict=True))
        left = sum(load.rows * one.residuals for load, one in pairs)
        kept = sum(load.rows * one.residuals for load, one in pairs if load.keeps)
        kept += sum(load.hints * one.guided for load, one in pairs)
        most = max((load.rows * one.residuals for load, one in pairs), default=0)
        step = kept + most + max(left, self.unet)
        worst = [_sum_weights(plan, loads, None) + _pad(step)]
        for load, one in pairs:
            at_once = load.together if plan.pieces.strips == 1 else 1
            work = max(_evaluation(load, one, plan.pieces.batch), at_once * one.hint)
            others = left - load.rows * one.residuals
            worst.append(_sum_weights(plan, loads, load) + _pad(kept + others + work))
        if plan.between is Between.NEVER:
            worst.append(sum(load.weights for load in loads) + _pad(self.after))
        return max(worst)

    def find_plan(self, room: int, first: Between = Between.NEVER) -> MemoryPlan:
        """The cheapest plan that fits; the most thrifty one where none does.

        Args:
            room: bytes that are free, those of the networks that lie there included.
            first: networks leave the device at least then.
        """
        plan = MemoryPlan(first)
        for plan in self._plans(first):
            if self.need(plan) <= room:
                return replace(plan, staying=self._share_out(plan, room))
        return plan

    def _share_out(self, plan: MemoryPlan, room: int) -> int:
        """Bytes of each network that may stay where they come layer by layer."""
        left = room - self.need(replace(plan, staying=1))
        if plan.between is not Between.LAYER or left < 0:
            return 0
        rests = sorted(load.weights - load.by_layer for load in self._loads(plan))
        for number, rest in enumerate(rests):
            share = left // (len(rests) - number)
            if rest > share:
                return share
            left -= rest
        return rests[-1]

    def _loads(self, plan: MemoryPlan) -> Sequence[Load]:
        return self.small if plan.shrinks else self.loads

    def _plans(self, first: Between) -> Iterator[MemoryPlan]:
        """What there is to choose from, the cheapest first.

        What keeps weights where they are comes before what moves them in each evaluation; where 8
        bits are allowed they come between the two. Turns, which move all of each network, are
        taken where they are asked for: layer by layer as much stays as there is room for.
        """
        every = list(Between)
        ways = [
            way
            for way in every[every.index(first) :]
            if way in (first, *ON_THE_WAY) or way is Between.LAYER
        ]
        cheap = [way for way in ways if way in ON_THE_WAY] or ways[:1]
        order = [(way, False) for way in cheap]
        order += [(way, bool(self.small)) for way in ways if self.small or way not in cheap]
        for way, shrinks in order:
            for pieces in self._pieces():
                yield MemoryPlan(way, pieces, shrinks)

    def _pieces(self) -> Iterator[Pieces]:
        rows = max((load.rows for load in self.loads), default=1)
        yield Pieces()
        yield Pieces(0, STRIPS)
        while rows > 1:
            rows //= 2
            yield Pieces(rows, STRIPS)


def _pad(size: int) -> int:
    return int(SLACK * size) + MARGIN


def _evaluation(load: Load, one: Footprint, batch: int) -> int:
    """The most that evaluating a network takes, in batches."""
    if not (0 < batch < load.rows and load.rows_are_apart):
        return load.rows * one.evaluation
    done = (load.rows - batch) * one.residuals
    return max(done + batch * one.evaluation, 2 * load.rows * one.residuals)


def _sum_weights(plan: MemoryPlan, loads: Sequence[Load], now: Load | None) -> int:
    """Bytes of weights on the device: while one network is evaluated, or the U-Net's layers."""
    between = plan.between
    if between is Between.LAYER and plan.staying:
        return sum(min(load.by_layer + plan.staying, load.weights) for load in loads)
    if between.is_scarce:
        there = [load for load in loads if load is now or load.stays]
        return sum(load.by_layer if between is Between.LAYER else load.weights for load in there)
    if between is not Between.WINDOW:
        return sum(load.weights for load in loads)
    moments = [window.start for load in loads for window in load.windows]
    return max(
        (sum(load.weights for load in loads if load.is_open(moment)) for moment in moments),
        default=0,
    )


def forecast(controls: Sequence[ActiveControl], info: PassInfo, host: Host) -> Demand:
    """What a pass will ask of the host's device."""
    units: dict[int, list[ActiveControl]] = {}
    for control in controls:
        units.setdefault(id(control.network), []).append(control)
    loads = [_load(group, info, host) for group in units.values()]
    networks = [group[0].network for group in units.values()]
    small = [_shrink(load, network) for load, network in zip(loads, networks, strict=True)]
    may_shrink = any(network.may_shrink and not network.stored for network in networks)
    numbers = UNET_NUMBERS * info.base.shape.model_channels * host.network_dtype.itemsize
    unet = numbers * 2 * info.images * info.cells
    return Demand(loads, unet, DECODER_BYTES * info.cells, small if may_shrink else ())


def _load(units: Sequence[ActiveControl], info: PassInfo, host: Host) -> Load:
    network = units[0].network
    evaluated = {frozenset({one.terms.name}) | one.company for one in units}
    rows = max(
        len(one.terms.images or range(info.images)) * (1 if one.terms.cond_only else 2)
        for one in units
    )

    @cache
    def footprint(strips: int) -> Footprint:
        return host.residency.find_footprint(
            network, Asked(info.geometry.latent, host.device, strips)
        )

    return Load(
        weights=network.nbytes,
        by_layer=measure_layers(network.module) if network.comes_by_layer else network.nbytes,
        windows=tuple(span for one in units for span in one.terms.window.spans),
        rows=rows * len(evaluated),
        hints=sum(one.pictures for one in units),
        together=max(one.pictures for one in units),
        rows_are_apart=network.rows_are_apart,
        footprint=footprint,
        keeps=any(one.terms.speed is not Speed.EXACT for one in units),
        stays=not network.comes_by_layer,
    )


def _shrink(load: Load, network: ControlNetwork) -> Load:
    """What a network is when it is stored in 8 bits, if it may be."""
    if not network.may_shrink or network.stored:
        return load
    saved, largest = measure_saving(network.module)

    def footprint(strips: int) -> Footprint:
        exact = load.footprint(strips)
        return replace(exact, evaluation=exact.evaluation + largest)

    share = 1 - saved / max(load.weights, 1)
    return replace(
        load, weights=load.weights - saved, by_layer=int(share * load.by_layer),
        footprint=footprint,
    )  # fmt: skip


def settle_place(
    controls: Sequence[ActiveControl],
    info: PassInfo,
    host: Host,
    between: Between,
    say: Callable[[str], None],
) -> Place:
    """Where and how the networks of a pass compute, so that they fit.

    On the CPU, where memory is plenty, and where a device does not tell, nothing is changed.

    Args:
        controls: what acts in it.
        info: the pass.
        host: has the device.
        between: networks leave it at least then.
        say: is told what was chosen, if that is not what was asked for.
    """
    device, residency = host.device, host.residency
    place = Place(device, between, resting=find_resting(controls, 0.0), say=say)
    room = None if device.type == "cpu" else residency.find_room(device)
    if room is None:
        return place
    room = max(0, room + residency.measure_lying(device) - host.measure_coming(device))
    if _is_plenty(controls, info, room):
        return place
    demand, first = forecast(controls, info, host), MemoryPlan(between)
    plan = demand.find_plan(room, between)
    if plan == first:
        return place
    say(
        f"ControlNet: {demand.need(first) / 1e9:.1f} GB would be needed beside the U-Net's "
        f"weights, and {room / 1e9:.1f} GB are free on {device}: {plan.words}"
        + "; even that may not suffice"
        * (demand.need(plan) > room)
    )
    if plan.shrinks:
        networks = [control.network for control in controls if control.network.may_shrink]
        residency.shrink_networks(networks)
        for network in networks:
            say(f"ControlNet: {network.notes[-1]}")
    return replace(place, between=plan.between, pieces=plan.pieces, staying=plan.staying)


def measure_reserve(
    controls: Sequence[ActiveControl], info: PassInfo, host: Host, between: Between
) -> int:
    """Bytes to keep free for the controls of a pass, for a host that loads its U-Net behind them.

    Those of the plan for a device that holds the U-Net and nothing else: for a dearer one the host
    would leave parts of its U-Net out. What the U-Net computes with is the host's to count.

    Args:
        controls: what acts in it.
        info: the pass.
        host: has the device.
        between: networks leave it at least then.

    Returns:
        0 on the CPU, see `settle_place`; what lies there already needs no room.
    """
    device, residency = host.device, host.residency
    if device.type == "cpu" or not controls:
        return 0
    demand, plan = forecast(controls, info, host), MemoryPlan(between)
    allowed = measure_allowed(device)
    if allowed is not None:
        unet = sum(one.nelement() * one.element_size() for one in info.base.module.parameters())
        plan = demand.find_plan(allowed - unet, between)
    ours = replace(demand, unet=0, after=0)
    return max(0, ours.need(plan) - residency.measure_lying(device))


def _is_plenty(controls: Sequence[ActiveControl], info: PassInfo, room: int) -> bool:
    """Whether there is no need to count."""
    networks = {id(control.network): control.network for control in controls}
    weights = sum(network.nbytes for network in networks.values())
    rows = 2 * info.images * len(controls) + 2
    return weights + AT_MOST * rows * info.cells + _pad(DECODER_BYTES * info.cells) <= room


def find_resting(controls: Sequence[ActiveControl], progress: float) -> tuple[ControlNetwork, ...]:
    """The networks by which nobody acts at some progress of a pass."""
    at_work = {id(one.network) for one in controls if one.terms.window.is_open(progress)}
    networks = {id(one.network): one.network for one in controls}
    return tuple(network for key, network in networks.items() if key not in at_work)
