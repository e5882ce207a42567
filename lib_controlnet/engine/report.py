"""What ran in a generation, unit by unit; its session keeps it, the answer tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib_controlnet.engine.bound import BoundUnit
    from lib_controlnet.engine.prepared import PreparedUnit


@dataclass
class PassReport:
    """A unit in the passes of one kind, over all iterations and turns.

    Attributes:
        size: of the last one, width and height in pixels.
        active: evaluations of the sampler in which the unit acted.
        evaluations: all evaluations.
        seconds: that the unit's own work took.
        is_of_device: by the device's clock, see `Meter`.
        made: evaluations of its network, where some were reused.
    """

    size: tuple[int, int]
    active: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    is_of_device: bool = False
    made: int | None = None

    def describe(self, name: str) -> dict[str, Any]:
        """Plain values for the answer."""
        found: dict[str, Any] = {
            "pass": name,
            "size": list(self.size),
            "steps": self.active,
            "of": self.evaluations,
            "ms_per_step": round(1000 * self.seconds / self.active, 1) if self.active else 0.0,
            "timed": "device" if self.is_of_device else "calls",
        }
        return found if self.made is None else {**found, "evaluated": self.made}


@dataclass
class UnitReport:
    """What one unit ran.

    Attributes:
        told: plain values for the answer, by key.
        passes: by the name of their kind.
        skipped: why it did nothing; "" if it did something.
    """

    told: dict[str, Any]
    passes: dict[str, PassReport] = field(default_factory=dict)
    skipped: str = ""

    def describe(self) -> dict[str, Any]:
        """Plain values for the answer."""
        passes = [made.describe(name) for name, made in self.passes.items()]
        found = {**self.told, "passes": passes}
        return {**found, "skipped": self.skipped} if self.skipped else found


class RunReport:
    """What the units of a generation ran, over all its passes and turns, by number."""

    def __init__(self) -> None:
        self._units: dict[int, UnitReport] = {}

    def find(self, prepared: PreparedUnit) -> UnitReport:
        """The report of a unit; begun with what is known before it runs."""
        unit = prepared.unit
        found = self._units.get(unit.index)
        if found is None or found.skipped:
            height, width = prepared.detected.shape[:2]
            told = {"unit": unit.index, "preprocessor": unit.module}
            told |= {} if prepared.embeddings else {"map": [width, height]}
            told |= {"model": unit.model} if unit.has_model else {}
            passes = {} if found is None else found.passes
            found = self._units[unit.index] = UnitReport(told, passes)
        return found

    def skip(self, index: int, reason: str) -> None:
        """A unit is passed over; what it did in earlier turns stays."""
        self._units.setdefault(index, UnitReport({"unit": index})).skipped = reason

    def add(self, bound: BoundUnit, evaluations: int, has_acted: bool) -> None:
        """A pass of a unit is over.

        Args:
            bound: what carried it out.
            evaluations: of the sampler.
            has_acted: it has changed some of them.
        """
        control, info = bound.control, bound.part.info
        network, size = control.network, info.geometry.size
        found = self.find(bound.part.prepared)
        found.told["family"] = network.family
        # A plugin's network may have neither.
        if getattr(network, "base", None):
            found.told["base"] = str(network.base)
        if getattr(network, "module", None) is not None:
            found.told["memory"] = network.nbytes
        found.told |= {"stored": network.stored} if network.stored else {}
        kind = "hires" if info.is_hires else "first"
        made = found.passes.setdefault(kind, PassReport((size.width, size.height)))
        made.size = size.width, size.height
        made.active += min(control.steps, evaluations) if has_acted else 0
        made.evaluations += evaluations
        made.is_of_device = made.is_of_device or control.meter.is_of_device
        made.seconds += control.meter.read()
        if control.tally is not None:
            made.made = (made.made or 0) + control.tally[0]

    def describe(self) -> dict[str, Any]:
        """Plain values for the answer; empty without units."""
        units = [self._units[index].describe() for index in sorted(self._units)]
        return {"units": units} if units else {}
