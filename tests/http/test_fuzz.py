"""A seeded part of the fuzz run (docs/fuzz.md): no server error, and the same picture after it."""

from __future__ import annotations

from typing import Any

import pytest
from fuzz.run import Score, fuzz, reference

COUNTS = {"detect": 60, "render": 60, "units": 40, "queries": 30, "raw": 60}


@pytest.mark.parametrize("kind", COUNTS)
def test_malformed_requests_are_answered_with_reasons(webui: Any, kind: str) -> None:
    before = reference(webui.client)
    score = Score()
    fuzz(webui.client, kind, COUNTS[kind], 7, score)
    assert score.requests == COUNTS[kind]
    assert not score.failures
    refused = score.requests - score.statuses[kind][200]
    assert refused > COUNTS[kind] // 4, "the requests are malformed indeed"
    assert reference(webui.client) == before
