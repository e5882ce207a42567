"""Several units of one Union in one evaluation: when, what it computes, and what is said.

The reference is diffusers' `ControlNetUnionModel` with several conditions; tolerance as in
`test_cldm_diffusers.py`.
"""

import dataclasses
from functools import lru_cache

import numpy as np
import oracle
import pytest
import torch
from oracle import assert_close
from sessions import FakeHost, evaluate_group, info, picture, prepared
from support import inputs, memory_checkpoint, random_hint, tiny_base

from lib_controlnet.engine.network import Terms
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.step import StepContext
from lib_controlnet.enums import ControlMode, ControlNetUnionControlType, Speed
from lib_controlnet.families import identify
from lib_controlnet.families.union import JointControl, find_groups
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.units.weight_curve import parse_weight_curve

TYPES = ControlNetUnionControlType.in_order()
POSE, DEPTH, SOFT, HARD, *_MORE = TYPES
HALF = np.zeros((64, 128), np.uint8)
HALF[:, 64:] = 255
OTHER = 255 - HALF
PAIR = build_layout([1], 1, 2)
PICTURES = build_layout([1, 1], 2, 4)


@lru_cache
def make_theirs(kind="SD1"):
    return oracle.randomise(oracle.union_net(oracle.TINY[kind], 8), 1)


@lru_cache
def make_network(kind="SD1"):
    ckpt = memory_checkpoint(make_theirs(kind).state_dict(), "union.safetensors")
    return identify(ckpt).load(ckpt, tiny_base(kind), torch.float32, "cpu")


def unit(kind, seed=3, **fields):
    return prepared(make_network(), seed, union_control_type=kind, **fields)


def begin(units, **fields):
    """A session whose units are called by their places."""
    for number, one in enumerate(units):
        one.unit = dataclasses.replace(one.unit, index=number)
    session = ControlSession(FakeHost(), list(units))
    session.begin_pass(info(tiny_base("SD1"), **fields))
    return session


def run(*units, layout=PAIR, change=None, **fields):
    """The U-Net's output."""
    session = begin(units, images=len({row.image for row in layout.rows}), **fields)
    unet = tiny_base("SD1").module
    with torch.no_grad(), session.sampling(unet):
        if change is not None:
            change(session)
        session.begin_evaluation(layout, 0.3)
        out = unet(**inputs("SD1", rows=len(layout.rows), size=(8, 16)))
    assert all(control.acted for control in session.active)
    return out


def agrees(one, two):
    scale = float(two.abs().max())
    return bool(torch.allclose(one, two, atol=2e-5 * scale, rtol=1e-4))


# --- what it computes -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
@pytest.mark.parametrize(
    ("weights", "is_outside"),
    [((1.0, 1.0), False), ((1.0, 0.4), False), ((0.3, 1.0, 0.8), False), ((0.5, 0.5), True)],
)
def test_it_is_the_published_function_of_several_conditions(kind, weights, is_outside):
    """Weights that are less than the greatest are its scales; the greatest scales the residuals."""
    theirs, network, numbers = make_theirs(kind), make_network(kind), (3, 1, 6)[: len(weights)]
    call, hints = inputs(kind), [random_hint(seed=seed) for seed in range(len(weights))]
    extra, call["y"] = oracle.vector_condition(theirs, rows=2)
    given = torch.zeros(2, 8)
    given[:, numbers] = 1
    with torch.no_grad():
        down, middle = theirs(
            *(call["x"], call["timesteps"], call["context"]),
            *([hint.expand(2, -1, -1, -1) for hint in hints], given, list(numbers), list(weights)),
            from_multi=is_outside,
            return_dict=False,
            **extra,
        )
    controls = []
    for number, weight, hint in zip(numbers, weights, hints, strict=True):
        strengths = (weight,) * network.layers
        terms = Terms("unit", strengths, control_type=TYPES[number], guide_key=f"hint {number}")
        controls.append(network.bind(terms, hint, None))
    (group,) = find_groups(controls)
    step = StepContext(**call, progress=0.0, rows=PAIR.rows)
    (found,) = evaluate_group([JointControl(group)], step, (0, 1))
    for ours_out, theirs_out in zip(found.layers, [*down, middle], strict=True):
        assert_close(ours_out, theirs_out)


def test_the_order_of_units_does_not_matter():
    def units():
        return [unit(DEPTH, 1, weight=0.7), unit(HARD, 2), unit(POSE, 4, weight=0.7)]

    # Each comes first and last, and each two stand in both orders; more make no other sums.
    first, *others = (0, 1, 2), (2, 0, 1), (1, 2, 0)
    expected = run(*(units()[i] for i in first))
    for order in others:
        made = units()
        assert torch.equal(run(*(made[i] for i in order)), expected)


def test_a_unit_of_strength_0_takes_no_part():
    alone = run(unit(DEPTH, 1))
    assert torch.equal(run(unit(DEPTH, 1), unit(HARD, 2, weight=0.0)), alone)
    assert not agrees(run(unit(DEPTH, 1), unit(HARD, 2, weight=0.5)), alone)


def test_apart_they_do_what_two_copies_of_the_file_do():
    copy = make_network.__wrapped__()
    expected = run(unit(DEPTH, 1), prepared(copy, 2, union_control_type=HARD))
    assert torch.equal(run(unit(DEPTH, 1, union_apart=True), unit(HARD, 2)), expected)
    assert not agrees(run(unit(DEPTH, 1), unit(HARD, 2)), expected)


def test_each_picture_gets_its_own_frames():
    def units(*seeds):
        made = [unit(DEPTH, seeds[0]), unit(HARD, 7)]
        made[0].frames = tuple(picture(seed) for seed in seeds[1:])
        return made

    together = run(*units(1, 2), layout=PICTURES)
    for image, seed in enumerate((1, 2)):
        alone = run(*units(seed), layout=PICTURES)
        mine = [i for i, row in enumerate(PICTURES.rows) if row.image == image]
        others = [i for i, row in enumerate(PICTURES.rows) if row.image != image]
        assert agrees(together[mine], alone[mine])
        assert not agrees(together[others], alone[others])


def test_a_hint_that_another_extension_puts_there_acts():
    other = torch.from_numpy(picture(9)).permute(2, 0, 1).float() / 255

    def replace(session):
        depth = next(one for one in session.active if one.terms.control_type is DEPTH)
        depth.replace_hint(other)

    expected = run(unit(DEPTH, 9), unit(HARD, 2))
    assert agrees(run(unit(DEPTH, 1), unit(HARD, 2), change=replace), expected)


def test_region_and_rows_in_common_bound_what_they_do_together():
    plain = run()
    fields = {"control_mode": ControlMode.CONTROL, "region": HALF}
    out = run(unit(DEPTH, 1, **fields), unit(HARD, 2, **fields))
    assert torch.equal(out[1:], plain[1:]), "uncond rows"
    assert not agrees(out[:1], plain[:1])


# --- when, and what is said -------------------------------------------------------------------

TOGETHER = "ControlNet: unit 0, unit 1 are evaluated together by union, as Depth, Hard Edge"
APART = "ControlNet: unit 0, unit 1 are not one evaluation of union: "

SPREAD = (
    "their strengths are spread otherwise over the layers (control mode, layer weights, or lines "
    "that fade in a hires pass)"
)

FALLING, RISING = (parse_weight_curve(text) for text in ("1@0, 0@1", "0.5@0, 1@1"))
PAIRS = {
    "nothing differs": ({}, {}, [2], TOGETHER),
    "weights": ({}, {"weight": 0.4}, [2], TOGETHER),
    "soft modes": (
        {"control_mode": ControlMode.PROMPT},
        {"control_mode": ControlMode.PROMPT, "weight": 0.3},
        [2],
        TOGETHER,
    ),
    "one region": ({"region": HALF}, {"region": HALF}, [2], TOGETHER),
    "cond rows": (
        {"control_mode": ControlMode.CONTROL},
        {"control_mode": ControlMode.CONTROL},
        [1],
        TOGETHER,
    ),
    "regions": (
        {"region": HALF},
        {"region": OTHER},
        [2, 2],
        f"{APART}their regions differ",
    ),
    "modes": (
        {},
        {"control_mode": ControlMode.PROMPT},
        [2, 2],
        f"{APART}{SPREAD}",
    ),
    "rows": (
        {"control_mode": ControlMode.PROMPT},
        {"control_mode": ControlMode.CONTROL},
        [1, 2],
        f"{APART}they act on different rows",
    ),
    "windows": (
        {"guidance_end": 0.9},
        {"guidance_start": 0.1},
        [2, 2],
        f"{APART}their starts or ends differ",
    ),
    "layers": (
        {"advanced_weighting": (1.0,) * 12 + (0.5,)},
        {},
        [2, 2],
        f"{APART}{SPREAD}",
    ),
    "curves": (
        {"weight_curve": FALLING},
        {"weight_curve": RISING},
        [2, 2],
        f"{APART}their weight curves differ",
    ),
    "one curve": ({"weight_curve": FALLING}, {"weight_curve": FALLING}, [2], TOGETHER),
    "speeds": ({"speed": Speed.FAST}, {}, [2, 2], f"{APART}their speeds differ"),
    "asked for": ({"union_apart": True}, {}, [2, 2], f"{APART}union_apart is set"),
    "one type": ({}, {}, [4], f"{APART}two of them have one type"),
}


@pytest.fixture
def rows():
    """Rows of each evaluation of the network."""
    seen = []
    block = make_network().module.middle_block
    handle = block.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    yield seen
    handle.remove()


@pytest.mark.parametrize("case", PAIRS)
def test_units_run_together_where_all_that_is_applied_is_in_common(rows, case):
    first, second, expected, said = PAIRS[case]
    kind = HARD if case == "one type" else DEPTH
    units = [unit(kind, 1, **first), unit(HARD, 2, **second)]
    assert begin(units).comments == [said]
    run(*units)
    assert sorted(rows) == expected


def test_a_curve_in_common_is_the_weight_of_both():
    half = parse_weight_curve("0.5@0")
    curved = [unit(kind, seed, weight_curve=half) for seed, kind in ((1, DEPTH), (2, HARD))]
    assert agrees(run(*curved), run(unit(DEPTH, 1, weight=0.5), unit(HARD, 2, weight=0.5)))


def test_units_of_one_evaluation_reuse_it_together(rows):
    units = [unit(kind, seed, speed=Speed.FAST) for seed, kind in ((1, DEPTH), (2, HARD))]
    session = begin(units)
    unet = tiny_base("SD1").module
    with torch.no_grad(), session.sampling(unet):
        for step in range(3):
            session.begin_evaluation(PAIR, step / 100)
            unet(**inputs("SD1", rows=2, size=(8, 16)))
    session.end_pass(3)
    assert rows == [2]
    assert [session.outcome_of(one).tallies for one in units] == [[(1, 3)]] * 2


def test_of_several_units_those_run_together_that_can():
    session = begin([unit(HARD, 1), unit(POSE, 2, region=HALF), unit(DEPTH, 3), unit(SOFT, 4)])
    sizes = sorted(len(group) for group in find_groups(session.active))
    assert sizes == [1, 3]
    assert session.comments == [
        "ControlNet: unit 0, unit 2, unit 3 are evaluated together by union, as Depth, Soft Edge, "
        "Hard Edge",
        "ControlNet: unit 0, unit 1, unit 2, unit 3 are not one evaluation of union: their regions "
        "differ",
    ]
    two = begin([unit(DEPTH, 1), unit(DEPTH, 2), unit(HARD, 3)])
    assert sorted(len(group) for group in find_groups(two.active)) == [1, 1, 1]


def test_two_regions_with_the_same_types_are_one_batch(rows):
    regions, kinds = ((HALF, 1), (OTHER, 2)), (DEPTH, HARD)
    run(*(unit(kind, seed, region=region) for region, seed in regions for kind in kinds))
    assert rows == [4]


def test_a_unit_alone_has_nothing_said():
    assert begin([unit(DEPTH)]).comments == []
