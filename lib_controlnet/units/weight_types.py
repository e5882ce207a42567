"""Curves of strengths over the spatial transformers of a U-Net, under the names that users know.

The transformers are numbered in the order in which they run: 16 in SD1 (6 before the middle), 11 in
SDXL (4 before it).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lib_controlnet.enums import Choice

LEAST: Final = 0.05
"""Share of the strength where a curve is lowest."""
WEAK: Final = 0.2
"""Share in the parts that a type weakens."""
MOST: Final = 2.0
"""Highest weight of a composition."""

SD1: Final = 16
SDXL: Final = 11
MIDDLE: Final = {SD1: 6, SDXL: 4}
"""Number of the middle block's transformer, by their count."""
STYLE: Final = {SD1: {0, 1, 2, 3, *range(9, 16)}, SDXL: {6}}
"""Transformers that carry a picture's style."""
COMPOSITION: Final = {SD1: {4: 0.25, 5: 1.0}, SDXL: {3: 1.0}}
"""Those that carry its composition, and their share of the strength."""


class WeightType(Choice):
    """How a strength spreads over the transformers."""

    NORMAL = "normal"
    EASE_IN = "ease in"
    EASE_OUT = "ease out"
    EASE_IN_OUT = "ease in-out"
    REVERSE_IN_OUT = "reverse in-out"
    WEAK_INPUT = "weak input"
    WEAK_OUTPUT = "weak output"
    WEAK_MIDDLE = "weak middle"
    STRONG_MIDDLE = "strong middle"
    STYLE = "style transfer"
    COMPOSITION = "composition"
    STRONG_STYLE = "strong style transfer"
    STYLE_AND_COMPOSITION = "style and composition"
    STRONG_STYLE_AND_COMPOSITION = "strong style and composition"


BOTH: Final = (WeightType.STYLE_AND_COMPOSITION, WeightType.STRONG_STYLE_AND_COMPOSITION)
"""Types with a second weight, for the composition."""


@dataclass(frozen=True)
class LayerCurve:
    """A type, in the place of one number for each layer.

    Attributes:
        kind: the type.
        composition: weight of the composition, for the types `BOTH`.
    """

    kind: WeightType
    composition: float = 1.0

    def __str__(self) -> str:
        plain = self.kind not in BOTH or self.composition == 1.0
        return str(self.kind.value) + ("" if plain else f" {self.composition:g}")

    def scale(self, factor: float) -> LayerCurve:
        """The same with another weight of the composition."""
        return dataclasses.replace(self, composition=self.composition * factor)

    def strengths(self, weight: float, count: int) -> tuple[float, ...]:
        """Strengths of the transformers, in the order in which they run.

        Args:
            weight: of the unit.
            count: transformers; most types know 16 and 11 alone.

        Raises:
            KeyError: there are others, and the type goes by the parts of a U-Net.
        """
        if self.kind not in BOTH:
            share = _SHARES[self.kind]
            return tuple(weight * share(t, count) for t in range(count))
        shares = COMPOSITION[count]
        if self.kind is WeightType.STYLE_AND_COMPOSITION:
            style = [weight if t in STYLE[count] else 0.0 for t in range(count)]
            return tuple(
                self.composition * shares[t] if t in shares else style[t] for t in range(count)
            )
        return tuple(self.composition if t in shares else weight for t in range(count))


def parse_curve(text: str) -> LayerCurve | None:
    """A type by its name, with the weight of the composition behind it; None for other text."""
    words = text.strip().lower().split()
    composition = 1.0
    if words and words[-1].replace(".", "", 1).isdecimal() and len(words[-1]) < len("0.12345678"):
        composition = float(words.pop())
    kind = next((one for one in WeightType if one.value == " ".join(words)), None)
    if kind is None or composition > MOST or (composition != 1.0 and kind not in BOTH):
        return None
    return LayerCurve(kind, composition)


def _from_middle(t: int, count: int) -> float:
    return abs(t - count / 2) / (count / 2)


def _rise(share: float) -> float:
    return LEAST + (1 - LEAST) * share


def _weaken(*parts: str) -> Callable[[int, int], float]:
    def share(t: int, count: int) -> float:
        middle = MIDDLE[count]
        part = "input" if t < middle else "middle" if t == middle else "output"
        return WEAK if part in parts else 1.0

    return share


_SHARES: Final[dict[WeightType, Callable[[int, int], float]]] = {
    WeightType.NORMAL: lambda _t, _count: 1.0,
    WeightType.EASE_IN: lambda t, count: _rise(1 - t / count),
    WeightType.EASE_OUT: lambda t, count: _rise(t / count),
    WeightType.EASE_IN_OUT: lambda t, count: _rise(1 - _from_middle(t, count)),
    WeightType.REVERSE_IN_OUT: lambda t, count: _rise(_from_middle(t, count)),
    WeightType.WEAK_INPUT: _weaken("input"),
    WeightType.WEAK_OUTPUT: _weaken("output"),
    WeightType.WEAK_MIDDLE: _weaken("middle"),
    WeightType.STRONG_MIDDLE: _weaken("input", "output"),
    WeightType.STYLE: lambda t, count: float(t in STYLE[count]),
    WeightType.COMPOSITION: lambda t, count: COMPOSITION[count].get(t, 0.0),
    WeightType.STRONG_STYLE: lambda t, count: float(t not in COMPOSITION[count]),
}
