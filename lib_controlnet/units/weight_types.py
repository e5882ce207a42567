"""Curves of strengths over the layers of a control model, under the names that users know.

Layers are numbered in the order in which the U-Net runs. What attends has one for each spatial
transformer: 16 in SD1 (6 before the middle), 11 in SDXL (4 before it). What copies the first half
of the U-Net has one for each of its blocks, the middle one last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from lib_controlnet.enums import Choice

LEAST: Final = 0.05
"""Share of the strength where a curve is lowest."""
WEAK: Final = 0.2
"""Share in the parts that a type weakens."""
MOST: Final = 2.0
"""Highest weight of a composition."""

Parts = tuple[int, int, int]
"""Layers before, in and behind the middle block; (0, 0, 0) where one strength is for all."""

SD1: Final = (6, 1, 9)
SDXL: Final = (4, 1, 6)
STYLE: Final = {SD1: {0, 1, 2, 3, *range(9, 16)}, SDXL: {6}}
"""Transformers that carry a picture's style."""
COMPOSITION: Final = {SD1: {4: 0.25, 5: 1.0}, SDXL: {3: 1.0}}
"""Those that carry its composition, and their share of the strength."""


class WeightType(Choice):
    """How a strength spreads over the layers."""

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
    SOFT = "soft"
    ONLY_MIDDLE = "only middle"


BOTH: Final = (WeightType.STYLE_AND_COMPOSITION, WeightType.STRONG_STYLE_AND_COMPOSITION)
"""Types with a second weight, for the composition."""
ALONG: Final = (
    *(WeightType.NORMAL, WeightType.EASE_IN, WeightType.EASE_OUT),
    *(WeightType.EASE_IN_OUT, WeightType.REVERSE_IN_OUT),
)
"""Those that go by the order of the layers alone."""
OF_ENCODERS: Final = (
    *(*ALONG, WeightType.WEAK_INPUT, WeightType.WEAK_MIDDLE, WeightType.STRONG_MIDDLE),
    *(WeightType.SOFT, WeightType.ONLY_MIDDLE),
)
"""Those that mean something where there are no layers behind the middle."""
OF_PROMPTS: Final = tuple(kind for kind in WeightType if kind is not WeightType.SOFT)
"""Those that mean something to what attends to a picture in all of the U-Net."""


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

    def strengths(self, weight: float, parts: Parts) -> tuple[float, ...]:
        """Strengths of the layers, in the order in which they run.

        Args:
            weight: of the unit.
            parts: the layers; types of style and composition know those of SD1 and SDXL alone.

        Raises:
            KeyError: there are others, or the type goes by what a family says (soft).
        """
        layers = range(sum(parts))
        if self.kind not in BOTH:
            share = _SHARES[self.kind]
            return tuple(weight * share(t, parts) for t in layers)
        shares = COMPOSITION[parts]
        if self.kind is WeightType.STYLE_AND_COMPOSITION:
            style = [weight if t in STYLE[parts] else 0.0 for t in layers]
            return tuple(self.composition * shares[t] if t in shares else style[t] for t in layers)
        return tuple(self.composition if t in shares else weight for t in layers)


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


Share = Callable[[int, Parts], float]


def _from_middle(t: int, count: int) -> float:
    return abs(t - count / 2) / (count / 2)


def _along(height: Callable[[int, int], float]) -> Share:
    return lambda t, parts: LEAST + (1 - LEAST) * height(t, sum(parts))


def _by_part(before: float, inside: float, behind: float) -> Share:
    def share(t: int, parts: Parts) -> float:
        first, middle, _last = parts
        return before if t < first else inside if t < first + middle else behind

    return share


_SHARES: Final[Mapping[WeightType, Share]] = {
    WeightType.NORMAL: lambda _t, _parts: 1.0,
    WeightType.EASE_IN: _along(lambda t, count: 1 - t / count),
    WeightType.EASE_OUT: _along(lambda t, count: t / count),
    WeightType.EASE_IN_OUT: _along(lambda t, count: 1 - _from_middle(t, count)),
    WeightType.REVERSE_IN_OUT: _along(_from_middle),
    WeightType.WEAK_INPUT: _by_part(WEAK, 1.0, 1.0),
    WeightType.WEAK_OUTPUT: _by_part(1.0, 1.0, WEAK),
    WeightType.WEAK_MIDDLE: _by_part(1.0, WEAK, 1.0),
    WeightType.STRONG_MIDDLE: _by_part(WEAK, 1.0, WEAK),
    WeightType.ONLY_MIDDLE: _by_part(0.0, 1.0, 0.0),
    WeightType.STYLE: lambda t, parts: float(t in STYLE[parts]),
    WeightType.COMPOSITION: lambda t, parts: COMPOSITION[parts].get(t, 0.0),
    WeightType.STRONG_STYLE: lambda t, parts: float(t not in COMPOSITION[parts]),
}
