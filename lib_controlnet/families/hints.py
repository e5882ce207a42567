"""Controls that are steered by a hint, and which part of what is made of it a row gets."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from lib_controlnet.engine.network import ActiveControl, ControlNetwork
from lib_controlnet.errors import HostError

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.kept import Kept
    from lib_controlnet.engine.network import Terms
    from lib_controlnet.engine.step import StepContext

T = TypeVar("T")


class HintControl(ActiveControl):
    """One unit in one pass, and its hint.

    Args:
        network: loaded weights, shared with other units.
        terms: how, when and where it acts.
        hint: float32 (1, 3, H, W), or (n, 3, H, W) with one for each picture of the batch; another
            extension may put (n, 3, H, W) of its own in its place.
    """

    def __init__(self, network: ControlNetwork, terms: Terms, hint: Tensor) -> None:
        super().__init__(network, terms)
        self.hint = hint
        self._key = terms.guide_key
        self.is_replaced = False
        self._kept: Kept | None = None

    @property
    def hint_key(self) -> str:
        """Equal for equal hints."""
        return self._key

    @property
    def pictures(self) -> int:
        """See `ActiveControl.pictures`."""
        return self.hint.shape[0]

    def replace_hint(self, hint: Tensor) -> None:
        """Act by another hint from the next U-Net call on.

        Args:
            hint: (3, H, W) or (1, 3, H, W) for all rows, or (n, 3, H, W) with one for each row of
                the U-Net's calls, or one for each picture of the batch.
        """
        self.hint = hint[None] if hint.dim() == 3 else hint  # no batch axis
        self._key = f"given to {id(self)}"  # never taken for a copy of another unit's
        self.is_replaced = True
        self.release()

    def keep_in(self, kept: Kept) -> None:
        """What is made of the hint is kept here."""
        self._kept = kept

    def make_once(self, make: Callable[[], T], *facts: Hashable) -> T:
        """What the network makes of the hint, made once for all units and passes that show it.

        Args:
            make: makes it, of the hint and the network's weights alone.
            facts: what it depends on beside these.
        """
        if self._kept is None or self.is_replaced or not self.terms.guide_key:
            return make()  # nothing tells what it was made of
        key = (self.terms.guide_key, tuple(self.hint.shape), facts)
        return self._kept.find(self.network, key, make)

    def rows_of(self, made: Tensor, step: StepContext, rows: Rows) -> Tensor:
        """What some rows of a call get of what was made of the hint: (1 or len(rows), c, h, w).

        Args:
            made: (n, c, h, w): one for all; or one for each row of the call, for each picture of
                the batch, or for each of several equal parts of the call (animations repeat their
                frames for cond and uncond).
            step: the U-Net call.
            rows: the wanted rows.

        Raises:
            HostError: the number of hints fits none of these.
        """
        count, total = made.shape[0], len(step.rows)
        if count == 1:
            return made
        pictures = 1 + max(row.image for row in step.rows)
        if count == total and self.is_replaced:
            owners = list(rows)
        elif count == pictures or (count > pictures and not self.is_replaced):
            owners = [step.rows[row].image for row in rows]  # a call may have a part of them
        elif total % count == 0:
            owners = [row % count for row in rows]
        else:
            msg = (
                f"another extension replaced a hint by {count} of them, but the U-Net was called "
                f"with {total} rows; there must be 1, {total}, or one for each picture"
            )
            raise HostError(msg)
        if owners == list(range(count)):
            return made
        return made[torch.tensor(owners, device=made.device)]
