"""Tells a session of each evaluation, and lets its effects act on what the host shows of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lib_controlnet.engine.effects.x0 import adjust_noise
from lib_controlnet.engine.step import NoisyLatent
from lib_controlnet.errors import HostError
from lib_controlnet.host.members import FindSession, find_model, find_sampled, member_of
from lib_controlnet.host.schedule import from_denoiser
from lib_controlnet.host.sessions import session_of

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.session import ControlSession


def on_cfg_denoiser(session: ControlSession, params: Any, find_session: FindSession) -> None:
    """Once per evaluation, before the host splits the batch into U-Net calls.

    Args:
        session: the one that is being sampled.
        params: the host's.
        find_session: gives that session, or whichever is sampled later.
    """
    denoiser: Any = getattr(params, "denoiser", None)
    if session_of(getattr(denoiser, "p", None)) is not session:
        session.cursor.layout = None  # a generation without scripts, in the middle of ours
        return
    model = find_sampled(denoiser)
    member = member_of(model)
    layout = member.rows.read(params, session.needs_texts)
    schedule = session.schedule or from_denoiser(denoiser)
    # Read only where it counts: the tensor is on the device, and reading it waits for the device.
    sigma = 0.0 if schedule.sigmas is None else float(params.sigma.max())
    progress = schedule.progress(denoiser.step, sigma)
    noisy = None
    if getattr(denoiser, "mask_before_denoising", False):  # samplers that predict epsilon
        images = layout.images
        noisy = NoisyLatent(params.x[-images:], params.sigma[-images:])
    session.begin_evaluation(layout, progress, member.find_unet(model), noisy, schedule)
    if session.effects("before_guidance") and not member.shows_rows:
        member.watch_rows(model, find_session)
    if session.effects("condition"):
        shown = layout.rows[: len(params.x)]  # some hosts show each picture once
        params.image_cond = session.condition(params.image_cond, shown)


def on_cfg_after_cfg(session: ControlSession, params: Any) -> None:
    """Once per evaluation, after guidance: hold the prediction where a unit asks for it."""
    if session.cursor.layout is not None:
        session.check_rows()
    if session.effects("after_guidance"):
        params.x = _adjust(params.x, session.noisy, session.adjust_x0, session)


def on_cfg_denoised(session: ControlSession, params: Any) -> None:
    """Once per evaluation, before guidance: every row's prediction, changed in place."""
    layout = session.cursor.layout
    if not session.effects("before_guidance") or layout is None:
        return
    if not member_of(find_model()).shows_rows:
        return  # they are held on their way from the U-Net
    rows, noisy = layout.rows, session.noisy
    if len(rows) != len(params.x):
        msg = (
            f"ControlNet: {len(rows)} rows were announced and {len(params.x)} were denoised; "
            "another extension has changed the batch, so colours cannot be held"
        )
        raise HostError(msg)
    if noisy is not None:
        images = [row.image for row in rows]
        noisy = NoisyLatent(noisy.x[images], noisy.timesteps[images])
    params.x.copy_(_adjust(params.x, noisy, lambda x0: session.adjust_rows(x0, rows), session))


def _adjust(
    prediction: Tensor,
    noisy: NoisyLatent | None,
    adjust: Callable[[Tensor], Tensor],
    session: ControlSession,
) -> Tensor:
    """A prediction whose clean latent was adjusted; it is noise where `noisy` is given."""
    if noisy is None:
        return adjust(prediction)
    return adjust_noise(prediction, noisy, session.host.alphas, adjust)


def lay_starts(session: ControlSession, noise: Tensor) -> None:
    """Put the pictures that sampling shall start from under its noise, (b, c, h, w), in place.

    Once under a noise, if the host announces the pass twice.
    """
    if session.laid_under is not None and session.laid_under() is noise:
        return
    session.laid_under = weakref.ref(noise)
    for effect in session.effects("under_noise"):
        effect.under_noise(noise, float(session.host.alphas[-1]))
