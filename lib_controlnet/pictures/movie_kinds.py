"""Which container a movie is, told by its first bytes, before any decoder sees the file.

A decoder that finds out by itself also follows playlists and lists of files, which are text that
names other files and addresses. Only containers that hold their pictures themselves are here:
ISO/IEC 14496-12 (MP4, MOV), RFC 9559 (Matroska, WebM), and the others' published signatures.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from lib_controlnet.errors import ImageError

READ: Final = "MP4, MOV, WebM, MKV, AVI, GIF, animated WebP or animated PNG"


@dataclass(frozen=True)
class MovieKind:
    """A container and who reads it.

    Attributes:
        reader: "pillow" or "ffmpeg".
        format: the reader's own name of the container; no other is tried.
    """

    reader: str
    format: str


_ISO: Final = MovieKind("ffmpeg", "mov")
_STARTS: Final = (
    (b"GIF87a", MovieKind("pillow", "GIF")),
    (b"GIF89a", MovieKind("pillow", "GIF")),
    (b"\x89PNG\r\n\x1a\n", MovieKind("pillow", "PNG")),
    (b"\x1aE\xdf\xa3", MovieKind("ffmpeg", "matroska")),
    (b"FLV\x01", MovieKind("ffmpeg", "flv")),
    (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"), MovieKind("ffmpeg", "asf")),
    (b"OggS\x00", MovieKind("ffmpeg", "ogg")),
    (b"\x00\x00\x01\xba", MovieKind("ffmpeg", "mpeg")),
)
_RIFF: Final = {b"AVI ": MovieKind("ffmpeg", "avi"), b"WEBP": MovieKind("pillow", "WEBP")}
_ISO_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_TRANSPORT: Final = MovieKind("ffmpeg", "mpegts")
_PACKET: Final = 188
"""Bytes of a packet of an MPEG transport stream (ISO/IEC 13818-1), each starting with 0x47."""
_HEAD: Final = 3 * _PACKET

_WAY: Final = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
"""The boxes around the list of files that hold a track's pictures."""
_MOST_BOXES: Final = 10_000
_SELF_CONTAINED: Final = 1
_ENTRY: Final = struct.Struct(">I4sI")  # size, kind, version and flags


def movie_kind(path: Path, where: str) -> MovieKind:
    """The container of a file.

    Args:
        path: the file; of an unknown one nothing but the first bytes is read.
        where: how messages call it.

    Raises:
        ImageError: it cannot be read, is none of the containers, or its pictures are elsewhere.
    """
    try:
        with path.open("rb") as stream:
            kind = _of_head(stream.read(_HEAD))
            outside = kind is _ISO and _refers_outside(stream, path.stat().st_size)
    except OSError as error:
        msg = f"{where}: {path.name} cannot be read: {error.strerror or error}"
        raise ImageError(msg) from error
    if kind is None:
        msg = (
            f"{where}: {path.name} cannot be read as a movie, its first bytes are those of none; "
            f"send {READ} (playlists and lists of files are not read)"
        )
        raise ImageError(msg)
    if outside:
        msg = (
            f"{where}: {path.name} only refers to pictures in other files, which are not read; "
            "save it self-contained"
        )
        raise ImageError(msg)
    return kind


def _of_head(head: bytes) -> MovieKind | None:
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] in _ISO_BOXES:
        return _ISO
    found = next((kind for start, kind in _STARTS if head.startswith(start)), None)
    if found is None and len(head) == _HEAD and set(head[::_PACKET]) == {0x47}:
        return _TRANSPORT
    return found


def _refers_outside(stream: BinaryIO, size: int) -> bool:
    """Whether a track of a movie of boxes lies in another file."""
    boxes = 0
    spans = [(0, size, 0)]
    while spans:
        start, end, depth = spans.pop()
        for name, inner, after in _boxes(stream, start, end):
            boxes += 1
            if boxes > _MOST_BOXES:
                return False  # whatever it is, the decoder may open no second file
            if name != _WAY[depth]:
                continue
            if depth < len(_WAY) - 1:
                spans.append((inner, after, depth + 1))
            elif _names_a_file(stream, inner, after):
                return True
    return False


def _boxes(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and end of every box in a part of a file."""
    while start + 8 <= end:
        stream.seek(start)
        head = stream.read(16)
        if len(head) < 8:
            return
        length, content = int.from_bytes(head[:4], "big"), start + 8
        if length == 1:  # the length follows, in 64 bits
            length, content = int.from_bytes(head[8:], "big"), start + 16
        after = end if length == 0 else min(start + length, end)
        if after < content:
            return
        yield head[4:8], content, after
        start = after


def _names_a_file(stream: BinaryIO, start: int, end: int) -> bool:
    """Whether an entry of a list of files names one, instead of the movie itself."""
    start += 8  # version, flags and count
    for _ in range(_MOST_BOXES):
        stream.seek(start)
        head = stream.read(_ENTRY.size)
        if start + _ENTRY.size > end or len(head) < _ENTRY.size:
            return False
        length, _name, flags = _ENTRY.unpack(head)
        if not flags & _SELF_CONTAINED and length > _ENTRY.size + 1:  # more than an empty text
            return True
        start += max(length, _ENTRY.size)
    return False
