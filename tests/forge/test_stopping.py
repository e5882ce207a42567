"""Stopped in mid-sampling over HTTP, a member answers, and the next picture is untouched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from controls import request
from forge.test_same_pictures import COLOURS, DEPTH, HIRES, draw
from servers import Server

PROGRESS = "/sdapi/v1/progress?skip_current_image=true"
LONG = 150


def sampled(web: Server) -> int:
    """Steps of the running pass so far."""
    return web.get(PROGRESS)["state"]["sampling_step"]


@pytest.mark.parametrize("way", ["interrupt", "skip"])
@pytest.mark.parametrize("fields", [{}, {**HIRES, "hr_second_pass_steps": LONG}], ids=["", "hires"])
def test_stopped_generation_leaves_the_next_untouched(
    way: str, fields: dict[str, Any], web: Server, more: dict[str, Any]
) -> None:
    before = draw(web, {**request(), **more})
    asked = {**request(DEPTH, COLOURS, **{"steps": LONG, **fields}), **more}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(web.post, "/sdapi/v1/txt2img", asked)
        while sampled(web) < 2 and not running.done():
            pass
        assert not running.done()
        web.post(f"/sdapi/v1/{way}", {})
        answer = running.result()
    assert len(answer["images"]) > 2, "the picture and two maps"
    for one, other in zip(draw(web, {**request(), **more}), before, strict=True):
        assert np.array_equal(one, other)
