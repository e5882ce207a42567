"""What the host tells no script: the end of a job, and that its checkpoint leaves the device.

A job is all that happens from a click or a request until the host shows its result. The host tells
of the end of one `process_images` call, but a job may be many of them, and of one that fails
nothing is told. Two functions of the host see every end: `ScriptRunner.run`, which runs the scripts
of the list, and `close` of the processing object.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Final

from modules import processing, scripts, sd_models

from lib_controlnet.host import clients, generation, neighbours, shown_maps
from lib_controlnet.host.runtime import find_runtime

_ORIGINAL: Final = "controlnet_original"
_WRAPPER: Final = "controlnet_wrapper"

Function = Callable[..., Any]


def watch() -> None:
    """Learn of all that from now on; again is no harm."""
    for owner, name, wrap in _WATCHED:
        present = getattr(owner, name, None)
        if present is not None and not _is_ours(present):
            setattr(owner, name, _wrap(wrap, present))


def unwatch() -> None:
    """Undo `watch` where nobody else has wrapped the function since."""
    for owner, name, _ in _WATCHED:
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


_WATCHED: Final = (
    (scripts.ScriptRunner, "run", _watch_run),
    (processing.StableDiffusionProcessing, "close", _watch_close),
    (sd_models, "unload_model_weights", _watch_unload),
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
    return getattr(function, _WRAPPER, None) is function
