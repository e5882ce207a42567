"""Reading control model files: containers, precision, memory, damage, and what lies beside them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import empty_unet, save_controlnet, tiny_base, tiny_controlnet
from torch import Tensor

from lib_controlnet.errors import BrokenCheckpointError, ModelNotFoundError
from lib_controlnet.families import load_network
from lib_controlnet.files import containers
from lib_controlnet.files.checkpoint import open_checkpoint

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
]


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "zero_convs.0.0.weight": torch.randn(4, 4, 1, 1, generator=generator),
        "input_hint_block.0.weight": torch.randn(2, 3, 3, 3, generator=generator),
        "difference": torch.ones(()),
        "empty": torch.zeros(0),
    }


def write(path: Path, tensors: dict, **options: object) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path, **options)
    else:
        torch.save(tensors, path, **options)
    return path


# --- containers -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_safetensors_of_every_dtype_are_read_bit_for_bit(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    values = torch.arange(24).view(2, 3, 4).to(dtype)
    path = write(tmp_path / "m.safetensors", {"a": values, "b": values[0].clone()})
    ckpt = open_checkpoint(path)
    assert ckpt.dtype("a") is dtype
    for key, expected in (("a", values), ("b", values[0])):
        found = ckpt.tensor(key)
        assert found.dtype is dtype
        assert found.shape == ckpt.shape(key) == expected.shape
        assert torch.equal(found.float(), expected.float())


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_header_lengths_that_look_like_other_formats_are_no_trap(
    length: int, tmp_path: Path
) -> None:
    """Headers are as long as their names; 128 and 19280 begin like a pickle and a zip archive."""
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).ljust(length).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + text + struct.pack("<f", 2.5))
    assert open_checkpoint(path).tensor("a").tolist() == [2.5]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_large_tensors_are_converted_in_pieces(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "SCRATCH_BYTES", 64)
    values = torch.randn(3, 37, generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / f"m{suffix}", {"a": values})
    assert torch.equal(open_checkpoint(path).tensor("a", torch.float16), values.half())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt"])
def test_every_container_gives_the_same_tensors(suffix: str, tmp_path: Path) -> None:
    tensors = some_tensors()
    ckpt = open_checkpoint(write(tmp_path / f"m{suffix}", tensors))
    assert set(ckpt.keys) == set(tensors)
    for key, value in ckpt.tensors():
        assert torch.equal(value, tensors[key])
    assert torch.equal(ckpt.tensor("difference"), torch.ones(())), "tensors can be read again"


def test_container_is_told_by_content_not_by_extension(tmp_path: Path) -> None:
    torch_file = write(tmp_path / "a.pth", some_tensors()).rename(tmp_path / "a.safetensors")
    plain_file = write(tmp_path / "b.safetensors", some_tensors()).rename(tmp_path / "b.bin")
    assert open_checkpoint(torch_file).keys
    assert open_checkpoint(plain_file).keys


def test_old_torch_format_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt", some_tensors(), _use_new_zipfile_serialization=False)
    assert torch.equal(open_checkpoint(path).tensor("difference"), torch.ones(()))


@pytest.mark.parametrize("wrapper", ["state_dict", "controlnet"])
def test_nested_state_dict_is_unwrapped(wrapper: str, tmp_path: Path) -> None:
    nested = {wrapper: some_tensors(), "epoch": 3, "optimizer": {"state": torch.zeros(1)}}
    assert set(open_checkpoint(write(tmp_path / "m.ckpt", nested)).keys) == set(some_tensors())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_marker_outside_the_wrapper_counts(suffix: str, tmp_path: Path) -> None:
    tensors = some_tensors()
    marker = {"difference": tensors.pop("difference")}
    for number, outer in enumerate(("state_dict", "controlnet", "model", "control_model")):
        name = tmp_path / f"m{number}{suffix}"
        if suffix == ".pth":
            path = write(name, {outer: tensors, **marker, "epoch": 3})
        else:
            path = write(name, {f"{outer}.{k}": v for k, v in tensors.items()} | marker)
        assert set(open_checkpoint(path).keys) == {*tensors, "difference"}


def test_nested_dictionaries_get_dotted_names(tmp_path: Path) -> None:
    nested = {"image_proj": {"proj.weight": torch.zeros(1)}, "ip_adapter": {"1.x": torch.zeros(2)}}
    keys = open_checkpoint(write(tmp_path / "m.bin", nested)).keys
    assert keys == ("image_proj.proj.weight", "ip_adapter.1.x")


def test_tensors_that_share_a_large_storage_are_copied_out(tmp_path: Path) -> None:
    large = torch.arange(1000.0)
    path = write(tmp_path / "m.pt", {"a": large[:4]}, _use_new_zipfile_serialization=False)
    found = open_checkpoint(path).tensor("a")
    assert found.untyped_storage().nbytes() == 16


def test_conversion_leaves_integers_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": torch.ones(2), "n": torch.tensor([7])})
    ckpt = open_checkpoint(path)
    assert ckpt.tensor("a", torch.float16).dtype is torch.float16
    assert ckpt.tensor("n", torch.float16).dtype is torch.int64


def test_metadata_is_offered(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", some_tensors(), metadata={"author": "x"})
    assert open_checkpoint(path).metadata == {"author": "x"}


# --- damage -----------------------------------------------------------------------------------


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"gone\.safetensors cannot be opened"):
        open_checkpoint(tmp_path / "gone.safetensors")


def test_truncated_safetensors_says_how_much_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.safetensors", {"a": torch.zeros(100_000)})
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(BrokenCheckpointError, match=r"cut\.safetensors is damaged") as e:
        open_checkpoint(path)
    assert "announces 0.4 MB of tensors, the file holds 0.2 MB; download it again" in str(e.value)


def test_file_that_shrinks_after_opening_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"a": torch.zeros(1000)})
    ckpt = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(BrokenCheckpointError, match=r"m\.safetensors ended while it was read"):
        ckpt.tensor("a")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty (0 bytes)"),
        (b"abc", "is damaged, incomplete, or no model file (3 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a Git LFS pointer"),
        (b"<!DOCTYPE html><title>Sign in</title>", "is a web page that was saved"),
        (b"PK\x03\x04 not a zip", "is damaged, incomplete, or no model file"),
        (struct.pack("<Q", 3) + b"{a}" + bytes(99), "is damaged, incomplete, or no model file"),
        (struct.pack("<Q", 2**62) + b"{}", "is damaged, incomplete, or no model file"),
    ],
    ids=["empty", "short", "lfs", "html", "zip", "json", "length"],
)
def test_files_that_are_no_models_are_described(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(BrokenCheckpointError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"m.safetensors {what}")
    assert str(caught.value).endswith("download it again")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]},
        [],
    ],
    ids=["size", "dtype", "negative", "shape", "kind"],
)
def test_impossible_headers_are_refused(entry: object, tmp_path: Path) -> None:
    header = json.dumps({"some.weight": entry}).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(BrokenCheckpointError, match=r"its header describes some\.weight as"):
        open_checkpoint(path)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_truncated_torch_file_is_damaged(keep: float, tmp_path: Path) -> None:
    path = write(tmp_path / "m.pth", {"a": torch.zeros(10_000)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(BrokenCheckpointError, match=r"m\.pth is damaged, incomplete, or no model"):
        open_checkpoint(path)


class Malicious:
    """Would write a file if it were unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.target, "executed")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_with_code_are_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = tmp_path / "m.ckpt"
    torch.save({"a": Malicious(trap)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BrokenCheckpointError, match=r"m\.ckpt was refused: it holds"):
        open_checkpoint(path)
    assert not trap.exists()


def test_bare_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(pickle.dumps(Malicious(tmp_path / "trap")))
    with pytest.raises(BrokenCheckpointError):
        open_checkpoint(path)
    assert not (tmp_path / "trap").exists()


class HostsLoader:
    """The host replaces torch.load by one that prints and returns None for what it refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        monkeypatch.setattr(containers.torch, "load", lambda *_a, **_k: None)
        monkeypatch.setattr(containers.torch, "__version__", version)


def test_refusal_by_the_hosts_loader_is_final_with_an_old_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.pth", some_tensors())
    HostsLoader(monkeypatch, "2.1.2+cu121")
    with pytest.raises(BrokenCheckpointError, match="get the .safetensors version"):
        open_checkpoint(path)


def test_tensors_that_the_hosts_loader_refuses_are_read_by_torchs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.pth", some_tensors())
    trap = tmp_path / "trap"
    torch.save({"a": Malicious(trap)}, tmp_path / "bad.pth")
    HostsLoader(monkeypatch, "2.13.0")
    assert open_checkpoint(path).tensor("difference") == 1
    with pytest.raises(BrokenCheckpointError, match="refused: it holds more than tensors"):
        open_checkpoint(tmp_path / "bad.pth")
    assert not trap.exists()


@pytest.mark.parametrize("version", ["2.1.2", "2.13.0"])
def test_misnamed_archive_passes_a_loader_that_checks_it_first(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's check reads the whole file, so a stream would be at its end for torch's turn."""
    torch_load, pth = torch.serialization.load, write(tmp_path / "m.pth", some_tensors())
    path = pth.rename(tmp_path / "m.safetensors")

    def host(file: object, **options: object) -> object:
        with zipfile.ZipFile(file) as archive:
            assert archive.namelist()
        if isinstance(file, str):
            options.pop("mmap", None)
            with Path(file).open("rb") as stream:  # as a torch does that believes no ending
                return torch_load(stream, **options)
        return torch_load(file, **options)

    monkeypatch.setattr(containers.torch, "load", host)
    monkeypatch.setattr(containers.torch, "__version__", version)
    assert open_checkpoint(path).tensor("difference") == 1


# --- memory -----------------------------------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
import torch
from support import empty_unet
from lib_controlnet.families import load_network
from lib_controlnet.engine.unet import BaseUNet, describe_unet

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

unet = empty_unet("demo", model_channels=256)
base = BaseUNet(unet, describe_unet(unet), "wide", "wide")
path, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
torch.zeros(9).half().float()
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = peak()
network = load_network(path, base, dtype, "cpu")
print((peak() - before) / network.nbytes)
"""


@pytest.fixture(scope="module")
def wide_controlnet() -> object:
    """Large enough that Python's own megabytes do not count."""
    return tiny_controlnet("demo", unet=empty_unet("demo", model_channels=256))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("suffix", "saved", "asked"),
    [
        (".safetensors", "float16", "float16"),
        (".safetensors", "float32", "float16"),
    ],
)
def test_loading_makes_no_second_copy(
    suffix: str, saved: str, asked: str, tmp_path: Path, wide_controlnet: object
) -> None:
    """Peak of the process's resident memory while loading, over the loaded network's size."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(str(root / part) for part in (".", "minihost", "tests"))
    path = save_controlnet(tmp_path / f"wide{suffix}", wide_controlnet, getattr(torch, saved))
    out = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), asked],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert 0.9 < float(out.stdout) < 1.1


# --- facts that no tensor carries -------------------------------------------------------------


def shuffle_file(folder: Path, stem: str, **metadata: str) -> Path:
    return write(folder / f"{stem}.safetensors", some_tensors(), metadata=metadata or None)


def test_pooling_is_off_without_any_sign(tmp_path: Path) -> None:
    assert not open_checkpoint(shuffle_file(tmp_path, "my_shuffle_like")).global_average_pooling


@pytest.mark.parametrize(("value", "expected"), [("True", True), ("false", False), ("1", True)])
def test_pooling_from_metadata_comes_first(value: str, expected: bool, tmp_path: Path) -> None:
    path = shuffle_file(tmp_path, "control_v11e_sd15_shuffle", global_average_pooling=value)
    path.with_suffix(".yaml").write_text(f"global_average_pooling: {not expected}\n")
    assert open_checkpoint(path).global_average_pooling is expected


@pytest.mark.parametrize(("value", "expected"), [("True  # pooled", True), ("False", False)])
def test_pooling_from_the_yaml_beside_the_file(value: str, expected: bool, tmp_path: Path) -> None:
    path = shuffle_file(tmp_path, "control_v11e_sd15_shuffle")
    yaml = f"model:\n  params:\n    only_mid_control: True\n    global_average_pooling: {value}\n"
    path.with_suffix(".yaml").write_text(yaml)
    assert open_checkpoint(path).global_average_pooling is expected


def test_pooling_from_a_commented_yaml_line_is_ignored(tmp_path: Path) -> None:
    path = shuffle_file(tmp_path, "mine")
    path.with_suffix(".yaml").write_text("# global_average_pooling: True\n")
    assert not open_checkpoint(path).global_average_pooling


def test_pooling_from_the_diffusers_configuration(tmp_path: Path) -> None:
    path = shuffle_file(tmp_path, "diffusion_pytorch_model.fp16")
    (tmp_path / "config.json").write_text('{"global_pool_conditions": true}')
    assert open_checkpoint(path).global_average_pooling


def test_configuration_of_another_model_in_the_folder_is_ignored(tmp_path: Path) -> None:
    path = shuffle_file(tmp_path, "control_v11p_sd15_canny")
    (tmp_path / "config.json").write_text('{"global_pool_conditions": true}')
    assert not open_checkpoint(path).global_average_pooling


def test_unreadable_configuration_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shuffle_file(tmp_path, "mine")
    path.with_suffix(".json").write_text("{")
    assert not open_checkpoint(path).global_average_pooling
    assert "mine.json cannot be read and is ignored" in caplog.text


SHUFFLE_NAMES = [
    "control_v11e_sd15_shuffle",
    "control_v11e_sd15_shuffle_fp16",
    "control_v11e_sd15_shuffle.fp16",
    "Control_V11E_SD15_Shuffle",
    "control_v11e_sd15_shuffle (1)",
    "control_v11e_sd15_shuffle [526bfdae]",
    "control-v11e-sd15-shuffle-fp16",
    "controlnet11Models_shuffle",
    "lllyasviel_control_v11e_sd15_shuffle",
    "control_v11e_sd15_shuffle/diffusion_pytorch_model",
    "control_v11e_sd15_shuffle/diffusion_pytorch_model.fp16",
]


@pytest.mark.parametrize("name", SHUFFLE_NAMES)
def test_pooling_of_published_names_is_said(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with caplog.at_level(logging.WARNING):
        ckpt = open_checkpoint(shuffle_file(tmp_path, name))
        assert ckpt.global_average_pooling
    assert "taken for the published shuffle model by its name" in caplog.text
    assert [note in caplog.text for note in ckpt.notes] == [True]


@pytest.mark.parametrize("name", ["my_shuffle", "shuffle-of-cards", "t2i_shuffle_v2 [12345678]"])
def test_other_names_of_shuffle_are_said(name: str, tmp_path: Path) -> None:
    ckpt = open_checkpoint(shuffle_file(tmp_path, name))
    assert not ckpt.global_average_pooling
    assert "its name speaks of shuffle, but it is not a published one" in ckpt.notes[0]
    assert ckpt.notes[0].startswith(f"{name}.safetensors: ")


def test_names_that_say_nothing_are_not_spoken_of(tmp_path: Path) -> None:
    ckpt = open_checkpoint(shuffle_file(tmp_path, "control_v11p_sd15_canny"))
    assert not ckpt.global_average_pooling
    assert ckpt.notes == []


def test_loaded_file_can_be_replaced_while_in_use(tmp_path: Path) -> None:
    """No tensor stays mapped from the file: overwriting it must not change a loaded network."""
    network = tiny_controlnet("demo")
    for suffix in (".safetensors", ".pth"):
        path = save_controlnet(tmp_path / f"m{suffix}", network)
        loaded = load_network(path, tiny_base("demo"), torch.float32, "cpu")
        with path.open("r+b") as stream:
            stream.write(bytes(path.stat().st_size))
        for name, value in loaded.module.state_dict().items():
            assert torch.equal(value, network.module.state_dict()[name])
