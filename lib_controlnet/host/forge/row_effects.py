"""Effects on the predictions of all rows, before guidance.

No callback shows them, but a function between guidance and the U-Net does, and what it gives out is
the clean latent of every row. The host copies such functions with everything they belong to, so it
is a plain function over what a generation does not own. Another checkpoint in mid-sampling has
none, and one that another extension sets replaces ours: so it is looked for at each evaluation, and
put again where it is missing. It lies on a patcher that the host throws away after the pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet.host.forge.rows import rows_of

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.session import ControlSession

WRAPPER: Final = "model_function_wrapper"
NOTE: Final = "controlnet_row_effects"
"""Beside it in the patcher's options, where copies keep it: a function of ours is in the chain."""

FindSession = Callable[[], "ControlSession | None"]


def put(model: Any, find_session: FindSession) -> None:
    """Put our function on the U-Net's patcher, in front of one that is there.

    Args:
        model: the host's checkpoint.
        find_session: gives the session that is being sampled.
    """
    present = model.forge_objects.unet
    there = present.model_options.get(WRAPPER)
    if there is not None and present.model_options.get(NOTE) is there:
        return
    patcher = present.clone()
    wrapper = wrap(patcher.model_options.get(WRAPPER), find_session)
    patcher.set_model_unet_function_wrapper(wrapper)
    patcher.model_options[NOTE] = wrapper
    model.forge_objects.unet = patcher


def wrap(there: Any, find_session: FindSession) -> Callable[..., Tensor]:
    """A function for the patcher that first does what the one that is there does."""

    def hold_rows(apply_model: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        if there is None:
            x0 = apply_model(given["input"], given["timestep"], **given["c"])
        else:
            x0 = there(_note_on(apply_model), given)
        session = find_session()
        layout = None if session is None else session.cursor.layout
        if session is None or layout is None or hasattr(apply_model, NOTE):
            return x0
        images = 1 + max((row.image for row in layout.rows), default=0)
        rows = rows_of(given["cond_or_uncond"], len(x0), images)
        return x0 if rows is None else session.adjust_rows(x0, rows)

    return hold_rows


def _note_on(apply_model: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, known to another function of ours further in: the outermost one alone acts."""

    def apply(*args: Any, **kwargs: Any) -> Tensor:
        return apply_model(*args, **kwargs)

    setattr(apply, NOTE, True)
    return apply
