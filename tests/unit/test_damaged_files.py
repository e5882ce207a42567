"""Files that are no models, in every way they come: a sentence each, in bounded time and memory."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fuzz import files
from safetensors.torch import save_file
from support import tiny_controlnet

from lib_controlnet import families
from lib_controlnet.errors import (
    BrokenCheckpointError,
    ControlNetError,
    HostError,
    is_out_of_memory,
    printable,
)
from lib_controlnet.families import load_network
from lib_controlnet.files import pickles
from lib_controlnet.files.catalog import ModelFile
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.files.containers import SafetensorsFile
from lib_controlnet.files.hash_store import HashStore

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def packed(header: str, tensors: int = 64) -> bytes:
    """A safetensors file of a header's text and some zeros."""
    return struct.pack("<Q", len(header)) + header.encode() + bytes(tensors)


def entry(**changes: object) -> bytes:
    """A file of one tensor, described oddly."""
    described = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return packed(json.dumps({"a": described}))


def old_file(content: object) -> bytes:
    """What torch wrote before it wrote archives."""
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def archive(data_pkl: bytes, packing: int = zipfile.ZIP_STORED, **others: bytes) -> bytes:
    """What torch writes, with another pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as file:
        file.writestr("archive/data.pkl", data_pkl)
        for name, content in {"version": b"3\n", "byteorder": b"little", **others}.items():
            file.writestr(f"archive/{name}", content)
    return out.getvalue()


def itself() -> dict:
    """A dictionary that contains itself."""
    inner: dict = {}
    inner["a"] = {"b": inner}
    return inner


def shared(levels: int = 40) -> dict:
    """Few dictionaries, and 2 ** levels ways through them."""
    inner: dict = {"x": torch.ones(1)}
    for _ in range(levels):
        inner = {"l": inner, "r": inner}
    return inner


def nested(levels: int) -> dict:
    inner: dict = {"x": torch.ones(1)}
    for _ in range(levels):
        inner = {"a": inner}
    return inner


def repeated() -> dict:
    """One number that fills a terabyte."""
    return {"zero_convs.0.0.weight": torch.ones(1).expand(2**19, 2**19)}


MEMO = b"\x80\x02}r\xff\xff\xff\x7f."
MAGIC = old_file({})[:14]
BROKEN = {
    "empty": b"",
    "four bytes of a pickle": b"\x80\x02}q",
    "four bytes of an archive": b"PK\x03\x04",
    "nested header": packed('{"a":' + "[" * 200_000 + "]" * 200_000 + "}"),
    "nested metadata": packed('{"__metadata__":' + '{"a":' * 50_000 + "1" + "}" * 50_001),
    "header of long numbers": packed('{"a":{"dtype":"F32","shape":[' + "9" * 200_000 + "]}}"),
    "offsets as floats": entry(data_offsets=[0.0, 8.0]),
    "offsets as truths": entry(shape=[], data_offsets=[False, True], dtype="U8"),
    "negative axes": entry(shape=[-1, -2]),
    "axes as texts": entry(shape=["2"]),
    "nothing of everything": entry(shape=[0, 2**62], data_offsets=[0, 0]),
    "a thousand axes": entry(shape=[1] * 1000 + [2]),
    "two tensors in one place": packed(
        json.dumps({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"})
    ),
    "a dictionary of dictionaries": packed(json.dumps({"a": {"dtype": {}, "shape": {}}})),
    "a longer header than the file": struct.pack("<Q", 10**6) + b"{}",
    "a pickle of itself": old_file(itself()),
    "dictionaries shared": old_file(shared()),
    "dictionaries far inside": old_file(nested(400)),
    "a memo of 32 GB": MAGIC + MEMO,
    "a memo of 32 GB in an archive": archive(MEMO),
    "a text of 8 GB": MAGIC + b"\x80\x02X\xff\xff\xff\x7f" + bytes(100),
    "a frame of an exabyte": archive(b"\x80\x04\x95" + b"\xff" * 7 + b"\x0f}."),
    "a number of a million digits": archive(b"I" + b"9" * 1_000_000 + b"\n."),
    "a memo told in digits": archive(b"}p999999999999\n."),
    "an archive without a pickle": archive(b"")[:60],
    "an archive with its end alone": b"PK\x05\x06" + bytes(18),
    "names of 4 GB": b"PK\x03\x04" + bytes(30) + b"PK\x05\x06" + bytes(8) + b"\xf0" * 8 + bytes(2),
    "a pickle that unfolds": archive(bytes(64 << 20), zipfile.ZIP_DEFLATED),
    "a tensor that repeats": old_file(repeated()),
    "no tensors": old_file([1, 2]),
    "odd keys": old_file({None: torch.ones(1), 1.5: torch.ones(1), (1,): {}}),
    "a sparse tensor": old_file({"zero_convs.0.0.weight": torch.ones(2, 2).to_sparse()}),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_model_is_a_sentence(what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"thing{suffix}"
    path.write_bytes(BROKEN[what])
    with pytest.raises(ControlNetError) as caught:
        load_network(path, files.base(), torch.float32, "cpu")
    assert str(caught.value).startswith(path.name)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert ModelFile(path, "").control_type is None


@pytest.mark.parametrize("length", [*range(1, 40), *range(40, 2000, 61)])
def test_old_pickles_cut_anywhere_are_sentences(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(files.good_torch(zipped=False)[:length])
    with pytest.raises(BrokenCheckpointError, match=r"^cut\.pt is "):
        open_checkpoint(path)


def test_packed_archive_is_read_as_what_it_holds(tmp_path: Path) -> None:
    """Its members do not lie in the file as they are, so they must not be mapped from it."""
    values = torch.arange(5000.0)
    plain, path = io.BytesIO(), tmp_path / "packed.pth"
    torch.save({"a": values}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert torch.equal(open_checkpoint(path).tensor("a"), values)


def test_weights_kept_as_whole_numbers_are_refused(tmp_path: Path) -> None:
    network = tiny_controlnet("demo", unet=files.unet())
    whole = {name: value.to(torch.int8) for name, value in network.module.state_dict().items()}
    save_file(whole, tmp_path / "int8.safetensors")
    with pytest.raises(BrokenCheckpointError, match=r"int8\.safetensors .* as whole numbers"):
        load_network(tmp_path / "int8.safetensors", files.base(), torch.float32, "cpu")


def large_old_file(path: Path) -> None:
    """A tensor of 10 GB in an old file, all of it a hole."""
    count = (10 * GIB) // 4
    data = old_file({"zero_convs.0.0.weight": torch.zeros(10)})
    data = data.replace(b"K\x0a", b"\x8a\x05" + count.to_bytes(5, "little"))
    place = data.rfind(struct.pack("<q", 10))
    path.write_bytes(data[:place] + struct.pack("<q", count))
    os.truncate(path, place + 8 + 4 * count)


def wide_model(path: Path) -> None:
    """A ControlNet for the base with a hint block of 2 GB, most of it a hole."""
    header, end = {}, 0
    network = tiny_controlnet("demo", unet=files.unet())
    for name, value in network.module.state_dict().items():
        shape = list(value.shape)
        if name.startswith("input_hint_block."):
            number = int(name.split(".")[1])
            shape[0] = 8000 if number < 14 else shape[0]
            if len(shape) > 1 and number > 0:
                shape[1] = 8000
        size = 2 * int(torch.tensor(shape).prod())
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    content = packed(json.dumps(header), 0)
    path.write_bytes(content)
    os.truncate(path, len(content) + end)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs files with holes")
@pytest.mark.parametrize(("name", "make"), [("o.pth", large_old_file), ("w.pth", wide_model)])
def test_files_of_gigabytes_are_refused_before_they_are_read(
    name: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    make(path)
    read: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: read.append("whole"))
    monkeypatch.setattr(SafetensorsFile, "read", lambda *_a: read.append("tensors"))
    with pytest.raises(BrokenCheckpointError, match=rf"^{name} is "):
        load_network(path, files.base(), torch.float16, "cpu")
    assert not read


def test_archives_may_hold_no_more_than_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(pickles, "WHOLE_LIMIT", 10**6)
    path = tmp_path / "bomb.pth"
    good = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(BrokenCheckpointError, match="is damaged, incomplete, or no model file"):
        open_checkpoint(path)


# --- memory, and what nobody thought of ---------------------------------------------------------

NO_MEMORY = {
    "python": MemoryError(),
    "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
}


@pytest.mark.parametrize("kind", NO_MEMORY)
def test_lack_of_memory_is_not_told_as_damage(kind: str, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(files.good_safetensors())

    def full(*_args: object, **_options: object) -> None:
        raise NO_MEMORY[kind]

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", full)
    with pytest.raises(HostError, match=r"not enough memory to load m\.safetensors"):
        load_network(path, files.base(), torch.float32, "cpu")


def test_a_wrong_length_is_no_lack_of_memory() -> None:
    error = RuntimeError("can't allocate memory: you tried to allocate 99999999999 bytes.")
    assert is_out_of_memory(error)
    assert not is_out_of_memory(error, most=1000)
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_anything_unexpected_names_the_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(files.good_safetensors())

    def surprise(_ckpt: object) -> None:
        msg = "by nothing\nat all"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr(families, "identify", surprise)
    with pytest.raises(BrokenCheckpointError) as caught:
        load_network(path, files.base(), torch.float32, "cpu")
    assert str(caught.value) == (
        r"m.safetensors could not be loaded (ZeroDivisionError: by nothing\nat all); "
        "download it again"
    )


@pytest.mark.parametrize(
    ("text", "seen"),
    [("modell\udce4", r"modell\xe4"), ("x\ud800", r"x\ud800"), ("plain ä", "plain ä")],
)
def test_messages_can_be_sent_whatever_a_file_is_called(text: str, seen: str) -> None:
    assert printable(text) == seen
    assert json.dumps(ControlNetError(text).detail, ensure_ascii=False).encode()


# --- beside the file ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 900_000,
        " " * 900_000,
        "[" * 500_000,
        '{"a":' * 100_000,
        "\0",
        "\ud800",
        "9" * 900_000,
    ],
    ids=["lines", "blanks", "lists", "objects", "nul", "surrogate", "digits"],
)
@pytest.mark.parametrize("name", ["m.yaml", "m.json"])
def test_texts_beside_a_model_take_no_time(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    path = tmp_path / "m.safetensors"
    path.write_bytes(files.good_safetensors())
    assert not open_checkpoint(path).global_average_pooling


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"a": [1e999, 2, "01234567"]}',
        '{"a": [' + "9" * 100_000 + ', 2, "01234567"]}',
        '{"a": [1, 2, "0123456\\n"], "b": [1, 2, "]        "]}',
        "\xff\xfe",
        '{"a": {"b": 1}, "c": null, "d": "xyz"}',
    ],
    ids=["nested", "infinite", "long", "no hash", "bytes", "kinds"],
)
def test_a_damaged_list_of_hashes_counts_as_empty(content: str, tmp_path: Path) -> None:
    store = tmp_path / "hashes.json"
    store.write_bytes(content.encode("latin-1"))
    assert HashStore(store).load() == {}
