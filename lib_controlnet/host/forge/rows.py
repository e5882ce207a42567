"""The rows of an evaluation: chunks of all pictures, each named by the options of the call.

A call of the U-Net holds k chunks of b pictures, and its `transformer_options` say of each chunk
whether it carries the prompt (`cond_or_uncond`). Usually the negative prompt's chunk comes first,
and with little free memory the chunks come in several calls; neither matters, since every call says
it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lib_controlnet.engine.step import Row, RowLayout

COND: Final = 0
UNCOND: Final = 1
OPTIONS: Final = "transformer_options"
MARKS: Final = "cond_or_uncond"


class ForgeRows:
    """Answers `ports.RowSource`."""

    def read(self, params: Any, needs_texts: bool) -> RowLayout:
        """See `ports.RowSource.read`; `params` are the host's CFGDenoiserParams.

        They show each picture once, all its sub-prompts, and no negative prompt where there is no
        guidance.
        """
        images = len(params.x)
        conds = max(params.text_cond.shape[0] // max(images, 1), 1)
        marks = [UNCOND] * (params.text_uncond is not None) + [COND] * conds

        def read_call(arguments: Mapping[str, Any], count: int) -> tuple[Row, ...] | None:
            told = (arguments.get(OPTIONS) or {}).get(MARKS)
            return None if told is None else rows_of(told, count, images)

        return RowLayout(rows_of(marks, len(marks) * images, images) or (), read_call=read_call)


def rows_of(marks: Sequence[int], count: int, images: int) -> tuple[Row, ...] | None:
    """What `count` rows of a call are; None where they are no whole number of chunks.

    Args:
        marks: of each chunk, whether it carries the prompt.
        count: of the call's rows.
        images: pictures of the batch.
    """
    if not marks or not images or count % len(marks):
        return None
    chunk = count // len(marks)
    return tuple(Row(row % chunk % images, marks[row // chunk] == COND) for row in range(count))


ROWS: Final = ForgeRows()
