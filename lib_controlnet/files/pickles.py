"""Files of `torch.save`, looked over before anything unpickles them.

An unpickler believes what it reads: a number of four bytes makes it reserve 32 GB for its memo, a
directory or a packed member may unfold to whatever its header says. Here sizes are compared with
the file before such a number is acted on; nothing of the file runs, and no object is made.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Final

PICKLE_LIMIT: Final = 16 * 2**20
"""Bytes of the longest pickle that is read; those of the largest checkpoints have 2 MB."""

DIRECTORY_LIMIT: Final = 16 * 2**20
"""Bytes of the longest list of members of an archive."""

WHOLE_LIMIT: Final = 4 * 2**30
"""Bytes of the largest file that is read as a whole, where its parts cannot be read alone."""

PICKLES_OF_OLD_FILES: Final = 5
"""Magic number, protocol, system, object, and names of the storages; raw numbers follow."""

NUMBER_LIMIT: Final = 400
"""Digits of a number written out; Python takes quadratic time to read more of them."""

_ARGUMENTS: Final = {
    ord(code.code): 0 if code.arg is None else code.arg.n for code in pickletools.opcodes
}
"""Bytes behind each opcode; negative where they tell themselves, see `pickletools`."""
_LENGTHS: Final = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}
_TWO_LINES: Final = frozenset(b"ci")
_NUMBER_LINES: Final = frozenset(b"IFLgp")
_PUT, _LONG_BINPUT, _FRAME, _STOP = b"p"[0], b"r"[0], 0x95, b"."[0]
_END_OF_ARCHIVE: Final = 22
_END_OF_LARGE_ARCHIVE: Final = 56
_LONGEST_REMARK: Final = 65535


class UnsoundError(ValueError):
    """A file cannot be what `torch.save` wrote."""


def is_torch(start: bytes) -> bool:
    """Whether a file that begins so is an archive or a pickle, of which `torch.save` makes one."""
    return start[:2] == b"PK" or start[:1] == b"\x80"


def check_pickles(path: Path) -> None:
    """Check a file of any kind before it is opened: its pickles, if it has some.

    Raises:
        UnsoundError: see `look_over`.
    """
    with path.open("rb") as stream:
        start = stream.read(9)
    if is_torch(start) and start[8:9] != b"{":  # the header of a safetensors file
        look_over(path)


def look_over(path: Path) -> bool:
    """Check a file before it is unpickled; whether its members can be read where they lie.

    Raises:
        UnsoundError: it is damaged, or would take more time or memory than any model does.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            stream.seek(0)
            _check_old_file(stream.read(PICKLE_LIMIT))
            is_packed = True
        else:
            _check_directory(stream, path.stat().st_size)
            is_packed = _check_archive(stream)
    if is_packed and path.stat().st_size > WHOLE_LIMIT:
        msg = "a file of this kind has to be read whole, and it is too large for that"
        raise UnsoundError(msg)
    return not is_packed


def _check_old_file(start: bytes) -> None:
    position = 0
    for _ in range(PICKLES_OF_OLD_FILES):
        position = end_of_pickle(start, position)


def _check_directory(stream: io.BufferedReader, size: int) -> None:
    """Whether the list of members is of a length that may be read."""
    stream.seek(max(0, size - _LONGEST_REMARK - _END_OF_ARCHIVE - 20))
    tail = stream.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) < found + _END_OF_ARCHIVE:
        msg = "the archive has no end"
        raise UnsoundError(msg)
    length = int.from_bytes(tail[found + 12 : found + 16], "little")
    if tail[found - 20 : found - 16] == b"PK\6\7":  # the place of a longer end
        stream.seek(min(int.from_bytes(tail[found - 12 : found - 4], "little"), size))
        end = stream.read(_END_OF_LARGE_ARCHIVE)
        length = max(length % 0xFFFFFFFF, int.from_bytes(end[40:48], "little"))
    if length > DIRECTORY_LIMIT:
        msg = f"the archive announces {length} bytes of names"
        raise UnsoundError(msg)


def _check_archive(stream: io.BufferedReader) -> bool:
    """Check the pickle of an archive; whether members are compressed."""
    stream.seek(0)
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            for member in members:
                if member.filename.endswith("data.pkl"):
                    with archive.open(member) as packed:
                        content = packed.read(PICKLE_LIMIT + 1)
                    end_of_pickle(content[:PICKLE_LIMIT], 0)
    except (UnsoundError, MemoryError):
        raise
    except Exception as error:  # foreign bytes: zip, zlib, struct and seek errors of all kinds
        raise UnsoundError(str(error) or type(error).__name__) from error
    if sum(member.file_size for member in members) > max(WHOLE_LIMIT, _size(stream)):
        msg = "the archive unfolds to more than it may"
        raise UnsoundError(msg)
    return any(member.compress_type != zipfile.ZIP_STORED for member in members)


def _size(stream: io.BufferedReader) -> int:
    return stream.seek(0, io.SEEK_END)


def end_of_pickle(data: bytes, position: int) -> int:
    """Walk through one pickle without making an object of it; where the next one begins.

    Raises:
        UnsoundError: it is cut off, no pickle, or asks for more memory than it has bytes.
    """
    while position < len(data):
        code = data[position]
        count = _ARGUMENTS.get(code)
        if count is None:
            msg = f"byte {position} is no part of a pickle"
            raise UnsoundError(msg)
        position += 1
        if count >= 0:
            _check_number(code, data[position : position + count], position, len(data))
        elif count == pickletools.UP_TO_NEWLINE:
            count = _line(code, data, position)
        else:
            form = _LENGTHS[count]
            width = struct.calcsize(form)
            if len(data) < position + width:
                break
            count = width + struct.unpack_from(form, data, position)[0]
        if count < 0:
            break
        position += count
        if code == _STOP and position <= len(data):
            return position
    msg = "a pickle is cut off"
    raise UnsoundError(msg)


def _check_number(code: int, number: bytes, position: int, size: int) -> None:
    """An index of the memo is no larger than what came before; a frame lies in the pickle."""
    most = {_LONG_BINPUT: position, _FRAME: size}.get(code)
    if most is not None and int.from_bytes(number, "little") > most:
        msg = f"a pickle of {size} bytes announces {int.from_bytes(number, 'little')}"
        raise UnsoundError(msg)


def _line(code: int, data: bytes, position: int) -> int:
    """Length of an argument that ends with its line; -1 where the line has no end."""
    end = data.find(b"\n", position)
    if end >= 0 and code in _TWO_LINES:
        end = data.find(b"\n", end + 1)
    if end < 0:
        return -1
    text = data[position:end].strip()
    is_wrong = code in _NUMBER_LINES and len(text) > NUMBER_LIMIT
    if is_wrong or (code == _PUT and not (text.isdigit() and int(text) <= position)):
        msg = f"a pickle of {len(data)} bytes announces {text[:20]!r}"
        raise UnsoundError(msg)
    return end + 1 - position
