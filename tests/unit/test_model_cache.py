"""Which networks stay loaded, and when a file is read again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from support import save_controlnet, tiny_base, tiny_controlnet

from lib_controlnet.engine.network import BaseUNet, ControlNetwork
from lib_controlnet.engine.residency import ModelCache
from lib_controlnet.errors import ModelNotFoundError, WrongBaseModelError
from lib_controlnet.families import load_network

LARGE = 2**40


class Loads:
    """Loads for real, and counts."""

    def __init__(self, pause: float = 0.0) -> None:
        self.names: list[str] = []
        self.pause = pause

    def __call__(
        self, path: Path, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> ControlNetwork:
        self.names.append(path.stem)
        time.sleep(self.pause)
        return load_network(path, base, dtype, device)


@pytest.fixture(scope="module")
def base() -> BaseUNet:
    return tiny_base("demo")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    network = tiny_controlnet("demo")
    return [save_controlnet(folder / f"{name}.safetensors", network) for name in "abcd"]


def get(cache: ModelCache, path: Path, base: BaseUNet, loads: Loads) -> ControlNetwork:
    return cache.get(path, base, torch.float32, "cpu", loads)


def test_same_file_gives_the_same_object(files: list[Path], base: BaseUNet) -> None:
    cache, loads = ModelCache(2, LARGE), Loads()
    assert get(cache, files[0], base, loads) is get(cache, files[0], base, loads)
    assert loads.names == ["a"]


def test_least_recently_used_goes_first(files: list[Path], base: BaseUNet) -> None:
    cache, loads = ModelCache(2, LARGE), Loads()
    for path in (files[0], files[1], files[0], files[2], files[0], files[1]):
        get(cache, path, base, loads)
    assert loads.names == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_bytes_are_bounded_but_the_newest_stays(files: list[Path], base: BaseUNet) -> None:
    loads = Loads()
    one = get(ModelCache(1, LARGE), files[0], base, Loads()).nbytes
    cache = ModelCache(9, int(2.5 * one))
    for path in files:
        get(cache, path, base, loads)
    assert len(cache) == 2
    assert cache.nbytes == 2 * one
    small = ModelCache(9, 1)
    first = get(small, files[0], base, loads)
    assert get(small, files[0], base, loads) is first
    get(small, files[1], base, loads)
    assert len(small) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_at_least_one_network_is_kept(count: int, files: list[Path], base: BaseUNet) -> None:
    cache, loads = ModelCache(count, LARGE), Loads()
    get(cache, files[0], base, loads)
    get(cache, files[0], base, loads)
    get(cache, files[1], base, loads)
    assert loads.names == ["a", "b"]
    assert len(cache) == 1


def test_room_is_made_before_loading(files: list[Path], base: BaseUNet) -> None:
    cache = ModelCache(1, LARGE)
    get(cache, files[0], base, Loads())
    kept = []

    def loader(*arguments: object) -> ControlNetwork:
        kept.append(len(cache))
        return load_network(*arguments)

    get(cache, files[1], base, loader)
    assert kept == [0]


def test_changed_file_is_read_again(tmp_path: Path, base: BaseUNet) -> None:
    path = save_controlnet(tmp_path / "m.safetensors", tiny_controlnet("demo"))
    cache, loads = ModelCache(3, LARGE), Loads()
    first = get(cache, path, base, loads)
    save_controlnet(path, tiny_controlnet("demo", seed=1))
    os.utime(path, (1e9, 1e9))
    second = get(cache, path, base, loads)
    assert first is not second
    assert len(cache) == 1, "the outdated network is let go of"


def test_precision_is_part_of_the_key(files: list[Path], base: BaseUNet) -> None:
    cache, loads = ModelCache(3, LARGE), Loads()
    full = get(cache, files[0], base, loads)
    half = cache.get(files[0], base, torch.float16, "cpu", loads)
    assert (full.dtype, half.dtype) == (torch.float32, torch.float16)
    assert loads.names == ["a", "a"]


def test_another_kind_of_base_is_refused_even_when_cached(
    files: list[Path], base: BaseUNet
) -> None:
    cache, loads = ModelCache(3, LARGE), Loads()
    get(cache, files[0], base, loads)
    with pytest.raises(WrongBaseModelError, match="is made for SD1"):
        get(cache, files[0], tiny_base("SDXL"), loads)
    assert len(cache) == 1
    get(cache, files[0], base, loads)
    assert loads.names == ["a", "a"]


def test_another_checkpoint_of_the_same_shape_shares_the_network(files: list[Path]) -> None:
    cache, loads = ModelCache(3, LARGE), Loads()
    first = get(cache, files[0], tiny_base("demo", seed=1), loads)
    assert get(cache, files[0], tiny_base("demo", seed=2), loads) is first


def test_difference_is_added_again_for_another_checkpoint(tmp_path: Path) -> None:
    network = tiny_controlnet("demo")
    path = save_controlnet(tmp_path / "d.safetensors", network, difference=torch.ones(()))
    cache, loads = ModelCache(3, LARGE), Loads()
    one, two = tiny_base("demo", seed=1), tiny_base("demo", seed=2)
    first = get(cache, path, one, loads)
    assert get(cache, path, one, loads) is first
    second = get(cache, path, two, loads)
    assert second is not first
    name = "time_embed.0.weight"
    expected = network.module.state_dict()[name] + two.module.state_dict()[name]
    assert torch.equal(second.module.state_dict()[name], expected)
    assert len(cache) == 1


def test_lost_file_is_not_found(tmp_path: Path, base: BaseUNet) -> None:
    with pytest.raises(ModelNotFoundError, match=r"gone\.pth cannot be opened"):
        get(ModelCache(1, LARGE), tmp_path / "gone.pth", base, Loads())


def test_failed_load_keeps_nothing(tmp_path: Path, base: BaseUNet) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nonsense")
    cache = ModelCache(1, LARGE)
    for _ in range(2):
        with pytest.raises(Exception, match="no model file"):
            get(cache, path, base, Loads())
    assert len(cache) == 0


def test_threads_load_a_file_once(files: list[Path], base: BaseUNet) -> None:
    cache, loads, found = ModelCache(2, LARGE), Loads(pause=0.05), []
    threads = [
        threading.Thread(target=lambda: found.append(get(cache, files[0], base, loads)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads.names == ["a"]
    assert all(network is found[0] for network in found)


def test_clear_lets_go_of_everything(files: list[Path], base: BaseUNet) -> None:
    cache, loads = ModelCache(2, LARGE), Loads()
    get(cache, files[0], base, loads)
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    get(cache, files[0], base, loads)
    assert loads.names == ["a", "a"]
