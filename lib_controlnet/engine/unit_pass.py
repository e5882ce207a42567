"""A unit in one pass, before anything is bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lib_controlnet.engine.network import Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.prepared import Placed, PreparedUnit


@dataclass(frozen=True, eq=False)
class UnitPass:
    """What a unit is to do in one pass.

    Attributes:
        prepared: what it is.
        info: the pass.
        placed: its maps at the pass's size.
        terms: how, when and where it acts.
    """

    prepared: PreparedUnit
    info: PassInfo
    placed: Placed
    terms: Terms
