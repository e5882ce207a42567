"""Files of the tools: whole or not there, readable by others, and written in little memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import controlnet_shapes, empty_unet
from tool_files import UNET, Tools, control_file, leftovers, metadata, same_tensors, tools
from torch import Tensor

from lib_controlnet.families.base_weights import SHARED_WITH_BASE
from lib_controlnet.files.containers import open_container
from lib_controlnet.tools import writer
from lib_controlnet.tools.errors import ToolError

__all__ = ["tools"]  # a fixture

ROOT = Path(__file__).resolve().parents[2]

SOME = {
    "byte": torch.arange(3, dtype=torch.uint8),
    "half": torch.randn(3, 5, dtype=torch.float16),
    "brain": torch.randn(2, 2, 1, 1).bfloat16(),
    "scalar": torch.ones(()),
    "empty": torch.zeros(0),
    "long": torch.tensor([2**40]),
    "flag": torch.tensor([True, False]),
    "turned": torch.randn(4, 6).T,
}


def plan_of(tensors: dict[str, Tensor]) -> dict[str, writer.Entry]:
    return {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}


# --- the format -------------------------------------------------------------------------------


def test_written_file_is_read_by_safetensors_and_by_us(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    backwards = reversed(SOME.items())
    writer.write_safetensors(path, plan_of(SOME), backwards, {"ü": "a \N{WHITE SMILING FACE}"})
    assert same_tensors(path, SOME)
    assert metadata(path) == {"ü": "a \N{WHITE SMILING FACE}"}
    assert dict(open_container(path).read(SOME, None, "cpu")).keys() == SOME.keys()


def test_every_tensor_begins_at_a_multiple_of_its_width(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    writer.write_safetensors(path, plan_of(SOME), SOME.items(), {})
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    for name, entry in json.loads(raw[8 : 8 + length]).items():
        assert entry["data_offsets"][0] % SOME[name].itemsize == 0
    assert "__metadata__" not in json.loads(raw[8 : 8 + length])


def test_metadata_may_be_known_at_the_end(tmp_path: Path) -> None:
    path, told = tmp_path / "late.safetensors", {"error": "0.000000"}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield from SOME.items()
        told["error"] = "0.25"

    writer.write_safetensors(path, plan_of(SOME), tensors(), dict(told), lambda: told)
    assert metadata(path) == {"error": "0.25"}
    assert same_tensors(path, SOME)


def test_late_metadata_that_needs_more_room_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "late.safetensors"
    with pytest.raises(ValueError, match="were kept for it"):
        writer.write_safetensors(
            path, plan_of(SOME), SOME.items(), {"a": "b"}, lambda: {"a": "b" * 99}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "dtype", "twice"])
def test_tensors_that_were_not_announced_are_refused(change: str, tmp_path: Path) -> None:
    pairs = list(SOME.items())
    if change == "missing":
        del pairs[0]
    elif change == "unknown":
        pairs.append(("more", torch.ones(1)))
    elif change == "twice":
        pairs.append(pairs[0])
    else:
        value = torch.ones(4, dtype=torch.uint8) if change == "shape" else torch.ones(3)
        pairs[0] = ("byte", value)
    with pytest.raises(ValueError, match="was not announced|did not arrive"):
        writer.write_safetensors(tmp_path / "x.safetensors", plan_of(SOME), pairs, {})
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("there", [False, True], ids=["new", "replaced"])
def test_file_that_is_not_finished_is_not_there(
    error: type[BaseException], there: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    if there:
        path.write_bytes(b"old")

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield from list(SOME.items())[:4]
        assert leftovers(tmp_path), "something has been written by now"
        raise error

    with pytest.raises(error):
        writer.write_safetensors(path, plan_of(SOME), tensors(), {})
    assert [file.name for file in tmp_path.iterdir()] == ([path.name] if there else [])
    assert not there or path.read_bytes() == b"old"


INTERRUPTED = """
import os, runpy, signal, sys
from lib_controlnet.tools import source

# Programs that a shell starts in the background ignore Ctrl-C; this one is not such.
signal.signal(signal.SIGINT, signal.default_int_handler)

inner = source.cast
def at_the_third(name, tensor, dtype, count=[0]):
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), getattr(signal, word))
    return inner(name, tensor, dtype)

source.cast = at_the_third
word = sys.argv.pop(1)
runpy.run_module("lib_controlnet.tools", run_name="__main__")
"""

LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
sys.argv.pop(1)
runpy.run_module("lib_controlnet.tools", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "word", "sentence"),
    [
        (INTERRUPTED, "SIGINT", "interrupted; nothing was written"),
        (INTERRUPTED, "SIGTERM", "interrupted; nothing was written"),
        (LIMITED, "-", "File too large; nothing was left behind"),
    ],
    ids=["Ctrl-C", "end of the process", "a disk that takes no more"],
)
def test_ended_command_leaves_nothing_behind(
    script: str, word: str, sentence: str, tmp_path: Path
) -> None:
    source, out = control_file(tmp_path), tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", script, word, "convert", source, out, "--force"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    assert run.stderr.splitlines()[-1].endswith(sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name, out.name]
    assert out.read_bytes() == b"old"


def test_disk_with_too_little_room_is_told_before_anything_is_written(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = control_file(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _folder: usage)
    assert tools("convert", source, tmp_path / "out.safetensors") == 1
    assert "has 1.0 MB free; nothing was written" in tools.said


def test_folder_that_vanishes_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(ToolError, match=r"x\.txt cannot be written: No such file"),
        writer.whole_file(tmp_path / "gone" / "x.txt"),
    ):
        pass


# --- memory -----------------------------------------------------------------------------------

MEASURE = """
import gc, json, sys
from pathlib import Path
import torch
from lib_controlnet.detect import listing  # the preprocessors, that `info` asks
from lib_controlnet.tools.__main__ import main

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

def read():
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

folder, commands = sys.argv[1], json.loads(sys.argv[2])
product = torch.ones(512, 1024).double()  # the libraries take their buffers
torch.linalg.eigh(product @ product.T)
product.float() @ product.float().T
del product
torch.zeros(99).half().float().isfinite().all()
listing.default_module("Canny")
found, start = {}, None
for name, words in commands.items():
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = start or peak()  # what earlier commands did not give back counts too
    begin = read()
    assert main([word.replace("@", folder) for word in words]) == 0, words
    found[name] = peak() - start, read() - begin
Path(folder, "peaks.json").write_text(json.dumps(found))
"""

CONTROL = "@/control.safetensors"
COMMANDS = {
    "convert a pickle": ["convert", "@/control.pth", "@/2.safetensors"],
    "info": ["info", CONTROL],
    "check": ["check", CONTROL],
    "convert": ["convert", CONTROL, "@/1.safetensors", "--layout", "diffusers", "--dtype", "bf16"],
    "extract": ["extract", "@/joint.safetensors", "@/3.safetensors"],
    "diff": ["diff", CONTROL, "@/base.safetensors", "@/4.safetensors"],
    "transfer": ["transfer", CONTROL, "--from", "@/base.safetensors", "--to", "@/base.safetensors",
                 "@/5.safetensors"],
    "to-lora": ["to-lora", CONTROL, "@/base.safetensors", "@/6.safetensors", "--rank", "8"],
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_and_reading_stay_below_the_models_size(tmp_path: Path) -> None:
    """Growth of the process's peak resident size over the control model's size, per command.

    1.2 is what is promised. A copy of the whole model would be 1 and more, so those that stream
    are held to less, with layers that are a sixteenth of this model (SD1's largest is a 25th).
    A zipped pickle is mapped, and its pages count until the system drops them.
    """
    generator = torch.Generator().manual_seed(1)
    shapes = controlnet_shapes(empty_unet("demo", model_channels=192, channel_mult=(1, 2, 3)))
    control = {k: torch.empty(s).normal_(generator=generator).half() for k, s in shapes.items()}
    size = sum(value.nbytes for value in control.values())
    assert 80e6 < size < 120e6
    shared = {k: v for k, v in control.items() if k.startswith(SHARED_WITH_BASE)}
    base = {f"{UNET}{name}": value * 0.5 for name, value in shared.items()}
    save_file(control, tmp_path / "control.safetensors")
    torch.save(control, tmp_path / "control.pth")
    save_file(base, tmp_path / "base.safetensors")
    joint = {f"control_model.{name}": value for name, value in control.items()}
    save_file({**joint, **base}, tmp_path / "joint.safetensors")
    subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path, json.dumps(COMMANDS)],
        capture_output=True, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = json.loads((tmp_path / "peaks.json").read_text())
    shares = {name: peak / size for name, (peak, _read) in found.items()}
    assert shares.keys() == COMMANDS.keys()
    assert shares.pop("convert a pickle") < 1.2, shares
    assert max(shares.values()) < 1.0, shares
    assert 0.99 < found["extract"][1] / size < 1.1, "bytes read from a file nearly twice as large"
    with safe_open(tmp_path / "5.safetensors", "pt") as moved:
        assert torch.equal(moved.get_tensor("time_embed.0.bias"), control["time_embed.0.bias"])
    assert load_file(tmp_path / "6.safetensors")["lora_controlnet"].numel() == 0
