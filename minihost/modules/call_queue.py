"""One generation at a time, in order of arrival, with errors and time shown under the picture."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from modules import errors, fifo_lock, progress, shared

queue_lock = fifo_lock.FIFOLock()
_MAX_ARGUMENT_TEXT = 131072


def wrap_queued_call(func: Callable) -> Callable:
    """Make a function wait for its turn."""

    def f(*args: Any, **kwargs: Any) -> Any:
        with queue_lock:
            return func(*args, **kwargs)

    return f


def _task_id(args: tuple) -> str | None:
    first = args[0] if args else None
    is_task = isinstance(first, str) and first.startswith("task(") and first.endswith(")")
    return first if is_task else None


def wrap_gradio_gpu_call(func: Callable, extra_outputs: list | None = None) -> Callable:
    """Wrap an event handler that generates: queue, job state, task bookkeeping, errors."""

    @wraps(func)
    def f(*args: Any, **kwargs: Any) -> Any:
        id_task = _task_id(args)
        if id_task is not None:
            progress.add_task_to_queue(id_task)
        with queue_lock:
            shared.state.begin(job=id_task)
            progress.start_task(id_task)
            try:
                res = func(*args, **kwargs)
            finally:
                progress.finish_task(id_task)
            shared.state.end()
        return res

    return wrap_gradio_call(f, extra_outputs=extra_outputs, add_stats=True)


def wrap_gradio_call(
    func: Callable, extra_outputs: list | None = None, add_stats: bool = False
) -> Callable:
    """Wrap an event handler whose last output is HTML: errors become text there."""

    @wraps(func)
    def f(*args: Any, extra_outputs_array: list | None = extra_outputs, **kwargs: Any) -> list:
        start = time.perf_counter()
        try:
            res = list(func(*args, **kwargs))
        except Exception as e:
            errors.report(
                f"Error completing request\nArguments: {str(args)[:_MAX_ARGUMENT_TEXT]} {kwargs}",
                exc_info=True,
            )
            outputs = [None, ""] if extra_outputs_array is None else extra_outputs_array
            text = html.escape(f"{type(e).__name__}: {e}")
            res = [*outputs, f"<div class='error'>{text}</div>"]
        shared.state.skipped = False
        shared.state.interrupted = False
        shared.state.stopping_generation = False
        shared.state.job = ""
        shared.state.job_count = 0
        if add_stats:
            res[-1] += _statistics(time.perf_counter() - start)
        return tuple(res)

    return f


def _statistics(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    text = f"{int(minutes)} min. {rest:.1f} sec." if minutes else f"{rest:.1f} sec."
    return (
        "<div class='performance'><p class='time'>Time taken: <wbr>"
        f"<span class='measurement'>{text}</span></p></div>"
    )
