"""Numbers of a preprocessor's sliders that lie out of their range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lib_controlnet.units.unit import SLIDERS

if TYPE_CHECKING:
    from annotator.registry import Detector, Slider

NOT_SET: Final = (0, 0.5, 64)
"""What clients send for a slider that they do not mean: 0, what a missing slider reads as, and the
default of every slider in the first versions."""


@dataclass(frozen=True)
class Misplaced:
    """One number out of range.

    Attributes:
        field: the unit's field.
        number: what was sent.
        slider: what it was sent for.
        title: the preprocessor.
    """

    field: str
    number: float
    slider: Slider
    title: str

    @property
    def is_meant(self) -> bool:
        """Whether the number was chosen; else the slider's default is what its sender means."""
        return self.number not in NOT_SET

    @property
    def refusal(self) -> str:
        """What is wrong and what to do."""
        return f"{self._what} must be between {self._limits}; -1 is its default {self._default}"

    @property
    def note(self) -> str:
        """What is done instead."""
        return f"{self._what} goes between {self._limits}: its default {self._default} is used"

    @property
    def _what(self) -> str:
        return f"{self.field} is {self.number:g}, {self.slider.label} of {self.title}"

    @property
    def _limits(self) -> str:
        return f"{self.slider.minimum:g} and {self.slider.maximum:g}"

    @property
    def _default(self) -> str:
        return f"{self.slider.default:g}"


def find_misplaced(detector: Detector, given: Mapping[str, float]) -> Iterator[Misplaced]:
    """The numbers that lie out of the range of a slider which the preprocessor has.

    Args:
        detector: the preprocessor.
        given: number by field, of `processor_res`, `threshold_a` and `threshold_b`; -1 stands for
            the default.
    """
    sliders = dict(zip(SLIDERS[1:], detector.sliders, strict=False))
    if detector.resolution is not None:
        sliders["processor_res"] = detector.resolution
    for field, slider in sliders.items():
        number = given.get(field, -1)
        if slider.visible and number != -1 and not slider.minimum <= number <= slider.maximum:
            yield Misplaced(field, number, slider, detector.title)
