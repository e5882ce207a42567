"""Networks that return residuals for the skips and the middle block, and their units in a pass."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lib_controlnet.engine.injection import Residuals, Rows
from lib_controlnet.engine.key_steps import KeySteps, Read
from lib_controlnet.engine.meter import measure
from lib_controlnet.engine.network import ActiveControl, ControlNetwork
from lib_controlnet.engine.step import StepContext
from lib_controlnet.enums import LATENT_CHANNELS, Speed
from lib_controlnet.errors import HostError, is_out_of_memory
from lib_controlnet.families.hints import HintControl
from lib_controlnet.files.published import find_source
from lib_controlnet.nets.read_text import ReadText, ReadTexts
from lib_controlnet.units.weight_types import OF_ENCODERS, Parts

if TYPE_CHECKING:
    from lib_controlnet.engine.kept import Kept
    from lib_controlnet.engine.meter import Meter
    from lib_controlnet.engine.network import Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Memory, Places
    from lib_controlnet.engine.unet import BaseUNet

log = logging.getLogger(__name__)


class ResidualNetwork(ControlNetwork):
    """A network that is evaluated beside the U-Net and returns one residual for each layer.

    Attributes:
        layers: 13 for SD1 and SD2, 10 for SDXL.
        global_average_pooling: each residual is to be averaged over the picture, cond rows only
            (shuffle).
        keeps_text: `evaluate` takes a `ReadText`, so that what layers make of it is made once.
    """

    global_average_pooling: bool = False
    keeps_text = False
    reads_tokens = True
    comes_by_layer = True
    heeds = frozenset({"speed"})
    weight_types = OF_ENCODERS

    @classmethod
    def parts_of(cls, base: BaseUNet) -> Parts:
        """One for each skip, and the middle block, see `ControlNetwork.parts_of`."""
        return (len(base.shape.skips), 1, 0)

    @property
    def cond_only(self) -> bool:  # type: ignore[override]  # decided by the file
        """Pooled residuals act on cond rows only."""
        return self.global_average_pooling

    @abstractmethod
    def encode_hint(self, hint: Tensor, strips: int = 1) -> Tensor:
        """Run the part that depends on the control image alone; its result can be cached.

        Args:
            hint: (b, 3, H, W), RGB in [0, 1], -1 in masked pixels; any device and precision.
            strips: in which it is computed, which takes less memory.

        Returns:
            Guided hint (b, C, H / 8, W / 8).
        """

    @abstractmethod
    def evaluate(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | ReadText,
        y: Tensor | None,
        guided_hint: Tensor,
        wanted: Sequence[bool],
    ) -> list[Tensor | None]:
        """Compute residuals for some rows; no strength is applied.

        Args:
            x: scaled noisy latent (n, 4 or more, h, w); channels past the model's are ignored.
            timesteps: (n,), 0 to 999, may be fractional.
            context: text tokens (n, t, c); as `ReadText` where the network `keeps_text`.
            y: vector condition (n, adm), None for SD1 and SD2.
            guided_hint: (1 or n, C, h, w), from `encode_hint`.
            wanted: one flag per layer, shallowest first, middle last. Work stops at the deepest
                wanted layer.

        Returns:
            One tensor per layer in x's precision, None where not wanted.
        """

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`; the guide is its hint."""
        del info
        assert guide is not None
        return ResidualControl(self, terms, guide)


class ResidualControl(HintControl):
    """One unit in one pass: its network, its hint, and what of them stays constant over the steps.

    Args:
        network: loaded weights, shared with other units.
        terms: how, when and where it acts.
        hint: see `HintControl`.

    Attributes:
        lender: whose tokens its network reads in the place of the text.
        strips: in which its hint is encoded.
    """

    network: ResidualNetwork

    def __init__(self, network: ResidualNetwork, terms: Terms, hint: Tensor) -> None:
        super().__init__(network, terms, hint)
        self._guided_hint: Tensor | None = None
        self._texts = ReadTexts()
        self.lender: ActiveControl | None = None
        self.strips = 1
        self._counted = (-1, -1)

    def meet(self, controls: Sequence[ActiveControl], say: Callable[[str], None]) -> None:
        """Find whose tokens the network reads in the place of the text, if it is made for that.

        Those of the nearest unit before this one, or else behind it.
        """
        partner = self.partner
        if not partner:
            return
        own = next(i for i, control in enumerate(controls) if control is self)
        lenders = [
            control
            for control in (*reversed(controls[:own]), *controls[own:])
            if control.lends and control.network.family == partner
        ]
        self.lender = next(iter(lenders), None)
        what = f"ControlNet {self.terms.name}: {self.network.name} looks like the network of "
        if self.lender is None:
            say(
                f"{what}{partner}, which reads the face of a second unit, with a model of "
                f"{partner}{find_source(partner)}, in the place of the prompt; no such unit acts "
                "here, so it acts as a plain ControlNet"
            )
        elif self.terms.is_given and not self.network.partner:
            say(
                f"{what}{partner} by its picture, so it reads the face of "
                f"{self.lender.terms.name} in the place of the prompt"
            )
        elif len(lenders) > 1:
            say(f"{what}{partner}; it reads the face of {self.lender.terms.name}, the nearest unit")

    @property
    def sort_key(self) -> tuple[object, ...]:
        """See `ActiveControl.sort_key`."""
        return (*super().sort_key, () if self.lender is None else self.lender.sort_key)

    def keep_in(self, kept: Kept) -> None:
        """Texts, too: they are the same in most passes of a generation."""
        super().keep_in(kept)
        lender = "" if self.lender is None else self.lender.terms.guide_key
        self._texts = kept.find(self.network, ("texts", lender), ReadTexts)

    def attach(self, places: Places) -> None:
        """Ask for the skips."""
        self.attach_all([self], places)

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Ask for the skips, once for all controls of this kind."""
        own = [control for control in controls if isinstance(control, cls)]
        for control in own:
            control.keep_in(places.kept)
        evaluation = _Evaluation(own, places.memory)
        with places.clock(()):  # it measures itself, network by network
            places.skips(evaluation.add, evaluation.take)

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Units with the same key can be evaluated as one batch, for the same rows."""
        return (id(self.network), id(self.lender), self.terms.speed)

    @property
    def meters(self) -> tuple[Meter, ...]:
        """Those of all units that it stands for."""
        return (self.meter,)

    @property
    def wanted(self) -> tuple[bool, ...]:
        """Layers whose residual is used at all."""
        return tuple(strength != 0.0 for strength in self.terms.strengths)

    def guide(self) -> Tensor:
        """Output of the network's hint encoder, (1 or n, c, h, w), computed once per hint."""
        if self._guided_hint is None:
            self._guided_hint = self.make_once(self.encode, *self.encodes)
        return self._guided_hint

    @property
    def guides(self) -> tuple[Tensor | None, ...]:
        """The encoded hints that it has so far, None for one that it has not."""
        return (self._guided_hint,)

    def guide_rows(self, step: StepContext, rows: Rows) -> Tensor:
        """What some rows of a call get of it: (1 or len(rows), c, h, w)."""
        return self.rows_of(self.guide(), step, rows)

    @property
    def encodes(self) -> tuple[Hashable, ...]:
        """What `encode` depends on beside the hint and the network."""
        return ()

    def cut(self, strips: int) -> None:
        """Encode its hint in so many strips, if it is still to be encoded."""
        self.strips = strips

    def read_text(self, tokens: Tensor, part: Hashable) -> Tensor | ReadText:
        """The text as its network takes it, see `ReadTexts.find`."""
        return self._texts.find((part, len(tokens)), tokens) if self.network.keeps_text else tokens

    def encode(self) -> Tensor:
        """Run the network's hint encoder, see `ResidualNetwork.encode_hint`."""
        if self.strips == 1:  # a plugin's network may know nothing else
            return self.network.encode_hint(self.hint)
        return self.network.encode_hint(self.hint, self.strips)

    @property
    def evaluate(self) -> Callable[..., list[Tensor | None]]:
        """`ResidualNetwork.evaluate` for all controls of one `batch_key`."""
        return self.network.evaluate

    def finish(self, layers: tuple[Tensor | None, ...], rows: Rows, step: StepContext) -> Residuals:
        """Apply strength, region and pooling to the network's raw output, of whatever step."""
        residuals = Residuals(rows, layers).scale(self.strengths_in(step))
        sizes = [None if layer is None else layer.shape[-2:] for layer in layers]
        if self.network.global_average_pooling:
            residuals = residuals.pool()
        if self.terms.region is not None:
            residuals = residuals.mask(self.terms.region, sizes)
        return residuals

    def note_acted(self) -> None:
        """Its residuals were taken."""
        self.acted = True

    def count(self, step: StepContext, is_evaluated: bool) -> None:
        """A call of an evaluation in which it acts: did it need its network? See `tally`."""
        made, total = self.tally or (0, 0)
        evaluated, seen = self._counted
        self.tally = (
            made + (is_evaluated and evaluated != step.evaluation),
            total + (seen != step.evaluation),
        )
        self._counted = (step.evaluation if is_evaluated else evaluated, step.evaluation)

    def release(self) -> None:
        """Forget what was cached for the pass."""
        self._guided_hint = None
        self._texts = ReadTexts()


class _Evaluation:
    """All units of a pass that return residuals, as few evaluations of networks as possible."""

    def __init__(self, controls: Sequence[ResidualControl], memory: Memory) -> None:
        self._controls = controls
        self._memory = memory
        self._acting: list[ResidualControl] = []
        self._kept = KeySteps(memory)

    def add(self, step: StepContext) -> list[Residuals]:
        """Residuals of one U-Net call."""
        groups: dict[tuple[object, tuple[int, ...]], list[ResidualControl]] = {}
        self._acting = []
        self._kept.begin(step)
        for control in self._controls:
            rows = control.rows_in(step)
            if rows:
                groups.setdefault((control.batch_key, rows), []).append(control)
                self._acting.append(control)
        parts: list[Residuals] = []
        for (_key, rows), controls in groups.items():
            parts += self._evaluate(controls, step, rows)
        return parts

    def take(self) -> None:
        """The U-Net's blocks took what `add` gave last."""
        for control in self._acting:
            control.note_acted()

    def _evaluate(
        self, controls: list[ResidualControl], step: StepContext, rows: Rows
    ) -> list[Residuals]:
        """Units of one network as one batch, or in the pieces that memory allows."""
        group = Group(controls, step, rows)
        meters = [meter for control in controls for meter in control.meters]
        with measure(meters, step.x.device):
            layers = group.reuse(self._kept)
            if layers is None:
                layers = evaluate_in_pieces(group, self._memory, self._kept)
            return group.finish(layers)


@dataclass(frozen=True, eq=False)
class Group:
    """Units that share a network and rows in a U-Net call, evaluated as one batch.

    Units with the same hint are evaluated once: what differs between them (strength, region) is
    applied to the result.

    Attributes:
        controls: units with one and the same network.
        step: the call.
        rows: rows of the call to evaluate; the others cost nothing.
    """

    controls: Sequence[ResidualControl]
    step: StepContext
    rows: Rows

    @cached_property
    def distinct(self) -> list[ResidualControl]:
        """A unit for each hint."""
        return list({control.hint_key: control for control in self.controls}.values())

    @cached_property
    def wanted(self) -> tuple[bool, ...]:
        """Layers that some unit uses."""
        flags = (control.wanted for control in self.controls)
        return tuple(any(layer) for layer in zip(*flags, strict=True))

    @property
    def size(self) -> int:
        """Rows in one evaluation of all units."""
        return len(self.distinct) * len(self.rows)

    @property
    def speed(self) -> Speed:
        """What the units ask for, which is the same for all."""
        return self.controls[0].terms.speed

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for the calls of two evaluations that stand for the same part of them."""
        shown = tuple(control.hint_key for control in self.distinct)
        owners = tuple(self.step.rows[row] for row in self.rows)
        return (self.controls[0].batch_key, shown, self.wanted, self.step.first, self.rows, owners)

    def read(self) -> Read:
        """What the network reads, once for all units.

        Raises:
            HostError: the host gave no text.
        """
        step, lender = self.step, self.controls[0].lender
        if step.context is None:
            msg = "the U-Net was called without a text embedding, which control models need"
            raise HostError(msg)
        everything = len(self.rows) == step.x.shape[0]
        index = None if everything else torch.tensor(self.rows, device=step.x.device)

        def pick(tensor: Tensor) -> Tensor:
            return tensor if index is None else tensor[index]

        text = pick(step.context) if lender is None else lender.lend_tokens(step, self.rows)
        vector = () if step.y is None else (pick(step.y),)
        guides = tuple(guide for control in self.distinct for guide in control.guides)
        x = pick(step.x[:, :LATENT_CHANNELS])
        return Read(x, pick(step.timesteps), (text, *vector), guides)

    def evaluate(self, batch: int = 0) -> tuple[Tensor | None, ...]:
        """Raw residuals of all distinct units, one behind the other.

        Args:
            batch: rows at most that are evaluated at once, whole units if one has no more;
                0: all.
        """
        if not 0 < batch < self.size:
            return self._evaluate_at_once(self.wanted)
        rows, units = min(batch, len(self.rows)), max(batch // len(self.rows), 1)
        made = [
            Group(
                self.distinct[unit : unit + units], self.step, self.rows[row : row + rows]
            )._evaluate_at_once(self.wanted)
            for unit in range(0, len(self.distinct), units)
            for row in range(0, len(self.rows), rows)
        ]
        return tuple(map(_join, zip(*made, strict=True)))

    def _evaluate_at_once(self, wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
        hints = [control.guide_rows(self.step, self.rows) for control in self.distinct]
        if len(hints) > 1:
            hints = [torch.cat([hint.expand(len(self.rows), -1, -1, -1) for hint in hints])]
        given = self.read()

        def copy(tensor: Tensor) -> Tensor:
            copies = len(self.distinct)
            return tensor if copies == 1 else torch.cat([tensor] * copies)

        text, *vector = map(copy, given.texts)
        y = next(iter(vector), None)
        first = self.controls[0]
        read = first.read_text(text, (self.step.first, self.rows))
        x, timesteps = copy(given.x), copy(given.timesteps)
        return tuple(first.evaluate(x, timesteps, read, y, hints[0], wanted))

    def reuse(self, kept: KeySteps) -> tuple[Tensor | None, ...] | None:
        """What an earlier call has left, if it holds for this one."""
        if self.speed is Speed.EXACT:
            return None
        layers = kept.find(self.key, self.speed, self.step, self.read)
        for control in self.controls:
            control.count(self.step, layers is None)
        return layers

    def keep(self, kept: KeySteps, layers: tuple[Tensor | None, ...]) -> None:
        """Leave something for later calls, where the units ask for that."""
        if self.speed is not Speed.EXACT:
            kept.keep(self.key, self.speed, self.step, self.read(), layers)

    def finish(self, layers: tuple[Tensor | None, ...]) -> list[Residuals]:
        """One `Residuals` for each unit, in their order."""
        copies = len(self.distinct)
        chunks = [(None,) * copies if layer is None else layer.chunk(copies) for layer in layers]
        place = {control.hint_key: position for position, control in enumerate(self.distinct)}
        return [
            control.finish(
                tuple(chunk[place[control.hint_key]] for chunk in chunks), self.rows, self.step
            )
            for control in self.controls
        ]


def _join(pieces: Sequence[Tensor | None]) -> Tensor | None:
    """Rows of one layer, one behind the other."""
    given = [piece for piece in pieces if piece is not None]
    return torch.cat(given) if given else None


def evaluate_in_pieces(group: Group, memory: Memory, kept: KeySteps) -> tuple[Tensor | None, ...]:
    """Raw residuals of a group, in such pieces as memory allows, see `Group`.

    Args:
        group: units that share a network and rows.
        memory: brings the network, and tells the pieces.
        kept: where to leave what units that ask for it reuse.

    Raises:
        HostError: the least that can be evaluated at a time is too much.
    """
    network = group.controls[0].network
    rows = group.size if network.rows_are_apart else 1
    with memory.on_device(network):
        while True:
            pieces = memory.pieces
            for control in group.controls:
                control.cut(pieces.strips)
            try:
                layers = group.evaluate(pieces.batch if network.rows_are_apart else 0)
                group.keep(kept, layers)
            except Exception as error:  # each device has its own for this
                if not is_out_of_memory(error):
                    raise
            else:
                return layers
            # Outside of `except`: there the failed batch would still be held by its traceback.
            kept.stop()
            memory.step_down(network, rows)
