"""Networks that are stored in 8 bits: how large, how near, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import inputs, random_hint, save_controlnet, tiny_base, tiny_controlnet
from torch import Tensor, nn

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.storage import settle_storage
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.enums import Storage
from lib_controlnet.families import load_network
from lib_controlnet.nets.eight_bit import MOST, EightBit, dtype_of, store_in_8_bits
from lib_controlnet.units.infotext import describe_storage, parse

PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
LAYERS = {
    "linear": lambda: nn.Linear(256, 64, bias=False),
    "one axis": lambda: nn.Conv1d(64, 32, 3),
    "two axes": lambda: nn.Conv2d(64, 32, 3, padding=1).to(memory_format=torch.channels_last),
    "three axes": lambda: nn.Conv3d(16, 8, 3),
}
LARGE = 2**40


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_weight_takes_a_byte_a_number_and_is_off_by_half_a_step(
    kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    layer = LAYERS[kind]().to(dtype)
    exact = layer.weight.detach().clone()
    exact[3], layer.weight.data[3] = 0, 0  # as in a zero convolution before training
    exact[4], layer.weight.data[4] = exact[4] * 1e-4, exact[4] * 1e-4
    net = nn.Sequential(layer)
    assert store_in_8_bits(net)
    assert not store_in_8_bits(net), "once is enough"
    found, again = layer.weight, layer.weight
    assert found is not again, "nothing of it is kept"
    assert (found.dtype, found.stride(), dtype_of(net)) == (dtype, exact.stride(), dtype)
    step = exact.float().abs().flatten(1).amax(1) / MOST
    off = (found.float() - exact.float()).abs().flatten(1).amax(1)
    rounding = exact.float().abs().flatten(1).amax(1) * torch.finfo(dtype).eps
    assert bool((off <= 0.501 * step + rounding).all())
    assert not found[3].any()
    held = {name: tensor.nelement() * tensor.element_size() for name, tensor in net.named_buffers()}
    assert held == {"0.codes": exact.nelement(), "0.scales": 4 * len(exact)}
    assert "0.weight" not in dict(net.named_parameters())


def test_small_and_foreign_layers_stay_as_they_are() -> None:
    net = nn.Sequential(
        nn.Linear(8, 8), nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Embedding(9, 128)
    )
    assert not store_in_8_bits(net)
    assert not any(isinstance(layer, EightBit) for layer in net.modules())


@pytest.fixture(scope="module")
def base() -> BaseUNet:
    return tiny_base("demo")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return save_controlnet(folder / "a.safetensors", tiny_controlnet("demo"))


def residuals(network: ControlNetwork) -> list[Tensor]:
    given = inputs("demo")
    hint = network.encode_hint(random_hint())
    arguments = (given["x"], given["timesteps"], given["context"], given.get("y"))
    return network.evaluate(*arguments, hint, [True] * network.layers)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.25), (torch.float16, 0.5)])
def test_a_network_shrinks_and_counts_so(
    file: Path, base: BaseUNet, dtype: torch.dtype, share: float
) -> None:
    exact = Residency(2, LARGE)
    exact.network(file, base, dtype, load_network)
    small = Residency(2, LARGE)
    network = small.network(file, base, dtype, load_network, Storage.ALWAYS)
    assert network.stored == "8 bit"
    assert network.dtype is dtype
    assert share < small.nbytes / exact.nbytes < share + 0.06
    assert small.nbytes == network.nbytes


def test_residuals_are_near_the_exact_ones(file: Path, base: BaseUNet) -> None:
    exact = residuals(load_network(file, base, torch.float32, "cpu"))
    cache = Residency(1, LARGE)
    found = residuals(cache.network(file, base, torch.float32, load_network, Storage.ALWAYS))
    never = residuals(cache.network(file, base, torch.float32, load_network, Storage.NEVER))
    for one, other, same in zip(exact, found, never, strict=True):
        assert torch.equal(one, same), "without the setting every bit stays"
        assert 0 < float((one - other).norm()) <= 0.03 * float(one.norm())


def test_each_choice_is_a_network_of_its_own(file: Path, base: BaseUNet) -> None:
    cache = Residency(3, LARGE)
    exact = cache.network(file, base, torch.float32, load_network)
    small = cache.network(file, base, torch.float32, load_network, Storage.ALWAYS)
    assert exact is not small
    assert not exact.stored
    assert cache.find_loaded(file, base, torch.float32) is exact
    assert cache.find_loaded(file, base, torch.float32, Storage.ALWAYS) is small
    assert cache.find_loaded(file, base, torch.float32, Storage.SHORT) is None


ROOMS = {
    "much": (lambda need: 2 * need, "", ""),
    "less than twice": (lambda need: 2 * need - 1, "8 bit", "would be free for it on cpu"),
    "none": (lambda _need: 0, "8 bit", "stored in 8 bits"),
    "unknown": (lambda _need: None, "", "cpu does not tell how much memory is free"),
}


@pytest.mark.parametrize("case", ROOMS)
def test_short_memory_decides_and_is_said(case: str, file: Path, base: BaseUNet) -> None:
    room, stored, said = ROOMS[case]
    need = load_network(file, base, torch.float32, "cpu").nbytes
    cache = Residency(1, LARGE, measure=lambda _device: room(need))
    network = cache.network(file, base, torch.float32, load_network, Storage.SHORT)
    assert network.stored == stored
    assert [said in note for note in network.notes] == [True] * bool(said)


def test_a_network_without_such_weights_says_so() -> None:
    network = tiny_controlnet("demo")
    network.module = nn.GroupNorm(4, 16)
    settle_storage(network, Storage.ALWAYS, torch.device("cpu"), lambda _device: 0)
    assert not network.stored
    assert "no weights that are stored in 8 bits" in network.notes[0]


def test_the_parameters_tell_and_are_read_back() -> None:
    assert describe_storage("") == ""
    written = "Module: canny, Weight: 0.5" + describe_storage("8 bit")
    assert written.endswith(", Stored: 8 bit")
    assert parse(written) == {"module": "canny", "weight": 0.5}
