"""One generation, from the units a user asked for to the teardown of its hooks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.engine import outcome
from lib_controlnet.engine.effects import (
    INPAINT_ONLY,
    TILE_COLORFIX,
    HoldColours,
    KeepUnmasked,
    MaskChannels,
    StartPicture,
    box_blur,
    keep_unmasked,
    mask_channels,
)
from lib_controlnet.engine.injection import RegionMask, Residuals, sum_residuals
from lib_controlnet.engine.network import describe_unet
from lib_controlnet.engine.places import UNetPatcher
from lib_controlnet.engine.residency import Between, Place
from lib_controlnet.engine.residual import ActiveControl, evaluate_group
from lib_controlnet.engine.step import NoisyLatent, Row, RowLayout, StepContext, StepCursor
from lib_controlnet.engine.window import Window, is_for_sd1, layer_strengths
from lib_controlnet.enums import ControlMode, HiResOption, OnError, ResizeMode
from lib_controlnet.errors import ControlNetError, HostError, again, without_frames
from lib_controlnet.pictures.placement import PassGeometry, place_map, to_hint, to_pixels
from lib_controlnet.pictures.region import Region, place_region

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from lib_controlnet.engine.network import BaseUNet, ControlNetwork
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.window import Schedule
    from lib_controlnet.units.unit import ControlUnit

log = logging.getLogger(__name__)

INPAINTING_CHANNELS: Final = 9
"""Input channels of an inpainting checkpoint: latent, mask and latent of the masked picture."""


@dataclass(frozen=True)
class PassInfo:
    """One run of the sampler.

    Attributes:
        geometry: where the pass's latent lies on the picture.
        is_hires: second pass of a hires fix.
        has_hires: the generation has a hires pass at all.
        scale: size of the pass's picture relative to the requested one.
        images: pictures in the batch.
    """

    geometry: PassGeometry
    is_hires: bool = False
    has_hires: bool = False
    scale: float = 1.0
    images: int = 1


@dataclass(eq=False)
class PreparedUnit:
    """A unit that is ready to be bound to passes.

    Attributes:
        unit: what was asked.
        resize_mode: the mode that applies (an img2img picture brings its own).
        detected: uint8 (H, W, 3 or 4), the preprocessor's map.
        frames: the same for the further frames of an animation; then `detected` controls the
            first picture of a batch, and these the following ones.
        load: gives the control network for the base model that is loaded now.
        region: where the unit acts; None for the whole picture.
        turn: (i, n): of every n pictures of a batch the unit controls the one numbered i; None
            means all.
        soft_in_hires: the preprocessor asks for fall-off strengths in a hires pass.
        effect: name of an effect on sampling or on the finished picture that the preprocessor
            declares, or None.
        values: numbers of the preprocessor's sliders.
        fills: sampling of a first pass starts from the map, which the preprocessor has painted.
        masks: its mask is for an inpainting checkpoint too; the host has none.
        holds: its effect acts in the present pass, or did in the first one of a hires fix.
        area: the region that it acts in, if there is one.
        maps: maps of the passes so far, one per size, newest first; uint8 (H, W, 3 or 4).
        control: what it was bound to in the present pass; None where it has no effect.
        position: its place among the enabled units, by which the parameters call it.
        acted: it has changed a step of a pass that is over.
        idle: why it has not, after the last pass.
    """

    unit: ControlUnit
    resize_mode: ResizeMode
    detected: np.ndarray
    load: Callable[[BaseUNet], ControlNetwork] | None
    region: Region | None = None
    turn: tuple[int, int] | None = None
    soft_in_hires: bool = False
    effect: str | None = None
    values: tuple[float, ...] = ()
    fills: bool = False
    frames: tuple[np.ndarray, ...] = ()
    masks: bool = False
    holds: bool = False
    area: RegionMask | None = None
    maps: list[np.ndarray] = field(default_factory=list)
    control: ActiveControl | None = None
    position: int = 0
    acted: bool = False
    idle: str = "the picture was sampled in a way that announces no steps to ControlNet"

    def hint(self, geometry: PassGeometry) -> Tensor:
        """Hint of a pass: float32 (1, 3, H, W), or one for each frame (n, 3, H, W)."""
        maps = (self.detected, *self.frames)
        placed = [to_hint(place_map(shown, geometry, self.resize_mode)) for shown in maps]
        return placed[0] if len(placed) == 1 else torch.cat(placed)

    def images(self, count: int) -> frozenset[int] | None:
        """Which of the `count` pictures of a batch the unit controls; None means all."""
        if self.turn is None:
            return None
        return frozenset(range(self.turn[0], count, self.turn[1]))


class ControlSession:
    """The controls of one generation.

    Args:
        host: the WebUI.
        prepared: units in the user's order.
        on_error: what a unit that fails does to the generation.
    """

    def __init__(
        self, host: Host, prepared: Sequence[PreparedUnit], on_error: OnError = OnError.STOP
    ) -> None:
        self.host = host
        self.prepared = list(prepared)
        self.on_error = on_error
        self.error: BaseException | None = None
        self.comments: list[str] = []
        self.told = 0
        self.active: list[ActiveControl] = []
        self.effects: list[KeepUnmasked] = []
        self.row_effects: list[HoldColours] = []
        self.starts: list[StartPicture] = []
        self.conditions: list[MaskChannels] = []
        self.cursor = StepCursor()
        self.schedule: Schedule | None = None
        self.evaluations = 0
        self.sampler: object | None = None
        self.is_bound = False
        self.passes = 0
        self.noisy: NoisyLatent | None = None
        self._acting: list[ActiveControl] = []
        self._one_by_one = False
        self._bound_to: tuple[object, ...] | None = None
        self._patched: UNetPatcher | None = None
        self._foreign: nn.Module | None = None

    def fail(self, error: BaseException) -> None:
        """Keep an error that the host would swallow; the first one counts."""
        self.error = self.error or without_frames(error)

    def raise_error(self) -> None:
        """Raise the kept error where the host passes it on."""
        if self.error is not None:
            raise again(self.error)

    def release(self) -> None:
        """End all controls and let go of their pictures, also where the session itself is held."""
        self.prepared = []
        self._unbind()

    def _unbind(self) -> None:
        """Nothing acts: neither residuals nor what units do beside them."""
        self.active, self._acting = [], []
        self.effects, self.row_effects, self.starts, self.conditions = [], [], [], []

    def begin_pass(self, info: PassInfo, base: BaseUNet) -> None:
        """Bind every unit to this pass and this model.

        Raises:
            ControlNetError: a unit cannot act on this model (only with `OnError.STOP`).
        """
        self._unbind()
        self.schedule = None
        self.evaluations = 0
        self.passes += 1
        self._one_by_one = False
        self._bound_to = base.shape.signature
        kept: list[PreparedUnit] = []
        for prepared in self.prepared:
            try:
                control = self._bind(prepared, info, base)
            except ControlNetError as error:
                if self.on_error is OnError.STOP:
                    raise
                self.say(f"{error} (unit skipped)")
                continue
            kept.append(prepared)
            prepared.control = control
            if control is not None:
                self.active.append(control)
        self.prepared = kept
        self.is_bound = True
        # Sums of floats depend on their order; the user's order of units must not matter.
        self.active.sort(key=lambda control: control.sort_key)

    def say(self, comment: str) -> None:
        """Keep a sentence for the user, once."""
        if comment not in self.comments:
            self.comments.append(comment)

    def _bind(self, prepared: PreparedUnit, info: PassInfo, base: BaseUNet) -> ActiveControl | None:
        unit = prepared.unit
        placed = place_map(prepared.detected, info.geometry, prepared.resize_mode)
        others = [shown for shown in prepared.maps if shown.shape != placed.shape]
        prepared.maps = [placed, *others]
        prepared.holds = prepared.holds and info.is_hires  # what the first pass kept stays kept
        if prepared.load is None or not _acts_in(unit.hr_option, info):
            prepared.idle = (
                f"{unit.module} steers without a control model, which is not supported yet"
                if prepared.load is None
                else f"it acts in another pass (hr_option is {unit.hr_option.value!r})"
            )
            return None
        network = prepared.load(base)
        for note in network.notes:
            self.say(f"ControlNet {unit.name}: {note}")
        mode = unit.control_mode
        if prepared.soft_in_hires and info.is_hires and mode is ControlMode.BALANCED:
            # Parity: one-pixel line maps are softened in a hires pass.
            mode = ControlMode.PROMPT
        own = unit.advanced_weighting
        strengths = layer_strengths(unit.weight, network.layers, mode, own, unit.name)
        if own is not None and is_for_sd1(own, network.layers):
            self.say(
                f"{unit.name}: advanced_weighting has {len(own)} numbers, one for each layer of "
                f"SD1; the control model is for {network.base} and takes the first {network.layers}"
            )
        window = Window(unit.guidance_start, unit.guidance_end)
        region = self._region(prepared, info)
        images = prepared.images(info.images)
        prepared.idle = outcome.before_pass(unit, strengths, region, images)
        if prepared.idle:
            log.info("%s has no effect in this pass: %s", unit.name, prepared.idle)
            return None
        prepared.area = None if region is None or region.is_full else region
        self._bind_effects(prepared, to_pixels(placed), window, info)
        if prepared.masks and base.shape.in_channels == INPAINTING_CHANNELS:
            self._bind_condition(prepared, window, info)
        log.info(
            "%s: %s, %s, %s, window %g to %g, %dx%d%s",
            *(unit.name, unit.module, network.name, unit.control_mode, window.start, window.end),
            *(info.geometry.size.width, info.geometry.size.height),
            ", hires" if info.is_hires else "",
        )
        return ActiveControl(
            network=network,
            hint=prepared.hint(info.geometry),
            strengths=strengths,
            window=window,
            cond_only=unit.control_mode is ControlMode.CONTROL or network.global_average_pooling,
            region=prepared.area,
            images=images,
        )

    def _bind_effects(
        self, prepared: PreparedUnit, pixels: Tensor, window: Window, info: PassInfo
    ) -> None:
        """What the unit does beside its residuals; `pixels` (1, 3 or 4, H, W) is its placed map."""
        images = prepared.images(info.images)
        kept = None
        prepared.holds = prepared.effect is not None
        if prepared.effect == INPAINT_ONLY:
            kept = keep_unmasked(pixels, self.host.vae_encode, window)
            self.effects += [] if kept is None else [replace(kept, images=images)]
        if prepared.effect == TILE_COLORFIX:
            radius = int(prepared.values[0]) * (2 if info.is_hires else 1)
            self.row_effects.append(
                HoldColours(
                    box_blur(self.host.vae_encode(pixels[:, :3]), radius),
                    radius,
                    0.01 * prepared.values[1] if len(prepared.values) > 1 else 0.0,
                    min(max(prepared.unit.weight, 0.0), 1.0),
                    window,
                    prepared.area,
                    images,
                )
            )
        if prepared.fills and not info.is_hires:
            latent = self.host.vae_encode(pixels[:, :3]) if kept is None else kept.latent
            self.starts.append(StartPicture(latent, images))

    def _bind_condition(self, prepared: PreparedUnit, window: Window, info: PassInfo) -> None:
        """What the unit, or each of its frames, tells an inpainting checkpoint."""
        hidden = float(str(self.host.option("inpainting_mask_weight")))
        for number, shown in enumerate((prepared.detected, *prepared.frames)):
            pixels = to_pixels(place_map(shown, info.geometry, prepared.resize_mode))
            told = mask_channels(pixels, self.host.vae_encode, hidden, window)
            images = frozenset({number}) if prepared.frames else prepared.images(info.images)
            self.conditions += [] if told is None else [replace(told, images=images)]

    @staticmethod
    def _region(prepared: PreparedUnit, info: PassInfo) -> RegionMask | None:
        if prepared.region is None:
            return None
        return RegionMask(place_region(prepared.region, info.geometry, info.scale))

    @contextmanager
    def sampling(self, unet: nn.Module) -> Iterator[None]:
        """Controls act on `unet` inside this context; afterwards it is as it was.

        Raises:
            ControlNetError: on entry, if preparing the units failed.
        """
        self.raise_error()
        if not self.active and not self.effects:
            yield
            return
        self.cursor = StepCursor()
        patcher = UNetPatcher(unet, self.cursor, self)
        networks = {id(control.network): control.network for control in self.active}
        place = Place(self.host.device, Between.EVALUATION if self.low_vram else self.host.between)
        try:
            with self.host.residency.sampling(networks.values(), place), patcher.attached():
                self._patched = patcher
                yield
        finally:
            self._patched = self._foreign = None
            self.cursor.layout = None
            self.noisy = None
            for control in self.active:
                control.release()

    @property
    def low_vram(self) -> bool:
        """Networks stay off the device between their uses: one unit asks for all."""
        return any(prepared.unit.low_vram for prepared in self.prepared)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Another generation samples on the same U-Net inside this one: add nothing to it."""
        cursor, self.cursor = self.cursor, StepCursor()
        self._listen_to(self.cursor)
        try:
            yield
        finally:
            self.cursor = cursor
            self._listen_to(cursor)

    def _listen_to(self, cursor: StepCursor) -> None:
        if self._patched is not None:
            self._patched.cursor = cursor

    def set_schedule(self, schedule: Schedule) -> None:
        """The sampler starts its run; it will make these steps."""
        self.schedule = schedule

    def begin_evaluation(
        self,
        layout: RowLayout,
        progress: float,
        unet: nn.Module | None = None,
        noisy: NoisyLatent | None = None,
    ) -> None:
        """The host announces the next evaluation of the denoiser.

        Args:
            layout: its rows.
            progress: fraction of this pass's steps done, 0 to 1.
            unet: the module that will be called. A refiner may have replaced the one that was
                patched: the controls move to it if it has the same structure, else they stay
                silent for the rest of the pass.
            noisy: the present latent, from samplers whose model predicts noise.
        """
        if self._patched is None:
            return
        if unet is not None and unet not in (self._patched.unet, self._foreign):
            self._follow(self._patched, unet)
        if unet is not None and unet is self._foreign:
            self._say_if_silenced(unet, progress)
        self.evaluations += 1
        self.noisy = noisy
        self.cursor.begin(layout, progress)
        is_followed = unet is None or unet is not self._foreign
        for control in self.active if is_followed else ():
            is_open = control.window.is_open(self.cursor.progress)
            if not control.due and is_open and outcome.has_rows(control, layout):
                control.due = self.evaluations

    def _follow(self, patched: UNetPatcher, unet: nn.Module) -> None:
        """Move to the model that the host has switched to, if it has the same structure."""
        if describe_unet(unet).signature == self._bound_to:
            self._foreign = None
            patched.move_to(unet)
            return
        self._foreign = unet

    def _say_if_silenced(self, unet: nn.Module, progress: float) -> None:
        """Say that controls do not act on a foreign model, where one of them had to."""
        if any(control.window.is_open(progress) for control in self.active):
            self.say(
                "ControlNet: the model was switched during sampling to one that the controls were "
                f"not bound to ({describe_unet(unet).kind}); from there on they do not act"
            )

    def residuals(self, step: StepContext) -> list[Residuals]:
        """Everything to add in one U-Net call (called by the patcher).

        Raises:
            Exception: what went wrong earlier in a place whose errors the host swallows.
        """
        self.raise_error()
        groups: dict[tuple[int, tuple[int, ...]], list[ActiveControl]] = {}
        self._acting = []
        for control in self.active:
            if not control.window.is_open(step.progress):
                continue
            rows = step.select(control.cond_only, control.images)
            if rows:
                groups.setdefault((id(control.network), rows), []).append(control)
                self._acting.append(control)
        parts: list[Residuals] = []
        for (_, rows), controls in groups.items():
            parts += self._evaluate(controls, step, rows)
        return sum_residuals(parts)

    def injected(self) -> None:
        """The U-Net's blocks took what `residuals` gave last (called by the patcher)."""
        for control in self._acting:
            control.acted = True

    def _evaluate(
        self, controls: list[ActiveControl], step: StepContext, rows: tuple[int, ...]
    ) -> list[Residuals]:
        """Units of one network as one batch; one by one if memory does not allow it."""
        network = controls[0].network
        with self.host.residency.on_device(network):
            if len(controls) > 1 and not self._one_by_one:
                try:
                    return evaluate_group(controls, step, rows)
                except torch.cuda.OutOfMemoryError:
                    self._one_by_one = True
                # Outside of `except`: there the failed batch would still be held by its traceback.
                self.host.residency.relieve([network])
                log.warning("not enough memory to evaluate %d units at once", len(controls))
            return [part for one in controls for part in evaluate_group([one], step, rows)]

    def adjust_x0(self, x0: Tensor) -> Tensor:
        """Apply the open latent effects to predicted clean latents (b, 4, h, w)."""
        for effect in self.effects:
            if effect.window.is_open(self.cursor.progress):
                x0 = effect.apply(x0)
        return x0

    def adjust_rows(self, x0: Tensor, rows: Sequence[Row]) -> Tensor:
        """Apply the open effects on every row's predicted clean latent (n, 4, h, w)."""
        for effect in self.row_effects:
            if effect.window.is_open(self.cursor.progress):
                x0 = effect.apply(x0, rows)
        return x0

    def condition(self, given: Tensor, rows: Sequence[Row]) -> Tensor:
        """What the open units tell an inpainting checkpoint, (n, 5, h, w); the first one's counts.

        Args:
            given: what the host tells it; for other checkpoints of another shape, and unchanged.
            rows: what each row is.
        """
        for told in reversed(self.conditions):
            if told.window.is_open(self.cursor.progress):
                given = told.apply(given, rows)
        return given

    def end_pass(self, completed: int) -> None:
        """After a run of the sampler: note which units acted, and why the others did not.

        Args:
            completed: evaluations that the sampler has finished.

        Raises:
            HostError: a unit should have acted in them and could not.
        """
        self.is_bound = False
        if self.active and completed and not self.evaluations:
            msg = (
                "ControlNet: the sampler never announced a step, so no control could act; "
                "another extension may have replaced the denoiser"
            )
            raise HostError(msg)
        for prepared in self.prepared:
            if prepared.control is None:
                continue
            idle = outcome.after_pass(prepared.unit, prepared.control, self.evaluations, completed)
            prepared.idle = idle or prepared.idle
            prepared.acted = prepared.acted or not idle

    def say_idle(self) -> None:
        """Say which units have had no effect so far, and why."""
        for prepared in self.prepared:
            if not prepared.acted:
                self.say(
                    f"ControlNet {prepared.unit.name} was never active, so it is not in the "
                    f"parameters: {prepared.idle}"
                )


def _acts_in(option: HiResOption, info: PassInfo) -> bool:
    """Whether a unit with this option acts in the pass; without hires it always does."""
    if not info.has_hires or option is HiResOption.BOTH:
        return True
    return info.is_hires == (option is HiResOption.HIGH_RES_ONLY)
