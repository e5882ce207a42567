"""Laws of one generation on tiny real networks: what adds up, costs nothing, is undone."""

import copy

import numpy as np
import pytest
import support
import torch
from sessions import LATENT, FakeHost, info, picture, prepared

from lib_controlnet.engine.memory import Between
from lib_controlnet.engine.residency import Place
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlMode, HiResOption, OnError
from lib_controlnet.errors import HostError, UnitError
from lib_controlnet.host.a1111.rows import build_layout

ROWS = build_layout([1], 1, 2)
KINDS = ("SD1", "SDXL")


@pytest.fixture(scope="module", params=KINDS)
def base(request):
    return support.tiny_base(request.param)


@pytest.fixture(scope="module")
def network(base):
    return support.tiny_controlnet(kind_of(base), unet=base.module)


def kind_of(base):
    return base.name.split("-")[1]


def run(base, units, layout=ROWS, progress=0.0, pass_fields=None, calls=None):
    """Output of the U-Net with the units bound and armed, all rows or in `calls` pieces."""
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base, **(pass_fields or {})))
    total = len(layout.rows)
    arguments = support.inputs(kind_of(base), rows=total, size=(LATENT.height, LATENT.width))
    outputs = []
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(layout, progress)
        for start, stop in calls or [(0, total)]:
            part = {k: None if v is None else v[start:stop] for k, v in arguments.items()}
            outputs.append(base.module(**part))
    return torch.cat(outputs)


@pytest.fixture(scope="module")
def plain(base):
    return run(base, [])


def hooks_of(module):
    names = ("_forward_hooks", "_forward_pre_hooks")
    return sum(len(getattr(m, name)) for m in module.modules() for name in names)


def test_active_unit_changes_the_output(base, network, plain):
    assert not torch.allclose(run(base, [prepared(network)]), plain, atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 0.0},
        {"guidance_start": 0.5},
        {"guidance_start": 0.7, "guidance_end": 0.2},
        {"guidance_end": 0.0},
    ],
    ids=["strength-0", "window-not-open-yet", "reversed-window", "empty-window"],
)
def test_unit_without_effect_is_bit_identical_to_none(base, network, plain, fields):
    assert torch.equal(run(base, [prepared(network, **fields)]), plain)


def test_all_zero_layer_weights_are_bit_identical_to_none(base, network, plain):
    weights = (0.0,) * network.layers
    assert torch.equal(run(base, [prepared(network, advanced_weighting=weights)]), plain)


def test_zero_region_equals_off_and_full_region_equals_none(base, network, plain):
    height, width = 64, 128
    full = np.full((height, width), 255, np.uint8)
    assert torch.equal(run(base, [prepared(network, region=full * 0)]), plain)
    assert torch.equal(run(base, [prepared(network, region=full)]), run(base, [prepared(network)]))


def test_half_region_differs_from_both(base, network, plain):
    half = np.zeros((64, 128), np.uint8)
    half[:, :64] = 255
    out = run(base, [prepared(network, region=half)])
    assert not torch.equal(out, plain)
    assert not torch.equal(out, run(base, [prepared(network)]))


def test_same_run_twice_is_bit_identical(base, network):
    assert torch.equal(run(base, [prepared(network)]), run(base, [prepared(network)]))


def test_hooks_are_gone_after_the_pass(base, network, plain):
    before = hooks_of(base.module)
    run(base, [prepared(network)])
    assert hooks_of(base.module) == before
    assert torch.equal(run(base, []), plain)


def test_no_active_unit_places_no_hook(base, network):
    session = ControlSession(FakeHost(), [prepared(network, weight=0.0)])
    session.begin_pass(info(base))
    before = hooks_of(base.module)
    with session.sampling(base.module):
        assert hooks_of(base.module) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_during_sampling_leaves_the_unet_untouched(base, network, plain, error):
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    before = hooks_of(base.module)
    with pytest.raises(error), session.sampling(base.module):
        raise error
    assert hooks_of(base.module) == before
    assert torch.equal(run(base, []), plain)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("sizes differ"), None),
        (
            RuntimeError("MPS backend out of memory"),
            "not enough memory to evaluate tiny-",
        ),
    ],
    ids=["a mistake", "no memory"],
)
def test_exception_inside_the_network_leaves_the_unet_untouched(
    base, network, plain, monkeypatch, error, told
):
    def fail(*_args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(network, "evaluate", fail)
        with pytest.raises(type(error) if told is None else HostError, match=told):
            run(base, [prepared(network)])
    assert torch.equal(run(base, []), plain)


def residual_difference(base, units):
    """Sum of what the units add, read where it is added."""
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base))
    arguments = support.inputs(kind_of(base), rows=2, size=(LATENT.height, LATENT.width))
    seen = []
    with torch.no_grad(), session.sampling(base.module):
        handle = base.module.middle_block.register_forward_pre_hook(
            lambda *_args: seen.append(session._places._residuals)
        )
        session.begin_evaluation(ROWS, 0.0)
        base.module(**arguments)
        handle.remove()
    return seen[0]


def test_two_units_add_the_sum_of_each(base, network):
    one, two = prepared(network, seed=1), prepared(network, seed=2, weight=0.5)
    both = residual_difference(base, [one, two])
    alone = residual_difference(base, [one])[0] + residual_difference(base, [two])[0]
    assert len(both) == 1
    for together, summed in zip(both[0].layers, alone.layers, strict=True):
        # Two rows and four round differently; 1e-5 of the layer's largest value.
        scale = float(summed.abs().max())
        torch.testing.assert_close(together, summed, atol=1e-5 * scale, rtol=1e-4)


def test_two_half_weight_copies_equal_one(base, network):
    halves = [prepared(network, weight=0.5), prepared(network, weight=0.5)]
    assert torch.equal(run(base, halves), run(base, [prepared(network)]))


def test_order_of_units_does_not_matter(base, network):
    other = support.tiny_controlnet(kind_of(base), unet=base.module, seed=5)
    other.name = "another"
    region = np.zeros((64, 128), np.uint8)
    region[:, :40] = 255

    def units():
        return [
            prepared(network, seed=1, weight=0.7),
            prepared(other, seed=2, weight=1.3, control_mode=ControlMode.CONTROL),
            prepared(network, seed=2, weight=0.3, control_mode=ControlMode.PROMPT),
            prepared(network, seed=2, weight=0.9, region=region),
        ]

    # Each comes first and last, and each two stand in both orders; more make no other sums.
    first, *others = (0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1)
    expected = run(base, [units()[i] for i in first])
    for order in others:
        made = units()
        assert torch.equal(run(base, [made[i] for i in order]), expected), order


def test_order_does_not_matter_where_only_the_mode_differs(base, network):
    weights = tuple(0.3 + 0.07 * i for i in range(network.layers))

    def units():
        modes = (ControlMode.BALANCED, ControlMode.CONTROL)
        return [prepared(network, advanced_weighting=weights, control_mode=m) for m in modes]

    assert torch.equal(run(base, units()), run(base, units()[::-1]))
    session = ControlSession(FakeHost(), units()[::-1])
    session.begin_pass(info(base))
    assert [control.terms.cond_only for control in session.active] == [False, True]


def test_each_mode_acts_on_its_own_units_residuals_only(base, network):
    """Cond row: both units, each with its own curve; uncond row: the balanced unit alone."""
    balanced = {"seed": 1, "weight": 0.8}
    control = {"seed": 2, "weight": 0.6, "control_mode": ControlMode.CONTROL}
    parts = residual_difference(base, [prepared(network, **balanced), prepared(network, **control)])
    one = residual_difference(base, [prepared(network, **balanced)])[0]
    two = residual_difference(base, [prepared(network, **control)])[0]
    by_rows = {part.rows: part.layers for part in parts}
    assert set(by_rows) == {(0, 1), (0,)}
    for whole, alone in ((by_rows[0, 1], one.layers), (by_rows[(0,)], two.layers)):
        for together, single in zip(whole, alone, strict=True):
            assert torch.equal(together, single)


def test_units_with_the_same_hint_are_evaluated_once(base, network, monkeypatch):
    rows = []
    original = network.evaluate

    def spy(x, *rest):
        rows.append(x.shape[0])
        return original(x, *rest)

    monkeypatch.setattr(network, "evaluate", spy)
    inside = np.zeros((64, 128), np.uint8)
    inside[:, 64:] = 255
    run(
        base, [prepared(network, region=inside), prepared(network, weight=0.2, region=255 - inside)]
    )
    assert rows == [2]


def test_pooled_unit_with_a_region_acts_there_only(base, network):
    pooled = copy.copy(network)
    pooled.global_average_pooling = True
    region = np.zeros((64, 128), np.uint8)
    region[:, :64] = 255
    (part,) = residual_difference(base, [prepared(pooled, region=region)])
    (whole,) = residual_difference(base, [prepared(pooled)])
    first = part.layers[0]
    assert first.shape[-2:] == (LATENT.height, LATENT.width)
    assert not first[..., 9:].any()
    torch.testing.assert_close(first[..., :7], whole.layers[0].expand_as(first)[..., :7])


def test_units_that_take_turns_control_their_own_pictures(base, network, plain):
    layout = build_layout([1, 1, 1], 3, 6)

    def turns(*units):
        for position, unit in enumerate(units):
            unit.turn = (position, len(units))
        return run(base, list(units), layout, pass_fields={"images": 3})

    one = run(base, [prepared(network, seed=1)], layout, pass_fields={"images": 3})
    two = run(base, [prepared(network, seed=2)], layout, pass_fields={"images": 3})
    out = turns(prepared(network, seed=1), prepared(network, seed=2))
    for image, source in enumerate((one, two, one)):
        for row in (image, image + 3):
            torch.testing.assert_close(out[row], source[row], atol=1e-5, rtol=1e-4)
    many = turns(*(prepared(network, seed=1, weight=float(i == 3)) for i in range(4)))
    assert torch.equal(many, run(base, [], layout)), "three pictures, and the fourth unit's turn"


def test_model_switched_in_mid_sampling_to_one_of_the_same_structure_is_followed(base, network):
    refiner = copy.deepcopy(base.module)
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    arguments = support.inputs(kind_of(base), rows=2, size=(LATENT.height, LATENT.width))
    before = hooks_of(base.module)
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(ROWS, 0.0, base.module)
        expected = base.module(**arguments)
        session.begin_evaluation(ROWS, 0.5, refiner)
        assert torch.equal(refiner(**arguments), expected)
        assert hooks_of(base.module) == before
    assert hooks_of(refiner) == before
    assert not session.comments


def test_model_switched_to_another_structure_is_left_alone(base, network):
    foreign = support.tiny_base("SD1" if kind_of(base) == "SDXL" else "SDXL")
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    before = hooks_of(foreign.module)
    with session.sampling(base.module):
        session.begin_evaluation(ROWS, 0.5, foreign.module)
        assert hooks_of(foreign.module) == before
    assert hooks_of(base.module) == before
    assert "they do not act" in session.comments[0]


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        ([(0.0, 0.5)], False),
        ([(0.0, 0.75)], True),
        ([(0.75, 1.0)], True),
        ([(0.75, 0.75)], False),
        ([(0.0, 0.5), (0.25, 1.0)], True),
        ([(0.0, 0.5), (0.0, 0.25)], False),
    ],
)
def test_a_switch_is_told_once_and_only_if_a_window_reaches_it(base, network, windows, told):
    foreign = support.tiny_base("SD1" if kind_of(base) == "SDXL" else "SDXL")
    units = [prepared(network, guidance_start=a, guidance_end=b) for a, b in windows]
    session = ControlSession(FakeHost(), units)
    for is_hires in (False, True):
        session.begin_pass(info(base, is_hires=is_hires, has_hires=True))
        with session.sampling(base.module):
            for step in range(8):
                model = base.module if step < 4 else foreign.module
                session.begin_evaluation(ROWS, step / 8, model)
    assert ["switched" in comment for comment in session.comments] == [True] * told


def test_list_for_sd1_acts_on_sdxl_by_its_first_numbers_and_is_told_once():
    base, network = support.tiny_base("SDXL"), support.tiny_controlnet("SDXL")
    weights = tuple(0.1 * (i + 1) for i in range(13))
    session = ControlSession(FakeHost(), [prepared(network, advanced_weighting=weights)])
    for is_hires in (False, True):
        session.begin_pass(info(base, is_hires=is_hires, has_hires=True))
        assert session.active[0].terms.strengths == weights[:10]
    (comment,) = session.comments
    assert "unit 0: advanced_weighting has 13 numbers" in comment
    assert "takes the first 10" in comment


def test_notes_of_a_network_are_told_with_the_unit():
    base, network = support.tiny_base("SD1"), support.tiny_controlnet("SD1")
    network.notes = ("it is taken for a depth model",)
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    assert session.comments == ["ControlNet unit 0: it is taken for a depth model"]


def test_control_mode_evaluates_cond_rows_only(base, network, plain):
    seen = []
    original = type(network).evaluate

    def spy(self, x, *rest):
        seen.append(x.shape[0])
        return original(self, x, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(network), "evaluate", spy)
        out = run(base, [prepared(network, control_mode=ControlMode.CONTROL)])
    assert seen == [1]
    assert torch.equal(out[1], plain[1])
    assert not torch.allclose(out[0], plain[0], atol=1e-5)


def test_split_calls_equal_one_call(base, network):
    layout = build_layout([1, 1], 2, 4)
    units = [prepared(network, control_mode=ControlMode.CONTROL), prepared(network, seed=8)]
    whole = run(base, units, layout)
    pieces = run(base, units, layout, calls=[(0, 1), (1, 3), (3, 4)])
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-4)


def test_call_that_was_not_announced_is_not_controlled(base, network, plain):
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    arguments = support.inputs(kind_of(base), rows=2, size=(LATENT.height, LATENT.width))
    with torch.no_grad(), session.sampling(base.module):
        assert torch.equal(base.module(**arguments), plain)


def test_global_average_pooling_acts_on_cond_rows(base, network, plain):
    pooled = copy.copy(network)
    pooled.global_average_pooling = True
    residuals = residual_difference(base, [prepared(pooled)])
    assert residuals[0].rows == (0,)
    assert {tuple(layer.shape[-2:]) for layer in residuals[0].layers} == {(1, 1)}
    assert torch.equal(run(base, [prepared(pooled)])[1], plain[1])


@pytest.mark.parametrize(
    ("option", "hires", "acts"),
    [
        (HiResOption.BOTH, False, True),
        (HiResOption.BOTH, True, True),
        (HiResOption.LOW_RES_ONLY, False, True),
        (HiResOption.LOW_RES_ONLY, True, False),
        (HiResOption.HIGH_RES_ONLY, False, False),
        (HiResOption.HIGH_RES_ONLY, True, True),
    ],
)
def test_hires_option_chooses_the_pass(base, network, plain, option, hires, acts):
    out = run(
        base,
        [prepared(network, hr_option=option)],
        pass_fields={"is_hires": hires, "has_hires": True},
    )
    assert torch.equal(out, plain) is not acts


def test_wrong_length_weights_stop_or_are_skipped(base, network):
    bad = prepared(network, advanced_weighting=(1.0, 2.0))
    with pytest.raises(UnitError, match=f"has 2 numbers.*needs {network.layers}"):
        ControlSession(FakeHost(), [bad]).begin_pass(info(base))
    for units in ([bad, prepared(network)], [prepared(network), bad]):
        session = ControlSession(FakeHost(), units, OnError.SKIP)
        session.begin_pass(info(base))
        assert len(session.active) == 1
        assert "unit skipped" in session.comments[0]


def test_stored_error_is_raised_before_the_first_step(base):
    session = ControlSession(FakeHost(), [])
    session.fail(UnitError("unit 0: no"))
    with pytest.raises(UnitError, match="unit 0: no"), session.sampling(base.module):
        pytest.fail("sampling began")


def test_hint_encoder_runs_once_per_pass(base, network, monkeypatch):
    count = []
    original = network.encode_hint
    monkeypatch.setattr(network, "encode_hint", lambda hint: count.append(1) or original(hint))
    session = ControlSession(FakeHost(), [prepared(network)])
    session.begin_pass(info(base))
    arguments = support.inputs(kind_of(base), rows=2, size=(LATENT.height, LATENT.width))
    with torch.no_grad(), session.sampling(base.module):
        for step in range(3):
            session.begin_evaluation(ROWS, step / 3)
            base.module(**arguments)
    assert len(count) == 1


def test_units_of_one_network_run_as_one_batch(base, network, monkeypatch):
    rows = []
    original = network.evaluate

    def spy(x, *rest):
        rows.append(x.shape[0])
        return original(x, *rest)

    monkeypatch.setattr(network, "evaluate", spy)
    run(base, [prepared(network, seed=s) for s in range(3)])
    assert rows == [6]


def test_out_of_memory_falls_back_to_one_by_one(base, network, monkeypatch):
    rows = []
    original = network.evaluate

    def scarce(x, *rest):
        if x.shape[0] > 2:
            msg = "too many rows"
            raise torch.cuda.OutOfMemoryError(msg)
        rows.append(x.shape[0])
        return original(x, *rest)

    expected = run(base, [prepared(network, seed=s) for s in range(2)])
    monkeypatch.setattr(network, "evaluate", scarce)
    out = run(base, [prepared(network, seed=s) for s in range(2)])
    assert rows == [2, 2]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "between", "expected"),
    [
        ({}, Between.NEVER, Between.NEVER),
        ({}, Between.PASS, Between.PASS),
        ({"low_vram": True}, Between.NEVER, Between.EVALUATION),
    ],
    ids=["default", "host", "unit"],
)
def test_networks_lie_where_host_and_units_ask_for(base, network, fields, between, expected):
    host, places = FakeHost(), []
    host.between = between
    sampling = host.residency.sampling
    host.residency.sampling = lambda networks, place, kept: (
        places.append((list(networks), place)) or sampling(networks, place, kept)
    )
    session = ControlSession(host, [prepared(network, **fields), prepared(network, seed=9)])
    session.begin_pass(info(base))
    with session.sampling(base.module):
        pass
    assert places == [([network], Place(host.device, expected))]


def test_inpaint_only_holds_x0_outside_the_mask(base, network):
    masked = np.dstack([picture(), np.zeros((64, 128), np.uint8)])
    masked[:, 64:, 3] = 255
    unit = prepared(network, effect="inpaint_only")
    unit.detected = masked
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base))
    x0 = torch.full((2, 4, 8, 16), 5.0)
    held = session.adjust_x0(x0)
    assert torch.equal(held[..., 9:], x0[..., 9:])
    assert held[..., :7].max() <= 1.0
    assert torch.equal(x0, torch.full((2, 4, 8, 16), 5.0))


NOTHING = np.zeros((64, 128), np.uint8)
IDLE = {
    "weight 0": ({"weight": 0.0}, "its weight is 0"),
    "layers 0": ({"advanced_weighting": (0.0,)}, "all its layer weights are 0"),
    "start after end": (
        {"guidance_start": 0.8, "guidance_end": 0.2},
        "guidance_start 0.8 lies after guidance_end 0.2",
    ),
    "start at end": (
        {"guidance_start": 0.5, "guidance_end": 0.5},
        "guidance_start 0.5 lies at guidance_end 0.5",
    ),
    "end 0": ({"guidance_end": 0.0}, "guidance_start 0 lies at guidance_end 0"),
    "start 1": ({"guidance_start": 1.0}, "guidance_start 1 lies at guidance_end 1"),
    "between two steps": (
        {"guidance_start": 0.4, "guidance_end": 0.6},
        "none of the 3 evaluations of the sampler lies between its guidance_start 0.4 and "
        "guidance_end 0.6",
    ),
    "region of nothing": ({"region": NOTHING}, "its region covers no pixel"),
    "the other pass": (
        {"hr_option": HiResOption.HIGH_RES_ONLY},
        "it acts in another pass (hr_option is 'High res only')",
    ),
}


def sample(session, base, steps=3, rows=ROWS):
    """A pass of some steps; gives the session back with what became of its units."""
    session.begin_pass(info(base, has_hires=True))
    size = (LATENT.height, LATENT.width)
    arguments = support.inputs(kind_of(base), rows=len(rows.rows), size=size)
    with torch.no_grad(), session.sampling(base.module):
        for step in range(steps):
            session.begin_evaluation(rows, step / steps)
            base.module(**arguments)
    session.end_pass(steps)
    session.say_idle()
    return session


@pytest.mark.parametrize("case", IDLE)
def test_unit_without_effect_is_told_of_with_its_reason(base, network, case):
    fields, reason = IDLE[case]
    if "advanced_weighting" in fields:
        fields = {"advanced_weighting": fields["advanced_weighting"] * network.layers}
    idle, active = prepared(network, **fields), prepared(network, seed=4)
    session = sample(ControlSession(FakeHost(), [idle, active]), base)
    assert [session.outcome_of(unit).acted for unit in (idle, active)] == [False, True]
    assert session.comments == [
        f"ControlNet unit 0 was never active, so it is not in the parameters: {reason}"
    ]


def test_unit_whose_turn_never_comes_is_told_of(base, network):
    idle = prepared(network)
    idle.turn = (1, 2)
    session = sample(ControlSession(FakeHost(), [prepared(network), idle]), base)
    assert session.comments[0].endswith("no picture of this batch is its turn")


def test_unit_that_acts_in_one_of_two_passes_is_not_told_of(base, network):
    unit = prepared(network, hr_option=HiResOption.LOW_RES_ONLY)
    session = sample(ControlSession(FakeHost(), [unit]), base)
    session.begin_pass(info(base, has_hires=True, is_hires=True))
    session.end_pass(3)
    session.say_idle()
    assert session.outcome_of(unit).acted
    assert session.comments == []


def test_blocks_that_are_never_called_are_an_error_and_steps_that_never_end_are_none(
    base, network, monkeypatch
):
    unit = prepared(network)
    monkeypatch.setattr(base.module, "forward", lambda x, *_args, **_kwargs: x)
    with pytest.raises(HostError, match="^unit 0: the U-Net's blocks were never called"):
        sample(ControlSession(FakeHost(), [unit]), base)
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base))
    with session.sampling(base.module):
        session.begin_evaluation(ROWS, 0.0)  # and then somebody stops the sampler
    session.end_pass(0)
    assert not session.outcome_of(unit).acted
