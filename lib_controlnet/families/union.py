"""ControlNet Union and Union ProMax (xinsir6, ControlNetPlus).

One network for many types of hints: SDXL as published, with 6, 8 or more types, in diffusers' and
the original layout. The type is the unit's, or that of its preprocessor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from lib_controlnet.engine.network import Guide
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.errors import UnitError
from lib_controlnet.families.base import FileFacts, randomize
from lib_controlnet.families.controlnet import (
    ControlNetFamily,
    ControlNetNetwork,
    fit_to,
    own_precision,
    tiny_params,
)
from lib_controlnet.families.residual import ResidualControl
from lib_controlnet.nets.cldm import ControlNet, read_params
from lib_controlnet.nets.layout import lay_out
from lib_controlnet.nets.union import ControlNetUnion, UnionParams, read_union
from lib_controlnet.pictures.placement import BLACK

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.kept import Kept
    from lib_controlnet.engine.meter import Meter
    from lib_controlnet.engine.network import ActiveControl, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet, UNetShape
    from lib_controlnet.files.checkpoint import Checkpoint

TYPES: Final = tuple(ControlNetUnionControlType.in_order())
"""Types in the order of their numbers; a file has the first 6, 8, 9 or any number of them."""
TINY_TYPES: Final = 8


class UnionNetwork(ControlNetNetwork):
    """A loaded Union: a ControlNet for each type of hint."""

    family = "ControlNet Union"
    heeds = ControlNetNetwork.heeds | {"union_apart"}
    reads_tokens = False
    module: ControlNetUnion
    wants = Guide(masked=BLACK)  # as in the published example; other ControlNets read -1

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`.

        Raises:
            UnitError: nobody said what the hint shows, or the file has no such type.
        """
        del info
        assert guide is not None
        return UnionControl(self, terms, guide, self._number(terms))

    def _number(self, terms: Terms) -> int:
        known, asked = TYPES[: self.module.types], terms.control_type
        if asked in known:
            return known.index(asked)
        if asked is ControlNetUnionControlType.UNKNOWN:
            what = "needs to be told what the picture shows, and the preprocessor does not tell"
        else:
            number = TYPES.index(asked)
            named = f"{asked} ({number})" if str(number) != asked.value else asked.value
            what = f"has {self.module.types} types of pictures, and {named} is none of them"
        msg = (
            f"{terms.name}: control model {self.name} {what}; set union_control_type to one of "
            f"{', '.join(known)}"
        )
        raise UnitError(msg)

    def encode_typed(self, guided: Tensor, kind: int, share: float = 1.0) -> Tensor:
        """Run the part that depends on an encoded hint and its type alone, see `encode_hint`."""
        with torch.no_grad(), own_precision(self.device):
            return self.module.shift(guided, kind, share)

    def embed_types(self, kinds: Sequence[int]) -> Tensor:
        """What types add to the embedding of the timesteps, see `evaluate`."""
        with torch.no_grad(), own_precision(self.device):
            return self.module.embed_types(kinds)


class UnionControl(ResidualControl):
    """One unit in one pass, by the number of its type.

    Attributes:
        kind: the number.
        share: of its picture in the joint evaluation that it takes part in.
    """

    network: UnionNetwork

    def __init__(self, network: UnionNetwork, terms: Terms, hint: Tensor, kind: int) -> None:
        super().__init__(network, terms, hint)
        self.kind = kind
        self.share = 1.0
        self._embedded: Tensor | None = None

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Ask for the skips; units that can be are evaluated together."""
        own = [control for control in controls if isinstance(control, cls)]
        groups = find_groups(own)
        joint = [JointControl(group) if len(group) > 1 else group[0] for group in groups]
        super().attach_all(joint, places)

    def meet(self, controls: Sequence[ActiveControl], say: Callable[[str], None]) -> None:
        """Say which units are evaluated together, and why others of the same file are not."""
        own = [c for c in controls if isinstance(c, UnionControl) and c.network is self.network]
        own.sort(key=lambda control: control.sort_key)
        group = next(group for group in find_groups(own) if self in group)
        self.company = frozenset(one.terms.name for one in group if one is not self)
        if self is own[0]:  # once for all of them
            for sentence in _describe(own):
                say(f"ControlNet: {sentence}")

    @property
    def kinds(self) -> tuple[int, ...]:
        """Numbers of the types that the network is told."""
        return (self.kind,)

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Units of the same types, see `ResidualControl.batch_key`."""
        return (*super().batch_key, self.kinds)

    @property
    def encodes(self) -> tuple[Hashable, ...]:
        """The type and the share, see `ResidualControl.encodes`."""
        return (self.kind, self.share)

    def encode(self) -> Tensor:
        """Encode the hint as one of its type, see `ResidualControl.encode`."""
        return self.network.encode_typed(super().encode(), self.kind, self.share)

    @property
    def evaluate(self) -> Callable[..., list[Tensor | None]]:
        """The network for the types, see `ResidualControl.evaluate`; embedded once in a pass."""
        if self._embedded is None:
            embed = partial(self.network.embed_types, self.kinds)
            key = ("types", self.kinds)
            kept = self._kept
            self._embedded = embed() if kept is None else kept.find(self.network, key, embed)
        return partial(self.network.evaluate, extra=self._embedded)

    def release(self) -> None:
        """Forget what was cached for the pass."""
        super().release()
        self._embedded = None


class JointControl(UnionControl):
    """Several units of one file whose pictures the network sees in one evaluation.

    The published function of several conditions: the encoded pictures are summed, and the network
    is told all of their types. What the units have in common is applied to its residuals, as for
    one unit: rows, region, and the strengths of the strongest. What another one has less is the
    share of its picture, which the published code calls the condition's scale.

    Args:
        members: units that `find_groups` found to go together.
    """

    def __init__(self, members: Sequence[UnionControl]) -> None:
        self.members = sorted(members, key=lambda member: member.kind)
        first = max(self.members, key=_peak)
        super().__init__(first.network, first.terms, first.hint, first.kind)
        for member in self.members:
            member.share = _peak(member) / _peak(first)

    @property
    def kinds(self) -> tuple[int, ...]:
        """See `UnionControl.kinds`."""
        return tuple(member.kind for member in self.members)

    @property
    def hint_key(self) -> str:
        """See `HintControl.hint_key`."""
        return " + ".join(f"{member.share!r} {member.hint_key}" for member in self.members)

    def keep_in(self, kept: Kept) -> None:
        """The members', too, see `HintControl.keep_in`."""
        super().keep_in(kept)
        for member in self.members:
            member.keep_in(kept)

    def guide_rows(self, step: StepContext, rows: Rows) -> Tensor:
        """The sum of the members' encoded pictures, see `ResidualControl.guide_rows`."""
        parts = [fit_to(member.guide_rows(step, rows), step.x) for member in self.members]
        return sum(parts[1:], parts[0])

    @property
    def guides(self) -> tuple[Tensor | None, ...]:
        """See `ResidualControl.guides`."""
        return tuple(guide for member in self.members for guide in member.guides)

    def cut(self, strips: int) -> None:
        """See `ResidualControl.cut`."""
        for member in self.members:
            member.cut(strips)

    @property
    def meters(self) -> tuple[Meter, ...]:
        """Those of all members."""
        return tuple(member.meter for member in self.members)

    def note_acted(self) -> None:
        """The residuals of all members were taken."""
        for member in self.members:
            member.note_acted()

    def count(self, step: StepContext, is_evaluated: bool) -> None:
        """See `ResidualControl.count`."""
        for member in self.members:
            member.count(step, is_evaluated)


def _peak(control: UnionControl) -> float:
    return max(map(abs, control.terms.strengths))


def _curve(control: UnionControl) -> tuple[float, ...]:
    """Strengths relative to the greatest, whatever rounding there is in them."""
    peak = _peak(control)
    return tuple(round(strength / peak, 6) for strength in control.terms.strengths)


_ALIKE: Final[Mapping[str, Callable[[UnionControl], object]]] = {
    "their starts or ends differ": lambda c: (c.terms.window.start, c.terms.window.end),
    "their weight curves differ": lambda c: c.terms.window.curve,
    "they act on different rows": lambda c: (c.terms.cond_only, c.terms.images),
    "their speeds differ": lambda c: c.terms.speed,
    "their regions differ": lambda c: c.terms.region and c.terms.region.digest,
    "their strengths are spread otherwise over the layers (control mode, layer weights, or lines "
    "that fade in a hires pass)": _curve,
}
"""What units must have in common for one evaluation, by what is said where they have not."""


def find_groups(controls: Sequence[UnionControl]) -> list[list[UnionControl]]:
    """Units that are evaluated together, each group where the first of it stood.

    Those of one file that have in common what is applied to residuals, and are no two of one type:
    nobody trained a network on that. Whichever unit asks for it is apart.
    """
    found: dict[object, list[UnionControl]] = {}
    for control in controls:
        if control.terms.apart:
            found[id(control)] = [control]
            continue
        key = (id(control.network), *(read(control) for read in _ALIKE.values()))
        found.setdefault(key, []).append(control)
    groups: list[list[UnionControl]] = []
    for alike in found.values():
        count = Counter(control.kind for control in alike)
        groups += [[control] for control in alike if count[control.kind] > 1]
        single = [control for control in alike if count[control.kind] == 1]
        groups += [single] if single else []
    return groups


def _describe(controls: Sequence[UnionControl]) -> list[str]:
    """What is said of the units of one file."""
    groups = find_groups(controls)
    name = controls[0].network.name
    said = [
        f"{_names(group)} are evaluated together by {name}, as {_types(group)}"
        for group in groups
        if len(group) > 1
    ]
    if len(groups) > 1:
        apart = sum(groups, [])
        reasons = [why for why, read in _ALIKE.items() if len(set(map(read, controls))) > 1]
        if len({control.kind for control in controls}) < len(controls):
            reasons.append("two of them have one type")
        if any(control.terms.apart for control in controls):
            reasons.append("union_apart is set")
        said.append(f"{_names(apart)} are not one evaluation of {name}: {', '.join(reasons)}")
    return said


def _names(controls: Sequence[UnionControl]) -> str:
    return ", ".join(sorted(control.terms.name for control in controls))


def _types(controls: Sequence[UnionControl]) -> str:
    return ", ".join(TYPES[number] for number in sorted(c.kind for c in controls))


class UnionFamily(ControlNetFamily):
    """Loads Unions: ControlNets with an embedding of types and a shift of the hint's channels."""

    name = "ControlNet Union"
    kinds = ("union",)
    networks = UnionNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> UnionNetwork:
        """See `ControlFamily.tiny`."""
        params = tiny_params(base)
        module = ControlNetUnion(params, UnionParams(types=TINY_TYPES, layers=1, sinusoids=8))
        return UnionNetwork("tiny", lay_out(randomize(module, seed)), base.shape)

    def describe(self, ckpt: Checkpoint) -> FileFacts:
        """The types that the file knows, see `ControlFamily.describe`."""
        types = TYPES[: ckpt.shape("task_embedding")[0]]
        return FileFacts(types, UnionNetwork.wants.masked)

    def build(
        self, shapes: Mapping[str, Sequence[int]], heads: Callable[[str, int], int]
    ) -> ControlNetUnion:
        """The module for some shapes, see `ControlNetFamily.build`."""
        return ControlNetUnion(read_params(shapes, heads), read_union(shapes))

    def wrap(self, name: str, module: ControlNet, shape: UNetShape) -> UnionNetwork:
        """The network of a filled module."""
        return UnionNetwork(name, module, shape)
