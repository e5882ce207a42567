"""How far a sampler has come: the step that each of its evaluations belongs to.

The host counts evaluations, and compares them with the number of steps the user asked for. The
two differ: second-order samplers evaluate twice in a step, img2img makes a part of the steps,
DDIM leaves one of its timesteps out. What a sampler is really going to do stands in the arguments
of its function, so those are read when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from lib_controlnet.engine.window import Schedule

UNIPC: Final = "unipc"
PLMS: Final = "plms"


def from_denoiser(denoiser: Any) -> Schedule:
    """What the host itself assumes, for samplers that are called in a way unknown here."""
    steps = max(int(getattr(denoiser, "steps", None) or denoiser.total_steps or 1), 1)
    return Schedule(steps, max(round(denoiser.total_steps / steps), 1))


def of_call(name: str, arguments: Mapping[str, Any], denoiser: Any) -> Schedule:
    """Schedule of a sampler that is called with these arguments.

    Args:
        name: name of the sampler's function, such as `sample_heun` or `ddim`.
        arguments: its arguments by name; `sigmas` (n + 1 levels), `timesteps`, or `n`.
        denoiser: the host's denoiser, which knows whether the sampler is of second order.
    """
    known = from_denoiser(denoiser)
    if arguments.get("sigmas") is not None:
        return Schedule(max(len(arguments["sigmas"]) - 1, 0), known.order)
    if arguments.get("timesteps") is not None:
        # The first timestep is where these samplers arrive; UniPC counts steps in its own way.
        skipped = 0 if name == UNIPC else 1
        steps = max(len(arguments["timesteps"]) - skipped, 0)
        return Schedule(steps, opening=1 if name == PLMS else 0)
    if arguments.get("n") is not None:
        return Schedule(max(int(arguments["n"]), 0))
    if arguments.get("sigma_max") is not None and arguments.get("sigma_min") is not None:
        high, low = float(arguments["sigma_max"]), float(arguments["sigma_min"])
        return Schedule(known.steps, sigmas=(high, low))
    return known


@contextmanager
def watch(sampler: Any, note: Callable[[Schedule, Any], None]) -> Iterator[None]:
    """Read the arguments with which the sampler's function is called inside this context.

    Args:
        sampler: the host's sampler object; its `func` is looked up at the moment of the call.
        note: gets the schedule and the latent, (b, c, h, w), right before the first evaluation.
    """
    function = getattr(sampler, "func", None)
    if not callable(function):
        yield
        return

    def observe(model: Any, x: Any, *rest: Any, **arguments: Any) -> Any:
        note(of_call(getattr(function, "__name__", ""), arguments, model), x)
        return function(model, x, *rest, **arguments)

    sampler.func = observe
    try:
        yield
    finally:
        if sampler.func is observe:
            sampler.func = function
