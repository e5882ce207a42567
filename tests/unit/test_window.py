"""Windows and strength curves."""

import numpy as np
import pytest

from lib_controlnet.engine.window import Window, own_strengths, strength_curve
from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import UnitError
from lib_controlnet.units.weight_curve import SHAPES


@pytest.mark.parametrize("steps", [1, 7, 20, 33])
@pytest.mark.parametrize("cut", [0.0, 0.25, 0.5, 0.77, 1.0])
def test_adjoining_windows_share_the_steps_without_gap_or_overlap(steps, cut):
    before, after = Window(0.0, cut), Window(cut, 1.0)
    for k in range(steps):
        assert before.is_open(k / steps) + after.is_open(k / steps) == 1


def test_full_window_is_open_at_both_ends():
    assert Window().is_open(0.0)
    assert Window().is_open(1.0)


@pytest.mark.parametrize("bounds", [(0.5, 0.5), (0.8, 0.2), (1.0, 1.0), (0.0, 0.0)])
def test_empty_window_is_never_open(bounds):
    window = Window(*bounds)
    assert window.is_empty
    assert not any(window.is_open(k / 20) for k in range(20))


SLOPE = ((0.1, 0.2), (0.5, 0.8))
JUMPS = ((0.25, 1.0), (0.25, 0.0), (0.5, 0.0), (0.5, 2.0))


@pytest.mark.parametrize(
    ("curve", "factors"),
    {
        (): {0.0: 1.0, 0.5: 1.0, 0.99: 1.0},
        ((0.3, 0.7),): {0.0: 0.7, 0.3: 0.7, 0.99: 0.7},
        SLOPE: {0.0: 0.2, 0.1: 0.2, 0.2: 0.35, 0.3: 0.5, 0.5: 0.8, 0.9: 0.8},
        JUMPS: {0.0: 1.0, 0.24: 1.0, 0.25: 0.0, 0.4: 0.0, 0.49: 0.0, 0.5: 2.0, 0.9: 2.0},
        ((0.0, 0.5), (0.0, 1.0), (1.0, 0.0), (1.0, 2.0)): {0.0: 1.0, 0.5: 0.5, 0.99: 0.01},
    }.items(),
)
def test_factor_is_that_of_lines_between_the_points(curve, factors):
    window = Window(curve=curve)
    for progress, expected in factors.items():
        assert window.factor(progress) == pytest.approx(expected, abs=1e-12)
        assert window.is_open(progress) is (expected != 0.0)


@pytest.mark.parametrize("curve", [SLOPE, *(SHAPES[name] for name in SHAPES)])
def test_factor_agrees_with_numpy_and_stays_in_the_window(curve):
    places, heights = zip(*curve, strict=True)
    window = Window(0.2, 0.7, curve)
    for k in range(40):
        inside = 0.2 <= k / 40 < 0.7
        expected = np.interp(k / 40, places, heights) if inside else 0.0
        assert window.factor(k / 40) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("window", "spans"),
    [
        (Window(0.2, 0.7), [(0.2, 0.7)]),
        (Window(0.2, 0.7, SLOPE), [(0.2, 0.5), (0.5, 0.7)]),
        (Window(curve=JUMPS), [(0.0, 0.25), (0.5, 1.0)]),
        (Window(0.3, 0.4, JUMPS), []),
        (Window(curve=((0.5, 0.0),)), []),
        (Window(curve=SHAPES["pulse"]), [(0.0, 0.5), (0.5, 1.0)]),
        (Window(0.5, 0.5), []),
    ],
)
def test_spans_are_where_a_unit_acts(window, spans):
    assert window.spans == tuple(Window(*span) for span in spans)
    assert window.is_empty is (not spans)
    opens = [k / 40 for k in range(40) if window.is_open(k / 40)]
    assert all(any(span.is_open(progress) for span in window.spans) for progress in opens)


def test_curve_prompt_sd1_is_the_published_table():
    published = (
        *(0.0994, 0.1205, 0.1461, 0.1770, 0.2146, 0.2601, 0.3153),
        *(0.3822, 0.4633, 0.5615, 0.6806, 0.825, 1.0),
    )
    curve = strength_curve(1.0, 13, ControlMode.PROMPT)
    assert curve == pytest.approx(published, abs=6e-5)
    assert strength_curve(1.0, 13, ControlMode.CONTROL) == curve


def test_curve_sdxl_middle_matches_other_webuis():
    assert strength_curve(2.0, 10, ControlMode.PROMPT)[-1] == pytest.approx(2 * 0.825**3)


def test_curve_small_network_ends_at_full_strength():
    assert strength_curve(0.5, 7, ControlMode.PROMPT)[-1] == 0.5


def test_curve_balanced_is_flat():
    assert strength_curve(0.7, 13, ControlMode.BALANCED) == (0.7,) * 13


def test_own_weights_replace_weight_and_curve():
    own = tuple(i / 10 for i in range(13))
    assert own_strengths(own, 13, "unit 0") == own


def test_own_weights_for_sd1_are_cut_for_sdxl():
    own = tuple(i / 10 for i in range(13))
    assert own_strengths(own, 10, "unit 0") == own[:10]


@pytest.mark.parametrize(
    ("given", "layers"), [(3, 13), (10, 13), (14, 13), (12, 10), (14, 10), (13, 7)]
)
def test_own_weights_of_wrong_length_say_both_lengths(given, layers):
    told = rf"unit 1: advanced_weighting has {given} numbers.*needs {layers} "
    with pytest.raises(UnitError, match=told):
        own_strengths((1.0,) * given, layers, "unit 1")
