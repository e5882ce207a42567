"""StyleAlign: the pictures of a batch share their self-attention, and so come out in one style.

Each row attends to the tokens of all pictures (Hertz et al., "Style Aligned Image Generation via
Shared Attention", arXiv:2312.02133, its full attention sharing): cond rows to those of cond rows,
uncond rows to those of uncond rows. It belongs to the generation, not to a unit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from lib_controlnet.engine.places import Places
    from lib_controlnet.engine.step import Row, StepContext

LEAVES: Final = ("to_k", "to_v")


class StyleAlign:
    """What one pass shares.

    Args:
        images: pictures in the batch.

    Attributes:
        acted: pictures have seen each other.
        is_whole: in every call so far each picture has seen all of the batch.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._rows: tuple[Row, ...] = ()
        self._index: Tensor | None = None
        self.acted = False
        self.is_whole = True

    def attach(self, places: Places) -> None:
        """Ask for the keys and values of every self-attention."""
        for path, _module in places.unet.named_modules():
            if path.endswith(".attn1"):
                for leaf in LEAVES:
                    places.module(f"{path}.{leaf}", after=self._share)

    def _share(self, output: Tensor, step: StepContext, again: object) -> Tensor | None:
        """Keys or values (n * tiles, tokens, c) of all rows that a row sees, itself among them.

        Hosts that tile the attention make several rows of one: a tile sees the same one of the
        other pictures.
        """
        del again
        if step.rows is not self._rows:
            self._rows = step.rows
            seen = rows_seen(step.rows)
            alone = len(seen[0]) == 1
            self._index = None if alone else torch.tensor(seen, device=output.device)
            self.is_whole = self.is_whole and all(len(set(one)) >= self._images for one in seen)
        if self._index is None:
            return None
        self.acted = True
        tokens = output.unflatten(0, (len(step.rows), -1))[self._index]
        return tokens.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def describe(self) -> str:
        """What the user should know after a pass; "" where all went as asked."""
        if not self.acted:
            return (
                "StyleAlign had no effect: each call of the U-Net held one picture of the batch "
                "alone"
            )
        if not self.is_whole:
            return (
                "StyleAlign: the batch went through the U-Net in several calls, so a picture was "
                "aligned with those of its own call only"
            )
        return ""


def rows_seen(rows: Sequence[Row]) -> list[list[int]]:
    """For each row of a call the rows whose tokens it attends to, as many for one as for another.

    Of every picture it is one row of the same kind, cond or uncond: of its own picture itself, of
    one with several prompts (AND) that in the same place. Where there are more pictures of one kind
    than of the other, all are seen repeatedly: a softmax over copies is that over one.
    """
    kinds: dict[bool, dict[int, list[int]]] = {True: {}, False: {}}
    for number, row in enumerate(rows):
        kinds[row.is_cond].setdefault(row.image, []).append(number)
    length = math.lcm(*(len(images) for images in kinds.values() if images))
    seen = []
    for number, row in enumerate(rows):
        images = kinds[row.is_cond]
        place = images[row.image].index(number)
        alike = [
            number if image == row.image else numbers[min(place, len(numbers) - 1)]
            for image, numbers in images.items()
        ]
        seen.append(alike * (length // len(alike)))
    return seen
