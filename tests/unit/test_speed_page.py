"""docs/speed.md: its numbers are those of the runs and of the code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
if str(DOCS) not in sys.path:
    sys.path.append(str(DOCS))

make_speed = __import__("make_speed")
runs = __import__("speed_runs")
speed_unet, speed_compile = __import__("speed_unet"), __import__("speed_compile")
MAX_BYTES = 200_000


@pytest.fixture
def results() -> Any:
    return runs.load()


def test_the_page_is_that_of_the_results(results: Any) -> None:
    written = make_speed.PAGE.read_text(encoding="utf-8")
    assert written == make_speed.page(results), "run docs/make_speed.py --redraw"
    assert make_speed.PLOT.stat().st_size < MAX_BYTES


def test_every_setting_was_run_at_every_speed(results: Any) -> None:
    assert set(make_speed.settings(results)) == set(runs.SETTINGS)
    assert set(results["seconds"]) == set(runs.VARIANTS)
    assert set(results["compiled"]) == {str(width) for width in speed_compile.WIDTHS}


def test_a_thinner_unet_saves_its_time_and_changes_the_picture(results: Any) -> None:
    for units in runs.UNITS:
        whole = sum(speed_unet.values(results, units, speed_unet.NOTHING, "seconds"))
        for name, variant in speed_unet.VARIANTS.items():
            assert len(speed_unet.values(results, units, name, "f1")) == 8
            assert bool(variant.reuses) == (
                sum(speed_unet.values(results, units, name, "seconds")) < 0.9 * whole
            ), name


def test_what_is_lost_is_within_what_was_aimed_at(results: Any) -> None:
    for speed in make_speed.REUSING:
        change, error, count = make_speed.lost(results, speed)
        assert count >= runs.SEEDS * len(runs.SETTINGS)
        assert change + 2 * error > -make_speed.MOST_LOST, speed


def test_exact_runs_differ_by_nothing(results: Any) -> None:
    for setting in runs.SETTINGS:
        assert not any(runs.values(results, "difference", *setting, make_speed.EXACT))
        assert all(runs.values(results, "difference", *setting, "Fast"))
