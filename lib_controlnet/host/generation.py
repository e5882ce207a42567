"""One generation seen from the host's callbacks. Errors are kept here and raised in sampling.

The host prints and forgets what a script method raises, then generates without control. So a
failure is stored in the session, and `sampling` raises it before the first step; the host passes
that on to the user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch
from PIL import Image

from lib_controlnet.detect import listing, preprocess
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import LATENT_SCALE, OnError
from lib_controlnet.errors import ControlNetError, HostError
from lib_controlnet.host import clients, pictures, request, shown_maps, steps
from lib_controlnet.host.members import find_model, member_of
from lib_controlnet.host.runs import animation, batch, xyz
from lib_controlnet.host.sessions import end_session, give_session, session_of
from lib_controlnet.interop import unit as unit_object
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units import infotext, overrides
from lib_controlnet.units.plan import plan
from lib_controlnet.units.region_map import share_region_map
from lib_controlnet.units.unit import SLIDERS, ControlUnit, parse_unit

if TYPE_CHECKING:
    import numpy as np

    from lib_controlnet.engine.prepared import PreparedUnit
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.host.runs.batch import BatchRun
    from lib_controlnet.host.runtime import Runtime
    from lib_controlnet.units.plan import Frames

log = logging.getLogger(__name__)

MAPS_ATTRIBUTE: Final = "controlnet_kept_maps"
"""A dict that our own scripts put on `p` to get the detected maps by unit, uint8 (H, W, C)."""
LATER_ATTRIBUTE: Final = "controlnet_later_pictures"
"""What our own scripts put on `p`: the control pictures of the generations to come, by unit."""


def begin(p: Any, args: Sequence[Any], runtime: Runtime) -> None:
    """Prepare the units of one `process_images` call. Never raises a `ControlNetError`.

    Args:
        p: the host's processing object; whatever an earlier call left on it is replaced.
        args: the script's arguments, one unit per slot.
        runtime: what all generations share.
    """
    give_session(p, None)
    _forget_infotext(p)
    session = ControlSession(runtime.host, [], _on_error(runtime))
    try:
        given = read_units(args)
        runtime.remember(given)
        asked = share_region_map(overrides.apply(given, outside_values(p, runtime)))
        units = [unit for unit in asked if unit.enabled]
        session.aligns = any(unit.style_align for unit in asked)
        if not units and not session.aligns:
            return
        give_session(p, session)
        if not units:
            return
        last = batch.leave(p)
        source = runtime.batch_source(p)
        made = plan(units, source, animation.animation_of(p), _takes_several)
        run = batch.start(p, made, last, runtime)
        if run is None:
            units = made.at(0)
            _prepare(p, units, session, runtime, made.frames, partial(_look_ahead, p, units))
        else:
            _prepare_turn(run, run.first, session, runtime)
    except Exception as error:
        # The boundary: kept, and raised again before the first step.
        give_session(p, session)
        _keep(session, error, "preparing the units")


def _look_ahead(p: Any, units: Sequence[ControlUnit], position: int) -> Iterator[ControlUnit]:
    """A unit with its pictures of the generations to come, where a script of ours tells them."""
    unit = units[position]
    for pictures_of_one in getattr(p, LATER_ATTRIBUTE, ()):
        if unit.index in pictures_of_one:
            yield replace(unit, image=pictures_of_one[unit.index])


def _takes_several(unit: ControlUnit) -> bool:
    return listing.takes_several(unit.module)


def _keep(session: ControlSession, error: Exception, doing: str) -> None:
    """Keep what was caught for the place that raises it again; of its own making or not."""
    if not isinstance(error, ControlNetError):
        log.exception("%s failed", doing)  # before the error loses its frames
    session.fail(error)


def _on_error(runtime: Runtime) -> OnError:
    return OnError(runtime.option("control_net_on_error"))


def _forget_infotext(p: Any) -> None:
    keys = [key for key in p.extra_generation_params if infotext.is_own_key(key)]
    for key in keys:
        del p.extra_generation_params[key]


def begin_batch(p: Any, number: int, runtime: Runtime) -> None:
    """Before an iteration of the host: give the units of a batch the pictures of its turn.

    Args:
        p: the host's processing object.
        number: of the iteration, from 0.
        runtime: what all generations share.
    """
    run, session = batch.run_of(p), session_of(p)
    if run is None or session is None or session.error is not None:
        return
    turn = run.turn_of(number)
    if turn == run.turn:
        return
    _autosave(p, session, runtime)
    pass_on_comments(p, session)
    session = session.follow()
    give_session(p, session)
    try:
        _prepare_turn(run, turn, session, runtime)
    except Exception as error:  # the boundary: raised again before the first step
        _keep(session, error, "preparing the units")
    if runtime.host.is_interrupted():
        p.prompts = []  # the host ends its loop here, as at the loop's head


def _prepare_turn(run: BatchRun, turn: int, session: ControlSession, runtime: Runtime) -> None:
    run.turn = turn
    _forget_infotext(run.owner)
    try:
        units = batch.units_of_turn(run, turn, runtime)
        later = partial(batch.look_ahead, run, turn, runtime)
        _prepare(run.owner, units, session, runtime, later=later)
    except ControlNetError as error:
        raise batch.name_turn(run, turn, error) from error


def _prepare(
    p: Any,
    units: Sequence[ControlUnit],
    session: ControlSession,
    runtime: Runtime,
    frames: Mapping[int, Frames] = MappingProxyType({}),
    later: Callable[[int], Iterable[ControlUnit]] = lambda _position: (),
) -> None:
    runtime.host.report("ControlNet: preparing")
    try:
        with torch.no_grad():
            base = runtime.base()
            preparation = Preparation(
                request=request.read_request(p),
                models=runtime,
                base=base,
                source=pictures.source(runtime.host, runtime.decoded),
                cache=runtime.detections,
                interrupted=runtime.host.is_interrupted,
                on_error=session.on_error,
                later=later,
                skip=session.report.skip,
            )
            wanted = [unit.model for unit in units if unit.enabled and unit.has_model]
            # Else the loading of one unit's drops what the next one is going to use.
            held = runtime.find_loaded(wanted, base)
            session.take(prepare_units(units, preparation, session.comments, frames))
            del held
    finally:
        runtime.host.report(None)
    for position, prepared in enumerate(session.prepared):
        prepared.position = position
        p.extra_generation_params[f"{infotext.KEY} {position}"] = describe(prepared.unit)
    pass_on_comments(p, session)


def read_units(args: Iterable[Any]) -> list[ControlUnit]:
    """Parse the script's arguments: units, dicts, or look-alikes; None is an unused slot.

    Raises:
        UnitError: a unit holds an impossible value, or an argument is not a unit at all.
    """
    units = []
    for index, value in enumerate(unit_object.flatten(args)):
        if value is None:
            continue
        if isinstance(value, Mapping):
            unit_object.report(value)
        units.append(parse_unit(value, index))
    return units


def outside_values(p: Any, runtime: Runtime) -> dict[str, Any]:
    """What other scripts ask of the units of this generation, by field."""
    values: dict[str, Any] = {}
    if runtime.option("control_net_allow_script_control"):
        for attribute, field in overrides.attributes().items():
            value = getattr(p, attribute, None)
            if value is not None:
                values[field] = value
    return values | xyz.cell_values(p)


def describe(unit: ControlUnit) -> str:
    """The unit as one infotext value."""
    settled = preprocess.settle(
        unit.module, unit.processor_res, (unit.threshold_a, unit.threshold_b)
    )
    defaults = dict(zip(SLIDERS, (settled.resolution, *settled.values), strict=False))
    return infotext.serialize(unit, defaults)


def begin_pass(p: Any, x: Any, runtime: Runtime, noise: Any = None) -> None:
    """Bind the units to the pass that is about to be sampled.

    Args:
        p: the host's processing object.
        x: latent or noise of the pass, (b, c, h, w); only its size is read.
        runtime: what all generations share.
        noise: unit noise that sampling starts from, (b, c, h, w); changed in place where a unit
            has a picture to start from.
    """
    session = session_of(p)
    if session is None:
        runtime.residency.park()
        return
    if session.sampler is not None and session.is_bound:
        return  # some hosts announce a refiner as well; controls follow it by themselves
    runtime.residency.park_others()
    if session.error is None:
        try:
            info = pass_info(p, x, runtime.host.require_base())
            session.begin_pass(info)
            runtime.host.reserve(session)
            if noise is not None:
                steps.lay_starts(session, noise)
        except Exception as error:  # the boundary: raised again before the first step
            _keep(session, error, "binding the units to the pass")
    pass_on_comments(p, session)


def begin_late_pass(p: Any, x: Any, runtime: Runtime) -> None:
    """Bind the units to a pass of another script, whose sampler has been started already.

    Args:
        p: the host's processing object.
        x: the latent that sampling starts from, (b, c, h, w); only its size is read.
        runtime: what all generations share.
    """
    begin_pass(p, x, runtime)
    session = session_of(p)
    if session is not None and session.effects("under_noise"):
        session.say(
            "ControlNet: another script started its sampler with a noise of its own, so the "
            "picture that was filled in is not laid under it"
        )


def pass_info(p: Any, x: Any, base: BaseUNet) -> PassInfo:
    """The pass that samples the latent `x` on a U-Net."""
    is_hires = bool(getattr(p, "is_hr_pass", False))
    latent = Size(int(x.shape[-1]), int(x.shape[-2]))
    cells = None
    if is_hires:
        layout = request.hires_layout(p)
        canvas, cells = (None, None) if layout is None else (layout.canvas, layout.cells)
    else:
        canvas = Size(int(p.width), int(p.height))
        if canvas.multiple_of_down(LATENT_SCALE) != Size(
            latent.width * LATENT_SCALE, latent.height * LATENT_SCALE
        ):
            canvas = None  # another extension samples at a size of its own
    geometry = PassGeometry.of_latent(latent, canvas, cells)
    return PassInfo(
        geometry,
        base,
        is_hires=is_hires,
        has_hires=bool(getattr(p, "enable_hr", False)),
        scale=geometry.canvas.width / max(int(p.width), 1) if is_hires else 1.0,
        images=int(x.shape[0]),
        seeds=tuple(int(seed) for seed in getattr(p, "seeds", None) or (0,)),
        has_words=_has_words(p, is_hires),
        alphas=member_of(find_model()).find_alphas(find_model()),
    )


def _has_words(p: Any, is_hires: bool) -> bool:
    """Whether the prompts of the present batch say something; of others nothing is known."""
    names = ("hr_prompts", "hr_negative_prompts") if is_hires else ("prompts", "negative_prompts")
    texts = [str(text) for name in names for text in getattr(p, name, None) or ()]
    return not texts or any(text.strip() for text in texts)


def pass_on_comments(p: Any, session: ControlSession) -> None:
    """Log what the user should know, and have the page show it under the picture."""
    for comment in session.comments[session.told :]:
        log.warning("%s", comment)
        p.comment(comment)
    session.told = len(session.comments)


def finish_batch(p: Any, images: Any, runtime: Runtime) -> None:
    """Pixel effects after decoding; `images` is (b, 3, H, W) in [0, 1] and changed in place."""
    session = session_of(p)
    if session is None or session.error is not None:
        return
    _write_what_ran(p, session, runtime)
    for number in range(len(images)):
        images[number] = session.finish(images[number], number, len(images))


def _write_what_ran(p: Any, session: ControlSession, runtime: Runtime) -> None:
    """The parameters name the units that have acted, and only those; of the others it is said."""
    _forget_infotext(p)
    for prepared in session.prepared:
        if session.outcome_of(prepared).acted:
            key = f"{infotext.KEY} {prepared.position}"
            became = session.outcome_of(prepared)
            others = [o.position for o in session.prepared if o.unit.name in became.company]
            beside = infotext.describe_company(others) + infotext.describe_tallies(became.tallies)
            beside += infotext.describe_storage(became.stored)
            unit = prepared.unit
            unit = unit if became.speed is None else replace(unit, speed=became.speed)
            p.extra_generation_params[key] = describe(unit) + beside
    if session.has_aligned:
        p.extra_generation_params[infotext.STYLE_ALIGN] = str(True)
    if not runtime.host.is_interrupted():
        session.say_idle()
        pass_on_comments(p, session)


def finish_picture(p: Any, picture: Image.Image) -> None:
    """A picture is finished: a batch keeps it, or saves it under its control picture's name."""
    run, session = batch.run_of(p), session_of(p)
    if run is None or session is None:
        return
    try:
        batch.finish_picture(run, picture)
    except Exception as error:  # the boundary: the host would lose it; the next pass raises it
        log.exception("saving a result failed")
        session.fail(HostError(f"ControlNet batch: a result could not be saved: {error}"))


def end(p: Any, processed: Any, runtime: Runtime) -> None:
    """Keep the detected maps until the job is over, and drop the session."""
    is_batch = batch.end(p, processed, runtime)
    session = session_of(p)
    if session is None:
        return
    give_session(p, None)
    if session.error is None:
        told = len(session.comments)
        _autosave(p, session, runtime)
        processed.comments += "".join(f"{comment}\n" for comment in session.comments[told:])
    if session.comments:
        # The answer of the host's API holds the parameters, not the comments.
        p.extra_generation_params[infotext.NOTES] = "\n".join(session.comments)
    if session.error is not None:
        processed.comments += f"{session.error}\n" if is_batch else ""
        return
    report = AnswerOnly(session.report.describe())
    if report:
        p.extra_generation_params[infotext.REPORT] = report
    _keep_maps(p, session)
    hidden = runtime.option("control_net_no_detectmap") or request.is_upscale_script(p)
    if is_batch or hidden or getattr(p, MAPS_ATTRIBUTE, None) is not None:
        return
    maps = [
        Image.fromarray(picture)
        for prepared in session.prepared
        for picture in maps_to_show(prepared)
        if prepared.unit.save_detected_map and not prepared.frames
    ]
    shown_maps.keep(p, processed, maps)


class AnswerOnly(dict[str, Any]):
    """What the answer tells and texts leave out: hosts write nothing of what gives None."""

    def __call__(self, **_of_text: Any) -> None:
        """Nothing for a text."""


def close(p: Any, runtime: Runtime) -> None:
    """The host is done with a job, however it ended: nothing of ours stays on it.

    The host's sampler and the frames of an exception keep `p` until the next full garbage
    collection, and with it would keep the pictures of the units.
    """
    shown_maps.deliver(p)
    batch.forget(p, runtime)
    end_session(p)


def _autosave(p: Any, session: ControlSession, runtime: Runtime) -> None:
    for prepared in session.prepared:
        try:
            pictures.autosave(p, prepared, runtime.host)
        except Exception as error:  # foreign: the file system's, Pillow's, the host's
            log.warning("%s: saving its detected map failed: %s", prepared.unit.name, error)
            reason = getattr(error, "strerror", None) or clients.public(str(error))
            session.say(
                f"ControlNet {prepared.unit.name}: its detected map could not be saved: {reason}"
            )


def _keep_maps(p: Any, session: ControlSession) -> None:
    kept = getattr(p, MAPS_ATTRIBUTE, None)
    if kept is not None:
        for prepared in session.prepared:
            kept.setdefault(prepared.unit.index, maps_to_show(prepared)[-1:])


def maps_to_show(prepared: PreparedUnit) -> list[np.ndarray]:
    """Maps of one unit, the hires pass's first; a mask is shown as transparency."""
    if prepared.embeddings:
        return list(prepared.pictures)
    shown: list[np.ndarray] = []
    for placed in prepared.maps:
        picture = placed.copy()
        if picture.shape[2] == 4:  # RGB plus mask
            picture[:, :, 3] = 255 - picture[:, :, 3] // 2
        shown.append(picture)
    return shown
