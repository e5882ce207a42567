"""Errors that are kept: without the frames they came from, raised as often as needed."""

from __future__ import annotations

import pytest
from sessions import FakeHost

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.errors import UnitError


class UnusualError(Exception):
    """Cannot be made from its own arguments."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize("error", [UnitError("no", 404), UnusualError("n", "o"), MemoryError("no")])
def test_kept_error_is_raised_again_without_the_frames_it_came_from(error: Exception) -> None:
    session = ControlSession(FakeHost(), [])
    try:
        try:
            int("cause")
        except ValueError as cause:
            raise error from cause
    except Exception as caught:
        session.fail(caught)
    session.fail(RuntimeError("a later one"))
    assert session.error is error
    assert (error.__traceback__, error.__cause__.__traceback__) == (None, None)
    for _ in range(2):
        with pytest.raises(type(error), match="no") as raised:
            session.raise_error()
        assert vars(raised.value) == vars(error)
        assert isinstance(raised.value.__cause__, ValueError)
