"""What was measured: tables in Markdown with medians, quartiles and ratios, and raw numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench_http.measuring import (
    AGAIN,
    BATCH,
    BATCHES,
    FIRST,
    LONG,
    NEW,
    SWITCHED,
    Plan,
    Site,
)
from bench_http.variants import NONE, ONE, Variant, variants_for

Numbers = list[float]
NOTHING = "–"


@dataclass(frozen=True)
class Figures:
    """Numbers of one server that follow from what was measured, one per round.

    Attributes:
        site: where it was measured.
        plan: with how many steps.
    """

    site: Site
    plan: Plan

    def taken(self, key: str, kind: str) -> Numbers:
        """Seconds as they were measured."""
        return self.site.seconds.get((key, kind), [])

    def step(self, key: str) -> Numbers:
        """Seconds of a step: what the longer picture took more, by its further steps."""
        steps = self.plan.many - self.plan.few
        return [
            (long - short) / steps
            for long, short in zip(self.taken(key, LONG), self.taken(key, AGAIN))  # noqa: B905
        ]

    def extra(self, key: str) -> Numbers:
        """Seconds of a step beyond one without units, of the same round."""
        return difference(self.step(key), self.step(NONE))

    def beyond(self, key: str) -> Numbers:
        """Seconds of a second picture that its steps do not explain."""
        steps = [self.plan.few * value for value in self.step(key)]
        return difference(self.taken(key, AGAIN), steps)

    def beyond_extra(self, key: str) -> Numbers:
        """The same beyond that of a picture without units."""
        return difference(self.beyond(key), self.beyond(NONE))

    def renewed(self, key: str) -> Numbers:
        """What a new drawing, after other models, takes more than the same picture again."""
        return difference(self.taken(key, NEW), self.taken(key, AGAIN))

    def further(self, key: str) -> Numbers:
        """Seconds of each further picture of a batch."""
        whole, first = self.taken(key, BATCH), self.taken(key, AGAIN)
        return [value / (self.plan.batch - 1) for value in difference(whole, first)]

    def loading(self) -> Numbers:
        """What the first picture with a model took more than a second one; one per model."""
        again = self.taken(ONE, AGAIN)
        return [value - statistics.median(again) for value in self.taken(ONE, FIRST) if again]

    def switching(self) -> Numbers:
        """What a picture takes more when each has another model."""
        return difference(self.taken(ONE, SWITCHED), self.taken(ONE, AGAIN))

    def megabytes(self, key: str, place: str) -> Numbers:
        """Highest memory seen."""
        return [size / 1e6 for size in self.site.peaks.get((key, place), [])]


NumbersOf = Callable[[Figures, str], Numbers]


def difference(first: Sequence[float], second: Sequence[float]) -> Numbers:
    """Round by round, as far as both were measured."""
    return [one - other for one, other in zip(first, second)]  # noqa: B905


def spread(numbers: Sequence[float], digits: int = 3) -> str:
    """A median, with quartiles where there is more than one number."""
    if not numbers:
        return NOTHING
    middle = f"{statistics.median(numbers):.{digits}f}"
    if len(numbers) < 2:
        return middle
    low, _, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return f"{middle} ({low:.{digits}f} to {high:.{digits}f})"


def ratio(first: Sequence[float], second: Sequence[float]) -> str:
    """First by second, round by round; where one of them is no more than noise, so it says."""
    pairs = list(zip(first, second))  # noqa: B905
    if not pairs:
        return NOTHING
    if any(one <= 0 or other <= 0 for one, other in pairs):
        return "in the noise"
    return spread([one / other for one, other in pairs], 2)


def share(extra: Sequence[float], whole: Sequence[float]) -> str:
    """A median with its percentage of another median."""
    if not extra or not whole or statistics.median(whole) <= 0:
        return spread(extra)
    return f"{spread(extra)}, {statistics.median(extra) / statistics.median(whole):.0%}"


def tables(sites: Sequence[Site], plan: Plan) -> Iterator[str]:
    """One table for each question, one column per server and one that compares the two."""
    figures = [Figures(site, plan) for site in sites]
    variants = variants_for(len(sites[0].models), plan.keys)
    controlled = [variant for variant in variants if variant.models]
    several = f"seconds of a second picture of {plan.many} steps"
    questions: list[tuple[str, Sequence[Variant], NumbersOf]] = [
        (several, variants, lambda one, key: one.taken(key, LONG)),
        ("seconds of a second picture outside its steps", variants, Figures.beyond),
        ("of these beyond a picture without units", controlled, Figures.beyond_extra),
        ("more seconds for a new drawing, after other models", controlled, Figures.renewed),
    ]
    yield table("seconds per step", figures, variants, Figures.step)
    share_of_step = "extra seconds per step, and as a share of a step without units"
    yield table(share_of_step, figures, controlled, Figures.extra, beside=NONE)
    for title, rows, numbers_of in questions:
        yield table(title, figures, rows, numbers_of)
    yield changes(figures)
    if plan.batch > 1:
        yield table(
            f"seconds of each further picture of a batch of {plan.batch}, {plan.few} steps",
            figures,
            [variant for variant in variants if variant.key in BATCHES],
            Figures.further,
        )
    for place in sorted({place for site in sites for _, place in site.peaks}):
        rows = (Variant(FIRST, "first picture with a model"), *variants)
        yield table(
            f"highest memory seen, {place}, MB",
            figures,
            rows,
            lambda one, key, place=place: one.megabytes(key, place),
            digits=0,
        )


def head(title: str, figures: Sequence[Figures]) -> list[str]:
    """The first two lines of a table."""
    names = [one.site.name for one in figures]
    columns = [title, *names] + ([f"{names[0]} / {names[1]}"] if len(names) > 1 else [])
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def row(title: str, cells: Sequence[str], numbers: Sequence[Numbers]) -> str:
    """A line with a ratio behind the numbers of two servers."""
    compared = [ratio(numbers[0], numbers[1])] if len(numbers) > 1 else []
    return f"| {' | '.join([title, *cells, *compared])} |"


def table(
    title: str,
    figures: Sequence[Figures],
    variants: Sequence[Variant],
    numbers_of: NumbersOf,
    beside: str = "",
    digits: int = 3,
) -> str:
    """A line per variant.

    Args:
        title: says what is measured.
        figures: of each server.
        variants: that have a line.
        numbers_of: gives one number per round, of a variant by its key.
        beside: variant of whose step the numbers are a share; empty for none.
        digits: behind the point.
    """
    lines = head(title, figures)
    for variant in variants:
        numbers = [numbers_of(one, variant.key) for one in figures]
        if beside:
            cells = [
                share(found, one.step(beside)) for found, one in zip(numbers, figures, strict=True)
            ]
        else:
            cells = [spread(found, digits) for found in numbers]
        lines.append(row(variant.title, cells, numbers))
    return "\n".join(lines)


def changes(figures: Sequence[Figures]) -> str:
    """What it costs that a model is new, or another one."""
    lines = head("more seconds than the same picture again, one unit", figures)
    for title, numbers_of in (
        ("first picture with a model (its loading where the server had not)", Figures.loading),
        ("another model each time", Figures.switching),
    ):
        numbers = [numbers_of(one) for one in figures]
        lines.append(row(title, [spread(found) for found in numbers], numbers))
    return "\n".join(lines)


def raw(sites: Sequence[Site]) -> list[dict[str, Any]]:
    """Everything that was measured, for other programs."""
    return [
        {
            "name": site.name,
            "url": site.meter.server.url,
            "checkpoint": site.scenery.checkpoint,
            "size": [site.scenery.width, site.scenery.height],
            "models": site.models,
            "pictures": site.pictures,
            "seconds": {f"{key}: {kind}": taken for (key, kind), taken in site.seconds.items()},
            "peaks": {f"{key}: {place}": sizes for (key, place), sizes in site.peaks.items()},
        }
        for site in sites
    ]
