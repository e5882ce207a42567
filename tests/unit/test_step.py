"""Row layouts: which row of a U-Net call is what."""

import pytest
import torch

from lib_controlnet.engine.step import Row, RowLayout, StepContext, StepCursor, Texts
from lib_controlnet.host.a1111.rows import build_layout


def flags(layout):
    return [(row.image, row.is_cond) for row in layout.rows]


@pytest.mark.parametrize(
    ("prompts", "images", "total", "expected"),
    [
        ([1], 1, 2, [(0, True), (0, False)]),
        ([1, 1], 2, 4, [(0, True), (1, True), (0, False), (1, False)]),
        ([2, 1], 2, 5, [(0, True), (0, True), (1, True), (0, False), (1, False)]),
        ([1], 1, 3, [(0, True), (0, False), (0, False)]),
        (None, 2, 6, [(0, True), (1, True), (0, False), (1, False), (0, False), (1, False)]),
        (None, 2, 8, [(0, True)] * 3 + [(1, True)] * 3 + [(0, False), (1, False)]),
        ([3], 1, 2, [(0, True), (0, False)]),
    ],
    ids=["plain", "batch", "and", "edit", "edit-batch", "unknown-and", "rebuilt-by-neighbour"],
)
def test_layout_rows_follow_the_host(prompts, images, total, expected):
    assert flags(build_layout(prompts, images, total)) == expected


def test_cursor_split_calls_take_rows_in_order():
    cursor = StepCursor()
    cursor.begin(build_layout([2, 1], 2, 5), 0.25)
    assert [row.is_cond for row in cursor.next_rows(2)] == [True, True]
    assert cursor.next_rows(3) == (Row(1, True), Row(0, False), Row(1, False))


def test_cursor_without_announcement_knows_nothing():
    assert StepCursor().next_rows(2) is None


def test_cursor_tiled_calls_start_over():
    cursor = StepCursor()
    cursor.begin(build_layout([1], 1, 2), 0.0)
    assert cursor.next_rows(2) == cursor.next_rows(2)


def test_cursor_progress_is_clamped():
    cursor = StepCursor()
    cursor.begin(RowLayout(()), 1.3)
    assert cursor.progress == 1.0


def test_select_cond_only_and_one_image():
    rows = build_layout([1, 1], 2, 4).rows
    x = torch.zeros(4, 4, 2, 2)
    step = StepContext(x, torch.zeros(4), None, None, 0.0, rows)
    assert step.select(cond_only=True) == (0, 1)
    assert step.select(cond_only=False, images=frozenset({1})) == (1, 3)


def test_cursor_tiles_of_one_call_have_all_rows_each():
    layout = build_layout([1], 1, 2)
    cursor = StepCursor()
    cursor.begin(layout, 0.0)
    assert cursor.next_rows(6) == layout.rows * 3
    assert cursor.next_rows(4) == layout.rows * 2
    assert cursor.next_rows(2) == layout.rows


@pytest.mark.parametrize(
    ("shown", "expected"),
    [("ccuu", [True, True, False, False]), ("uuuu", [False] * 4), ("cuXu", [True] * 4)],
    ids=["a window of frames", "uncond rows first", "a text of somebody else"],
)
def test_cursor_rows_of_a_part_are_told_by_their_texts(shown, expected):
    texts = {"c": torch.zeros(3, 2), "u": torch.ones(3, 2), "X": torch.full((3, 2), 7.0)}
    cursor = StepCursor()
    layout = build_layout([1] * 4, 4, 8)
    known = Texts(torch.stack([texts["c"]] * 4), torch.stack([texts["u"]] * 4))
    cursor.begin(RowLayout(layout.rows, known), 0.0)
    context = torch.stack([texts[name] for name in shown])
    assert [row.is_cond for row in cursor.next_rows(4, context)] == expected


def test_cursor_equal_texts_tell_nothing():
    same = torch.zeros(4, 3, 2)
    cursor = StepCursor()
    rows = build_layout([1] * 4, 4, 8).rows
    cursor.begin(RowLayout(rows, Texts(same, same)), 0.0)
    assert cursor.next_rows(4, same) == rows[:4]
    cursor.begin(RowLayout(rows, Texts(same, torch.zeros(4, 6, 2))), 0.0)
    assert cursor.next_rows(4, same) == rows[:4]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ([1, 3, 5, 7], [1, 3, 1, 3]),
        ([3, 0, 7, 4], [3, 0, 3, 0]),
        ([2], [2]),
        ([0, 1, 2, 3], [0, 1, 2, 3]),
    ],
    ids=["a window", "round the end", "one frame", "cond rows alone"],
)
@pytest.mark.parametrize("spread", [1.0, 3e-3], ids=["noise", "frames that are much alike"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_cursor_frames_of_a_part_are_told_by_their_latents(shown, expected, spread, dtype):
    generator = torch.Generator().manual_seed(3)
    scene = torch.randn(1, 4, 8, 8, generator=generator)
    frames = scene * (spread < 1) + spread * torch.randn(4, 4, 8, 8, generator=generator)
    latents = torch.cat([frames, frames])
    cursor = StepCursor()
    same = torch.zeros(4, 3, 2)
    cursor.begin(
        RowLayout(build_layout([1] * 4, 4, 8).rows, Texts(same, same, latents.to(dtype))), 0.0
    )
    mask = torch.ones(len(shown), 5, 8, 8)  # an inpainting checkpoint reads more channels
    x = torch.cat([0.07 * latents[shown], mask], dim=1).to(dtype)
    rows = cursor.next_rows(len(shown), same[: len(shown)], x)
    assert [row.image for row in rows] == expected


@pytest.mark.parametrize("size", [(8, 8), (4, 8)], ids=["other latents", "tiles"])
def test_cursor_rows_that_latents_do_not_tell_come_in_order(size):
    cursor = StepCursor()
    texts = Texts(torch.zeros(4, 3, 2), torch.ones(4, 3, 2), torch.randn(8, 4, 8, 8))
    cursor.begin(RowLayout(build_layout([1] * 4, 4, 8).rows, texts), 0.0)
    rows = cursor.next_rows(2, torch.zeros(2, 3, 2), torch.randn(2, 4, *size))
    assert [row.image for row in rows] == [0, 1]


def test_cursor_equal_frames_come_in_order():
    cursor = StepCursor()
    latents = torch.randn(1, 4, 8, 8).repeat(8, 1, 1, 1)
    texts = Texts(torch.zeros(4, 3, 2), torch.ones(4, 3, 2), latents)
    cursor.begin(RowLayout(build_layout([1] * 4, 4, 8).rows, texts), 0.0)
    for expected in ([0, 1, 2], [3, 0, 1]):
        rows = cursor.next_rows(3, torch.zeros(3, 3, 2), 0.3 * latents[:3])
        assert [row.image for row in rows] == expected
