"""A hint that another extension puts in a unit's place, one row of it for each row of the call."""

from __future__ import annotations

import pytest
import torch
from sessions import evaluate_group
from support import inputs, random_hint, tiny_controlnet

from lib_controlnet.engine.network import Terms
from lib_controlnet.engine.step import Row, StepContext
from lib_controlnet.engine.window import Window
from lib_controlnet.errors import HostError
from lib_controlnet.families.residual import ResidualControl

FRAMES = 2
ROWS = tuple(Row(i, is_cond=cond) for cond in (True, False) for i in range(FRAMES))
TOTAL = len(ROWS)


def active(network, hint: torch.Tensor) -> ResidualControl:
    digest = str(hash(hint.numpy().tobytes()))
    terms = Terms("unit 0", (1.0,) * network.layers, Window(0, 1), guide_key=digest)
    return ResidualControl(network, terms, hint)


@pytest.fixture(scope="module")
def network():
    return tiny_controlnet("SD1")


def step(rows: tuple[Row, ...] = ROWS) -> StepContext:
    given = inputs("SD1", rows=len(rows), size=(8, 8))
    return StepContext(given["x"], given["timesteps"], given["context"], None, 0.0, rows)


def evaluated(control: ResidualControl, rows: tuple[int, ...] = tuple(range(TOTAL))) -> list:
    (residuals,) = evaluate_group([control], step(), rows)
    assert residuals.rows == rows
    return list(residuals.layers)


def row_by_row(network, hints: list[torch.Tensor], rows: tuple[int, ...]) -> list[torch.Tensor]:
    """Each row evaluated alone, with its own hint as the unit's."""
    parts = [
        evaluated(active(network, hint), (row,)) for hint, row in zip(hints, rows, strict=True)
    ]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(left, right, strict=True))


HINTS = random_hint((64, 64), rows=TOTAL)


@pytest.mark.parametrize(
    ("count", "owners"),
    [(1, (0, 0, 0, 0)), (TOTAL, (0, 1, 2, 3)), (FRAMES, (0, 1, 0, 1))],
    ids=["one for all", "one each", "one per picture"],
)
@pytest.mark.parametrize("rows", [(0, 1, 2, 3), (0, 1), (1, 2, 3)], ids=str)
def test_rows_get_their_own_hint(network, count, owners, rows):
    control = active(network, random_hint((64, 64), seed=1))
    control.replace_hint(HINTS[:count])
    expected = row_by_row(network, [HINTS[owners[row]][None] for row in rows], rows)
    assert same(evaluated(control, rows), expected)
    wrong = row_by_row(network, [HINTS[(owners[row] + 1) % TOTAL][None] for row in rows], rows)
    assert not same(evaluated(control, rows), wrong)


def test_rows_of_a_window_repeat_its_frames(network):
    """Rows of a window carry the numbers of other pictures: the hints still follow the halves."""
    window = tuple(Row(i + 7, is_cond=True) for i in range(TOTAL))
    control = active(network, HINTS[:1])
    control.replace_hint(HINTS[:2])
    (residuals,) = evaluate_group([control], step(window), tuple(range(TOTAL)))
    expected = row_by_row(network, [HINTS[i][None] for i in (0, 1, 0, 1)], tuple(range(TOTAL)))
    assert same(list(residuals.layers), expected)


@pytest.mark.parametrize(
    "images",
    [(0, 0), (1, 1), (1, 0), (0, 1, 0, 1), (0, 0, 1, 1, 0, 1)],
    ids=["first alone", "last alone", "turned", "cond, uncond", "AND"],
)
def test_own_frames_go_to_their_pictures_in_any_part_of_the_rows(network, images):
    rows = tuple(Row(image, is_cond=True) for image in images)
    places = tuple(range(len(images)))
    (residuals,) = evaluate_group([active(network, HINTS[:FRAMES])], step(rows), places)
    alone = [
        evaluate_group([active(network, HINTS[image][None])], step(rows), (place,))[0].layers
        for place, image in zip(places, images, strict=True)
    ]
    assert same(list(residuals.layers), [torch.cat(layer) for layer in zip(*alone, strict=True)])


def test_hint_for_no_number_of_rows_is_refused(network):
    control = active(network, HINTS[:1])
    control.replace_hint(HINTS[:3])
    with pytest.raises(HostError, match=r"by 3 of them.*4 rows.*must be 1, 4"):
        evaluated(control)


def test_replacing_drops_what_was_computed_from_the_old_hint(network):
    control = active(network, HINTS[:1])
    first = evaluated(control)
    control.replace_hint(HINTS[1])
    assert control.hint.shape == (1, 3, 64, 64)
    assert same(evaluated(control), evaluated(active(network, HINTS[1:2])))
    control.replace_hint(HINTS[:1])
    assert same(evaluated(control), first)


def test_units_of_one_picture_part_when_one_hint_is_replaced(network):
    """Equal hints are evaluated once; a replaced one never counts as equal."""
    one, two = active(network, HINTS[:1]), active(network, HINTS[:1])
    assert one.hint_key == two.hint_key
    two.replace_hint(HINTS[:TOTAL])
    rows = tuple(range(TOTAL))
    first, second = evaluate_group([one, two], step(), rows)
    assert same(list(first.layers), evaluated(active(network, HINTS[:1])))
    expected = row_by_row(network, [HINTS[row][None] for row in rows], rows)
    assert same(list(second.layers), expected)
