"""Ways of damaging a file: bytes of any kind, and the structure of JSON, safetensors and pickles.

All of them take the random numbers of their caller, so a seed gives the same files again.
"""

from __future__ import annotations

import copy
import io
import json
import pickletools
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any, Final

from fuzz.cases import ODD, at, places, put

Damage = Callable[[bytes, random.Random], bytes]

LENGTH: Final = 8
"""Bytes of a safetensors file's first field, the length of its header."""
NESTED: Final = 200_000
DEEP: Final = "@deep@"
FOREIGN: Final = (
    b"",
    b"\0\0\0\0",
    b"\x80",
    b"PK\x03\x04",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    b"<!DOCTYPE html><html>Sign in</html>",
    b"\xff\xd8\xff\xe0 a picture",
    b"\x80\x02]q\x00h\x00a.",  # a list that contains itself
    b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",  # a dict that contains itself
    b"\x80\x02" + b"]" * 50_000 + b"." + b"a" * 50_000,
    b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".",
    b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00:;\x85R.",
)
"""Whole files in the place of a good one: empty, of another kind, a pickle that is a trap."""
TEXTS: Final = (
    *(b"\n" * 20_000, b" " * 20_000, b"\0", b"\xff\xfe", b"[" * 5000, b'{"a":' * 5000),
    *(b"1e999", b"-1", b"null", b'"', b"{", b"9" * 9000, b"NaN", b"true"),
)


def whole_numbers(rng: random.Random) -> int:
    """Numbers at the ends of what fields hold."""
    power = rng.choice((7, 8, 15, 16, 31, 32, 40, 53, 63, 64))
    return rng.choice((1, -1)) * 2**power + rng.choice((-1, 0, 1))


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    """One to four places overwritten, cut, doubled or filled with something else."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        # Headers decide more than weights do: half of the places lie at the start or the end.
        limit = len(found) if rng.random() < 0.5 else min(len(found), 600)
        start = rng.randrange(limit + 1)
        start = len(found) - start if rng.random() < 0.2 else start
        length = rng.choice((1, 1, 1, 2, 4, 8, 100))
        way = rng.choice(("flip", "cut off", "take out", "double", "fill", "number", "text"))
        if way == "flip" and start < len(found):
            found[start] ^= 1 << rng.randrange(8)
        elif way == "cut off":
            del found[start:]
        elif way == "take out":
            del found[start : start + length]
        elif way == "double":
            found[start:start] = found[start : start + length]
        elif way == "fill":
            found[start : start + length] = bytes([rng.choice((0, 1, 0x5B, 0x7F, 0xFF))]) * length
        elif way == "text":
            found[start : start + rng.choice((0, 1, 5))] = rng.choice(TEXTS)
        else:
            form, bits = rng.choice((("<I", 32), ("<Q", 64)))
            packed = struct.pack(form, whole_numbers(rng) % 2**bits)
            found[start : start + len(packed)] = packed
    return bytes(found)


def json_value(value: Any, rng: random.Random) -> Any:
    """A copy with one to three places replaced, taken away, renamed or wrapped."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(places(value)[:400])
        here = at(value, path)
        way = rng.choice(("replace", "replace", "number", "list", "delete", "wrap", "rename"))
        if way == "rename" and isinstance(here, dict) and here:
            odd = rng.choice(("", "__metadata__", "a" * 2000, "\ud800", "x\n\0", "é"))
            here[odd] = here.pop(rng.choice(list(here)))
        elif way == "delete":
            value = put(value, path, ...)
        elif way == "wrap":
            value = put(value, path, rng.choice(([here], {"a": here})))
        elif way == "number":
            value = put(value, path, rng.choice((whole_numbers(rng), 0.5, -0.0, 1e300)))
        elif way == "list" and isinstance(here, list):
            value = put(value, path, rng.choice(([*here, 1], here[::-1], here[:-1], here * 9)))
        else:
            value = put(value, path, copy.deepcopy(rng.choice(ODD)))
    return value


def json_text(data: bytes, rng: random.Random) -> bytes:
    """A JSON file: its values, its bytes, or nested deeper than anybody reads; or one of lines."""
    lines = data.splitlines()
    if len(lines) > 1:
        lines[rng.randrange(len(lines))] = json_text(rng.choice(lines), rng)
        return b"\n".join(lines)
    way = rng.random()
    if way < 0.6:
        return json.dumps(json_value(json.loads(data), rng)).encode()
    if way < 0.64:
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        nested = opening * NESTED + "1" + closing * NESTED
        value = json.loads(data)
        put(value, rng.choice(places(value)[1:400]), DEEP)
        return json.dumps(value).replace(f'"{DEEP}"', nested).encode()
    return bytes_of(data, rng)


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file: its header's values with a right length, or any of its bytes."""
    if rng.random() < 0.3:
        return bytes_of(data, rng)
    length = int.from_bytes(data[:LENGTH], "little")
    header = json_text(data[LENGTH : LENGTH + length], rng)
    return len(header).to_bytes(LENGTH, "little") + header + data[LENGTH + length :]


def pickled(data: bytes, rng: random.Random) -> bytes:
    """A pickle: single operations taken out, doubled, exchanged, or any of its bytes."""
    if rng.random() < 0.4:
        return bytes_of(data, rng)
    try:
        ends = [place for _code, _argument, place in pickletools.genops(data) if place is not None]
    except ValueError:
        return bytes_of(data, rng)
    parts = [data[a:b] for a, b in zip(ends, [*ends[1:], ends[-1] + 1], strict=True)]
    rest = data[ends[-1] + 1 :]
    for _ in range(rng.randint(1, 3)):
        index, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        way = rng.choice(("take out", "double", "exchange", "memory", "stop"))
        if way == "take out" and len(parts) > 1:
            del parts[index]
        elif way == "double":
            parts.insert(index, parts[index])
        elif way == "exchange":
            other %= len(parts)
            parts[index], parts[other] = parts[other], parts[index]
        elif way == "memory":  # an object that was made before, in the place of another
            parts[index] = b"h" + bytes([rng.choice((0, 1, 2, 3, 200))])
        else:
            parts[index] = rng.choice((b".", b"N", b"0", b"2", b"}", b"]", b"(", b"a", b"s", b"u"))
    return b"".join(parts) + rest


def zipped(data: bytes, rng: random.Random) -> bytes:
    """A file of `torch.save`: members with right checksums but other contents, or any bytes."""
    if rng.random() < 0.3:
        return bytes_of(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        members = [[info.filename, old.read(info)] for info in old.infolist()]
    chosen = rng.choice(members)
    pickles = [member for member in members if member[0].endswith("data.pkl")]
    way = rng.choice(("pickle", "pickle", "pickle", "content", "gone", "name", "packed"))
    if way == "pickle" and pickles:
        pickles[0][1] = pickled(pickles[0][1], rng)
    elif way == "content":
        chosen[1] = bytes_of(chosen[1], rng)
    elif way == "gone":
        members.remove(chosen)
    elif way == "name":
        chosen[0] = rng.choice(("x", "../x", "archive/data.bin", chosen[0] + "\0", "a" * 3000))
    packing = zipfile.ZIP_DEFLATED if way == "packed" else zipfile.ZIP_STORED
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", packing) as new:
        for name, content in members:
            new.writestr(name, content)
    return made.getvalue()


def by_ending(name: str) -> Damage:
    """How files with this name's ending are damaged."""
    if name.endswith((".json", ".jsonl")):
        return json_text
    if name.endswith(".safetensors"):
        return safetensors
    if name.endswith(".old.pth"):
        return pickled
    return zipped if name.endswith(".pth") else bytes_of
