"""Answers of the server that come after a newer choice, as on a busy machine: they undo nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from panel_models import file_of_ours, network_of
from panel_page import (
    UNIT,
    choose_preprocessor,
    choose_type,
    chosen,
    offered,
    set_number,
    wait_for_value,
)

from lib_controlnet.families.union import UnionFamily

pytestmark = pytest.mark.browser

EVENTS = re.compile(r"/run/predict$|/queue/join\b")
"""Where gradio 3 and 4 send the values of events."""
SETTLED = 300
"""Milliseconds in which whatever an answer sets off has long happened."""
RESOLUTION, THRESHOLD = "preprocessor_resolution_slider", "threshold_A_slider"


class Late:
    """Holds a question about a unit's choices back until it is let go."""

    def __init__(self, page: Any) -> None:
        self.page, self.held, self.is_waiting = page, [], False
        page.route(EVENTS, self._take)

    def _take(self, route: Any) -> None:
        (first, *_others) = json.loads(route.request.post_data).get("data") or [None]
        is_choice = isinstance(first, dict) and {*first} == {"serial", "kind"}
        if is_choice and self.is_waiting:
            self.is_waiting = False
            self.held.append(route)
        else:
            route.continue_()

    def hold_next(self) -> None:
        self.is_waiting = True

    def wait(self) -> None:
        """Until there is one."""
        for _ in range(1500):
            if self.held:
                return
            self.page.wait_for_timeout(20)
        pytest.fail("nothing was asked")

    def let_go(self) -> None:
        self.wait()
        with self.page.expect_response(EVENTS):
            self.held.pop().continue_()
        self.page.wait_for_timeout(SETTLED)


@pytest.fixture
def union(webui: Any) -> Iterator[str]:
    """A Union in the models folder."""
    with file_of_ours(webui, "z_union", network_of(UnionFamily())) as stem:
        yield stem


def test_an_answer_that_comes_late_undoes_no_newer_choice(kept_panel: Any, union: str) -> None:
    page, late = kept_panel, Late(kept_panel)

    # The first list of models, and then a control type.
    page.wait_for_timeout(SETTLED)
    late.hold_next()
    page.hover(f"{UNIT}_controlnet_model_dropdown")
    late.wait()
    page.mouse.move(0, 0)
    choose_type(page, "Canny")
    late.let_go()
    wait_for_value(page, "model_dropdown", union)
    wait_for_value(page, "union_control_type_dropdown", "Hard Edge")
    assert chosen(page, "preprocessor_dropdown") == "canny"
    assert "depth" not in " ".join(offered(page, "model_dropdown"))

    # A control type, and then a preprocessor; the type's model comes.
    late.hold_next()
    choose_type(page, "Depth")
    late.wait()
    choose_preprocessor(page, "none")
    late.let_go()
    page.locator(f"{UNIT}_controlnet_{THRESHOLD}").wait_for(state="hidden")
    assert chosen(page, "preprocessor_dropdown") == "none"
    assert "depth_midas" in " ".join(offered(page, "preprocessor_dropdown"))
    assert not page.is_visible(f"{UNIT}_controlnet_{RESOLUTION}")

    # Two types, the first answered last.
    late.hold_next()
    choose_type(page, "Canny")
    late.wait()
    choose_type(page, "All")
    late.let_go()
    wait_for_value(page, "model_dropdown", "None")
    assert chosen(page, "preprocessor_dropdown") == "none"

    # A preprocessor, and then its sliders.
    choose_preprocessor(page, "canny")
    wait_for_value(page, THRESHOLD, "100")
    late.hold_next()
    choose_preprocessor(page, "mlsd")
    late.wait()
    set_number(page, f"{UNIT}_controlnet_{RESOLUTION}", 640)
    page.locator(f"{UNIT}_controlnet_{RESOLUTION} input[type=number]").blur()
    late.let_go()
    wait_for_value(page, THRESHOLD, "0.1")
    assert chosen(page, RESOLUTION) == "640"

    # Two preprocessors, the first answered last.
    late.hold_next()
    choose_preprocessor(page, "depth_midas")
    late.wait()
    choose_preprocessor(page, "canny")
    late.let_go()
    wait_for_value(page, THRESHOLD, "100")
