"""Weights of the U-Net that are others while a call lasts: the sums, and that nothing stays."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pytest
import support
import torch
import torch.nn.functional as F
from sessions import LATENT, FakeHost, info, prepared
from torch import Tensor, nn

from lib_controlnet.engine import weights
from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlMode
from lib_controlnet.families.base_weights import BaseWeights
from lib_controlnet.families.fooocus import FooocusFamily, FooocusNetwork
from lib_controlnet.host.a1111.rows import build_layout

PAIR = build_layout([1], 1, 2)
SIZE = (LATENT.height, LATENT.width)
HALF = np.full((64, 128), 255, np.uint8)
HALF[:, 64:] = 0


def small_base(seed: int) -> BaseUNet:
    unet = support.tiny_unet("SDXL", seed, num_res_blocks=1, transformer_depth=(0, 1, 1))
    return BaseUNet(unet, describe_unet(unet), "small", f"small-{seed}")


class Rig:
    """A U-Net, networks for it, and what it was before."""

    def __init__(self) -> None:
        self.base = small_base(0)
        self.unet = self.base.module
        self.networks = [self.make(seed) for seed in (0, 1)]
        self.path, self.layer = next(
            (path, self.unet.get_submodule(path))
            for path in self.networks[0].module.paths
            if path.endswith((".to_q", ".attn1.to_k", ".to_v"))
        )
        self.remember()

    def make(self, seed: int) -> FooocusNetwork:
        network = FooocusFamily().tiny(self.base, seed)
        assert network is not None
        network.name = f"patch {seed}"
        return network

    def remember(self) -> None:
        self.objects = dict(self.unet.named_parameters())
        self.state = {name: (one.clone(), one._version) for name, one in self.objects.items()}

    def assert_untouched(self) -> None:
        now = dict(self.unet.named_parameters())
        assert list(now) == list(self.objects)
        for name, one in now.items():
            assert one is self.objects[name], name
            assert torch.equal(one, self.state[name][0]), name
            assert one._version == self.state[name][1], name
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in self.unet.modules())

    def unit(self, number: int = 0, **fields: Any) -> Any:
        return prepared(self.networks[number], **fields)

    def session(self, *units: Any, host: Any = None) -> ControlSession:
        session = ControlSession(host or FakeHost(), list(units))
        session.begin_pass(info(self.base))
        return session

    def call(self, rows: slice = slice(None)) -> Tensor:
        given = support.inputs("SDXL", rows=2, size=SIZE)
        return self.unet(**{name: value[rows] for name, value in given.items()})

    def step(self, session: ControlSession, progress: float = 0.0) -> Tensor:
        session.begin_evaluation(PAIR, progress)
        return self.call()

    def run(self, *units: Any, host: Any = None) -> Tensor:
        session = self.session(*units, host=host)
        with torch.no_grad(), session.sampling(self.unet):
            return self.step(session)

    def beside(self, *units: Any) -> Tensor:
        """The same with the layers beside those of the U-Net."""
        host = FakeHost()
        host.between = Between.EVALUATION
        return self.run(*units, host=host)

    def is_merged(self) -> bool:
        return type(self.layer.weight) is weights.StandIn


@pytest.fixture(scope="module")
def shared() -> Rig:
    return Rig()


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    """As it was at first, and again after the test: by the engine, or where the test changed it."""
    shared.remember()
    objects, state = shared.objects, shared.state
    yield shared
    shared.assert_untouched()
    for name, one in objects.items():
        owner, _, part = name.rpartition(".")
        shared.unet.get_submodule(owner)._parameters[part] = one
        if one._version != state[name][1] or shared.state is not state:
            one.data = state[name][0]
    shared.layer = shared.unet.get_submodule(shared.path)
    vars(shared.layer).pop("forward", None)


def assert_close(one: Tensor, two: Tensor) -> None:
    scale = float(two.abs().max())
    torch.testing.assert_close(one, two, atol=1e-5 * scale, rtol=1e-4)


def watch(rig: Rig, look: Callable[[], object]) -> Any:
    """Look in the middle of every call."""
    return rig.layer.register_forward_pre_hook(lambda *_: look() and None)


@pytest.mark.parametrize(
    ("fields", "is_merged"),
    [
        ({}, True),
        ({"weight": 0.4}, True),
        ({"region": HALF}, False),
        ({"control_mode": ControlMode.CONTROL}, False),
        ({"control_mode": ControlMode.PROMPT}, True),
        ({"low_vram": True}, False),
    ],
)
def test_weights_stand_for_the_unit_where_it_acts_on_all_there_is(
    rig: Rig, fields: dict[str, Any], is_merged: bool
) -> None:
    seen: list[bool] = []
    handle = watch(rig, lambda: seen.append(rig.is_merged()))
    made = rig.run(rig.unit(**fields))
    handle.remove()
    assert seen == [is_merged]
    assert_close(made, rig.beside(rig.unit(**fields)))


def test_a_turn_of_a_batch_is_a_part_of_the_rows(rig: Rig) -> None:
    unit = rig.unit()
    unit.turn = (1, 2)
    layout, seen = build_layout([1, 1], 2, 4), []
    handle = watch(rig, lambda: seen.append(rig.is_merged()))
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(rig.base, images=2))
    with torch.no_grad(), session.sampling(rig.unet):
        session.begin_evaluation(layout, 0.0)
        rig.unet(**support.inputs("SDXL", rows=4, size=SIZE))
    handle.remove()
    assert seen == [False]


class Fault(Exception):
    pass


@pytest.mark.parametrize("fault", [Fault, KeyboardInterrupt, torch.cuda.OutOfMemoryError])
def test_a_fault_in_the_middle_of_a_call_leaves_the_very_objects(
    rig: Rig, fault: type[BaseException]
) -> None:
    def fail(*_args: object) -> None:
        assert rig.is_merged()
        raise fault

    session = rig.session(rig.unit())
    last = rig.unet.output_blocks[-1]
    with pytest.raises(fault), torch.no_grad(), session.sampling(rig.unet):
        rig.step(session)
        handle = last.register_forward_pre_hook(fail)
        try:
            rig.step(session)
        finally:
            handle.remove()
    rig.assert_untouched()
    with torch.no_grad(), session.sampling(rig.unet), suppress(Fault):
        handle = last.register_forward_pre_hook(fail)
        if fault is Fault:  # caught by someone, who goes on with the U-Net
            with suppress(fault):
                rig.step(session)
            assert type(rig.layer.weight) is nn.Parameter
        handle.remove()


def test_calls_that_are_not_the_units_see_plain_weights(rig: Rig) -> None:
    plain = rig.run()
    session = rig.session(rig.unit(guidance_end=0.5))
    with torch.no_grad(), session.sampling(rig.unet):
        assert not torch.equal(rig.step(session), plain)
        assert type(rig.layer.weight) is nn.Parameter  # between two calls
        with session.silence():
            assert torch.equal(rig.call(), plain)
        assert torch.equal(rig.step(session, 0.9), plain)
        session.release()
        assert torch.equal(rig.step(session), plain)


def test_an_inner_call_sees_plain_weights(rig: Rig) -> None:
    given = support.inputs("SDXL", rows=2, size=SIZE)
    seen: list[Tensor] = []

    def look(_step: Any, call: Any) -> None:
        call.inner(*(given[name] for name in ("x", "timesteps", "context", "y")),
                   watch={"out": lambda output: seen.append(output.clone())})  # fmt: skip

    plain, steered = rig.run(), rig.run(rig.unit())
    session = rig.session(rig.unit())
    with torch.no_grad(), session.sampling(rig.unet):
        session._places.call(look)
        for _ in range(2):
            assert torch.equal(rig.step(session), steered)
    assert len(seen) == 2
    assert all(torch.equal(one, plain) for one in seen)


def test_who_reads_weights_in_a_call_reads_the_checkpoints(rig: Rig) -> None:
    """Control-LoRAs and difference files are merged with them."""
    name = f"{rig.path}.weight"
    plain = rig.layer.weight.clone()

    def look() -> None:
        assert rig.is_merged()
        assert torch.equal(BaseWeights(rig.base).get(name, plain.shape, "cpu"), plain)
        assert torch.equal(rig.unet.state_dict()[name], plain)

    handle = watch(rig, look)
    rig.run(rig.unit())
    handle.remove()


class Lora:
    """Changes the weights of layers in their forward, as the LoRA code of A1111 does.

    Args:
        layers: which it has changes for.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        generator = torch.Generator().manual_seed(7)
        self.strength = 0.0
        self.layers = layers
        for layer in layers:
            layer.lora_change = 0.02 * torch.randn(layer.weight.shape, generator=generator)
            layer.lora_current, layer.lora_backup = 0.0, None
            layer.forward = partial(self.forward, layer)

    def forward(self, layer: Any, x: Tensor) -> Tensor:
        if self.strength and layer.lora_backup is None:
            layer.lora_backup = layer.weight.to("cpu", copy=True)
        if layer.lora_current != self.strength:
            layer.weight.copy_(layer.lora_backup)
            if self.strength:
                weight = layer.weight
                layer.weight.copy_(weight.to(torch.float32) + self.strength * layer.lora_change)
            layer.lora_current = self.strength
        return type(layer).forward(layer, x)

    def remove(self) -> None:
        for layer in self.layers:
            del layer.forward


@pytest.mark.parametrize("when", ["before", "between passes", "between calls"])
def test_a_lora_settles_in_its_own_weights(rig: Rig, when: str) -> None:
    layers = [m for m in rig.unet.modules() if isinstance(m, nn.Linear)]
    kept = [layer.weight.clone() for layer in layers]
    lora = Lora(layers)

    @lru_cache
    def expected(strength: float) -> Tensor:
        lora.strength = strength
        return rig.beside(rig.unit())

    strengths = {"before": [0.7, 0.7], "between passes": [0.0, 0.7, 0.3, 0.0]}
    wanted = strengths.get(when, [0.0, 0.7, 0.7, 0.3, 0.0])
    made = []
    if when == "between calls":
        session = rig.session(rig.unit())
        with torch.no_grad(), session.sampling(rig.unet):
            for lora.strength in wanted:
                made.append(rig.step(session))
    else:
        for lora.strength in wanted:
            made.append(rig.run(rig.unit()))
    for one, strength in zip(made, wanted, strict=True):
        assert_close(one, expected(strength))
    assert not torch.allclose(expected(0.7), rig.run(), atol=1e-3)
    lora.strength = 0.0
    rig.run()
    for layer, before in zip(layers, kept, strict=True):
        assert torch.equal(layer.lora_backup, before)
        assert torch.equal(layer.weight, before)
    lora.remove()
    assert all(one is rig.objects[name] for name, one in rig.unet.named_parameters())
    rig.remember()


def move(module: nn.Module) -> None:
    """What `module.to(device)` does: other memory in the same parameters."""
    for one in module.parameters():
        one.data = one.data.clone()


def replace(module: nn.Module) -> None:
    """What some hosts do instead: other parameters."""
    for part in module.modules():
        for name, one in list(part._parameters.items()):
            if one is not None:
                part._parameters[name] = nn.Parameter(one.data.clone() * 1.01, False)


def to_half_and_back(module: nn.Module) -> None:
    module.half()
    module.float()


@pytest.mark.parametrize("exchange", [move, replace, to_half_and_back])
def test_weights_are_moved_between_two_calls(rig: Rig, exchange: Any) -> None:
    session = rig.session(rig.unit())
    with torch.no_grad(), session.sampling(rig.unet):
        rig.step(session)
        exchange(rig.unet)
        made = rig.step(session)
    rig.remember()
    assert_close(made, rig.beside(rig.unit()))


@pytest.mark.parametrize("exchange", [move, to_half_and_back])
def test_blocks_are_moved_in_the_middle_of_a_call(rig: Rig, exchange: Any) -> None:
    """As `--lowvram` does."""
    handles = [
        block.register_forward_pre_hook(lambda block, _args: exchange(block))
        for block in (*rig.unet.input_blocks, rig.unet.middle_block, *rig.unet.output_blocks)
    ]
    before = {name: one.untyped_storage() for name, one in rig.objects.items()}
    made = rig.run(rig.unit())
    for handle in handles:
        handle.remove()
    blocks = [name for name in before if "block" in name]
    assert not any(rig.objects[name].untyped_storage() is before[name] for name in blocks)
    assert all(one is rig.objects[name] for name, one in rig.unet.named_parameters())
    rig.remember()
    assert_close(made, rig.beside(rig.unit()))


def test_weights_that_have_moved_leave_nothing_behind(rig: Rig) -> None:
    """Neither memory where they were, nor a LoRA that then changes what nobody reads."""
    lora = Lora([m for m in rig.unet.modules() if isinstance(m, nn.Linear)])
    lora.strength = 0.7
    expected = rig.beside(rig.unit())
    lora.strength = 0.0
    session = rig.session(rig.unit())
    with torch.no_grad(), session.sampling(rig.unet):
        rig.step(session)
        before = [weakref.ref(one.untyped_storage()) for one in rig.unet.parameters()]
        move(rig.unet)
        assert not any(storage() for storage in before)
        lora.strength = 0.7
        assert_close(rig.step(session), expected)
    lora.strength = 0.0
    rig.run()
    lora.remove()
    rig.remember()


def copy_for_inference(weight: Tensor) -> nn.Parameter:
    with torch.inference_mode():
        return nn.Parameter(weight.detach().clone(), False)


UNFIT = {
    "none": (lambda _weight: None, "in a way of its own"),
    "inference": (copy_for_inference, "in a way of its own"),
    "8 bits": (
        lambda weight: nn.Parameter(weight.detach().to(torch.float8_e4m3fn), False),
        "keeps the checkpoint's weights as torch.float8_e4m3fn",
    ),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_a_host_puts_in_between_calls_is_looked_at_too(rig: Rig, kind: str) -> None:
    make, why = UNFIT[kind]
    layer, plain = rig.layer, rig.layer.weight
    expected = rig.beside(rig.unit())
    session = rig.session(rig.unit())
    with torch.no_grad(), session.sampling(rig.unet):
        rig.step(session)
        layer._parameters["weight"] = make(plain)
        layer.forward = lambda x: F.linear(x, plain, layer.bias)
        assert_close(rig.step(session), expected)
    layer._parameters["weight"] = plain
    assert [why in comment for comment in session.comments] == [True]


@pytest.mark.parametrize("name", ["linear", "conv2d", "group_norm", "layer_norm"])
def test_functions_of_torch_that_a_host_wraps_still_compute(
    rig: Rig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As A1111 does on some devices."""
    expected, original = rig.beside(rig.unit()), getattr(F, name)
    monkeypatch.setattr(F, name, partial(original))
    session = rig.session(rig.unit())
    with torch.no_grad(), session.sampling(rig.unet):
        assert_close(rig.step(session), expected)
    assert session.comments == []


def test_a_host_that_exchanges_weights_all_the_time_is_left_alone(rig: Rig) -> None:
    session, seen = rig.session(rig.unit()), []
    handle = watch(rig, lambda: seen.append(rig.is_merged()))
    with torch.no_grad(), session.sampling(rig.unet):
        for _ in range(6):
            made = rig.step(session)
            replace(rig.unet)
            rig.layer = rig.unet.get_submodule(rig.path)
    handle.remove()
    assert seen == [True] * 4 + [False] * 2
    assert "puts other tensors in the place of the weights" in session.comments[0]
    assert made.isfinite().all()
    rig.remember()


def test_several_units_are_one_sum(rig: Rig) -> None:
    units = [lambda: rig.unit(weight=0.7), lambda: rig.unit(1, weight=0.5)]
    made = rig.run(*(make() for make in units))
    assert torch.equal(rig.run(*(make() for make in reversed(units))), made)
    assert_close(made, rig.beside(*(make() for make in units)))
    part = {"control_mode": ControlMode.CONTROL}
    both = rig.run(rig.unit(), rig.unit(1, **part))
    assert_close(both, rig.beside(rig.unit(), rig.unit(1, **part)))


def test_units_come_and_go_and_take_turns(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cond and uncond rows in calls of their own, and a window that closes; few sums are made."""
    make, made = weights.Sum.make, []
    monkeypatch.setattr(weights.Sum, "make", lambda one: made.append(one) or make(one))

    def units() -> list[Any]:
        return [
            rig.unit(guidance_end=0.4),
            rig.unit(1, control_mode=ControlMode.CONTROL, guidance_end=0.8),
        ]

    def steps(host: Any) -> list[Tensor]:
        session, outputs = rig.session(*units(), host=host), []
        with torch.no_grad(), session.sampling(rig.unet):
            for number in (0, 1, 4, 5, 6, 9):
                session.begin_evaluation(PAIR, number / 10)
                outputs += [rig.call(slice(row, row + 1)) for row in range(2)]
        return outputs

    host = FakeHost()
    host.between = Between.EVALUATION
    for one, two in zip(steps(FakeHost()), steps(host), strict=True):
        assert_close(one, two)
    assert len(set(map(id, made))) == len(made) == 2 * len({id(one.plain) for one in made})


def test_a_refiner_gets_its_own_sums(rig: Rig) -> None:
    refiner = small_base(1)
    session = rig.session(rig.unit())
    with torch.no_grad(), session.sampling(rig.unet):
        session.begin_evaluation(PAIR, 0.0, rig.unet)
        first = rig.call()
        session.begin_evaluation(PAIR, 0.5, refiner.module)
        made = refiner.module(**support.inputs("SDXL", rows=2, size=SIZE))
        rig.assert_untouched()
        session.begin_evaluation(PAIR, 0.9, rig.unet)
        assert torch.equal(rig.call(), first)
    other = Rig()
    other.base, other.unet = refiner, refiner.module
    assert_close(made, other.beside(rig.unit()))


def test_sums_count_while_they_are_needed_and_can_be_taken(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, unit = FakeHost(), rig.unit()
    host.residency = Residency(2, 2**40)
    network = rig.networks[0]
    changed = [(path, part) for path, layer in network.module.by_path().items()
               for part in layer.readers()]  # fmt: skip
    sums = sum(getattr(rig.unet.get_submodule(path), part).nbytes for path, part in changed)
    resident = partial(host.residency._resident, network)
    session = rig.session(unit, host=host)
    with torch.no_grad(), session.sampling(rig.unet):
        made = rig.step(session)
        assert resident().nbytes == network.nbytes + sums
        assert host.residency.park()
        assert resident().nbytes == network.nbytes
        assert torch.equal(rig.step(session), made)
        make = weights.Sum.make

        def make_and_lose(one: weights.Sum) -> Tensor:
            found = make(one)
            one.drop()
            return found

        monkeypatch.setattr(weights.Sum, "make", make_and_lose)
        assert torch.equal(rig.step(session), made)
        monkeypatch.undo()
        handle = watch(rig, host.residency.park)  # by another thread
        assert torch.equal(rig.step(session), made)
        handle.remove()
    assert resident().nbytes == network.nbytes
    assert not host.residency.park()


def fail_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make, count = weights.Sum.make, iter(range(1000))

    def short(self: weights.Sum) -> Tensor:
        if next(count) == number:
            raise torch.cuda.OutOfMemoryError
        return make(self)

    monkeypatch.setattr(weights.Sum, "make", short)


def eight_bits(rig: Rig) -> None:
    """Kept so, and brought to another precision whenever it is computed with."""
    layer = rig.layer
    layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
    layer.forward = lambda x: F.linear(x, layer.weight.to(x.dtype), layer.bias)


def little_room(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "FEW", 0)
    host.residency = Residency(1, 0, measure=lambda _device: 2 * 10**9)


OBSTACLES = {
    "no memory at first": "not enough memory for changed weights",
    "no memory later": "not enough memory for changed weights",
    "little room": r"would have to be free on cpu, where 2\.0 GB are",
    "8 bits": "keeps the checkpoint's weights as torch.float8_e4m3fn",
    "low vram": "memory is to be spared",
}


@pytest.mark.parametrize("case", OBSTACLES)
def test_what_cannot_be_merged_acts_beside_and_that_is_said(
    rig: Rig, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    if case == "8 bits":
        eight_bits(rig)
        rig.remember()
    if case == "low vram":
        host.between = Between.EVALUATION
    expected = rig.beside(rig.unit())
    if case.startswith("no memory"):
        fail_at(0 if "first" in case else 9, monkeypatch)
    if case == "little room":
        little_room(host, monkeypatch)
    session, seen = rig.session(rig.unit(), host=host), []
    handle = watch(rig, lambda: seen.append(rig.is_merged()))
    with torch.no_grad(), session.sampling(rig.unet):
        outputs = [rig.step(session) for _ in range(2)]
    handle.remove()
    assert seen == [False] * 2
    assert len(session.comments) == 1
    assert re.search(OBSTACLES[case], session.comments[0])
    assert "patch 0 acts beside the U-Net's layers" in session.comments[0]
    for one in outputs:
        assert torch.equal(one, expected)


def test_a_layer_that_computes_in_its_own_way_is_found_out(rig: Rig) -> None:
    layer = rig.layer
    layer.forward = lambda x: x @ layer.weight.t()
    session = rig.session(rig.unit())
    with torch.no_grad(), session.sampling(rig.unet):
        outputs = [rig.step(session) for _ in range(2)]
    expected = rig.beside(rig.unit())
    assert_close(outputs[1], expected)
    assert "tensors were not read in a step" in session.comments[0]
    del layer.forward
