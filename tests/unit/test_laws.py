"""What holds for every control family, on the tiny network that the family itself offers."""

import re
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import support
import torch
from fake_device import FakeDevice
from sessions import LATENT, FakeHost, embeddings, info, prepared, shown_to

from lib_controlnet import families
from lib_controlnet.engine.bound import OF_SOME_FAMILIES
from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.step import Texts
from lib_controlnet.enums import (
    BaseModel,
    ControlMode,
    ControlNetUnionControlType,
    HiResOption,
    PuLIDMode,
    Speed,
)
from lib_controlnet.errors import HostError, UnitError
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.eight_bit import store_in_8_bits
from lib_controlnet.nets.layout import lay_out
from lib_controlnet.units.weight_curve import parse_weight_curve

KINDS = ("SD1", "SDXL")
PAIR = build_layout([1], 1, 2)
PICTURES = build_layout([1, 1], 2, 4)
FULL = np.full((64, 128), 255, np.uint8)
HALF = FULL.copy()
HALF[:, 64:] = 0


curve = parse_weight_curve


def tiny_base(kind, seed=0):
    """A base whose U-Net lies channels last for SD1 (`--opt-channelslast`), else as it was read."""
    base = support.tiny_base(kind, seed)
    if kind == "SD1":
        lay_out(base.module)
    return base


class Rig:
    """A base and a family's networks for it; runs the U-Net once with some units."""

    def __init__(self, family, preprocessor, kind):
        self.kind, self.family = kind, family
        self.base = tiny_base(kind)
        if preprocessor:
            self.networks = [family.make(self.base, preprocessor) for _ in range(2)]
        else:
            self.networks = [family.tiny(self.base, seed) for seed in (0, 1)]
        self.networks[1].name = "other"
        self.half = HALF if self.networks[0].has_regions else None

    def unit(self, number=0, **fields):
        shown = {"union_control_type": ControlNetUnionControlType.DEPTH}
        return prepared(self.networks[number], **(shown | fields))

    def session(self, units, host=None, **fields):
        session = ControlSession(host or FakeHost(), list(units))
        session.begin_pass(info(self.base, **fields))
        return session

    def call(self, layout=PAIR):
        size = (LATENT.height, LATENT.width)
        arguments = support.inputs(self.kind, rows=len(layout.rows), size=size)
        return self.base.module(**arguments)

    def run(self, *units, layout=PAIR, progress=0.0, **fields):
        session = self.session(units, images=len({row.image for row in layout.rows}), **fields)
        with torch.no_grad(), session.sampling(self.base.module):
            session.begin_evaluation(layout, progress)
            return self.call(layout)


CASES = [
    pytest.param((family, name, kind), id=f"{name or family.name}-{kind}")
    for family in families.discover()
    for name in family.preprocessors or ("",)
    for kind in KINDS
    if BaseModel(kind) in family.bases
]


@pytest.fixture(scope="module", params=CASES)
def rig(request):
    return Rig(*request.param)


@pytest.fixture(scope="module")
def plain(rig):
    return rig.run()


@pytest.fixture(scope="module")
def steered(rig):
    return rig.run(rig.unit())


def hooks_of(module):
    names = ("_forward_hooks", "_forward_pre_hooks")
    return sum(len(getattr(m, name)) for m in module.modules() for name in names)


def differs(one, two):
    """By more than rounding: a hundredth of the output's spread."""
    return float((one - two).abs().max()) > 0.01 * float(two.std())


def agrees(one, two):
    scale = float(two.abs().max())
    return bool(torch.allclose(one, two, atol=2e-5 * scale, rtol=1e-4))


def test_every_family_is_tried_on_some_base():
    tried = {case.values[0][0].name for case in CASES}
    assert tried == {family.name for family in families.discover()}


def test_a_unit_steers(rig, plain, steered):
    assert differs(steered, plain)


WITHOUT_EFFECT = {
    "strength 0": {"weight": 0.0},
    "not open yet": {"guidance_start": 0.5},
    "closed already": {"guidance_end": 0.0},
    "start after end": {"guidance_start": 0.7, "guidance_end": 0.2},
    "region of nothing": {"region": FULL * 0},
    "curve of zeros": {"weight_curve": curve("0@0.5 | 1@0")},
}


def test_a_unit_without_effect_leaves_every_bit(rig, plain):
    """Looked for one by one only where they do something together."""
    units = {case: rig.unit(**fields) for case, fields in WITHOUT_EFFECT.items()}
    if not torch.equal(rig.run(*units.values()), plain):
        acting = [case for case, one in units.items() if not torch.equal(rig.run(one), plain)]
        pytest.fail(f"not without effect: {acting or 'all together'}")


def test_a_curve_is_the_weight_of_each_step_to_the_bit(rig, plain, steered):
    """Whatever is kept from one step for others."""
    unit = rig.unit(weight_curve=curve("1@0, 1@0.2, 0.5@0.2, 0.5@0.4, 0@0.4, 0@0.6, 1@0.8"))
    session, seen = rig.session([unit]), {}
    steps = {0.0: 1.0, 0.2: 0.5, 0.4: 0.0, 0.667: 0.335, 0.9: 1.0}
    with torch.no_grad(), session.sampling(rig.base.module):
        for progress in steps:
            session.begin_evaluation(PAIR, progress)
            seen[progress] = rig.call()
    session.end_pass(len(steps))
    (ran,) = session.report.describe()["units"]
    assert (ran["passes"][0]["steps"], ran["passes"][0]["of"]) == (4, 5)
    expected = {1.0: steered, 0.0: plain, 0.5: rig.run(rig.unit(weight=0.5))}
    for progress, weight in steps.items():
        if weight in expected:
            assert torch.equal(seen[progress], expected[weight]), progress
    assert agrees(seen[0.667], rig.run(rig.unit(weight=0.335)))
    assert not agrees(seen[0.667], steered)


def test_a_curve_multiplies_the_weight_and_what_a_control_mode_makes_of_it(rig):
    mode = {"control_mode": ControlMode.PROMPT}
    curved = rig.run(rig.unit(weight=0.8, weight_curve=curve("0.5@0 | 1@0"), **mode))
    assert agrees(curved, rig.run(rig.unit(weight=0.4, **mode)))


def test_a_pass_of_the_other_size_leaves_every_bit(rig, plain, steered):
    unit = {"hr_option": HiResOption.HIGH_RES_ONLY}
    assert torch.equal(rig.run(rig.unit(**unit), has_hires=True), plain)
    hires = {"has_hires": True, "is_hires": True}
    in_both = rig.run(rig.unit(), **hires)
    assert differs(in_both, plain)
    assert torch.equal(rig.run(rig.unit(**unit), **hires), in_both)
    if rig.networks[0].family != "Reference":  # it takes all of the picture there
        assert torch.equal(in_both, steered)


def test_a_full_region_is_none_and_half_of_one_is_neither(rig, plain, steered):
    assert torch.equal(rig.run(rig.unit(region=FULL)), steered)
    if rig.half is None:
        with pytest.raises(UnitError, match="region to the whole picture"):
            rig.run(rig.unit(region=HALF))
        return
    half = rig.run(rig.unit(region=HALF))
    assert differs(half, plain)
    assert differs(half, steered)


def test_what_is_made_of_a_picture_is_made_in_the_first_pass_of_a_generation(rig, steered):
    """And the passes that keep it are, bit by bit, what they are without."""
    session = ControlSession(FakeHost(), [rig.unit()])
    calls, outputs = [], []
    with ExitStack() as stack, torch.no_grad():
        for layer in rig.networks[0].module.modules():
            stack.callback(layer.register_forward_hook(lambda *_: calls[-1].append(1)).remove)
        for is_hires, steps in ((False, 2), (True, 1), (False, 1)):
            session.begin_pass(info(rig.base, has_hires=True, is_hires=is_hires))
            with session.sampling(rig.base.module):
                for _step in range(steps):
                    calls.append([])
                    session.begin_evaluation(PAIR, 0.0)
                    outputs.append(rig.call())
    counts = [len(made) for made in calls]
    assert counts[1:] == [counts[1]] * 3
    assert all(torch.equal(outputs[number], outputs[0]) for number in (1, 3))
    assert torch.equal(outputs[0], steered)


def test_the_same_run_again_is_the_same(rig, steered):
    assert torch.equal(rig.run(rig.unit()), steered)


def test_two_halves_are_one_where_it_is_promised(rig, steered):
    halves = rig.run(rig.unit(weight=0.5), rig.unit(weight=0.5))
    assert agrees(halves, steered) is rig.networks[0].is_additive


def test_pictures_that_a_neighbour_takes_one_by_one_are_told(rig):
    """AnimateDiff calls with some pictures' cond rows and their uncond rows at a time."""
    call = support.inputs(rig.kind, rows=4, size=(LATENT.height, LATENT.width))
    session = rig.session([rig.unit()], images=2)
    texts = Texts(call["context"][:2], call["context"][2:], call["x"])
    layout = replace(PICTURES, texts=texts if session.needs_texts else None)
    parts = ([0, 1, 2, 3], [1, 3], [0, 2])
    made = []
    with torch.no_grad(), session.sampling(rig.base.module):
        for rows in parts:
            if rows is not parts[2]:
                session.begin_evaluation(layout, 0.0)
            given = {name: None if one is None else one[rows] for name, one in call.items()}
            made.append(rig.base.module(**given))
    whole, *others = made
    if rig.networks[0].takes_keyframes:
        return  # its frames read each other
    assert all(agrees(one, whole[rows]) for one, rows in zip(others, parts[1:], strict=True))


def test_the_order_of_units_does_not_matter(rig):
    def units():
        return [
            rig.unit(seed=1, weight=0.7),
            rig.unit(number=1, seed=2, control_mode=ControlMode.CONTROL),
            rig.unit(seed=2, weight=0.9, region=rig.half),
        ]

    # In these each comes first, and last, and each two in both orders; more make no other sums.
    first, *others = (0, 1, 2), (1, 2, 0), (2, 0, 1)
    expected = rig.run(*(units()[i] for i in first))
    for order in others:
        made = units()
        assert torch.equal(rig.run(*(made[i] for i in order)), expected), order


def test_cond_rows_only_leaves_the_uncond_rows(rig, plain, steered):
    if not rig.networks[0].has_modes:
        assert torch.equal(rig.run(rig.unit(control_mode=ControlMode.CONTROL)), steered)
        return
    out = rig.run(rig.unit(control_mode=ControlMode.CONTROL))
    assert differs(out[:1], plain[:1])
    assert torch.equal(out[1:], plain[1:])


def test_a_turn_leaves_the_other_pictures(rig):
    def turn(number):
        unit = rig.unit()
        unit.turn = (number, 2)
        return unit

    plain = rig.run(layout=PICTURES)
    out = rig.run(turn(1), layout=PICTURES)
    mine = [i for i, row in enumerate(PICTURES.rows) if row.image == 1]
    others = [i for i, row in enumerate(PICTURES.rows) if row.image == 0]
    assert differs(out[mine], plain[mine])
    assert agrees(out[others], plain[others])


def test_frames_steer_their_own_pictures(rig):
    def unit(*seeds):
        made = rig.unit(seed=seeds[0])
        made.frames = tuple(shown_to(rig.networks[0], seed) for seed in seeds[1:])
        made.embeddings = embeddings(rig.networks[0], *seeds)
        return made

    together = rig.run(unit(1, 2), layout=PICTURES)
    for image, seed in enumerate((1, 2)):
        alone = rig.run(unit(seed), layout=PICTURES)
        mine = [i for i, row in enumerate(PICTURES.rows) if row.image == image]
        others = [i for i, row in enumerate(PICTURES.rows) if row.image != image]
        assert agrees(together[mine], alone[mine])
        assert not agrees(together[others], alone[others])


def test_rows_in_several_calls_are_the_rows_of_one(rig, steered):
    session = rig.session([rig.unit()])
    size = (LATENT.height, LATENT.width)
    arguments = support.inputs(rig.kind, rows=2, size=size)
    outputs = []
    with torch.no_grad(), session.sampling(rig.base.module):
        session.begin_evaluation(PAIR, 0.0)
        for row in range(2):
            part = {k: None if v is None else v[row : row + 1] for k, v in arguments.items()}
            outputs.append(rig.base.module(**part))
    assert agrees(torch.cat(outputs), steered)


def test_a_call_that_nobody_announced_is_left_alone(rig, plain):
    session = rig.session([rig.unit()])
    with torch.no_grad(), session.sampling(rig.base.module):
        assert torch.equal(rig.call(), plain)
        session.begin_evaluation(PAIR, 0.0)
        with session.silence():
            assert torch.equal(rig.call(), plain)


class Fault(Exception):
    """Raised in the middle of the U-Net."""


def test_a_fault_in_the_unet_leaves_nothing_behind(rig, plain, steered):
    def fail(*_args):
        raise Fault

    before = hooks_of(rig.base.module)
    session = rig.session([rig.unit()])
    handle = rig.base.module.output_blocks[-1].register_forward_pre_hook(fail)
    with pytest.raises(Fault), torch.no_grad(), session.sampling(rig.base.module):
        session.begin_evaluation(PAIR, 0.0)
        rig.call()
    handle.remove()
    assert hooks_of(rig.base.module) == before
    assert torch.equal(rig.run(), plain)
    assert torch.equal(rig.run(rig.unit()), steered)


def test_a_stop_between_steps_leaves_nothing_behind(rig, plain):
    before = hooks_of(rig.base.module)
    session = rig.session([rig.unit()])
    with pytest.raises(KeyboardInterrupt), torch.no_grad(), session.sampling(rig.base.module):
        session.begin_evaluation(PAIR, 0.0)
        rig.call()
        raise KeyboardInterrupt
    session.end_pass(0)
    assert hooks_of(rig.base.module) == before
    assert torch.equal(rig.run(), plain)


def test_a_refiner_of_the_same_structure_is_steered_alike(rig, steered):
    refiner = tiny_base(rig.kind).module
    session = rig.session([rig.unit()])
    arguments = support.inputs(rig.kind, rows=2, size=(LATENT.height, LATENT.width))
    with torch.no_grad(), session.sampling(rig.base.module):
        session.begin_evaluation(PAIR, 0.0, rig.base.module)
        rig.call()
        session.begin_evaluation(PAIR, 0.0, refiner)
        assert torch.equal(refiner(**arguments), steered)
    assert not session.comments


def test_weights_written_into_the_unet_are_steered_as_a_refiners(rig):
    """Some hosts put a refiner's weights into the U-Net that is being sampled."""
    refiner = tiny_base(rig.kind, seed=1).module
    arguments = support.inputs(rig.kind, rows=2, size=(LATENT.height, LATENT.width))

    def sample(unet, write):
        session = rig.session([rig.unit()])
        with torch.no_grad(), session.sampling(unet):
            write(session, unet)
            session.begin_evaluation(PAIR, 0.0, unet)
            return unet(**arguments)

    def exchange(session, unet):
        session.begin_evaluation(PAIR, 0.0, unet)
        unet(**arguments)
        unet.load_state_dict(refiner.state_dict())

    found = sample(support.twin(rig.base.module), exchange)
    assert torch.equal(found, sample(refiner, lambda *_: None))


def test_it_is_known_that_a_unit_acted(rig):
    acting, idle = rig.unit(), rig.unit(guidance_start=0.9)
    session = rig.session([acting, idle])
    with torch.no_grad(), session.sampling(rig.base.module):
        session.begin_evaluation(PAIR, 0.0)
        rig.call()
    session.end_pass(1)
    assert [session.outcome_of(unit).acted for unit in (acting, idle)] == [True, False]


def test_a_host_that_walks_through_blocks_is_steered_alike(rig, steered, monkeypatch):
    """As all hosts do whose U-Net is that of Comfy: no block is ever called itself."""
    kind = type(rig.base.module.middle_block)
    monkeypatch.setattr(kind, "__call__", kind.forward)
    assert torch.equal(rig.run(rig.unit()), steered)


PASSED_OVER = {"all": r".", "two blocks": r"(input|output)_blocks\.1\."}


@pytest.mark.parametrize("which", PASSED_OVER)
def test_hooks_that_are_passed_over_are_an_error(rig, steered, monkeypatch, which):
    """As a compiled forward does; where the control needs none of them, it acts as ever."""
    session, call = rig.session([rig.unit()]), torch.nn.Module.__call__
    over = {m for n, m in rig.base.module.named_modules() if n and re.match(PASSED_OVER[which], n)}

    def pass_over(module, *args, **kwargs):
        return (module.forward if module in over else partial(call, module))(*args, **kwargs)

    output = None
    try:
        with torch.no_grad(), session.sampling(rig.base.module), monkeypatch.context() as patch:
            session.begin_evaluation(PAIR, 0.0)
            patch.setattr(torch.nn.Module, "__call__", pass_over)
            output = rig.call()
        session.end_pass(1)
    except HostError as error:
        assert "switch" in str(error)
    else:
        assert torch.equal(output, steered)


def test_a_field_that_means_nothing_to_the_family_is_said(rig):
    chosen = {"union_apart": True, "pulid_mode": PuLIDMode.STYLE, "speed": Speed.FAST}
    said = " ".join(rig.session([rig.unit(**chosen)]).comments)
    assert set(chosen) == set(OF_SOME_FAMILIES)
    for field in chosen:
        assert (field in said) is (field not in rig.networks[0].heeds), field
    said = " ".join(rig.session([rig.unit()]).comments)
    assert "means nothing" not in said


def test_a_family_says_before_loading_what_its_networks_heed(rig):
    for network in rig.networks:
        assert isinstance(network, rig.family.networks)
        says = (rig.family.networks.heeds, rig.family.networks.weight_types)
        assert (network.heeds, network.weight_types) == says
        assert network.heeds <= set(OF_SOME_FAMILIES)


SPEEDY = [case for case in CASES if "speed" in case.values[0][0].networks.heeds]


@pytest.mark.parametrize("rig", SPEEDY, indirect=True)
def test_a_speed_evaluates_less_and_reuses_what_fits(rig, steered):
    unit = rig.unit(speed=Speed.FAST)
    session = rig.session([unit])
    with torch.no_grad(), session.sampling(rig.base.module):
        for step in range(3):
            session.begin_evaluation(PAIR, step / 100)
            assert torch.equal(rig.call(), steered)
    session.end_pass(3)
    assert session.outcome_of(unit).tallies == [(1, 3)]


@contextmanager
def masters_lost(network):
    """Gives the copies of a network's weights, which alone are good for anything inside."""
    masters = [*network.module.parameters(), *network.module.buffers()]
    kept = {id(one): one.detach().clone() for one in masters}
    for one in masters:
        one.fill_(float("nan") if one.is_floating_point() else 0)
    try:
        yield lambda master, _device: kept[id(master)].clone()
    finally:
        for one in masters:
            one.copy_(kept[id(one)])


@pytest.mark.parametrize("between", list(Between), ids=str)
def test_weights_are_read_on_the_device_alone(rig, steered, between):
    """Also where they come to it for an evaluation, and where others take it meanwhile."""
    # A patch is merged with the U-Net's weights but where memory is spared: other sums.
    is_merged = rig.networks[0].family == "Fooocus inpaint"
    is_same = agrees if is_merged and between.is_scarce else torch.equal
    host = FakeHost()
    host.device, host.between = FakeDevice.device, between
    with torch.no_grad(), masters_lost(rig.networks[0]) as copy:
        device = FakeDevice()
        host.residency = Residency(
            *(1, 2**40), copy=lambda master, place: device.copy(copy(master, place), place)
        )
        session = rig.session([rig.unit()], host)
        with session.sampling(rig.base.module):
            for _ in range(2):
                session.begin_evaluation(PAIR, 0.0)
                assert is_same(rig.call(), steered)
                host.residency.park()
                assert device.held == 0
    host.residency.park()


def test_a_release_in_mid_sampling_ends_the_control_at_once(rig, plain):
    session = rig.session([rig.unit()])
    with torch.no_grad(), session.sampling(rig.base.module):
        session.begin_evaluation(PAIR, 0.0)
        rig.call()
        session.release()
        session.begin_evaluation(PAIR, 0.5)
        assert torch.equal(rig.call(), plain)


def test_a_network_in_8_bits_steers_alike(rig, plain, steered, monkeypatch):
    """What it changes is off by at most a twentieth, on its masters and on a device."""
    if rig.family.preprocessors:  # without a file
        return
    network = rig.family.tiny(rig.base, 0)
    dtype, size = network.dtype, network.nbytes
    if not store_in_8_bits(network.module):
        assert network.nbytes == size
        return
    assert network.nbytes < size
    assert (network.dtype, network.device.type) == (dtype, "cpu")
    monkeypatch.setattr(rig, "networks", [network, rig.networks[1]])
    found = rig.run(rig.unit())
    assert float((found - steered).norm()) <= 0.05 * float((steered - plain).norm())
    host = FakeHost()
    host.device = FakeDevice.device
    with torch.no_grad(), masters_lost(network) as copy:
        host.residency = Residency(1, 2**40, copy=copy)
        session = rig.session([rig.unit()], host)
        with session.sampling(rig.base.module):
            session.begin_evaluation(PAIR, 0.0)
            assert torch.equal(rig.call(), found)
