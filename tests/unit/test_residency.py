"""Which networks stay loaded, when a file is read again, and what lies on the device."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from fake_device import FakeDevice
from support import inputs, random_hint, save_controlnet, tiny_base, tiny_controlnet

from lib_controlnet.engine.memory import STRIPS, Between, Pieces
from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.residency import Place, Residency
from lib_controlnet.engine.resident import measure_layers
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.errors import HostError, ModelNotFoundError, WrongBaseModelError
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
        assert str(device) == "cpu", "a load never passes through the device"
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


def get(cache: Residency, path: Path, base: BaseUNet, loads: Loads) -> ControlNetwork:
    return cache.network(path, base, torch.float32, loads)


def test_same_file_gives_the_same_object(files: list[Path], base: BaseUNet) -> None:
    cache, loads = Residency(2, LARGE), Loads()
    assert get(cache, files[0], base, loads) is get(cache, files[0], base, loads)
    assert loads.names == ["a"]


def test_least_recently_used_goes_first(files: list[Path], base: BaseUNet) -> None:
    cache, loads = Residency(2, LARGE), Loads()
    for path in (files[0], files[1], files[0], files[2], files[0], files[1]):
        get(cache, path, base, loads)
    assert loads.names == ["a", "b", "c", "b"]
    assert len(cache) == 2


def test_bytes_are_bounded_but_the_newest_stays(files: list[Path], base: BaseUNet) -> None:
    loads = Loads()
    one = get(Residency(1, LARGE), files[0], base, Loads()).nbytes
    cache = Residency(9, int(2.5 * one))
    for path in files:
        get(cache, path, base, loads)
    assert len(cache) == 2
    assert cache.nbytes == 2 * one
    small = Residency(9, 1)
    first = get(small, files[0], base, loads)
    assert get(small, files[0], base, loads) is first
    get(small, files[1], base, loads)
    assert len(small) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_at_least_one_network_is_kept(count: int, files: list[Path], base: BaseUNet) -> None:
    cache, loads = Residency(count, LARGE), Loads()
    get(cache, files[0], base, loads)
    get(cache, files[0], base, loads)
    get(cache, files[1], base, loads)
    assert loads.names == ["a", "b"]
    assert len(cache) == 1


def test_room_is_made_before_loading(files: list[Path], base: BaseUNet) -> None:
    cache = Residency(1, LARGE)
    get(cache, files[0], base, Loads())
    kept = []

    def loader(*arguments: object) -> ControlNetwork:
        kept.append(len(cache))
        return load_network(*arguments)

    get(cache, files[1], base, loader)
    assert kept == [0]


def test_changed_file_is_read_again(tmp_path: Path, base: BaseUNet) -> None:
    path = save_controlnet(tmp_path / "m.safetensors", tiny_controlnet("demo"))
    cache, loads = Residency(3, LARGE), Loads()
    first = get(cache, path, base, loads)
    save_controlnet(path, tiny_controlnet("demo", seed=1))
    os.utime(path, (1e9, 1e9))
    second = get(cache, path, base, loads)
    assert first is not second
    assert len(cache) == 1, "the outdated network is let go of"


def test_precision_is_part_of_the_key(files: list[Path], base: BaseUNet) -> None:
    cache, loads = Residency(3, LARGE), Loads()
    full = get(cache, files[0], base, loads)
    half = cache.network(files[0], base, torch.float16, loads)
    assert (full.dtype, half.dtype) == (torch.float32, torch.float16)
    assert loads.names == ["a", "a"]


def test_another_kind_of_base_is_refused_even_when_cached(
    files: list[Path], base: BaseUNet
) -> None:
    cache, loads = Residency(3, LARGE), Loads()
    get(cache, files[0], base, loads)
    with pytest.raises(WrongBaseModelError, match="is made for SD1"):
        get(cache, files[0], tiny_base("SDXL"), loads)
    assert len(cache) == 1
    get(cache, files[0], base, loads)
    assert loads.names == ["a", "a"]


def test_another_checkpoint_of_the_same_shape_shares_the_network(files: list[Path]) -> None:
    cache, loads = Residency(3, LARGE), Loads()
    first = get(cache, files[0], tiny_base("demo", seed=1), loads)
    assert get(cache, files[0], tiny_base("demo", seed=2), loads) is first


def test_difference_is_added_again_for_another_checkpoint(tmp_path: Path) -> None:
    network = tiny_controlnet("demo")
    path = save_controlnet(tmp_path / "d.safetensors", network, difference=torch.ones(()))
    cache, loads = Residency(3, LARGE), Loads()
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
        get(Residency(1, LARGE), tmp_path / "gone.pth", base, Loads())


def test_failed_load_keeps_nothing(tmp_path: Path, base: BaseUNet) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nonsense")
    cache = Residency(1, LARGE)
    for _ in range(2):
        with pytest.raises(Exception, match="no model file"):
            get(cache, path, base, Loads())
    assert len(cache) == 0


def test_threads_load_a_file_once(files: list[Path], base: BaseUNet) -> None:
    cache, loads, found = Residency(2, LARGE), Loads(pause=0.05), []
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
    cache, loads = Residency(2, LARGE), Loads()
    get(cache, files[0], base, loads)
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    get(cache, files[0], base, loads)
    assert loads.names == ["a", "a"]


# ---- who is held ---------------------------------------------------------------------------


def test_networks_in_use_are_not_loaded_twice(files: list[Path], base: BaseUNet) -> None:
    """Three units, a cache of one, ten pictures."""
    cache, loads = Residency(1, LARGE), Loads()
    held = [get(cache, path, base, loads) for path in files[:3]]
    for _ in range(10):
        assert [get(cache, path, base, loads) for path in files[:3]] == held
    assert (loads.names, len(cache)) == (["a", "b", "c"], 1)
    del held
    get(cache, files[2], base, loads)
    get(cache, files[0], base, loads)
    assert loads.names == ["a", "b", "c", "a"]


def test_sums_with_another_checkpoint_are_let_go_of(tmp_path: Path, files: list[Path]) -> None:
    sums = [
        save_controlnet(tmp_path / f"{name}.safetensors", tiny_controlnet("demo"), difference=one)
        for name, one in (("d", torch.ones(())), ("e", torch.ones(())))
    ]
    cache, loads = Residency(9, LARGE), Loads()
    one, two = tiny_base("demo", seed=1), tiny_base("demo", seed=2)
    for path in (*sums, files[0]):
        get(cache, path, one, loads)
    assert len(cache) == 3
    get(cache, files[0], two, loads)
    assert (loads.names, len(cache)) == (["d", "e", "a"], 1)


# ---- the device ----------------------------------------------------------------------------


class Rig:
    """Networks of one size, and a device that counts."""

    def __init__(self, files: list[Path], base: BaseUNet, room: float = 9.0) -> None:
        self.device = FakeDevice()
        self.freed: list[None] = []
        self.residency = Residency(
            9, LARGE, free_memory=lambda: self.freed.append(None), copy=self.device.copy
        )
        self.networks = [get(self.residency, path, base, Loads()) for path in files]
        self.masters = [tensors(network) for network in self.networks]
        self.size = self.networks[0].nbytes
        self.device.room = int(room * self.size)

    def place(self, between: Between = Between.NEVER) -> Place:
        return Place(FakeDevice.device, between)

    def evaluate(self, *numbers: int) -> None:
        """One evaluation each; while it goes on the network is on the device."""
        for number in numbers:
            with self.residency.on_device(self.networks[number]):
                assert self.lies(number)

    def lies(self, number: int) -> bool:
        """Whether all of the network is on the device, and nothing of it is not."""
        now, masters = tensors(self.networks[number]), self.masters[number]
        on_device = {one is not master for one, master in zip(now, masters, strict=True)}
        assert len(on_device) == 1
        return on_device == {True}

    @property
    def state(self) -> tuple[float, float]:
        """Networks copied to the device so far, and lying there, by their bytes."""
        return self.device.copied / self.size, self.device.held / self.size


def tensors(network: ControlNetwork) -> list[torch.Tensor]:
    return [*network.module.parameters(), *network.module.buffers()]


@pytest.fixture
def rig(files: list[Path], base: BaseUNet) -> Rig:
    return Rig(files, base)


@pytest.mark.parametrize(
    ("between", "inside", "after"),
    [
        pytest.param(Between.NEVER, (2, 2), (2, 2), id="stays until something else needs room"),
        pytest.param(Between.PASS, (2, 2), (2, 0), id="medvram"),
        pytest.param(Between.WINDOW, (2, 2), (2, 0), id="windows"),
        pytest.param(Between.EVALUATION, (6, 0), (6, 0), id="lowvram"),
    ],
)
def test_networks_leave_the_device_when_they_shall(
    rig: Rig, between: Between, inside: tuple[int, int], after: tuple[int, int]
) -> None:
    with rig.residency.sampling(rig.networks[:2], rig.place(between)):
        for _ in range(3):
            rig.evaluate(0, 1)
        assert rig.state == inside
    assert rig.state == after
    rig.residency.park()
    assert [rig.lies(i) for i in range(4)] == [False] * 4, "the masters are back, not copies"


@pytest.mark.parametrize("between", list(Between))
def test_nothing_moves_on_the_cpu(rig: Rig, between: Between) -> None:
    with rig.residency.sampling(rig.networks, Place(torch.device("cpu"), between)):
        for network in rig.networks:
            with rig.residency.on_device(network):
                pass
        rig.residency.park()
    assert (rig.state, rig.residency.nbytes) == ((0, 0), 4 * rig.size)


def test_networks_that_no_unit_uses_leave_before_sampling(rig: Rig) -> None:
    with rig.residency.sampling(rig.networks[:2], rig.place()):
        pass
    with rig.residency.sampling(rig.networks[1:3], rig.place()):
        assert [rig.lies(i) for i in range(4)] == [False, True, True, False]
    assert rig.state == (3, 2), "what was there already is not copied again"
    with rig.residency.sampling([], rig.place()):
        assert rig.state == (3, 0)
    with rig.residency.sampling(rig.networks[:1], rig.place()):
        pass
    with rig.residency.sampling(rig.networks[:1], rig.place(Between.EVALUATION)):
        assert rig.state == (4, 0), "a unit asks for Low VRAM now"


def test_copies_count_as_bytes(files: list[Path], base: BaseUNet, rig: Rig) -> None:
    rig.residency.max_bytes = int(4.5 * rig.size)
    with rig.residency.sampling(rig.networks[3:], rig.place()):
        assert rig.residency.nbytes == 4 * rig.size
    assert len(rig.residency) == 3


def test_other_things_leave_first_and_freed_memory_goes_to_the_driver(
    files: list[Path], base: BaseUNet
) -> None:
    detectors, freed = [True], []
    residency = Residency(
        9, LARGE, [lambda: bool(detectors) and detectors.pop()], lambda: freed.append(None)
    )
    network = get(residency, files[0], base, Loads())
    for count in (1, 1):
        with residency.sampling([network], Place(torch.device("cpu"))):
            assert (detectors, len(freed)) == ([], count), "not where nothing has left"
    detectors.append(True)
    residency.park_others()
    assert (detectors, len(freed)) == ([], 2)
    residency.relieve()
    assert len(freed) == 3


def test_lack_of_memory_makes_room_once(files: list[Path], base: BaseUNet) -> None:
    """Three networks do not fit at once: they take turns for the rest of the pass."""
    rig = Rig(files, base, room=2.5)
    with rig.residency.sampling(rig.networks[:3], rig.place()):
        for _ in range(2):
            rig.evaluate(0, 1, 2)
        assert rig.device.held <= rig.size
    assert rig.freed
    rig.residency.park()
    assert rig.device.held == 0


def test_one_that_does_not_fit_comes_layer_by_layer(files: list[Path], base: BaseUNet) -> None:
    """And for the time of its own calls alone, whatever becomes of them."""
    rig, said = Rig(files, base, room=0.6), []
    network = rig.networks[0]
    place = Place(FakeDevice.device, say=said.append)
    hint = random_hint()
    expected = network.encode_hint(hint)
    assert measure_layers(network.module) < 0.6 * rig.size
    with rig.residency.sampling([network], place):
        for _ in range(2):
            with rig.residency.on_device(network):
                assert rig.device.held < 0.6 * rig.size
                assert torch.equal(network.encode_hint(hint), expected)
                before = rig.device.held
                with pytest.raises(TypeError):
                    network.module.input_blocks[1](torch.zeros(1), None, None)
                assert rig.device.held == before
            assert rig.device.held == 0
    assert [one.partition(": ")[2] for one in said] == [
        "cuda:0 has no room for all control networks: control networks come there layer by layer, "
        "in each evaluation; the picture is the same"
    ]
    assert not rig.lies(0)


def test_as_much_stays_as_may(rig: Rig) -> None:
    """The rest comes with each evaluation; where memory runs out nothing stays."""
    network, hint = rig.networks[0], random_hint()
    given = inputs("demo")
    arguments = (given["x"], given["timesteps"], given["context"], None)
    guided, wanted = network.encode_hint(hint), [True] * network.layers
    expected = network.evaluate(*arguments, guided, wanted)
    with rig.residency.sampling([network], Place(FakeDevice.device, Between.LAYER)):
        with rig.residency.on_device(network):
            least = rig.device.held
        assert rig.device.held == 0
    staying = (rig.size - least) // 2
    place = Place(FakeDevice.device, Between.LAYER, staying=staying)
    with rig.residency.sampling([network], place):
        copied = []
        for _ in range(3):
            before = rig.device.copied
            with rig.residency.on_device(network):
                found = network.evaluate(*arguments, guided, wanted)
            copied.append(rig.device.copied - before)
            assert least < rig.device.held <= least + staying
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert copied[0] == rig.size
        assert copied[1:] == [rig.size - rig.device.held] * 2
        with rig.residency.on_device(network):
            for _ in range(2):
                rig.residency.step_down(network, 2)
            assert rig.device.held == least
        assert rig.device.held == 0
        rig.residency.rest([network])


def test_those_outside_their_window_give_way(files: list[Path], base: BaseUNet) -> None:
    """Nothing moves as long as there is room; else they leave before anything else does."""
    rig = Rig(files, base, room=3.0)
    with rig.residency.sampling(rig.networks[:3], rig.place()):
        rig.residency.rest(rig.networks[1:3])
        assert rig.state == (3, 3)
    rig.residency.park()
    rig, said = Rig(files, base, room=2.5), []
    first, second, third, _ = rig.networks
    place = Place(FakeDevice.device, resting=[third], say=said.append)
    with rig.residency.sampling([first, second, third], place):
        assert rig.device.held == 2 * rig.size, "the third had no room: its window is not open"
        rig.residency.rest([third])
        copied = rig.device.copied
        rig.evaluate(0, 1)
        assert rig.device.copied == copied
        rig.residency.rest([first])
        rig.evaluate(1, 2)
        assert [rig.lies(i) for i in range(3)] == [False, True, True]
    assert len(said) == 1
    assert rig.device.held == 0


@pytest.mark.parametrize("resting", [(), (0, 1)], ids=["all open", "none open"])
def test_networks_lie_there_in_their_windows(rig: Rig, resting: tuple[int, ...]) -> None:
    waiting = [rig.networks[i] for i in resting]
    place = Place(FakeDevice.device, Between.WINDOW, resting=waiting)
    with rig.residency.sampling(rig.networks[:2], place):
        assert rig.state == (2 - len(resting), 2 - len(resting))
        rig.residency.rest(rig.networks[:1])
        rig.evaluate(1)
        assert [rig.lies(i) for i in range(2)] == [False, True]
        rig.residency.rest(rig.networks[1:2])
        rig.evaluate(0)
        assert [rig.lies(i) for i in range(2)] == [True, False]
    assert rig.device.held == 0


def test_an_evaluation_steps_down_until_nothing_is_left(rig: Rig) -> None:
    said: list[str] = []
    place = Place(FakeDevice.device, say=said.append)
    network, steps = rig.networks[0], []
    with rig.residency.sampling(rig.networks[:2], place), rig.residency.on_device(network):
        with pytest.raises(HostError, match="not enough memory to evaluate a at this size"):
            for _ in range(9):
                rig.residency.step_down(network, 4)
                steps.append(rig.residency.pieces)
        assert not rig.lies(1)
    assert steps == [Pieces(2, STRIPS), *[Pieces(1, STRIPS)] * 2]
    assert len(set(said)) == 1
    with pytest.raises(HostError, match="not enough memory"):
        rig.residency.step_down(network, 4)


def test_lack_of_memory_for_one_alone_is_said(files: list[Path], base: BaseUNet) -> None:
    rig = Rig(files, base, room=0.05)
    with (
        pytest.raises(HostError, match="not enough memory to load a; .*Low VRAM"),
        rig.residency.sampling(rig.networks[:1], rig.place()),
    ):
        pass
    assert not rig.lies(0)
    with (
        pytest.raises(HostError, match="not enough memory to load a"),
        rig.residency.sampling(rig.networks[:1], rig.place(Between.EVALUATION)),
    ):
        rig.evaluate(0)
    rig.device.room = LARGE
    with rig.residency.sampling(rig.networks[:1], rig.place(Between.EVALUATION)):
        rig.evaluate(0)
    assert not rig.lies(0)


def test_relief_keeps_what_is_needed(rig: Rig) -> None:
    with rig.residency.sampling(rig.networks[:3], rig.place()):
        with rig.residency.on_device(rig.networks[0]):
            rig.residency.relieve(rig.networks[:1])
            assert [rig.lies(i) for i in range(3)] == [True, False, False]
        assert rig.lies(0)
        rig.evaluate(1)
        assert rig.lies(1), "it comes back when it is used"


def test_what_is_evaluated_leaves_afterwards(rig: Rig) -> None:
    """The host unloads its checkpoint while a picture is made."""
    with rig.residency.sampling(rig.networks[:1], rig.place()):
        with rig.residency.on_device(rig.networks[0]):
            rig.residency.park()
            assert rig.lies(0)
        assert not rig.lies(0)
        rig.evaluate(0)
    rig.residency.clear()
    assert not rig.lies(0)


@pytest.mark.parametrize("between", list(Between))
def test_a_generation_inside_another_takes_nothing_for_good(rig: Rig, between: Between) -> None:
    if between is Between.LAYER:
        return  # never lies there as a whole
    with rig.residency.sampling(rig.networks[:2], rig.place(between)):
        rig.evaluate(0, 1)
        with rig.residency.sampling(rig.networks[1:2], rig.place(Between.PASS)):
            rig.evaluate(1)
            assert not rig.lies(0)
        rig.evaluate(0, 1)
    assert rig.device.held == 2 * rig.size * (between is Between.NEVER)


def test_an_error_inside_a_pass_leaves_no_pass_behind(rig: Rig) -> None:
    with suppress(KeyError), rig.residency.sampling(rig.networks[:1], rig.place(Between.PASS)):
        raise KeyError
    assert rig.device.held == 0
    with rig.residency.on_device(rig.networks[0]):
        assert not rig.lies(0), "outside of a pass nothing moves"


def test_forgotten_networks_leave_the_device(rig: Rig, files: list[Path], base: BaseUNet) -> None:
    rig.residency.max_count = 1
    with rig.residency.sampling(rig.networks[:2], rig.place()):
        pass
    assert rig.device.held == 2 * rig.size
    rig.networks.clear()
    rig.masters.clear()
    get(rig.residency, files[3], base, Loads())
    assert rig.device.held == 0


@pytest.mark.parametrize(
    "name",
    [
        "meta",  # a device of torch without memory
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_devices_of_torch_take_the_weights_and_give_them_back(
    name: str, files: list[Path], base: BaseUNet
) -> None:
    residency, device = Residency(1, LARGE), torch.device(name)
    network = get(residency, files[0], base, Loads())
    masters = tensors(network)
    before = torch.cuda.memory_allocated() if name == "cuda" else 0
    for _ in range(2):
        with (
            residency.sampling([network], Place(device, Between.PASS)),
            residency.on_device(network),
        ):
            assert {one.device.type for one in tensors(network)} == {name}
            assert network.device.type == name
            if name == "cuda":
                assert torch.cuda.memory_allocated() - before >= network.nbytes
        assert all(one is master for one, master in zip(tensors(network), masters, strict=True))
        assert name != "cuda" or torch.cuda.memory_allocated() == before
