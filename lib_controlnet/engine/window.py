"""When a unit acts, and how strongly at each layer. Nothing else computes or compares progress.

The fall-off over the layers is the "guess mode" of Zhang et al. (2023), arXiv:2302.05543.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import UnitError

if TYPE_CHECKING:
    from lib_controlnet.units.weight_curve import Points

FALL_OFF: Final = 0.825
"""Factor per layer from the middle block towards the shallow skips."""

SD1_LAYERS: Final = 13
SDXL_LAYERS: Final = 10


@dataclass(frozen=True)
class Window:
    """The part of a pass in which a unit is active, as fractions of its sampling steps.

    `start` is inclusive, `end` exclusive except at 1, so that adjoining windows neither overlap
    nor leave a gap. Where a curve is 0 the unit is no more active than outside.

    Attributes:
        curve: what strengths are multiplied by, see `units.weight_curve`.
    """

    start: float = 0.0
    end: float = 1.0
    curve: Points = ()

    def factor(self, progress: float) -> float:
        """What strengths are multiplied by at `progress`; 1 without a curve, 0 outside.

        Args:
            progress: 0 at the first evaluation, below 1 at the last.
        """
        inside = self.start <= progress and (progress < self.end or self.end >= 1.0 > self.start)
        return _height(self.curve, progress) if inside else 0.0

    def is_open(self, progress: float) -> bool:
        """Whether the unit acts at `progress`, see `factor`."""
        return self.factor(progress) != 0.0

    @property
    def most(self) -> float:
        """No factor is greater."""
        return max((factor for _place, factor in self.curve), default=1.0)

    @property
    def spans(self) -> tuple[Window, ...]:
        """The parts in which the unit acts, but perhaps where they begin; without the curve."""
        corners = [place for place, _factor in self.curve if self.start < place < self.end]
        parts = pairwise([self.start, *corners, self.end])
        return tuple(Window(a, b) for a, b in parts if a < b and self.is_open((a + b) / 2))

    @property
    def is_empty(self) -> bool:
        """Whether the unit acts at no progress in [0, 1)."""
        return not self.spans


def _height(curve: Points, progress: float) -> float:
    """The height of straight lines between points; of two at one place the later one counts."""
    behind = bisect_right(curve, progress, key=lambda point: point[0])
    if 0 < behind < len(curve):
        (left, low), (right, high) = curve[behind - 1 : behind + 1]
        return low + (high - low) * (progress - left) / (right - left)
    return curve[min(behind, len(curve) - 1)][1] if curve else 1.0


@dataclass(frozen=True)
class Schedule:
    """Steps of one run of a sampler.

    Attributes:
        steps: steps it makes, 0 if it returns its input.
        order: evaluations in a step; the last step may have fewer.
        opening: further evaluations in the first step (PLMS begins with two).
        sigmas: largest and smallest noise level of samplers that choose their own steps
            (DPM adaptive); those walk evenly in log sigma.
    """

    steps: int
    order: int = 1
    opening: int = 0
    sigmas: tuple[float, float] | None = None

    @property
    def evaluations(self) -> int:
        """All that it makes, as far as is known before; at least as many."""
        return self.steps * self.order + self.opening

    def progress(self, evaluation: int, sigma: float) -> float:
        """Steps done as a fraction of all steps, in [0, 1).

        Args:
            evaluation: evaluations made before this one.
            sigma: present noise level; only used with `sigmas`.
        """
        last = max(self.steps - 1, 0) / max(self.steps, 1)
        if self.sigmas is not None:
            high, low = (math.log(max(value, 1e-6)) for value in self.sigmas)
            done = (high - math.log(max(sigma, 1e-6))) / max(high - low, 1e-6)
            return min(max(done, 0.0), last)
        step = max(evaluation - self.opening, 0) // self.order
        return min(step / max(self.steps, 1), last)


def strength_curve(strength: float, layers: int, mode: ControlMode) -> tuple[float, ...]:
    """Strength per layer, shallowest skip first, middle block last.

    BALANCED is flat. PROMPT and CONTROL fall off towards the shallow skips by 0.825 per layer.

    Parity: an SDXL network (10 layers) takes the first ten of SD1's 13 factors, so its middle
    block gets 0.825 ** 3, as every WebUI that runs such networks does.

    Args:
        strength: slider value, 0 to 2; 0 means that the unit contributes nothing.
        layers: number of residuals of the network: 13 for SD1/SD2, 10 for SDXL.
        mode: the unit's control mode.
    """
    if mode is ControlMode.BALANCED:
        return (strength,) * layers
    deepest = (SD1_LAYERS if layers == SDXL_LAYERS else layers) - 1
    return tuple(strength * FALL_OFF ** (deepest - i) for i in range(layers))


def own_strengths(own: tuple[float, ...], layers: int, unit_name: str) -> tuple[float, ...]:
    """The user's list of strengths, one for each layer of a network.

    Parity: a list for SD1 is taken for an SDXL network too, which uses its first ten numbers.

    Raises:
        UnitError: the list has another length than the network has layers.
    """
    if is_for_sd1(own, layers):
        return own[:layers]
    if len(own) != layers:
        msg = (
            f"{unit_name}: advanced_weighting has {len(own)} numbers, this control model needs "
            f"{layers} (one for each of its layers, shallowest first)"
        )
        raise UnitError(msg)
    return own


def is_for_sd1(own: tuple[float, ...], layers: int) -> bool:
    """Whether a list of strengths is one for SD1's layers, and the network is SDXL's."""
    return len(own) == SD1_LAYERS and layers == SDXL_LAYERS
