"""A short soak (docs/fuzz.md): after random generations everything is as before them."""

from __future__ import annotations

from typing import Any

import pytest
from fuzz.soak import STATE, Soak

GENERATIONS = 24


def test_generations_leave_nothing_behind(webui: Any) -> None:
    if not webui.is_ours and webui.get(STATE).status_code != 200:
        pytest.skip("the WebUI has no soak probe: python dev.py soak --install WEBUI")
    work = Soak(webui.client, seed=4, limit=200 << 20)
    work.generate(6, first=100)  # caches fill
    pictures, before = work.pictures(), work.state()
    work.generate(GENERATIONS)
    work.compare(before, work.state())
    assert work.pictures() == pictures
    assert not work.failures
    assert work.answers[200] > GENERATIONS // 2
    assert sum(work.answers.values()) > work.answers[200], "some are refused"
