"""One generation, from the units a user asked for to the teardown of its hooks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from lib_controlnet.engine import outcome
from lib_controlnet.engine.bound import BoundUnit, bind_unit
from lib_controlnet.engine.kept import Kept
from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.memory_plan import find_resting, settle_place
from lib_controlnet.engine.outcome import Outcome
from lib_controlnet.engine.places import Places, describe_missed
from lib_controlnet.engine.prepared import share_maps
from lib_controlnet.engine.report import RunReport
from lib_controlnet.engine.step import NoisyLatent, Row, RowLayout, StepCursor
from lib_controlnet.engine.style_align import StyleAlign
from lib_controlnet.engine.unet import describe_unet
from lib_controlnet.enums import OnError
from lib_controlnet.errors import ControlNetError, HostError, again, without_frames

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lib_controlnet.engine.effects import Effect
    from lib_controlnet.engine.network import ActiveControl, ControlNetwork
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.prepared import PreparedUnit
    from lib_controlnet.engine.window import Schedule

log = logging.getLogger(__name__)


class ControlSession:
    """The controls of one generation.

    Args:
        host: the WebUI.
        prepared: units in the user's order.
        on_error: what a unit that fails does to the generation.
        aligns: the pictures of a batch share their style, whatever the units do.

    Attributes:
        units: what the units do in the present pass; those without effect are left out.
        active: their controls, sorted by what they do.
        laid_under: the noise under which start pictures were laid last.
        has_aligned: in a pass that is over the pictures have shared their style.
        kept: what networks have made of the units' pictures.
        report: what the units ran, in earlier turns of a batch too.
    """

    def __init__(
        self,
        host: Host,
        prepared: Sequence[PreparedUnit],
        on_error: OnError = OnError.STOP,
        aligns: bool = False,
    ) -> None:
        self.host = host
        self.aligns = aligns
        self.has_aligned = False
        self.prepared = list(prepared)
        self.kept = Kept()
        self.report = RunReport()
        self._earlier: Sequence[PreparedUnit] = ()
        self.on_error = on_error
        self.error: BaseException | None = None
        self.comments: list[str] = []
        self.told = 0
        self.units: list[BoundUnit] = []
        self.active: list[ActiveControl] = []
        self.cursor = StepCursor()
        self.schedule: Schedule | None = None
        self.evaluations = 0
        self.sampler: object | None = None
        self.is_bound = False
        self.passes = 0
        self.noisy: NoisyLatent | None = None
        self.laid_under: weakref.ref[Tensor] | None = None
        self._outcomes: dict[PreparedUnit, Outcome] = {}
        self._finishing: dict[PreparedUnit, Effect] = {}
        self.info: PassInfo | None = None
        self._resting: Collection[ControlNetwork] = ()
        self._bound_to: tuple[object, ...] | None = None
        self._rows_shown_in = 0
        self._places: Places | None = None
        self._foreign: nn.Module | None = None
        self._alignment: StyleAlign | None = None
        self._missed: list[str] = []

    def follow(self) -> ControlSession:
        """The session of a batch's next turn: what was made of pictures that stay is not lost."""
        session = ControlSession(self.host, [], self.on_error, self.aligns)
        session.kept, session._earlier = self.kept, self.prepared
        session.report = self.report
        return session

    def take(self, prepared: Sequence[PreparedUnit]) -> None:
        """These are its units, in the user's order."""
        self.prepared = list(prepared)
        share_maps(self.prepared, self._earlier)
        self._earlier = ()

    def fail(self, error: BaseException) -> None:
        """Keep an error that the host would swallow; the first one counts."""
        self.error = self.error or without_frames(error)

    def raise_error(self) -> None:
        """Raise the kept error where the host passes it on."""
        if self.error is not None:
            raise again(self.error)

    def release(self) -> None:
        """End all controls and let go of their pictures, also where the session itself is held."""
        self.prepared, self.units, self.active, self._earlier = [], [], [], ()
        self._alignment = None
        self._outcomes, self._finishing = {}, {}
        self.kept.drop()
        if self._places is not None:
            self._places.detach()

    @property
    def needs_texts(self) -> bool:
        """Whether rows have to be told apart where a neighbour takes some of them (AnimateDiff).

        Which rows are cond, and whose, matters to most families in every mode.
        """
        return bool(self.active) or self._alignment is not None

    @property
    def between(self) -> Between:
        """When networks leave the device at least: as the host's parts do, or as a unit asks."""
        low_vram = any(prepared.unit.low_vram for prepared in self.prepared)
        between = self.host.between
        return Between.EVALUATION if low_vram and not between.is_scarce else between

    def effects(self, moment: str) -> list[Effect]:
        """Effects of the present pass that answer a moment, in the user's order of units."""
        return [e for bound in self.units for e in bound.effects if e.answers(moment)]

    def find_bound(self, prepared: PreparedUnit) -> BoundUnit | None:
        """What carries out a unit in the present pass; None where it has no effect."""
        return next((bound for bound in self.units if bound.part.prepared is prepared), None)

    def outcome_of(self, prepared: PreparedUnit) -> Outcome:
        """What became of a unit so far."""
        return self._outcomes.setdefault(prepared, Outcome())

    def begin_pass(self, info: PassInfo) -> None:
        """Bind every unit to this pass and its base; once, if the host announces it twice.

        Raises:
            ControlNetError: a unit cannot act on this model (only with `OnError.STOP`).
        """
        self.passes += 1
        if self.is_bound and self.info is not None and self.info.equals(info):
            return
        self.units, self.active = [], []
        self.kept.begin()
        self.schedule = None
        self.evaluations = 0
        self._bound_to = info.base.shape.signature
        self.info = info
        if not info.is_hires:  # what the first pass kept stays kept
            self._finishing = {}
        kept: list[PreparedUnit] = []
        for prepared in self.prepared:
            try:
                bound = bind_unit(prepared, info, self.host, self.say)
            except ControlNetError as error:
                if self.on_error is OnError.STOP:
                    raise
                self.say(f"{error} (unit skipped)")
                self.report.skip(prepared.unit.index, str(error))
                continue
            kept.append(prepared)
            if isinstance(bound, str):
                self.outcome_of(prepared).idle = bound
                continue
            self.units.append(bound)
            for effect in bound.effects:
                if effect.answers("finish"):
                    self._finishing[prepared] = effect
        self.prepared = kept
        self._alignment = self._align(info)
        self.is_bound = True
        controls = [bound.control for bound in self.units]
        for control in controls:
            control.meet(controls, self.say)
        # Sums of floats depend on their order; the user's order of units must not matter.
        self.active = sorted(controls, key=lambda control: control.sort_key)

    def _align(self, info: PassInfo) -> StyleAlign | None:
        """What the pictures of the pass share; nothing in a hires pass, whose pictures are made."""
        if not self.aligns or info.is_hires:
            return None
        if info.images < 2:
            self.say("ControlNet: StyleAlign needs a batch of several pictures, and this has one")
            return None
        return StyleAlign(info.images)

    def say(self, comment: str) -> None:
        """Keep a sentence for the user, once."""
        if comment not in self.comments:
            self.comments.append(comment)

    @contextmanager
    def sampling(self, unet: nn.Module) -> Iterator[None]:
        """Controls act on `unet` inside this context; afterwards it is as it was.

        Raises:
            ControlNetError: on entry, if preparing the units failed.
        """
        self.raise_error()
        if not self.units and self._alignment is None:
            yield
            return
        self.cursor, self._missed = StepCursor(), []
        residency, controls = self.host.residency, self.active
        networks = {id(control.network): control.network for control in controls}
        assert self.info is not None
        place = settle_place(controls, self.info, self.host, self.between, self.say)
        self._resting = place.resting
        places = Places(unet, self.cursor, residency, self.kept)
        self._attach(controls, places)
        try:
            with residency.sampling(networks.values(), place, self.kept), places.hook():
                self._places = places
                yield
        finally:
            self._places = self._foreign = None
            self._missed = places.find_missed()
            self.cursor.layout = None
            self.noisy = None
            for control in controls:
                control.release()
            if place.between is not Between.NEVER:  # memory counts for more than time there
                self.kept.drop()

    def _attach(self, controls: Sequence[ActiveControl], places: Places) -> None:
        """Ask for the places of all controls, class by class."""
        # What went wrong where the host swallows errors is raised by the next U-Net call.
        places.call(lambda _step, _call: self.raise_error())
        if self._alignment is not None:
            self._alignment.attach(places)  # first: what others append goes behind what is shared

        def kind(control: ActiveControl) -> tuple[int, str]:
            return type(control).order, type(control).__qualname__

        for _kind, alike in groupby(sorted(controls, key=kind), kind):
            group = list(alike)
            with places.clock([control.meter for control in group]):
                type(group[0]).attach_all(group, places)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Another generation samples on the same U-Net inside this one: add nothing to it."""
        cursor, self.cursor = self.cursor, StepCursor()
        self._listen_to(self.cursor)
        try:
            yield
        finally:
            self.cursor = cursor
            self._listen_to(cursor)

    def _listen_to(self, cursor: StepCursor) -> None:
        if self._places is not None:
            self._places.cursor = cursor

    def set_schedule(self, schedule: Schedule) -> None:
        """The sampler starts its run; it will make these steps."""
        self.schedule = schedule

    def begin_evaluation(
        self,
        layout: RowLayout,
        progress: float,
        unet: nn.Module | None = None,
        noisy: NoisyLatent | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """The host announces the next evaluation of the denoiser.

        Args:
            layout: its rows.
            progress: fraction of this pass's steps done, 0 to 1.
            unet: the module that will be called. A refiner may have replaced the one that was
                patched: the controls move to it if it has the same structure, else they stay
                silent for the rest of the pass.
            noisy: the present latent, from samplers whose model predicts noise.
            schedule: the steps of the pass, where `set_schedule` was not told.
        """
        if self._places is None:
            return
        if unet is not None and unet not in (self._places.unet, self._foreign):
            self._follow(self._places, unet)
        if unet is not None and unet is self._foreign:
            self._say_if_silenced(unet, progress)
        self.evaluations += 1
        self.noisy = noisy
        self.cursor.begin(layout, progress, self.schedule or schedule)
        resting = find_resting(self.active, self.cursor.progress)
        if resting != self._resting:
            self._resting = resting
            self.host.residency.rest(resting)
        is_followed = unet is None or unet is not self._foreign
        for control in self.active if is_followed else ():
            if control.acts_on(layout.rows, self.cursor.progress):
                control.steps += 1
                control.due = control.due or self.evaluations

    def _follow(self, places: Places, unet: nn.Module) -> None:
        """Move to the model that the host has switched to, if it has the same structure."""
        if describe_unet(unet).signature == self._bound_to:
            self._foreign = None
            places.move_to(unet)
            return
        self._foreign = unet

    def _say_if_silenced(self, unet: nn.Module, progress: float) -> None:
        """Say that controls do not act on a foreign model, where one of them had to."""
        is_open = any(control.terms.window.is_open(progress) for control in self.active)
        if is_open or self._alignment is not None:
            self.say(
                "ControlNet: the model was switched during sampling to one that the controls were "
                f"not bound to ({describe_unet(unet).kind}); from there on they do not act"
            )

    def adjust_x0(self, x0: Tensor) -> Tensor:
        """Apply the open effects to predicted clean latents (b, 4, h, w) after guidance."""
        for effect in self._open("after_guidance"):
            x0 = effect.after_guidance(x0)
        return x0

    def adjust_rows(self, x0: Tensor, rows: Sequence[Row]) -> Tensor:
        """Apply the open effects to every row's predicted clean latent (n, 4, h, w)."""
        self._rows_shown_in = self.evaluations
        for effect in self._open("before_guidance"):
            x0 = effect.before_guidance(x0, rows)
        return x0

    def check_rows(self) -> None:
        """After an evaluation: effects on its rows were shown them.

        Raises:
            HostError: something has kept them from it.
        """
        if self._rows_shown_in != self.evaluations and self._open("before_guidance"):
            msg = (
                "ControlNet: another extension has put a function in the place of ControlNet's "
                "between the U-Net and guidance, so colours cannot be held; switch it off, or the "
                "unit"
            )
            raise HostError(msg)

    def condition(self, given: Tensor, rows: Sequence[Row]) -> Tensor:
        """What the open units tell an inpainting checkpoint, (n, 5, h, w); the first one's counts.

        Args:
            given: what the host tells it; for other checkpoints of another shape, and unchanged.
            rows: what each row is.
        """
        for effect in reversed(self._open("condition")):
            given = effect.condition(given, rows)
        return given

    def _open(self, moment: str) -> list[Effect]:
        progress = self.cursor.progress
        return [e for e in self.effects(moment) if e.window is None or e.window.is_open(progress)]

    def finish(self, image: Tensor, number: int, count: int) -> Tensor:
        """What the units do to a finished picture.

        Args:
            image: (3, H, W) in [0, 1].
            number: of the picture within the batch.
            count: pictures of the batch.
        """
        for prepared in self.prepared:
            effect = self._finishing.get(prepared)
            images = prepared.images(count)
            if effect is not None and (images is None or number in images):
                image = effect.finish(image, prepared.maps[0])
        return image

    def end_pass(self, completed: int) -> None:
        """After a run of the sampler: note which units acted, and why the others did not.

        Args:
            completed: evaluations that the sampler has finished.

        Raises:
            HostError: a unit should have acted in them and could not.
        """
        self.is_bound = False
        is_asked = self.units or self._alignment is not None
        if is_asked and completed and not self.evaluations:
            msg = (
                "ControlNet: the sampler never announced a step, so no control could act; "
                "another extension may have replaced the denoiser"
            )
            raise HostError(msg)
        if self._alignment is not None and completed:
            said = self._alignment.describe()
            self.has_aligned = self.has_aligned or self._alignment.acted
            if said:
                self.say(f"ControlNet: {said}")
        for bound in self.units:
            unit, became = bound.part.prepared.unit, self.outcome_of(bound.part.prepared)
            idle = outcome.after_pass(unit, bound.control, self.evaluations, completed)
            became.idle = idle or became.idle
            became.acted = became.acted or not idle
            became.company |= frozenset() if idle else bound.control.company
            became.stored = bound.control.network.stored or became.stored
            if not idle and bound.control.tally is not None:
                became.speed = bound.control.terms.speed
                self._note_tally(became, unit.name, bound.control.tally)
            self.report.add(bound, min(self.evaluations, completed), not idle)
        self._note_idle()
        due = any(0 < control.due <= completed for control in self.active)
        if self._missed and (due or self._alignment is not None):
            raise HostError(describe_missed(self._missed))

    def _note_idle(self) -> None:
        """Note which units have had no effect so far, and why."""
        for prepared in self.prepared:
            became = self.outcome_of(prepared)
            self.report.find(prepared).skipped = "" if became.acted else became.idle

    def _note_tally(self, became: Outcome, name: str, tally: tuple[int, int]) -> None:
        """Note and say in which evaluations a unit's network was evaluated."""
        became.tallies.append(tally)
        made, total = tally
        said = f"evaluated its network in {made} of {total} evaluations of the sampler"
        if made == total > 1:
            said += (
                "; nothing could be reused, as what it read was another in each, or there was no "
                "memory for it"
            )
        self.say(f"ControlNet {name}: speed {became.speed} {said}")

    def say_idle(self) -> None:
        """Say which units have had no effect so far, and why."""
        for prepared in self.prepared:
            became = self.outcome_of(prepared)
            if not became.acted:
                self.say(
                    f"ControlNet {prepared.unit.name} was never active, so it is not in the "
                    f"parameters: {became.idle}"
                )
