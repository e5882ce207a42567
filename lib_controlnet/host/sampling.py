"""Controls act in whatever samples a generation's picture, or the generation stops.

The host announces a pass to scripts right before its own run of a sampler. Other scripts sample as
well: they put a function of their own in the place of `p.sample`, make further samplers, or call
the U-Net in a loop. So the run of every sampler is watched where all have it in common, in the
method `launch_sampling` of their class, and `p.sample` is watched for calls of the U-Net that no
sampler has announced. Neither does anything in a generation without units.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import lru_cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from modules import sd_samplers_common

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.errors import HostError
from lib_controlnet.host import clients, generation
from lib_controlnet.host.members import find_model, member_of
from lib_controlnet.host.runtime import Runtime, find_runtime
from lib_controlnet.host.schedule import watch
from lib_controlnet.host.sessions import session_of

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.window import Schedule

Launch = Callable[[Any, int, Callable[[], Any]], Any]
METHOD: Final = "launch_sampling"
UPDATE: Final = "update_inner_model"
"""Of a denoiser: another checkpoint has been loaded."""

_FOLLOWED: Final[list[type]] = []
"""Classes whose method is ours, for as long as the scripts are loaded."""


def install() -> None:
    """Watch the runs of all samplers of the host's base class; again is no harm."""
    _follow(sd_samplers_common.Sampler)


def uninstall() -> None:
    """Give the classes their own methods back."""
    while _FOLLOWED:
        owner = _FOLLOWED.pop()
        present: Any = vars(owner).get(METHOD)
        if _is_ours(present):
            setattr(owner, METHOD, present.controlnet_original)


def follow(p: Any) -> None:
    """Watch the runs of this generation's sampler too if its class has a method of its own."""
    for owner in type(getattr(p, "sampler", None)).__mro__:
        if METHOD in vars(owner):
            _follow(owner)
            return


def _follow(owner: type) -> None:
    present = vars(owner)[METHOD]
    if isinstance(present, FunctionType) and not _is_ours(present):
        setattr(owner, METHOD, _wrap(present))
        _FOLLOWED.append(owner)


def _is_ours(function: Any) -> bool:
    # Known by identity: `functools.wraps` of a neighbour copies attributes.
    original = getattr(function, "controlnet_original", None)
    return original is not None and _wrap(original) is function


@lru_cache(maxsize=64)
def _wrap(original: Launch) -> Launch:
    """One and the same method for one and the same original, also after a reload."""

    def launch_sampling(sampler: Any, steps: int, func: Callable[[], Any]) -> Any:
        runtime, session = find_runtime(), session_of(getattr(sampler, "p", None))
        if runtime is None or (session is None and runtime.sampling is runtime.guarded is None):
            return original(sampler, steps, func)
        if session is not None and session.sampler is sampler:
            return original(sampler, steps, func)  # called by the method of a subclass
        if session is None or session is runtime.sampling:
            # Another generation in the middle of ours: it keeps the controls quiet.
            with _take_over(ControlSession(runtime.host, []), runtime):
                return original(sampler, steps, func)
        session.sampler = sampler
        try:
            return _run_controlled(
                session, runtime, sampler, lambda: original(sampler, steps, func)
            )
        finally:
            session.sampler = None

    launch_sampling.controlnet_original = original  # type: ignore[attr-defined]
    return launch_sampling


@contextmanager
def _take_over(session: ControlSession, shared_objects: Runtime) -> Iterator[None]:
    """The session's pass runs inside; one in whose middle it runs is silent meanwhile."""
    outer = shared_objects.sampling
    shared_objects.sampling = session
    try:
        with nullcontext() if outer is None else outer.silence():
            yield
    finally:
        shared_objects.sampling = outer


def _run_controlled(
    session: ControlSession, runtime: Runtime, sampler: Any, run: Callable[[], Any]
) -> Any:
    """Run the sampler with the controls on the U-Net; they are gone afterwards.

    An error of the session is raised before the first step, because the host swallows what a
    script method raises but passes on what comes out of sampling.
    """
    with ExitStack() as stack:
        stack.enter_context(_take_over(session, runtime))
        session.raise_error()
        is_attached = session.is_bound
        if is_attached:
            stack.enter_context(session.sampling(runtime.host.require_base().module))

        def begin(schedule: Schedule, x: Tensor) -> None:
            nonlocal is_attached
            if not is_attached:
                is_attached = True
                generation.begin_late_pass(sampler.p, x, runtime)
                session.raise_error()
                stack.enter_context(session.sampling(runtime.host.require_base().module))
            session.set_schedule(schedule)

        stack.enter_context(watch(sampler, begin))
        stack.enter_context(_reserve_anew(sampler, session, runtime))
        result = run()
    session.raise_error()
    completed = int(getattr(sampler.model_wrap_cfg, "step", session.evaluations))
    if completed and not is_attached:
        msg = (
            f"ControlNet: another script samples with {type(sampler).__name__}, which does not "
            "run as the host's samplers do, so no control could act; switch it off, or the units"
        )
        raise HostError(msg)
    session.end_pass(completed)
    generation.pass_on_comments(sampler.p, session)
    return result


@contextmanager
def _reserve_anew(sampler: Any, session: ControlSession, runtime: Runtime) -> Iterator[None]:
    """Memory is kept free beside a refiner's U-Net, too.

    What was reserved belongs to the U-Net that the pass began with. A host that keeps memory free
    brings the other one to the device right after it has told the denoiser of it.
    """
    denoiser = getattr(sampler, "model_wrap_cfg", None)
    tell = getattr(denoiser, UPDATE, None)
    if tell is None:
        yield
        return

    def update_inner_model(*args: Any, **kwargs: Any) -> Any:
        told = tell(*args, **kwargs)
        if session.is_bound:
            runtime.host.reserve(session)
        return told

    setattr(denoiser, UPDATE, update_inner_model)
    try:
        yield
    finally:
        if vars(denoiser).get(UPDATE) is update_inner_model:
            delattr(denoiser, UPDATE)


def guard(p: Any, runtime: Runtime) -> None:
    """Watch the coming call of `p.sample`, whoever it belongs to; the wrapper takes itself off."""
    release(p)
    if session_of(p) is None:
        return
    own = vars(p).get("sample")
    owner = weakref.ref(p)

    def sample(*args: Any, **kwargs: Any) -> Any:
        mine: Any = owner()
        release(mine)
        session = session_of(mine)
        if session is None:
            return mine.sample(*args, **kwargs)
        with clients.answer_errors(mine):
            session.raise_error()
            before = session.passes
            with _foreign_calls(session, runtime) as calls:
                result = mine.sample(*args, **kwargs)
            session.raise_error()
            # A pass that was bound and whose sampler never ran was sampled by something else.
            was_controlled = session.passes > before and not session.is_bound
            _judge(mine, session, runtime, len(calls), was_controlled)
        return result

    sample.controlnet_own = own  # type: ignore[attr-defined]
    p.sample = sample


def release(p: Any) -> None:
    """Take a wrapper off `p.sample` that was never called, or came along with a copy of `p`."""
    present = vars(p).get("sample")
    if hasattr(present, "controlnet_own"):
        if present.controlnet_own is None:
            del p.sample
        else:
            p.sample = present.controlnet_own


@contextmanager
def _foreign_calls(session: ControlSession, runtime: Runtime) -> Iterator[list[None]]:
    """Counts calls of the U-Net outside the run of any sampler."""
    calls: list[None] = []

    def count(_unet: Any, _args: Any) -> None:
        if runtime.sampling is None:
            calls.append(None)

    model = find_model()
    unet = member_of(model).find_unet(model)
    outer, runtime.guarded = runtime.guarded, session
    handle = None if unet is None else unet.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        runtime.guarded = outer
        if handle is not None:
            handle.remove()


def _judge(
    p: Any, session: ControlSession, runtime: Runtime, calls: int, was_controlled: bool
) -> None:
    """Say, or refuse, that the U-Net was called without the controls.

    Raises:
        HostError: the whole picture was made in that way.
    """
    if not calls or not session.prepared or runtime.host.is_interrupted():
        return
    if was_controlled:
        session.say(
            f"ControlNet: another script called the U-Net {calls} times outside the run of a "
            "sampler; the controls did not act there"
        )
        generation.pass_on_comments(p, session)
        return
    names = ", ".join(prepared.unit.name for prepared in session.prepared)
    msg = (
        f"{names}: another script sampled the picture in a way of its own ({calls} calls of the "
        "U-Net), in which controls cannot act; switch that script off, or the units"
    )
    raise HostError(msg)
