"""From the text that carries a picture to its bytes, whatever the way here did to it."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from typing import Final

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS: Final = 1_000_000
"""Of a PNG file; real ones have some thousands at most."""

_ESCAPES: Final = {
    **{"%25": "%", "%2B": "+", "%2F": "/", "%3D": "=", "%2D": "-", "%5F": "_", "%3A": ":"},
    **{"%3B": ";", "%2C": ",", "%20": " ", "%0A": "\n", "%0D": "\n"},
    **{"\\/": "/", "\\n": "\n", "\\r": "\n"},
    **{"\\u002B": "+", "\\u002F": "/", "\\u003D": "="},
}
"""What forms, addresses and JSON within JSON make of the characters of a data URL."""
_MAX_LINES: Final = 1_000_000
"""Taken apart one by one; 76 characters each is the custom."""
_DATA_HEAD: Final = 1024
"""Characters in which a data URL's "base64," is looked for."""
_MARK: Final = re.compile(r"base64\s*,", re.IGNORECASE)
_LAYOUT: Final = " \t\r\n"


def bytes_of_text(text: str) -> bytes | None:
    """Bytes of base64 text or of a data URL, whatever its way here did to it.

    Line breaks, missing padding, the URL alphabet, quotes around it, escapes of forms, addresses
    and JSON, and spaces in place of plus signs, which forms make of them.

    Returns:
        None if it is neither, or holds nothing.
    """
    text = _unquote(text)
    for escape, character in _ESCAPES.items() if "%" in text or "\\" in text else ():
        text = text.replace(escape, character).replace(escape.lower(), character)
    marks = list(_MARK.finditer(text[:_DATA_HEAD]))  # two where a client puts one before another
    text = _unwrap(_unquote(text[marks[-1].end() :]) if marks else text)
    readings = [_base64(text.replace(" ", ""))]
    if " " in text:
        readings.insert(1 if _is_laid_out(text) else 0, _base64(text.replace(" ", "+")))
    found = [data for data in readings if data]
    if len(found) < 2:  # nothing to choose from: whoever decodes it looks at the checksums
        return found[0] if found else None
    return next((data for data in found if not png_fault(data)), found[0])


def _unquote(text: str) -> str:
    """The text without quotes, those of Python's bytes too."""
    text = text.strip(_LAYOUT)
    return text[1 if text[:2] in ("b'", 'b"') else 0 :].strip(_LAYOUT + "'\"")


def _unwrap(text: str) -> str:
    """The text in one line, without the indentation of its lines."""
    text = text.replace("\r", "\n").replace("\t", " ")
    if text.count("\n") > _MAX_LINES:
        return text.replace("\n", "")
    return "".join(line.strip(" ") for line in text.split("\n"))


def _is_laid_out(text: str) -> bool:
    """Whether the spaces of a text stand between lines of one length, not for plus signs."""
    line = text.index(" ")
    breaks = text[line :: line + 1]
    return line % 4 == 0 and breaks.count(" ") == len(breaks) == text.count(" ")


def _base64(text: str) -> bytes | None:
    """Bytes of base64 text, without padding or in the URL alphabet too."""
    packed = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def png_fault(data: bytes) -> str | None:
    """What the checksums of a PNG file tell; None for what is whole, or of another format.

    Pillow does not look at those of the pixels. Whether the end is missing it does find.
    """
    if not data.startswith(_PNG):
        return None
    view, place = memoryview(data), len(_PNG)
    for _ in range(_MAX_CHUNKS):
        if place + 12 > len(data):
            return None
        length = int.from_bytes(view[place : place + 4], "big")
        end = place + 8 + length
        kind = bytes(view[place + 4 : place + 8])
        if end + 4 > len(data):
            return None
        is_critical = not kind[0] & 0x20
        if is_critical and zlib.crc32(view[place + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            return f"wrong checksum of a part {kind!r}"
        if kind == b"IEND":
            return None
        place = end + 4
    return f"it has more than {_MAX_CHUNKS} parts"
