"""What the matrix asks otherwise of members of the Forge family, and what they cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matrix.cases import CFG, FROM_PICTURE, WITH_HIRES
from matrix.pairwise import Case

A1111 = "a1111"
FORGE = "forge"
REFORGE = "reforge"
FAMILY = (FORGE, REFORGE)
REFINED = ("refiner", "refiner-moved", "refiner-other")

FIELDS: Mapping[str, dict[str, Any]] = {
    A1111: {},
    FORGE: {"hr_cfg": CFG, "hr_additional_modules": ["Use same choices"]},
    REFORGE: {"hr_cfg": CFG},
}
"""What a request for a hires pass needs there to be A1111's."""


@dataclass(frozen=True)
class Limit:
    """Cases that a member cannot run, with or without controls.

    Attributes:
        members: their names.
        values: those that all of the cases have, any of each factor's.
        reason: why.
    """

    members: tuple[str, ...]
    values: Mapping[str, Sequence[str]]
    reason: str

    def holds(self, member: str, case: Case) -> bool:
        """Whether a case is one of them."""
        chosen = (case.get(factor) in values for factor, values in self.values.items())
        return member in self.members and all(chosen)


LIMITS: tuple[Limit, ...] = (
    Limit(FAMILY, {"checkpoint": ("edit",)}, "no sampling of InstructPix2Pix checkpoints"),
    Limit(
        (FORGE,),
        {
            "path": FROM_PICTURE,
            "checkpoint": REFINED,
            "batch": ("count",),
            "sampler": ("DDIM", "UniPC"),
        },
        "its second batch has no noise levels after a refiner, and ends in an AttributeError",
    ),
    Limit(
        (REFORGE,),
        {"path": FROM_PICTURE, "checkpoint": REFINED, "batch": ("count",)},
        "its second batch samples the refiner, which was taken apart since: a TypeError",
    ),
)


def find_limit(member: str, case: Case) -> str:
    """Why a member cannot run a case; nothing where it can."""
    return next((limit.reason for limit in LIMITS if limit.holds(member, case)), "")


def fitted(request: dict[str, Any], member: str, case: Case) -> dict[str, Any]:
    """A request as a member needs it; the page's fields are those of the processing object."""
    if case["path"] not in WITH_HIRES:
        return request
    if "forced" in request:
        return {**request, "forced": {**request["forced"], **FIELDS[member]}}
    return {**request, **FIELDS[member]}
