"""What the matrix asks otherwise of members of the Forge family, and what they cannot do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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


LOADS_APART = "hr_additional_modules"
"""A field of requests in members that load text encoders and VAE apart (Forge, and made of it)."""

OF_TESTS: Mapping[str, str] = {
    "test_picture_equals_the_reference[inpaint": (
        "its VAE draws random numbers: plain pictures differ as well, by up to 173 of 255"
    ),
    "test_errors_are_json_with_a_sentence": "its own routes tell errors under other keys",
    "test_row_18_infotext_of_a_request_does_not_make_units": (
        "a request with `infotext` fails without units as well: a TypeError in its own reading"
    ),
    "test_flags_are_told": "its route of flags fails where a port was given, a number",
}
"""Beginnings of the names of tests over HTTP that a member with `LOADS_APART` cannot pass."""


def find_limit_of_test(fields: Collection[str], test: str) -> str:
    """Why a member cannot pass a test over HTTP; nothing where it can.

    Args:
        fields: what a request for a picture may have there.
        test: its name.
    """
    found = (why for start, why in OF_TESTS.items() if test.startswith(start))
    return next(found, "") if LOADS_APART in fields else ""


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
