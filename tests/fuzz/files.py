"""Damaged model files by the thousand: small good ones with bytes, structure or endings changed.

`mutated(seed)` never ends and needs no disk; `Reader` puts each file where the WebUI would find
it and does with it what the WebUI does. The same seed gives the same files.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save as to_safetensors
from support import empty_unet, randomise, tiny_controlnet
from torch import nn

from lib_controlnet.catalog import Catalog
from lib_controlnet.errors import ControlNetError
from lib_controlnet.families import load_network
from lib_controlnet.families.base import BaseUNet, describe_unet
from lib_controlnet.hash_store import HashStore
from lib_controlnet.tools.renaming import diffusers_config, to_diffusers

STRUCTURE: Final = {
    "model_channels": 32,
    "channel_mult": (1, 2),
    "attention_resolutions": (2,),
    "context_dim": 32,
}
ODD_JSON: Final = (
    *(None, True, 0, -1, 1.5, 2.0, 1e999, 10**40, 2**63, "", "F32", "F99", "\ud800", "x" * 5000),
    *([], {}, [[]], {"a": 1}, [0, 4], [-4, 0], [0.0, 4.0], [2**62, 2**63], ["1", "2"]),
)
LONGEST: Final = 300
"""Characters of a sentence; names and values in it are cut."""


@dataclass(frozen=True)
class Damaged:
    """A file and what lies beside it.

    Attributes:
        name: of the file, with the ending that decides how it is found.
        data: its bytes.
        beside: further files by name, for example a YAML.
    """

    name: str
    data: bytes
    beside: Mapping[str, bytes]


@lru_cache(maxsize=1)
def unet() -> nn.Module:
    """A U-Net as narrow as group norms allow."""
    return randomise(empty_unet("demo", **STRUCTURE).to_empty(device="cpu"), 1)


@lru_cache(maxsize=1)
def base() -> BaseUNet:
    """The checkpoint that the good files are for."""
    return BaseUNet(unet(), describe_unet(unet()), "narrow", "narrow")


@lru_cache(maxsize=1)
def good() -> dict[str, Damaged]:
    """A good file of every container and layout, by kind."""
    network = tiny_controlnet("demo", unet=unet())
    tensors = {name: value.half() for name, value in network.module.state_dict().items()}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    rename = to_diffusers(tensors)
    theirs = {rename(name): value for name, value in tensors.items()}
    config = json.dumps(diffusers_config(shapes), indent=1).encode()
    zipped, legacy = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": tensors, "epoch": 3}, zipped)
    torch.save(tensors, legacy, _use_new_zipfile_serialization=False)
    plain = to_safetensors(tensors, {"control_type": "canny"})
    yaml = b"model:\n  params:\n    control_stage_config:\n      global_average_pooling: True\n"
    cache = json.dumps({"/models/a.pth": [1, 2, "0123abcd"], "/models/b.pth": [3, 4, "ffffffff"]})
    return {
        "safetensors": Damaged("model.safetensors", plain, {}),
        "zip": Damaged("model.pth", zipped.getvalue(), {}),
        "legacy": Damaged("model.pt", legacy.getvalue(), {}),
        "diffusers": Damaged(
            "diffusion_pytorch_model.safetensors", to_safetensors(theirs), {"config.json": config}
        ),
        "yaml": Damaged("shuffle.safetensors", plain, {"shuffle.yaml": yaml}),
        "hashes": Damaged("model.safetensors", plain, {HASHES: cache.encode()}),
    }


HASHES: Final = "controlnet-hashes.json"


# --- mutations ----------------------------------------------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, mostly where the structure is: at both ends."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        reach = draw.choice((16, 200, 4000, len(data)))
        place = draw.randrange(min(reach, len(data)))
        if draw.random() < 0.4:  # noqa: PLR2004 - a share
            place = len(data) - 1 - place
        changed[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(changed)


def cut(data: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return data[: draw.choice((0, 1, 4, 8, 9, draw.randrange(64), draw.randrange(len(data))))]


def moved(data: bytes, draw: random.Random) -> bytes:
    """A piece taken out, doubled, or put in."""
    reach = draw.choice((64, 4000, len(data)))
    start = draw.randrange(min(reach, len(data)))
    piece = data[start : start + draw.choice((1, 4, 8, 300))]
    odd = draw.choice((b"", piece + piece, bytes(len(piece)), b"\xff" * len(piece), b"[" * 5000))
    return data[:start] + odd + data[start + len(piece) :]


def numbered(data: bytes, draw: random.Random) -> bytes:
    """Some whole number of four or eight bytes becomes an extreme one."""
    size, form = draw.choice(((4, "<I"), (8, "<Q")))
    place = draw.randrange(max(1, min(draw.choice((16, 3000, len(data))), len(data) - size)))
    if draw.random() < 0.3:  # noqa: PLR2004 - a share: the directory of an archive
        place = max(0, len(data) - size - place)
    value = draw.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1))
    return data[:place] + struct.pack(form, value % (1 << 8 * size)) + data[place + size :]


def header_changed(data: bytes, draw: random.Random) -> bytes:
    """The JSON header of a safetensors file with odd values, in good packing."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    for _ in range(draw.choice((1, 1, 3))):
        entry = header[draw.choice(list(header))]
        way = draw.randrange(6)
        if way == 0:
            header[draw.choice(list(header))] = draw.choice(ODD_JSON)
        elif way == 1:
            header["__metadata__"] = draw.choice(ODD_JSON)
        elif way == 2 and isinstance(entry, dict):  # noqa: PLR2004 - a way
            entry[draw.choice(("dtype", "shape", "data_offsets", "x"))] = draw.choice(ODD_JSON)
        elif way == 3 and isinstance(entry, dict) and entry.get("shape"):  # noqa: PLR2004
            entry["shape"] = draw.choice(([*entry["shape"], 1], entry["shape"][::-1], [-1, -1]))
        elif way == 4:  # noqa: PLR2004 - a way
            header.pop(draw.choice(list(header)))
        else:
            header[draw.choice(("", "\ud800", "a" * 9000, "difference"))] = entry
        if not header:
            break
    text = json.dumps(header)
    if draw.random() < 0.1:  # noqa: PLR2004 - a share
        text = text[:-1] + ', "__metadata__": ' + "[" * 100_000 + "]" * 100_000 + "}"
    packed = text.encode()
    return struct.pack("<Q", len(packed)) + packed + rest


def archive_changed(data: bytes, draw: random.Random) -> bytes:
    """The pickle inside an archive mutated, in a good archive; or members packed otherwise."""
    packing = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    how = draw.choice((flipped, numbered, moved, cut, lambda whole, _draw: whole))
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", packing) as new:
        for entry in old.namelist():
            content = old.read(entry)
            if entry.endswith("data.pkl"):
                content = how(content, draw)
            if draw.random() > 0.01:  # noqa: PLR2004 - a share: a member is missing
                new.writestr(entry, content)
    return out.getvalue()


def text_changed(data: bytes, draw: random.Random) -> bytes:
    """A text file with an odd piece."""
    place = draw.randrange(len(data) + 1)
    odd = draw.choice(
        (b"\n" * 20_000, b" " * 20_000, b"\x00", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000)
        + (b"1e999", b"-1", b"null", b'"', b"{", b"9" * 9000, b"NaN", b"true")
    )
    return data[:place] + odd + data[place + draw.choice((0, 0, 1, 5)) :]


PLAIN: Final = (flipped, flipped, cut, moved, numbered)
WAYS: Final[Mapping[str, tuple[Callable[[bytes, random.Random], bytes], ...]]] = {
    "safetensors": (*PLAIN, header_changed, header_changed),
    "zip": (*PLAIN, archive_changed, archive_changed, archive_changed),
    "legacy": PLAIN,
    "diffusers": (*PLAIN, header_changed),
    "yaml": (text_changed, flipped, cut),
    "hashes": (text_changed, flipped, cut),
}


def mutated(seed: int) -> Iterator[Damaged]:
    """Damaged files of all kinds in turn, without end.

    Args:
        seed: the same seed gives the same files.
    """
    draw = random.Random(seed)
    while True:
        for kind, file in good().items():
            way = draw.choice(WAYS[kind])
            data, beside = file.data, dict(file.beside)
            if beside and (kind not in ("diffusers",) or draw.random() < 0.3):  # noqa: PLR2004
                beside = {name: text_changed(x, draw) for name, x in beside.items()}
            else:
                data = way(data, draw)
            stem = Path(file.name).stem
            name = file.name if draw.random() < 0.9 else f"{stem}.ckpt"  # noqa: PLR2004 - a share
            yield Damaged(name, data, beside)


# --- reading ------------------------------------------------------------------------------------


class Reader:
    """Does with a file what the WebUI does, and tells what must not be.

    Args:
        folder: an empty folder, filled anew for each file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded = 0

    def fault(self, file: Damaged) -> str | None:
        """What is wrong with the outcome: anything but a network or a sentence about the file."""
        for path in self.folder.iterdir():
            path.unlink()
        for name, data in {file.name: file.data, **file.beside}.items():
            (self.folder / name).write_bytes(data)
        try:
            return self._read(file.name)
        except Exception as error:  # the very thing looked for
            return f"{file.name}: {type(error).__name__}: {str(error)[:LONGEST]}"

    def _read(self, name: str) -> str | None:
        catalog = Catalog([self.folder], hashes=HashStore(self.folder / HASHES))
        listed = [entry for entry in catalog.files.values() if entry.path.name == name]
        if not listed:
            return f"{name} is not listed"
        catalog.for_type("Canny")
        try:
            load_network(listed[0].path, base(), torch.float32, "cpu")
        except ControlNetError as error:
            return _unlike_a_sentence(name, str(error))
        self.loaded += 1
        return None


def _unlike_a_sentence(name: str, text: str) -> str | None:
    if Path(name).stem not in text:
        return f"{name} is not named in {text[:LONGEST]!r}"
    if "\n" in text or len(text) > 2 * LONGEST:
        return f"{len(text)} characters are no sentence: {text[:LONGEST]!r}"
    return None


def read_all(files: Iterator[Damaged], count: int, folder: Path) -> dict[str, Any]:
    """Read that many files and keep the score: how many, how many loaded, and the faults."""
    reader, faults = Reader(folder), []
    for number, file in zip(range(count), files, strict=False):
        if fault := reader.fault(file):
            faults.append(f"number {number}: {fault}")
    return {"files": count, "loaded": reader.loaded, "faults": faults}
