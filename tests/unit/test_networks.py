"""Networks of preprocessors in memory: loaded once, bounded, given back, never poisoned."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_device import FakeDevice
from safetensors.torch import save_file
from torch import Tensor, nn
from weights import weights_folder

from annotator.networks import NetworkCache, Place, place_of
from annotator.weights import WeightFile, WeightsError
from lib_controlnet.engine.residency import Resident

FILE = WeightFile("net.pth", "nets", 1, "MIT", exact=False)
OTHERS = [replace(FILE, name=f"net{i}.pth") for i in range(4)]
BYTES = 4 * (8 * 8 + 8)


def build(state: dict[str, Tensor]) -> nn.Module:
    network = nn.Linear(8, 8)
    network.load_state_dict(state)
    return network


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path) as made:
        (made / "nets").mkdir()
        for index, weight in enumerate((FILE, *OTHERS)):
            torch.manual_seed(index)
            torch.save(nn.Linear(8, 8).state_dict(), made / "nets" / weight.name)
        yield made


def test_network_is_ready_to_use_and_loaded_once(folder: Path) -> None:
    cache = NetworkCache()
    with cache.lend(FILE, build) as network:
        assert not network.training
        assert not torch.is_grad_enabled()
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert place_of(network) == (torch.device("cpu"), torch.float32)
        first = network
    assert torch.is_grad_enabled()
    with cache.lend(FILE, build) as network:
        assert network is first
    assert cache.nbytes == BYTES


def test_tensors_are_those_of_the_file_in_either_form(folder: Path) -> None:
    plain = replace(FILE, name="net.safetensors")
    save_file(torch.load(folder / "nets/net.pth"), folder / "nets/net.safetensors")
    misnamed = folder / "nets" / OTHERS[0].name
    misnamed.write_bytes((folder / "nets/net.safetensors").read_bytes())
    cache = NetworkCache()
    with cache.lend(FILE, build) as one, cache.lend(plain, build) as two:
        assert one is not two
        assert torch.equal(one.weight, two.weight)
    with cache.lend(OTHERS[0], build) as three:
        assert torch.equal(three.weight, one.weight)


def test_loading_leaves_the_users_random_numbers(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    with NetworkCache().lend(FILE, build):
        pass
    assert torch.equal(torch.rand(4), expected)


def test_mixed_precision_around_it_changes_nothing(folder: Path) -> None:
    values = torch.rand(1, 8)
    with torch.autocast("cpu", torch.bfloat16), NetworkCache().lend(FILE, build) as network:
        assert network(values).dtype == torch.float32


def test_count_is_bounded_and_the_least_used_goes_first(folder: Path) -> None:
    cache = NetworkCache(max_count=2)
    held = []
    for weight in (*OTHERS[:2], OTHERS[0], OTHERS[2]):
        with cache.lend(weight, build) as network:
            held.append(weakref.ref(network))
        del network
    gc.collect()
    assert len(cache) == 2
    assert [ref() is not None for ref in held] == [True, False, True, True]


def test_bytes_are_bounded_and_a_larger_one_is_only_kept_in_use(folder: Path) -> None:
    cache = NetworkCache(max_bytes=2 * BYTES)
    for weight in OTHERS[:3]:
        with cache.lend(weight, build):
            assert cache.nbytes <= 2 * BYTES
    assert cache.nbytes == 2 * BYTES
    small = NetworkCache(max_bytes=BYTES - 1)
    with small.lend(FILE, build) as network:
        assert len(small) == 1
        held = weakref.ref(network)
    del network
    gc.collect()
    assert len(small) == 0
    assert held() is None


def test_clear_gives_all_memory_back(folder: Path) -> None:
    cache = NetworkCache()
    with cache.lend(FILE, build) as network:
        held = weakref.ref(network.weight)
    del network
    cache.clear()
    gc.collect()
    assert held() is None
    assert cache.nbytes == 0


def test_replaced_file_is_read_anew_and_the_old_network_dropped(folder: Path) -> None:
    cache = NetworkCache()
    with cache.lend(FILE, build) as network:
        before = network.weight.clone()
    path = folder / "nets/net.pth"
    torch.save({key: tensor + 1 for key, tensor in torch.load(path).items()}, path)
    with cache.lend(FILE, build) as network:
        assert torch.equal(network.weight, before + 1)
    assert len(cache) == 1


def test_place_of_the_host_decides_the_precision(folder: Path) -> None:
    cache = NetworkCache()
    cache.choose_place = lambda: Place("cpu", half=True)
    with cache.lend(FILE, build) as network:
        assert place_of(network)[1] == torch.float16
    with cache.lend(OTHERS[0], build, half=False) as network:
        assert place_of(network)[1] == torch.float32
    cache.choose_place = None
    with cache.lend(FILE, build) as network:
        assert place_of(network)[1] == torch.float32
    assert len(cache) == 2, "the one in half precision is still there"


def test_parked_networks_leave_the_device_and_come_back(folder: Path) -> None:
    cache, device = NetworkCache(), FakeDevice()
    cache.make_resident = lambda network: Resident(network, device.copy)
    cache.place = Place(str(FakeDevice.device))
    for number in (1, 2):
        with cache.lend(FILE, build) as network:
            assert (device.held, device.copied) == (cache.nbytes, number * cache.nbytes)
        assert cache.park()
        assert device.held == 0
        assert not cache.park()
    assert place_of(network)[0].type == "cpu"


def test_networks_move_as_a_whole_where_nobody_knows_better(folder: Path) -> None:
    cache, moves = NetworkCache(), []

    class Moving(nn.Linear):
        def to(self, *arguments: object, **named: object) -> nn.Module:
            moves.append(str(arguments[0]))
            return self

    def moving(state: dict[str, Tensor]) -> nn.Module:
        network = Moving(8, 8)
        network.load_state_dict(state)
        return network

    cache.place = Place("cuda:7")
    with cache.lend(FILE, moving):
        assert moves == ["torch.float32", "cuda:7"]
    cache.park()
    assert moves[2:] == ["cpu"]
    with cache.lend(FILE, moving):
        assert moves[3:] == ["cuda:7"]


def test_scripts_are_moved_as_a_whole(folder: Path) -> None:
    cache = NetworkCache()
    cache.make_resident = lambda _network: 1 / 0
    script = torch.jit.script(nn.Linear(2, 2))
    with cache.lend_opened(FILE, lambda _path, _place: script) as opened:
        assert opened is script
    assert cache.park()


def test_opened_files_share_the_cache_and_count_with_their_size(folder: Path) -> None:
    class Session:
        def __init__(self, path: Path, place: Place) -> None:
            self.content, self.place = path.read_bytes(), place

    cache = NetworkCache(max_count=2)
    with cache.lend_opened(FILE, Session) as session, cache.lend_opened(FILE, Session) as again:
        assert session is again
        assert session.content == (folder / "nets/net.pth").read_bytes()
        assert session.place == Place()
    assert cache.nbytes == (folder / "nets/net.pth").stat().st_size
    held = weakref.ref(session)
    del session, again
    cache.clear()
    gc.collect()
    assert held() is None


def test_opened_file_that_fails_is_a_sentence(folder: Path) -> None:
    def broken(path: Path, _place: Place) -> object:
        return int("no graph")

    with pytest.raises(WeightsError, match=r"net\.pth is damaged or no net\.pth: invalid literal"):  # noqa: SIM117
        with NetworkCache().lend_opened(FILE, broken):
            pass


# --- what goes wrong -----------------------------------------------------------------------


DAMAGED = {
    "junk": lambda path: path.write_bytes(b"junk" * 100),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "another network": lambda path: torch.save(nn.Linear(3, 3).state_dict(), path),
    "no dictionary": lambda path: torch.save([1, 2], path),
    "code": lambda path: torch.save(nn.Linear(8, 8), path),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_file_is_a_sentence_and_a_good_one_works_at_once(folder: Path, damage: str) -> None:
    cache, path = NetworkCache(), folder / "nets/net.pth"
    good = path.read_bytes()
    DAMAGED[damage](path)
    with pytest.raises(WeightsError, match=r"net\.pth is damaged or no net\.pth"):  # noqa: SIM117
        with cache.lend(FILE, build):
            pass
    assert len(cache) == 0
    path.write_bytes(good)
    with cache.lend(FILE, build) as network:
        assert network.weight.shape == (8, 8)


def test_damaged_safetensors_is_a_sentence(folder: Path) -> None:
    plain = replace(FILE, name="net.safetensors")
    (folder / "nets/net.safetensors").write_bytes(b"\x10" * 64)
    with pytest.raises(WeightsError, match="is damaged"), NetworkCache().lend(plain, build):
        pass


@pytest.mark.parametrize(("version", "loads"), [("2.1.2", False), ("2.13.0+cpu", True)])
def test_file_that_the_hosts_loader_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, loads: bool
) -> None:
    """The host's refuses what recent versions have written; theirs may decide, older ones not."""
    expected = torch.load(folder / "nets/net.pth")["bias"]
    monkeypatch.setattr(torch, "load", lambda *_arguments, **_named: None)
    monkeypatch.setattr(torch, "__version__", version)
    if not loads:
        with pytest.raises(WeightsError, match="refused to load it"):  # noqa: SIM117
            with NetworkCache().lend(FILE, build):
                pass
        return
    with NetworkCache().lend(FILE, build) as network:
        assert torch.equal(network.bias, expected)
    DAMAGED["code"](folder / "nets/net1.pth")
    with pytest.raises(WeightsError, match="is damaged"):  # noqa: SIM117
        with NetworkCache().lend(OTHERS[1], build):
            pass


def test_network_that_failed_in_use_is_made_anew(folder: Path) -> None:
    cache = NetworkCache()
    with pytest.raises(ZeroDivisionError), cache.lend(FILE, build) as network:
        network.weight.zero_()
        raise ZeroDivisionError
    assert torch.is_grad_enabled()
    with cache.lend(FILE, build) as network:
        assert bool(network.weight.any())


def test_full_device_gives_back_everything_and_says_what_to_do(folder: Path) -> None:
    cache = NetworkCache()
    with cache.lend(OTHERS[0], build):
        pass
    with pytest.raises(WeightsError, match="cpu has not enough memory for net"):  # noqa: SIM117
        with cache.lend(FILE, build):
            raise torch.cuda.OutOfMemoryError
    assert len(cache) == 0


def test_threads_share_one_network_and_wait_for_each_other(folder: Path) -> None:
    cache, built, inside, most = NetworkCache(), [], [], []

    def counting(state: dict[str, Tensor]) -> nn.Module:
        built.append(1)
        return build(state)

    def use() -> None:
        with cache.lend(FILE, counting):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=use) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(built), len(most), max(most)) == (1, 5, 1)


def test_nested_loans_are_possible(folder: Path) -> None:
    cache = NetworkCache()
    with cache.lend(OTHERS[0], build) as body, cache.lend(OTHERS[1], build) as hand:
        assert body is not hand
