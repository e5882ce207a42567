"""What a unit costs the page: components, events, and bytes of its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.encoders import jsonable_encoder
from panels import FakeRuntime, build

from lib_controlnet.files.catalog import Catalog
from lib_controlnet.ui import choices
from lib_controlnet.ui.gradios import HAS_DRAWING

COMPONENTS, EVENTS, BYTES = 117, 48, 68_000
"""Of one unit, at most. Each component more makes the page slower to open, to write, to compare."""


def cost(tab: str, units: int, folder: Path) -> tuple[int, int, int]:
    """Components, events and bytes of a panel."""
    demo = build(FakeRuntime(Catalog([folder]), units=units), tab)[0]
    config: dict[str, Any] = jsonable_encoder(demo.get_config_file())
    parts = config["components"], config["dependencies"]
    return len(parts[0]), len(parts[1]), len(json.dumps(parts, separators=(",", ":")))


@pytest.mark.skipif(not HAS_DRAWING, reason="the bounds are those of gradio 3")
@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_one_more_unit_costs_the_page_no_more_than(tab: str, tmp_path: Path) -> None:
    three, two = (cost(tab, units, tmp_path) for units in (3, 2))
    components, events, size = (more - less for more, less in zip(three, two, strict=True))
    assert components <= COMPONENTS
    assert events <= EVENTS
    assert size <= BYTES


def test_an_answer_has_no_widget_loaded_anew(tmp_path: Path) -> None:
    """gradio 3 loads a widget again that is told to be movable, and compares the whole page."""
    runtime = FakeRuntime(Catalog([tmp_path]))
    for kind in ("Canny", "MLSD", "All"):
        updates = choices.on_control_type(kind, False, runtime)
        updates += choices.on_module(kind, kind.lower(), "None", False, runtime)
        assert not [update for update in updates if "interactive" in update]


def test_one_event_answers_for_all_values_of_a_unit(tmp_path: Path) -> None:
    demo = build(FakeRuntime(Catalog([tmp_path]), units=1))[0]
    events = jsonable_encoder(demo.get_config_file())["dependencies"]
    collecting = [event for event in events if "collect" in (event["js"] or "")]
    assert len(collecting) <= 3
    targets = {json.dumps(target) for event in collecting for target in event["targets"]}
    assert len(targets) > 30, "widgets that report"
