"""What a control family gives the engine: networks, and their controls of single passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from lib_controlnet.engine.meter import Meter
from lib_controlnet.engine.rehearsal import Footprint
from lib_controlnet.engine.step import select
from lib_controlnet.engine.window import Window, strength_curve
from lib_controlnet.enums import (
    BaseModel,
    ControlMode,
    ControlNetUnionControlType,
    PuLIDMode,
    Speed,
)
from lib_controlnet.nets.eight_bit import dtype_of
from lib_controlnet.pictures.placement import MASKED
from lib_controlnet.units.weight_types import LayerCurve, Parts, WeightType

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from annotator.embedding import Embedding
    from lib_controlnet.engine.injection import RegionMask, Rows
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Places
    from lib_controlnet.engine.rehearsal import Asked
    from lib_controlnet.engine.step import Row, StepContext
    from lib_controlnet.engine.unet import BaseUNet


class GuideKind(Enum):
    """What a network is steered by."""

    MAP = "map"
    LATENT = "latent"
    EMBEDDING = "embedding"
    NOTHING = "nothing"


Embeddings = tuple[tuple["Embedding", ...], ...]
"""For each frame of an animation, else once: one for each picture of the unit."""


@dataclass(frozen=True)
class Guide:
    """What a network wants to be steered by.

    Attributes:
        kind: a map gives the hint, float32 (1 or n, 3, H, W), RGB in [0, 1]; a latent is that
            map's, scaled, float32 (1 or n, 4, h, w); an embedding is what the preprocessor gives,
            as `Embeddings`.
        masked: value of a hint's masked pixels in all channels.
        has_mask: a latent is that of the picture with `masked` in the masked pixels, and the mask
            is one channel more, 1 where a cell has one of them; a map without a mask is refused.
        tensors: of an embedding, those that the network reads, and their width, which are checked.
        preprocessor: whose embedding it reads; `ip-adapter-auto` and its like stand for it.
    """

    kind: GuideKind = GuideKind.MAP
    masked: float = MASKED
    has_mask: bool = False
    tensors: tuple[tuple[str, int], ...] = ()
    preprocessor: str = ""


@dataclass(frozen=True, eq=False)
class Terms:
    """How, when and where a unit acts in one pass, whatever its family.

    Attributes:
        name: what messages call the unit.
        strengths: one per layer of the network, shallowest first, before the window's curve.
        window: when it acts, and what its strengths are multiplied by then.
        cond_only: whether it acts on cond rows only.
        mode: the unit's control mode, for families whose strengths do not tell.
        region: where it acts; None means everywhere.
        images: pictures of the batch it acts on; None means all.
        values: numbers of the preprocessor's sliders.
        seeds: of the pictures of the batch, for families that need noise of their own.
        keyframes: numbers of the frames that the guides are for, in an animation; () where one is
            for all of them; None outside an animation.
        control_type: what the picture shows, for networks that know several kinds of pictures.
        apart: it is evaluated by itself, where its family can evaluate several units as one.
        guide_key: equal for units that are steered by the same guide.
        partner: family whose tokens its network reads in the place of the text, as far as the
            preprocessor or the picture tells.
        is_given: its picture came ready-made, without a preprocessor.
        likeness: how far a face may change what the text says, for families that ask.
        speed: in which evaluations its network is evaluated, for families that can reuse.
    """

    name: str
    strengths: tuple[float, ...]
    window: Window = Window()
    cond_only: bool = False
    mode: ControlMode = ControlMode.BALANCED
    region: RegionMask | None = None
    images: frozenset[int] | None = None
    values: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    keyframes: tuple[int, ...] | None = None
    control_type: ControlNetUnionControlType = ControlNetUnionControlType.UNKNOWN
    apart: bool = False
    guide_key: str = ""
    partner: str = ""
    is_given: bool = False
    likeness: PuLIDMode = PuLIDMode.FIDELITY
    speed: Speed = Speed.EXACT


class ControlNetwork(ABC):
    """Loaded weights of one control model: stateless, so units and generations may share it.

    Attributes:
        name: file stem, for messages and infotext.
        family: which family loaded it, such as `ControlNet`.
        base: base model that it was made for.
        layers: how many strengths it takes, shallowest layer first.
        wants: what it is steered by.
        cond_only: it acts on cond rows only, whatever the control mode.
        has_modes: the control mode changes what it does.
        heeds: fields of a unit that mean nothing to some families, and something to it.
        weight_types: those that spread a strength over its layers.
        has_regions: it can act on a part of the picture; else a region is refused.
        is_additive: what two units do together is the sum of what they do alone, layer by layer.
        takes_keyframes: it can be shown some of an animation's frames, and acts on all.
        depends_on_base: the weights contain the base checkpoint's; reload when that changes.
        notes: what a user should know of how the file was taken.
        reads_tokens: another unit's tokens can take the place of the text.
        partner: family whose tokens it reads in the place of the text, as far as its name tells.
        stored: how its weights are stored, where that is not exactly.
        may_shrink: they may be stored in 8 bits when memory is short.
        rows_are_apart: rows of one evaluation do not depend on each other.
        comes_by_layer: its weights can come to a device layer by layer: those of whatever lies in
            a list of modules are read in calls of that alone.
        module: the torch module that holds the weights; it may have none.
    """

    name: str
    family: str
    base: BaseModel
    layers: int
    module: nn.Module
    wants: Guide = Guide()
    cond_only: bool = False
    has_modes: bool = True
    heeds: frozenset[str] = frozenset()
    weight_types: tuple[WeightType, ...] = ()
    has_regions: bool = True
    is_additive: bool = True
    takes_keyframes: bool = False
    depends_on_base: bool = False
    notes: tuple[str, ...] = ()
    reads_tokens: bool = False
    partner: str = ""
    stored: str = ""
    may_shrink: bool = False
    rows_are_apart: bool = True
    comes_by_layer: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        held = (*self.module.parameters(), *self.module.buffers())
        return sum(tensor.nelement() * tensor.element_size() for tensor in held)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(chain(self.module.parameters(), self.module.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the network computes, and that of weights that are stored exactly."""
        return dtype_of(self.module)

    def rehearse(self, asked: Asked) -> Footprint:
        """What it will hold on a device beside its weights, as far as it is known before."""
        del asked
        return Footprint()

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """Strength per layer for the unit's weight and control mode, see `strength_curve`."""
        return strength_curve(strength, self.layers, mode)

    @classmethod
    def parts_of(cls, base: BaseUNet) -> Parts:
        """Where its layers are in the U-Net of a base, in their order."""
        del base
        return (0, 0, 0)

    @classmethod
    def soften(cls, layers: int) -> tuple[float, ...]:
        """Shares of the layers where prompt or control is more important."""
        return strength_curve(1.0, layers, ControlMode.PROMPT)

    @classmethod
    def spread(cls, curve: LayerCurve, weight: float, parts: Parts) -> tuple[float, ...]:
        """Strength per layer by a weight type.

        Raises:
            KeyError: the type means nothing to these layers.
        """
        if curve.kind not in cls.weight_types:
            raise KeyError(curve.kind)
        if curve.kind is WeightType.SOFT:
            return tuple(weight * share for share in cls.soften(sum(parts)))
        return curve.strengths(weight, parts)

    @abstractmethod
    def bind(self, terms: Terms, guide: Any, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass.

        Args:
            terms: how, when and where the unit acts.
            guide: what `wants` says: a tensor, `Embeddings`, or None where it wants nothing.
            info: the pass, its size and its base.

        Raises:
            ControlNetError: the unit asks for what the network cannot do.
        """


class ActiveControl(ABC):
    """A control network bound to one unit and one pass; one subclass per way of steering.

    Args:
        network: loaded weights, shared with other units.
        terms: how, when and where it acts.

    Attributes:
        due: number of the first evaluation in which it should act, from 1; 0 before that.
        acted: it has changed a U-Net call.
        company: names of other units with which one evaluation of the network computes it.
        tally: evaluations of its network, of those in which it acted; None where each is one.
        steps: evaluations in which it should act, so far.
        meter: how long its work took.
        lends: another unit's network may read its tokens in the place of the text.
        order: controls of a lower order are attached first; at one place the last one attached
            sees what the others made.
    """

    order: ClassVar[int] = 0
    lends: ClassVar[bool] = False

    def __init__(self, network: ControlNetwork, terms: Terms) -> None:
        self.network = network
        self.terms = terms
        self.due = 0
        self.acted = False
        self.company: frozenset[str] = frozenset()
        self.tally: tuple[int, int] | None = None
        self.steps = 0
        self.meter = Meter()

    def meet(self, controls: Sequence[ActiveControl], say: Callable[[str], None]) -> None:
        """Look at all units that act in the pass, before it is sampled.

        Args:
            controls: in the user's order, this one among them.
            say: is told what the user should know.
        """
        del controls, say

    @property
    def partner(self) -> str:
        """Family whose tokens the network reads in the place of the text, as far as is known."""
        return (self.terms.partner or self.network.partner) if self.network.reads_tokens else ""

    def lend_tokens(self, step: StepContext, rows: Rows) -> Tensor:
        """Tokens (len(rows), n, c) for some rows of a call, see `lends`."""
        raise NotImplementedError

    @property
    def pictures(self) -> int:
        """Pictures that its network is shown in a pass, all at once."""
        return 1

    @abstractmethod
    def attach(self, places: Places) -> None:
        """Ask for the places of the U-Net in which this control acts."""

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Attach all controls of this very class, for families that evaluate several as one.

        Args:
            controls: sorted by `sort_key`.
            places: of the U-Net that is about to be sampled.
        """
        for control in controls:
            with places.clock([control.meter]):
                control.attach(places)

    @property
    def sort_key(self) -> tuple[object, ...]:
        """Orders units by what they do: sums of floats depend on their order, and the user's
        order of units must not matter.
        """
        terms = self.terms
        region = "" if terms.region is None else terms.region.digest
        images = () if terms.images is None else tuple(sorted(terms.images))
        window = (terms.window.start, terms.window.end, terms.window.curve)
        return (
            *(self.network.name, self.terms.guide_key, terms.strengths, window, region, images),
            *(terms.cond_only, terms.mode.value, terms.values, terms.control_type, terms.apart),
            terms.speed.value,
        )

    def factor_in(self, step: StepContext) -> float:
        """What all strengths are multiplied by in a U-Net call; 1.0 without a weight curve."""
        return self.terms.window.factor(step.progress)

    def strengths_in(self, step: StepContext) -> tuple[float, ...]:
        """The strengths that count in a U-Net call, one per layer."""
        factor = self.factor_in(step)
        return tuple(strength * factor for strength in self.terms.strengths)

    def acts_on(self, rows: Sequence[Row], progress: float) -> Rows:
        """Indices of the rows that the control changes; () outside its window."""
        if not self.terms.window.is_open(progress):
            return ()
        return select(rows, self.terms.cond_only, self.terms.images)

    def rows_in(self, step: StepContext) -> Rows:
        """Indices of a U-Net call's rows that the control changes; () outside its window."""
        return self.acts_on(step.rows, step.progress)

    def release(self) -> None:
        """Forget what was cached for the pass."""
        return
