"""Every text that the panel shows: one table, for Python and for the page's scripts.

`word` gives a text by its name; places in braces are filled with values. The page gets the part of
the table that its scripts show (`PAGE`), and asks for it by the same names
(`javascript/controlnet_words.js`). Translations are files of the host's in `localizations/`, with
the English texts as keys, places and all; the page fills the places after translating.

A new text goes into the file of its kind, and into the four files of `localizations/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lib_controlnet.words.editors import EDITORS
from lib_controlnet.words.labels import LABELS
from lib_controlnet.words.messages import MESSAGES
from lib_controlnet.words.notes import NOTES
from lib_controlnet.words.page import SCRIPTS
from lib_controlnet.words.titles import TITLES

PAGE: Final[Mapping[str, str]] = {**SCRIPTS, **TITLES}
"""The part of the table that the page gets."""

WORDS: Final[Mapping[str, str]] = {**LABELS, **NOTES, **MESSAGES, **PAGE, **EDITORS}
"""Name -> English text."""


def word(name: str, /, **values: object) -> str:
    """A text of the table.

    Args:
        name: its name there.
        values: what its places are filled with; they stand in it as they are.
    """
    text = WORDS[name]
    return text.format(**values) if values else text
