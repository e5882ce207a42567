"""What became of a unit in a pass: it acted, it had no effect and why, or it could not act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lib_controlnet.engine.window import Window
from lib_controlnet.errors import HostError

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import RegionMask
    from lib_controlnet.engine.network import ActiveControl
    from lib_controlnet.enums import Speed
    from lib_controlnet.units.unit import ControlUnit


@dataclass
class Outcome:
    """What became of a unit in the passes so far.

    Attributes:
        acted: it has changed a step of a pass that is over.
        idle: why it has not, after the last pass.
        company: names of units with which one evaluation of a network computed it, in some pass.
        tallies: for each pass in which it acted, see `ActiveControl.tally`; none where each
            evaluation was made.
        speed: what said in which of them; None where each was made.
        stored: how its network is stored, where that is not exactly.
    """

    acted: bool = False
    company: frozenset[str] = frozenset()
    tallies: list[tuple[int, int]] = field(default_factory=list)
    speed: Speed | None = None
    stored: str = ""
    idle: str = "the picture was sampled in a way that announces no steps to ControlNet"


def before_pass(
    unit: ControlUnit,
    strengths: Sequence[float],
    window: Window,
    region: RegionMask | None,
    images: frozenset[int] | None,
) -> str:
    """Why a unit has no effect in a pass whatever its steps are; "" if it may have one.

    Args:
        unit: as asked.
        strengths: per layer.
        window: when it acts.
        region: where it acts; None means everywhere.
        images: pictures of the batch it acts on; None means all.
    """
    if not any(strengths):
        own = unit.advanced_weighting is not None
        return "all its layer weights are 0" if own else f"its weight is {unit.weight:g}"
    start, end = unit.guidance_start, unit.guidance_end
    if Window(start, end).is_empty:
        place = "after" if start > end else "at"
        return f"guidance_start {start:g} lies {place} guidance_end {end:g}"
    if window.is_empty:
        return f"its weight_curve ({unit.weight_curve}) is 0 from its start to its end"
    if images == frozenset():
        return "no picture of this batch is its turn"
    return "its region covers no pixel" if region is not None and region.is_empty else ""


def after_pass(unit: ControlUnit, control: ActiveControl, evaluations: int, completed: int) -> str:
    """Why a unit had no effect in the pass that is over; "" if it acted.

    Args:
        unit: as asked.
        control: what it was bound to.
        evaluations: evaluations that the sampler announced.
        completed: how many of them it finished.

    Raises:
        HostError: it should have acted, and the U-Net never took what it had.
    """
    if control.acted:
        return ""
    if 0 < control.due <= completed:
        msg = (
            f"{unit.name}: the U-Net's blocks were never called in the steps in which the control "
            "should have acted; the U-Net may be compiled (torch.compile), or another extension "
            "may have replaced its forward function: switch that off, or the unit"
        )
        raise HostError(msg)
    if not evaluations:
        return "the sampler made no step"
    curve = ", where its weight_curve is not 0" if control.terms.window.curve else ""
    return (
        f"none of the {evaluations} evaluations of the sampler lies between its guidance_start "
        f"{unit.guidance_start:g} and guidance_end {unit.guidance_end:g}{curve}"
    )
