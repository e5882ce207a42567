"""Names of presets: what people type, and safe as the name of a file on every system."""

from __future__ import annotations

import unicodedata
from typing import Final

from lib_controlnet.errors import PresetError, quote

LAST_USED: Final = "last used"
"""The preset that generations write."""
LONGEST: Final = 120
"""Bytes of a name in UTF-8: the names of its pictures are longer, and 255 are the most."""

_FORBIDDEN: Final = frozenset('<>:"/\\|?*')
_NO_CHARACTERS: Final = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_TURNING: Final = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
"""What writes the rest of a line backwards."""
_DEVICES: Final = frozenset(
    [
        *("con", "prn", "aux", "nul", "conin$", "conout$"),
        *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"),
    ]
)
"""Names that some systems give to something else than files, whatever follows a point."""


def check_name(text: object, *, may_be_last: bool = False) -> str:
    """The name as it is kept: composed characters, no blanks around it.

    Args:
        text: what was typed or sent.
        may_be_last: it may be the name that generations write to.

    Raises:
        PresetError: it cannot be the name of a file everywhere, or is kept for generations.
    """
    name = ""
    if isinstance(text, str):
        name = unicodedata.normalize("NFC", text[: 4 * LONGEST]).strip()
    fault = find_fault(name, text)
    if fault is None and not may_be_last and fold(name) == LAST_USED:
        fault = "is kept for the units of the last generation"
    if fault is not None:
        msg = f"the preset's name {quote(text)} {fault}; choose another one"
        raise PresetError(msg)
    return name


def fold(name: str) -> str:
    """What tells names apart: neither letter case nor how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_fault(name: str, text: object) -> str | None:
    """What keeps a name from being a preset's, None if nothing does.

    Args:
        name: the composed characters.
        text: what it was made of.
    """
    if not name:
        return "is empty" if isinstance(text, str) else "is no text"
    if len(str(text)) > 4 * LONGEST or len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        return f"has more than {LONGEST} bytes"
    if any(unicodedata.category(one) in _NO_CHARACTERS or one in _TURNING for one in name):
        return "holds a character that cannot be seen"
    if found := sorted(_FORBIDDEN.intersection(name)):
        return f"holds {found[0]}, which names of files cannot"
    if name.strip(" .") != name:
        return "begins or ends with a point or a blank"
    if name.split(".", maxsplit=1)[0].rstrip().casefold() in _DEVICES:
        return "is that of a device on some systems"
    return None
