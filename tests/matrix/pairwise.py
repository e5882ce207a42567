"""Few cases that together hold every possible pair of values (pairwise testing)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

Case = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]

TRIES = 40
"""Random completions that are compared for each new case."""
PATIENCE = 400
"""Random completions after which a pair counts as impossible."""


def pairs_of(case: Mapping[str, str]) -> Iterator[Pair]:
    """All pairs of values that a case holds."""
    yield from itertools.combinations(sorted(case.items()), 2)


class Generator:
    """Draws cases that obey constraints, and picks few that cover all pairs.

    Args:
        factors: values of each factor.
        applies: the factors that mean something, given the values chosen so far; asked after
            each choice, in the order of `factors`.
        is_possible: whether a complete case can be run at all.
        seed: of the random choices; the same seed gives the same cases.
    """

    def __init__(
        self,
        factors: Mapping[str, Sequence[str]],
        applies: Callable[[str, Case], bool],
        is_possible: Callable[[Case], bool],
        seed: int = 0,
    ) -> None:
        self.factors = factors
        self.applies = applies
        self.is_possible = is_possible
        self._rng = random.Random(seed)

    def draw(self, fixed: Mapping[str, str]) -> Case | None:
        """A random case with some values fixed; None if they cannot be together."""
        case: Case = {}
        for factor, values in self.factors.items():
            if not self.applies(factor, case):
                if factor in fixed:
                    return None
                continue
            case[factor] = fixed.get(factor) or self._rng.choice(values)
        return case if self.is_possible(case) else None

    def possible_pairs(self) -> set[Pair]:
        """Every pair of values that some possible case holds."""
        found: set[Pair] = set()
        for one, other in itertools.combinations(sorted(self.factors), 2):
            for values in itertools.product(self.factors[one], self.factors[other]):
                pair = ((one, values[0]), (other, values[1]))
                if pair in found:
                    continue
                drawn = (self.draw(dict(pair)) for _ in range(PATIENCE))
                case = next((case for case in drawn if case is not None), None)
                if case is not None:
                    found.update(pairs_of(case))
        return found

    def cover(self, wanted: set[Pair]) -> list[Case]:
        """Cases that hold all wanted pairs, greedily as few as possible."""
        missing, cases = set(wanted), []
        while missing:
            first = min(missing)
            drawn = (self.draw(dict(first)) for _ in range(PATIENCE))
            found = list(itertools.islice((case for case in drawn if case is not None), TRIES))
            best = max(found, key=lambda case: len(missing.intersection(pairs_of(case))))
            missing.difference_update(pairs_of(best))
            cases.append(best)
        return cases
