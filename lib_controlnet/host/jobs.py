"""What the host tells no script: the end of a job, and that its checkpoint leaves the device.

A job is all that happens from a click or a request until the host shows its result. The host tells
of the end of one `process_images` call, but a job may be many of them, and of one that fails
nothing is told. Two functions of the host see every end: `ScriptRunner.run`, which runs the scripts
of the list, and `close` of the processing object. Where the page's jobs run in another thread, the
one that waits for it is told why a job of ours failed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Final

from modules import processing, scripts, sd_models

from lib_controlnet.errors import ControlNetError
from lib_controlnet.host import clients, generation, neighbours, shown_maps
from lib_controlnet.host.runtime import find_runtime

_ORIGINAL: Final = "controlnet_original"
_WRAPPER: Final = "controlnet_wrapper"
_JOB_THREAD: Final = "modules_forge.main_thread"
"""The module by which the Forge family's page has its jobs run in one thread."""

Function = Callable[..., Any]


def watch() -> None:
    """Learn of all that from now on; again is no harm."""
    for owner, name, wrap in _list_watched():
        present = getattr(owner, name, None)
        if present is not None and not _is_ours(present):
            setattr(owner, name, _wrap(wrap, present))


def unwatch() -> None:
    """Undo `watch` where nobody else has wrapped the function since."""
    for owner, name, _ in _list_watched():
        present = getattr(owner, name, None)
        if _is_ours(present):
            setattr(owner, name, getattr(present, _ORIGINAL))


def _watch_run(original: Function) -> Function:
    """`ScriptRunner.run`: maps go behind what the selected script returns."""

    def run(runner: Any, p: Any, *args: Any) -> Any:
        if not args or not args[0]:  # no script of the list
            return original(runner, p, *args)
        with clients.answer_errors(p), shown_maps.collect(p) as shown:
            processed = original(runner, p, *args)
        if processed is not None:
            shown.put_behind(processed)
        return processed

    return run


def _watch_close(original: Function) -> Function:
    """`StableDiffusionProcessing.close`, which ends every job, a failed one as well."""

    def close(p: Any) -> Any:
        runtime = find_runtime()
        if runtime is not None:
            neighbours.end_view(p)
            generation.close(p, runtime)
        return original(p)

    return close


def _watch_unload(original: Function) -> Function:
    """`unload_model_weights`, by which users give the device to another program."""

    def unload_model_weights(*args: Any, **kwargs: Any) -> Any:
        runtime = find_runtime()
        if runtime is not None:
            runtime.residency.park()
        return original(*args, **kwargs)

    return unload_model_weights


def _watch_wait(original: Function) -> Function:
    """`run_and_wait_result`: some hosts print what a job raises, and go on with no result."""

    def run_and_wait_result(job: Function, *args: Any, **kwargs: Any) -> Any:
        raised: list[ControlNetError] = []

        def run(*given: Any, **named: Any) -> Any:
            try:
                return job(*given, **named)
            except ControlNetError as error:
                raised.append(error)
                raise

        result = original(run, *args, **kwargs)
        if raised:
            raise raised[0]
        return result

    return run_and_wait_result


def _list_watched() -> tuple[tuple[Any, str, Callable[[Function], Function]], ...]:
    """Owner and name of each function, and its wrapper; some hosts lack one."""
    return (
        (scripts.ScriptRunner, "run", _watch_run),
        (processing.StableDiffusionProcessing, "close", _watch_close),
        (sd_models, "unload_model_weights", _watch_unload),
        (sys.modules.get(_JOB_THREAD), "run_and_wait_result", _watch_wait),
    )


@lru_cache(maxsize=16)
def _wrap(wrap: Callable[[Function], Function], original: Function) -> Function:
    """One and the same function for one and the same original, also after a reload."""
    wrapper = wraps(original)(wrap(original))
    setattr(wrapper, _WRAPPER, wrapper)
    setattr(wrapper, _ORIGINAL, original)
    return wrapper


def _is_ours(function: Any) -> bool:
    # Known by identity: `functools.wraps` of a neighbour copies attributes.
    return function is not None and getattr(function, _WRAPPER, None) is function
